"""Products of float32 on a CPU: oneDNN's, which fill the vector unit of every make of processor.

torch hands float32 products to MKL, whose code for AMD is half as wide as the processor: 105 GFLOP/s on one core of an
EPYC with AVX-512 where oneDNN makes 230 of the same operands. The other dtypes go to oneDNN by themselves.
"""

from __future__ import annotations

import functools

import torch
import torch.nn.functional as F
from torch import Tensor


@functools.cache
def _has_onednn() -> bool:
    """Whether this build of torch can be asked for oneDNN's product and convolution; they have no public names."""
    there = (hasattr(torch.ops.mkldnn, f"_{name}_pointwise") for name in ("linear", "convolution"))
    return torch.backends.mkldnn.is_available() and all(there)


LEAST = 1 << 20
"""Multiply-adds from which on a product by oneDNN is faster: its call costs ten microseconds more than MKL's."""


def by_onednn(x: Tensor) -> bool:
    """Whether products of x go to oneDNN: float32 on a CPU, outside autograd, which does not know the op."""
    plain = x.dtype == torch.float32 and x.device.type == "cpu" and x.numel() > 0
    return plain and not torch.is_grad_enabled() and _has_onednn()


def _worth(a: Tensor, w: Tensor) -> bool:
    return a.numel() * w.shape[0] >= LEAST and by_onednn(a)


def product(a: Tensor, w: Tensor, b: Tensor | None = None) -> Tensor:
    """a @ w.T + b of a [.., K], w [N, K], b [N] or None, in one dtype. Differentiable.

    Operands are made contiguous: oneDNN's loops for others are a thousand times slower.
    """
    if not _worth(a, w):
        return F.linear(a, w, b)
    return torch.ops.mkldnn._linear_pointwise(a.contiguous(), w.contiguous(), b, "none", [], "")


def product_gelu(a: Tensor, w: Tensor, b: Tensor | None = None) -> Tensor:
    """GELU_tanh of the product."""
    if not _worth(a, w):
        return F.gelu(F.linear(a, w, b), approximate="tanh")
    return torch.ops.mkldnn._linear_pointwise(a.contiguous(), w.contiguous(), b, "gelu", [], "tanh")


def product_add(a: Tensor, w: Tensor, b: Tensor | None, x: Tensor) -> Tensor:
    """x + the product, x [.., N]; rounded before the sum where the dtype is narrower than float32."""
    if not _worth(a, w):
        return x + F.linear(a, w, b)
    return torch.ops.mkldnn._linear_pointwise.binary(a.contiguous(), x.contiguous(), w.contiguous(), b, "add")
