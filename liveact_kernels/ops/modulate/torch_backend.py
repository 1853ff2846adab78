"""Plain eager torch: any device, differentiable."""

import torch
import torch.nn.functional as F

from liveact_kernels.common.fp4 import quantise_fp4
from liveact_kernels.common.quantise import per_group


def _normalised(x, mul, add, eps):
    return F.layer_norm(x.float(), mul.shape, mul, add, eps)


def modulate(x, mul, add, eps=1e-6):
    """See reference.modulate."""
    return _normalised(x, mul, add, eps).to(x.dtype)


def modulate_quant(x, mul, add, eps=1e-6):
    """See reference.modulate_quant."""
    return per_group(_normalised(x, mul, add, eps), 1)


def gate_modulate_quant(x, y, gate, mul, add, eps=1e-6):
    """See reference.gate_modulate_quant."""
    x_out = x.float() + gate * y.float()
    return x_out.to(x.dtype), *modulate_quant(x_out, mul, add, eps)


def modulate_fp4(x, mul, add, eps=1e-6, scale_dtype=torch.float8_e4m3fn):
    """See reference.modulate_fp4."""
    return quantise_fp4(_normalised(x, mul, add, eps), scale_dtype)
