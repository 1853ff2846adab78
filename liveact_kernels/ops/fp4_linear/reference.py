"""FP4 linear layers in float64, on the dequantised inputs; the formats are described in common.fp4."""

import torch
import torch.nn.functional as F

from liveact_kernels.common.fp4 import block_codes, dequantise_fp4, row_scale, stored


def _sum(a4, a_scale, a_row, w4, w_scale, w_row, b):
    a, w = (dequantise_fp4(*x, torch.float64) for x in ((a4, a_scale, a_row), (w4, w_scale, w_row)))
    out = a @ w.T
    return out if b is None else out + b.double()


def fp4_linear(a4, a_scale, a_row, w4, w_scale, w_row, b, out_dtype: torch.dtype = torch.bfloat16):
    """out = (a4 * a_scale * a_row) @ (w4 * w_scale * w_row).T + b.

    a4 [M, K / 2], w4 [N, K / 2] uint8: packed e2m1, the even channel in the low nibble
    nvfp4   a_scale [M, K / 16], w_scale [N, K / 16] e4m3; a_row [M], w_row [N] f32
    mxfp4   a_scale [M, K / 32], w_scale [N, K / 32] uint8 (e8m0); a_row, w_row None
    b [N] f32 or None; out [M, N] in out_dtype.
    Source: the released FP4 wrapper (NVFP4 weights and activations, bf16 out), with a scale per row in place of one per
    tensor on both sides.
    """
    return _sum(a4, a_scale, a_row, w4, w_scale, w_row, b)


def fp4_linear_gelu(a4, a_scale, a_row, w4, w_scale, w_row, b):
    """GELU_tanh of the product, quantised for the next layer in the format of this one, as `quant_fp4` does it.

    nvfp4   x4 [M, N / 2] uint8, x_scale [M, N / 16] e4m3, x_row [M] f32; x_wide [M, N / 16] bf16 = x_scale * x_row
            before e4m3 rounds what is far below the row's largest: nobody reads it, a kernel needs the room
    mxfp4   x4 [M, N / 2], x_scale [M, N / 32] uint8; x_row and x_wide None
    """
    y = F.gelu(_sum(a4, a_scale, a_row, w4, w_scale, w_row, b), approximate="tanh")
    codes, scale = block_codes(y, a_scale.dtype)
    if a_row is None:
        return codes.double(), stored(scale, None).double(), None, None
    row = row_scale(scale)
    return codes.double(), scale / row.unsqueeze(-1), row, scale


def fp4_linear_gate(a4, a_scale, a_row, w4, w_scale, w_row, b, x, gate):
    """out = x + gate * product, the product as in fp4_linear.  x [M, N] activations, gate [N] f32; out in x's dtype."""
    return x.double() + gate.double() * _sum(a4, a_scale, a_row, w4, w_scale, w_row, b)


def fp4_linear_residual(a4, a_scale, a_row, w4, w_scale, w_row, b, x):
    """out = x + product, the product as in fp4_linear.  x [M, N] activations; out in x's dtype."""
    return x.double() + _sum(a4, a_scale, a_row, w4, w_scale, w_row, b)
