"""Eager torch on any device: the codes' values in float32, and a float32 product. Right everywhere, fast nowhere."""

import torch
import torch.nn.functional as F

from liveact_kernels.common.fp4 import block_codes, dequantise_fp4, quantise_fp4
from liveact_kernels.common.products import product
from liveact_kernels.contract import bf16


def _product(a4, a_scale, a_row, w4, w_scale, w_row, b):
    return product(dequantise_fp4(a4, a_scale, a_row), dequantise_fp4(w4, w_scale, w_row), b)


def fp4_linear(a4, a_scale, a_row, w4, w_scale, w_row, b, out_dtype=torch.bfloat16):
    """See reference.fp4_linear."""
    return _product(a4, a_scale, a_row, w4, w_scale, w_row, b).to(out_dtype)


def fp4_linear_gelu(a4, a_scale, a_row, w4, w_scale, w_row, b):
    """See reference.fp4_linear_gelu."""
    y = F.gelu(_product(a4, a_scale, a_row, w4, w_scale, w_row, b), approximate="tanh")
    codes = quantise_fp4(y, a_scale.dtype)
    return *codes, None if a_row is None else block_codes(y, a_scale.dtype)[1].to(bf16)


def fp4_linear_gate(a4, a_scale, a_row, w4, w_scale, w_row, b, x, gate):
    """See reference.fp4_linear_gate."""
    return (x.float() + gate * _product(a4, a_scale, a_row, w4, w_scale, w_row, b)).to(x.dtype)


def fp4_linear_residual(a4, a_scale, a_row, w4, w_scale, w_row, b, x):
    """See reference.fp4_linear_residual."""
    return (x.float() + _product(a4, a_scale, a_row, w4, w_scale, w_row, b)).to(x.dtype)
