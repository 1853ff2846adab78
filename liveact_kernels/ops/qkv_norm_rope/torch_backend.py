"""Plain eager torch: any device, differentiable."""

import torch

from liveact_kernels.common.rope import rotate


def qkv_norm_rope(qkv, norm_q, norm_k, rope, eps=1e-6):
    """See reference.qkv_norm_rope."""
    q, k, v = qkv.chunk(3, -1)
    heads = (-1, 2 * rope.shape[-2])

    def roped(x, weight):
        x = x.float()
        x = x * torch.rsqrt(x.square().mean(-1, keepdim=True) + eps) * weight
        return rotate(x.unflatten(-1, heads), rope).to(qkv.dtype)

    return roped(q, norm_q), roped(k, norm_k), v.unflatten(-1, heads).contiguous()
