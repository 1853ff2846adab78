"""Plain eager torch: any device, differentiable."""

import torch

from liveact_kernels.common.quantise import per_group
from liveact_kernels.common.rope import rotate


def qkv_norm_rope(qkv, norm_q, norm_k, rope, eps=1e-6):
    """See reference.qkv_norm_rope."""
    return tuple(x.to(qkv.dtype).contiguous() for x in _parts(qkv, norm_q, norm_k, rope, eps))


def qkv_norm_rope_8bit(qkv, norm_q, norm_k, rope, eps=1e-6):
    """See reference.qkv_norm_rope_8bit."""
    q, k, v = _parts(qkv, norm_q, norm_k, rope, eps)
    pairs = per_group(q, 1, torch.int8), per_group(k, 1, torch.int8), per_group(v, 1, power_of_two=True)
    return (*(codes for codes, _ in pairs), *(scale.squeeze(-1) for _, scale in pairs))


def _parts(qkv, norm_q, norm_k, rope, eps):
    """Queries and keys [.., L, H, D] in float32, values as they are."""
    q, k, v = qkv.chunk(3, -1)
    heads = (-1, 2 * rope.shape[-2])

    def roped(x, weight):
        x = x.float()
        inverse = torch.rsqrt(x.square().mean(-1, keepdim=True) + eps)
        return rotate((x * weight).unflatten(-1, heads), rope * inverse[..., None])  # the table is the smaller factor

    return roped(q, norm_q), roped(k, norm_k), v.unflatten(-1, heads)
