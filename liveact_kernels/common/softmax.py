"""Scaled-dot-product attention in eager torch, for the torch backends of the attention ops."""

import torch
import torch.nn.functional as F
from torch import Tensor

from liveact_kernels.common.quantise import per_group
from liveact_kernels.contract import Dims, Rel

from .products import by_onednn, product

SCORES, ROWS = 1 << 17, 128
"""Scores of one head that are held at a time, and queries at least: 512 KiB stay in the cache, and are memory that the
allocator has at hand; what is larger it may hand back to the system after every call, page by page."""

FUSED = 1 << 20
"""Scores of one head from which on a pass with gradients, too, takes the fused form, which never holds them all."""

LEAST = 1 << 22
"""Multiply-adds of one head's product from which on head by head is faster."""

# Ops that end in codes are tested where every probability is 1 or next to nothing, which each dtype holds exactly: what
# is left is the quantisation, whose scales can then be held to float32's rounding.

HEAD_CODES = {
    "x8": Rel(0.9, "one rounding to e4m3"),
    "x_scale": Rel(500.0, "fp32 sums of exact products; scores of 150 have an error of 1e-5 in fp32"),
}
"""Tolerances of attention that ends in codes."""


def few_channels(g: torch.Generator, shape: tuple[int, ...], d: Dims) -> Tensor:
    """Queries that add up three channels of a key, times so much that only the largest scores count."""
    return torch.zeros(shape).scatter(-1, torch.randint(shape[-1], (*shape[:-1], 3), generator=g), 24 * d.D**0.5)


def small_integers(g: torch.Generator, shape: tuple[int, ...], d: Dims) -> Tensor:
    """Keys of -2 .. 2: many scores are equal."""
    return torch.randint(-2, 3, shape, generator=g).float()


def attend(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None) -> Tensor:
    """softmax(q k^T / sqrt(D) + bias) v.  q [..., L, H, D], k and v [..., R, H, D], bias [R] or None.

    Under autograd the products of small calls are written out: on a CPU their fused backward takes half of a training
    step.
    """
    if _worth_heads(q, k):
        return _by_heads(q, k, v, bias)
    q, k, v = (x.transpose(-2, -3) for x in (q, k, v))
    if not torch.is_grad_enabled() or q.shape[-2] * k.shape[-2] >= FUSED:
        mask = None if bias is None else bias.to(q.dtype).expand(q.shape[-2], -1)
        shape = q.shape
        if q.ndim == 3:  # without a batch torch writes the whole score matrix out: 25 GB in float32 at 416x720
            q, k, v = (x[None] for x in (q, k, v))
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask).view(shape).transpose(-2, -3)
    scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)
    if bias is not None:
        scores = scores + bias.to(q.dtype)
    return (scores.softmax(-1) @ v).transpose(-2, -3)


def _worth_heads(q: Tensor, k: Tensor) -> bool:
    """Whether a head's products are large enough to pay for two calls each."""
    return q.ndim == 3 and q.shape[0] * k.shape[0] * q.shape[-1] >= LEAST and by_onednn(q)


def _by_heads(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None) -> Tensor:
    """`attend` head by head, some queries at a time: torch's fused attention multiplies with MKL, see `products`."""
    out, rows = torch.empty_like(q), max(ROWS, SCORES // k.shape[0])
    heads = (x.transpose(0, 1).contiguous() for x in (q * q.shape[-1] ** -0.5, k, v))
    for h, (queries, keys, values) in enumerate(zip(*heads)):
        turned = values.t().contiguous()
        for start in range(0, queries.shape[0], rows):
            scores = product(queries[start : start + rows], keys, bias)
            out[start : start + rows, h] = product(scores.softmax(-1), turned)
    return out


def per_head(y: Tensor) -> tuple[Tensor, Tensor]:
    """y [L, H, D] as e4m3 codes of that shape and their scales [L, H] f32, a group of `quant` for each head."""
    codes, scale = per_group(y.flatten(-2), y.shape[-2])
    return codes.view(y.shape), scale
