"""Linear layers in float64."""

import torch.nn.functional as F


def linear(a, w, b):
    """out = a @ w.T + b.

    a [M, K], w [N, K], b [N] or None, all in one dtype; out [M, N]. fp32 accumulation, one rounding.
    """
    out = a.double() @ w.double().T
    return out if b is None else out + b.double()


def linear_gelu(a, w, b):
    """out = GELU_tanh(a @ w.T + b): the FFN's first half. The GELU sees the unrounded sum."""
    return F.gelu(linear(a, w, b), approximate="tanh")


def linear_gate(a, w, b, x, gate):
    """out = x + gate * (a @ w.T + b): self attention's o and the FFN's second half.  x [M, N], gate [N] f32."""
    return x.double() + gate.double() * linear(a, w, b)


def linear_residual(a, w, b, x):
    """out = x + (a @ w.T + b): the output projections of cross and audio attention.  x [M, N]."""
    return x.double() + linear(a, w, b)
