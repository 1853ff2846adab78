"""Every op, by name. Adding one is its folder and one line here."""

from .attention import attention, attention_segment
from .attention_8bit import attention_8bit
from .audio_attention import audio_attention, audio_attention_quant
from .causal_conv3d import causal_conv3d
from .cross_attention import cross_attention, cross_attention_quant
from .denoise_update import denoise_update
from .fp4_linear import fp4_linear, fp4_linear_gate, fp4_linear_gelu, fp4_linear_residual
from .fp8_linear import fp8_linear, fp8_linear_gate, fp8_linear_gelu, fp8_linear_residual
from .frame_attention import frame_attention
from .gate_residual import gate_residual
from .head_major import head_major
from .kv_compress import kv_compress
from .linear import linear, linear_gate, linear_gelu, linear_residual
from .modulate import gate_modulate_quant, modulate, modulate_fp4, modulate_quant
from .norm_silu import norm_silu
from .qkv_norm_rope import qkv_norm_rope, qkv_norm_rope_8bit
from .quant import quant
from .quant_fp4 import quant_fp4
from .rms_norm import rms_norm
from .upsample_conv import upsample_conv

__all__ = [
    "attention", "attention_8bit", "attention_segment", "audio_attention", "audio_attention_quant", "causal_conv3d",
    "cross_attention", "cross_attention_quant", "denoise_update", "fp4_linear", "fp4_linear_gate", "fp4_linear_gelu",
    "fp4_linear_residual", "fp8_linear", "fp8_linear_gate", "fp8_linear_gelu", "fp8_linear_residual",
    "frame_attention", "gate_modulate_quant", "gate_residual", "head_major", "kv_compress", "linear", "linear_gate",
    "linear_gelu", "linear_residual", "modulate", "modulate_fp4", "modulate_quant", "norm_silu", "qkv_norm_rope",
    "qkv_norm_rope_8bit", "quant", "quant_fp4", "rms_norm", "upsample_conv",
]  # fmt: skip
