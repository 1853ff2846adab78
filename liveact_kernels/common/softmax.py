"""Scaled-dot-product attention in eager torch, for the torch backends of the attention ops."""

import torch
import torch.nn.functional as F


def attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    """softmax(q k^T / sqrt(D) + bias) v.  q [..., L, H, D], k and v [..., R, H, D], bias [R] or None.

    Under autograd the products are written out: on a CPU the fused backward takes half of a training step.
    """
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
