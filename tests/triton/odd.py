"""Shapes beyond the ops' own cases that a kernel's masks must survive: not multiples of a tile, one row, odd heads."""

from liveact_kernels.contract import Case, bf16, f32, fp8, int8, u8
from liveact_kernels.ops.kv_compress import _memory

_ROWS = [
    Case("wide", L=3, C=1280, A=bf16),
    Case("narrow", L=9, C=20, A=f32),
    Case("no_tail", L=17, C=64, A=bf16),
    Case("odd_width", L=2, C=77, A=f32),
]
_QKV = [
    Case("one_row", L=1, C=64, E=4, A=bf16),
    Case("five_heads", L=18, C=5 * 24, E=12, A=bf16),
    Case("one_head", L=3, C=16, E=8, A=f32),
]
_UPDATE = {"c_latent": 0.25, "c_velocity": -0.5}

ODD = {
    "modulate": _ROWS,
    "modulate_quant": _ROWS,
    "gate_modulate_quant": _ROWS,
    "rms_norm": [*_ROWS, Case("one_row", L=1, C=136, A=bf16)],
    "gate_residual": [*_ROWS, Case("one_row", L=1, C=136, A=bf16)],
    "quant": [
        Case("whole_rows", L=2, C=1280, A=bf16),
        Case("groups_of_40", L=7, C=200, A=bf16, groups=5),
        Case("one_row", L=1, C=3, A=f32),
    ],
    "quant_fp4": [
        Case("padded_tail", L=18, C=112, A=bf16),  # 64 + 64 columns, the last block of which does not exist
        Case("one_block", L=1, C=16, A=f32),
        Case("no_tail_mxfp4", L=3, C=64, A=f32, scale_dtype=u8),
        Case("padded_tail_mxfp4", L=17, C=224, A=bf16, scale_dtype=u8),
    ],
    "modulate_fp4": [
        Case("padded_tail", L=18, C=112, A=bf16),
        Case("padded_tail_mxfp4", L=2, C=224, A=f32, scale_dtype=u8),
    ],
    "denoise_update": [
        Case("odd_channels", Z=3, F=1, Y=2, X=2, A=bf16, has_noise=True, c_noise=0.5, **_UPDATE),
        Case("several_programs", Z=2, F=3, Y=6, X=10, A=f32, **_UPDATE),
        Case("velocity", Z=4, F=2, Y=4, X=4, A=f32, c_latent=0, c_velocity=1),
    ],
    "qkv_norm_rope": _QKV,
    "qkv_norm_rope_8bit": _QKV,
    "head_major": [
        Case("one_row", R=1, H=5, D=32),
        Case("beyond_a_tile", R=129, H=1, D=128),
        Case("narrow", R=40, H=3, D=6),
    ],
    "kv_compress": [
        Case("three_taps", H=1, E=4, KN=f32, VN=f32, KM=f32, VM=f32, has_k_mem=True, has_v_mem=True, P=14, R=14,
             tokens=7, S=3, k_dtype=f32, v_dtype=f32, schedule=((0, (0, 1, 2)), (1, (3,)))),
        Case("long_first_block", H=2, E=4, KN=bf16, VN=bf16, R=6 * 35, tokens=35, S=5, k_dtype=int8, v_dtype=fp8,
             schedule=tuple((slot, (slot,)) for slot in range(6))),
        Case("straddling_codes", H=3, E=10, **_memory(True, "codes", tokens=7)),
        Case("temporal_codes", H=1, E=16, **_memory(True, "codes", tokens=5, grouping="temporal")),
    ],
    "causal_conv3d": [
        Case("two_channel_tiles", F=2, H=3, W=3, C=40, O=200, A=bf16, KT=3, KH=3, KW=3, has_prev=True),
        Case("two_pixel_tiles", F=1, H=13, W=11, C=24, O=48, A=bf16, KT=3, KH=3, KW=3, has_residual=True),
        Case("interleave_and_residual", F=2, H=3, W=5, C=16, O=96, A=bf16, KT=3, KH=1, KW=1, interleave=2,
             has_prev=True, has_residual=True),
        Case("down_space_f32", F=1, H=4, W=6, C=5, O=7, A=f32, KT=1, KH=3, KW=3, stride=2),
    ],
    "upsample_conv": [
        Case("ragged", F=2, H=5, W=7, C=24, O=40, A=bf16),
        Case("one_pixel", F=1, H=1, W=1, C=3, O=2, A=f32),
    ],
    "norm_silu": [
        Case("several_programs", F=1, H=11, W=13, C=96, A=bf16),
        Case("one_pixel", F=1, H=1, W=1, C=7, A=f32, silu=False),
    ],
}  # fmt: skip
"""Op name -> cases; they join the op's own "cpu" cases in every test of this folder."""
