"""Scaled-dot-product attention in eager torch, for the torch backends of the attention ops."""

import torch
import torch.nn.functional as F
from torch import Tensor

from .products import by_onednn, product

SCORES, ROWS = 1 << 17, 128
"""Scores of one head that are held at a time, and queries at least: 512 KiB stay in the cache, and are memory that the
allocator has at hand; what is larger it may hand back to the system after every call, page by page."""

LEAST = 1 << 22
"""Multiply-adds of one head's product from which on head by head is faster."""


def attend(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None) -> Tensor:
    """softmax(q k^T / sqrt(D) + bias) v.  q [..., L, H, D], k and v [..., R, H, D], bias [R] or None.

    Under autograd the products are written out: on a CPU the fused backward takes half of a training step.
    """
    if _worth_heads(q, k):
        return _by_heads(q, k, v, bias)
    q, k, v = (x.transpose(-2, -3) for x in (q, k, v))
    if not torch.is_grad_enabled():
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
