"""Rows to 4-bit codes in float64; the formats themselves are described in common.fp4."""

import torch

from liveact_kernels.common.fp4 import exact_fp4


def quant_fp4(x, scale_dtype: torch.dtype = torch.float8_e4m3fn):
    """x ~ x4 * x_scale * x_row: codes of {0, 0.5, 1, 1.5, 2, 3, 4, 6} and their negatives, a scale per block.

    x       [L, C] activations
    x4      [L, C / 2] uint8, two codes a byte, the even channel in the low nibble
    scale_dtype e4m3 (nvfp4):  blocks of 16 channels, scale = max|block| / 6 with four significant bits;
        x_scale [L, C / 16] e4m3 = scale / x_row;  x_row [L] f32, the least power of two by which no x_scale exceeds 448
    scale_dtype uint8 (mxfp4): blocks of 32 channels, scale = 2^(floor(log2(max|block|)) - 2);
        x_scale [L, C / 32] uint8, its exponent + 127;  x_row None
    Source: NVFP4 as its tensor cores read it, and MXFP4 of the OCP Microscaling specification 1.0. The released FP4
    linear has one float32 scale per tensor in place of x_row.
    """
    return exact_fp4(x, scale_dtype)
