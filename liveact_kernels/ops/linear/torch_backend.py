"""Plain eager torch: any device, differentiable.

The product is rounded to the activation dtype before the epilogue: the library's GEMM offers no wider output.
"""

import torch

from liveact_kernels.common.products import product, product_add, product_gelu


def linear(a, w, b):
    """See reference.linear."""
    return product(a, w, b)


def linear_gelu(a, w, b):
    """See reference.linear_gelu."""
    return product_gelu(a, w, b)


def linear_gate(a, w, b, x, gate):
    """See reference.linear_gate."""
    return torch.addcmul(x.float(), gate, product(a, w, b).float()).to(x.dtype)


def linear_residual(a, w, b, x):
    """See reference.linear_residual."""
    return product_add(a, w, b, x)
