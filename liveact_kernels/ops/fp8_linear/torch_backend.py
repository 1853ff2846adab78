"""Eager torch: the library's scaled product where it takes the shape, the dequantised product otherwise.

torch's row-wise scaled product wants one scale per token (G = 1), sizes that 16 divides and (on a GPU) e4m3 tensor
cores; it rounds to bf16. Grouped scales, odd sizes and float32 outputs take the dequantised path, in float32.
"""

import functools

import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import _disable_current_modes

from liveact_kernels.common.quantise import dequantise, per_group


def _library_takes(a8, a_scale, w8) -> bool:
    if a_scale.shape[-1] != 1 or any(n % 16 for n in (*a8.shape[1:], *w8.shape)):
        return False
    if a8.device.type == "cpu":
        return _rows_on_cpu()
    return torch.cuda.get_device_capability(a8.device) >= (8, 9)


@functools.cache
def _rows_on_cpu() -> bool:
    """Whether this torch has the row-wise product on CPUs and makes it right; 2.8 has one scale per tensor alone."""
    with _disable_current_modes():  # a run without values asks, too
        a, w = torch.eye(16), torch.arange(256.0).reshape(16, 16) % 7 - 3
        scale = 2.0 ** (torch.arange(16.0) % 3)
        try:
            out = torch._scaled_mm(
                a.to(torch.float8_e4m3fn), w.to(torch.float8_e4m3fn).t(), scale_a=scale[:, None],
                scale_b=torch.ones(1, 16), out_dtype=torch.bfloat16,
            )  # fmt: skip
        except RuntimeError:
            return False
        return torch.equal(out.float(), scale[:, None] * w.t())


def _product(a8, a_scale, w8, w_scale, b, dtype):
    if dtype == torch.bfloat16 and _library_takes(a8, a_scale, w8):
        out = torch._scaled_mm(a8, w8.t(), scale_a=a_scale, scale_b=w_scale[None, :], out_dtype=dtype)
        return out if b is None else (out.float() + b)
    return F.linear(dequantise(a8, a_scale), w8.float() * w_scale[:, None], b)


def fp8_linear(a8, a_scale, w8, w_scale, b, out_dtype=torch.bfloat16):
    """See reference.fp8_linear."""
    return _product(a8, a_scale, w8, w_scale, b, out_dtype).to(out_dtype)


def fp8_linear_gelu(a8, a_scale, w8, w_scale, b):
    """See reference.fp8_linear_gelu; in float32, because its output has no dtype to follow."""
    y = F.gelu(_product(a8, a_scale, w8, w_scale, b, torch.float32), approximate="tanh")
    return per_group(y, y.shape[-1] // 128 if y.shape[-1] % 128 == 0 else 1)


def fp8_linear_gate(a8, a_scale, w8, w_scale, b, x, gate):
    """See reference.fp8_linear_gate."""
    return (x.float() + gate * _product(a8, a_scale, w8, w_scale, b, x.dtype).float()).to(x.dtype)


def fp8_linear_residual(a8, a_scale, w8, w_scale, b, x):
    """See reference.fp8_linear_residual."""
    return (x.float() + _product(a8, a_scale, w8, w_scale, b, x.dtype).float()).to(x.dtype)
