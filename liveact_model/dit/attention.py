"""The three attentions and the feed-forward of a block. Every method takes one sample's tokens [L, C]."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from liveact_kernels import ops

from ..config import TAPS, DiTConfig
from .cache import Codes, Window
from .formats import Activation, Quantised
from .precision import Linear


class Norm(NamedTuple):
    """Multiplier and offset of a LayerNorm, [C] f32 each: (1 + scale, shift) or (weight, bias)."""

    mul: Tensor
    add: Tensor


class KeysValues(NamedTuple):
    """Keys and values of one layer that a prompt or a block's audio fixes: [.., H, D]."""

    k: Tensor
    v: Tensor


def by_head(codes: Tensor, scale: Tensor, dtype: torch.dtype) -> Quantised:
    """Codes [L, H, D] with scales [L, H] as a linear layer takes them, in activations of `dtype`."""
    return Quantised(codes.flatten(-2), scale, dtype)


def f32(*shape: int) -> nn.Parameter:
    """A parameter that the ops read in float32 whatever the activations are."""
    return nn.Parameter(torch.empty(*shape, dtype=torch.float32))


class SelfAttention(nn.Module):
    """Attention over the window. taps [5, H, D] fold memory slots; taps_v is None when values use K's."""

    def __init__(self, c: DiTConfig):
        super().__init__()
        self.memory = c.memory
        self.qkv, self.o = Linear(c.dim, 3 * c.dim), Linear(c.dim, c.dim)
        self.norm_q, self.norm_k = f32(c.dim), f32(c.dim)
        self.taps = f32(TAPS, c.num_heads, c.head_dim)
        self.taps_v = f32(TAPS, c.num_heads, c.head_dim) if c.separate_v_taps else None

    def forward(
        self, x: Tensor, norm: Norm, gate: Tensor, rope: Tensor, window: Window, layer: int, frames: int
    ) -> Tensor:
        """x + gate * SelfAttention(LN(x) * mul + add); rope [L, D/2, 2] of these tokens of `frames` latent frames."""
        taps: Tensor = self.taps
        taps_v: Tensor | None = self.taps_v
        if self.memory == "mean":
            taps, taps_v = torch.full_like(taps, 1 / TAPS), None
        row = {"qkv": self.qkv(self.qkv.norm(x, *norm)), "norm_q": self.norm_q, "norm_k": self.norm_k, "rope": rope}
        if window.coded(layer):
            new, dtype = Codes(*ops.qkv_norm_rope_8bit(**row)), self.o.takes(x.dtype)
            y, scale = window.attend_codes(layer, frames, new, taps, taps_v, dtype)
            a = self.o.accept(y.flatten(-2)) if scale is None else by_head(y, scale, x.dtype)
        else:
            q, k, v = ops.qkv_norm_rope(**row)
            a = self.o.accept(window.attend(layer, frames, q, k, v, taps, taps_v).flatten(-2))
        return self.o.gate(a, x, gate)


class CrossAttention(nn.Module):
    """Text and image attention. `norm` is the affine LayerNorm in front (norm3)."""

    def __init__(self, c: DiTConfig):
        super().__init__()
        self.heads = (c.num_heads, c.head_dim)
        self.norm = nn.ParameterDict({"weight": f32(c.dim), "bias": f32(c.dim)})
        self.q, self.k, self.v, self.o, self.k_img, self.v_img = (Linear(c.dim, c.dim) for _ in range(6))
        self.norm_q, self.norm_k, self.norm_k_img = f32(c.dim), f32(c.dim), f32(c.dim)

    def text(self, rows: Tensor) -> KeysValues:
        """Embedded text rows [N, C] -> keys and values of this layer, constant per prompt."""
        return self._keys_values(rows, self.k, self.v, self.norm_k)

    def image(self, rows: Tensor) -> KeysValues:
        """Embedded image rows [I, C] -> keys and values of this layer, constant per video."""
        return self._keys_values(rows, self.k_img, self.v_img, self.norm_k_img)

    def _keys_values(self, rows, to_k, to_v, norm) -> KeysValues:
        k = ops.rms_norm(x=to_k(to_k.accept(rows)), weight=norm)
        return KeysValues(k.unflatten(-1, self.heads), to_v(to_v.accept(rows)).unflatten(-1, self.heads))

    def forward(self, x: Tensor, text: KeysValues, image: KeysValues, pad: int) -> Tensor:
        """x + o(attention to text + attention to image); the last text row stands for `pad` padding rows."""
        a: Activation = self.q.norm(x, self.norm["weight"], self.norm["bias"])
        q = ops.rms_norm(x=self.q(a), weight=self.norm_q).unflatten(-1, self.heads)
        row = {"q": q, "k_text": text.k, "v_text": text.v, "k_image": image.k, "v_image": image.v, "pad": pad}
        if self.o.takes(x.dtype) == torch.float8_e4m3fn:
            codes, scale = ops.cross_attention_quant(**row)
            a = by_head(codes, scale, x.dtype)
        else:
            a = self.o.accept(ops.cross_attention(**row).flatten(-2))
        return self.o.residual(a, x)


class AudioAttention(nn.Module):
    """Each latent frame's tokens attend to that latent frame's audio tokens. `norm` is norm_x."""

    def __init__(self, c: DiTConfig):
        super().__init__()
        self.heads = (c.num_heads, c.head_dim)
        self.norm = nn.ParameterDict({"weight": f32(c.dim), "bias": f32(c.dim)})
        self.q, self.kv, self.proj = Linear(c.dim, c.dim), Linear(c.audio_dim, 2 * c.dim), Linear(c.dim, c.dim)

    def keys_values(self, tokens: Tensor) -> KeysValues:
        """Audio tokens [F, N, A] -> keys and values [F, N, H, D] of this layer, constant per block."""
        kv = self.kv(self.kv.accept(tokens.flatten(0, 1)))
        k, v = (x.unflatten(-1, self.heads).unflatten(0, tokens.shape[:2]).contiguous() for x in kv.chunk(2, -1))
        return KeysValues(k, v)

    def forward(self, x: Tensor, audio: KeysValues, frames: int) -> Tensor:
        """x + proj(audio attention); x has `frames` latent frames.

        `audio` covers the last ones: the very first latent frame of a video has no audio of its own and is left as
        it is (the released model computes its result and zeroes it).
        """
        silent = x.shape[0] // frames * (frames - audio.k.shape[0])
        y = x[silent:]
        q = self.q(self.q.norm(y, self.norm["weight"], self.norm["bias"])).unflatten(-1, self.heads)
        a: Activation
        if self.proj.takes(x.dtype) == torch.float8_e4m3fn:
            codes, scale = ops.audio_attention_quant(q=q, k=audio.k, v=audio.v)
            a = by_head(codes, scale, x.dtype)
        else:
            a = self.proj.accept(ops.audio_attention(q=q, k=audio.k, v=audio.v).flatten(-2))
        y = self.proj.residual(a, y)
        return torch.cat((x[:silent], y)) if silent else y


class FeedForward(nn.Module):
    """Linear, GELU(tanh), Linear."""

    def __init__(self, c: DiTConfig):
        super().__init__()
        self.up, self.down = Linear(c.dim, c.ffn_dim), Linear(c.ffn_dim, c.dim)

    def forward(self, x: Tensor, norm: Norm, gate: Tensor) -> Tensor:
        """x + gate * FFN(LN(x) * mul + add)."""
        return self.down.gate(self.up.gelu(self.up.norm(x, *norm), self.down), x, gate)
