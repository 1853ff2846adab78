"""LayerNorm with a multiplier and an offset per channel, and what may stand before and after it, in float64."""

import torch

from liveact_kernels.common.fp4 import exact_fp4


def modulate(x, mul, add, eps: float = 1e-6):
    """out = LayerNorm(x) * mul + add.

    x         [L, C] activations
    mul, add  [C] f32: 1 + scale and shift of an adaptive norm, or weight and bias of an affine one
    out       [L, C] in x's dtype; fp32 inside, one rounding
    Source    Wan2.1 block: norm1/norm2 (modulated), norm3 and norm_x (affine), head norm; biased variance, eps 1e-6.
    """
    x = x.double()
    centred = x - x.mean(-1, keepdim=True)
    unit = centred * torch.rsqrt(centred.square().mean(-1, keepdim=True) + eps)
    return unit * mul.double() + add.double()


def modulate_quant(x, mul, add, eps: float = 1e-6):
    """modulate, then e4m3 with one scale per token: out ~ x8 * x_scale.

    x8 [L, C] e4m3; x_scale [L, 1] f32 = max|row| / 448, at least 1e-12.
    """
    y = modulate(x, mul, add, eps)
    scale = (y.abs().amax(-1, keepdim=True) / 448).clamp_min(1e-12)
    return y / scale, scale


def gate_modulate_quant(x, y, gate, mul, add, eps: float = 1e-6):
    """x_out = x + gate * y, then modulate_quant of x_out: a gated residual and the norm of the next layer in one pass.

    x, y    [L, C] activations; gate, mul, add [C] f32
    x_out   [L, C] in x's dtype; the norm sees the unrounded sum
    x8      [L, C] e4m3; x_scale [L, 1] f32 = max|row| / 448, at least 1e-12
    Source  Wan2.1 block: the gated residual after self attention or the FFN, and the norm that follows it.
    """
    x_out = x.double() + gate.double() * y.double()
    return x_out, *modulate_quant(x_out, mul, add, eps)


def modulate_fp4(x, mul, add, eps: float = 1e-6, scale_dtype: torch.dtype = torch.float8_e4m3fn):
    """modulate, then 4-bit codes: out ~ x4 * x_scale * x_row, as quant_fp4 makes them of unrounded values.

    x4 [L, C / 2] uint8; x_scale [L, C / 16] e4m3 and x_row [L] f32, or x_scale [L, C / 32] uint8 and x_row None.
    """
    return exact_fp4(modulate(x, mul, add, eps), scale_dtype)
