"""Plain eager torch: any device, differentiable."""

import torch

from liveact_kernels.common.softmax import attend


def attention(q, k_new, v_new, k_mem=None, v_mem=None, k_scale=None, v_scale=None):
    """See reference.attention."""
    return attend(q, window(k_mem, k_scale, k_new), window(v_mem, v_scale, v_new))


def window(mem, scale, new):
    """Memory slots, dequantised, and the block's own rows as one [P + R, H, D] tensor in the block's dtype."""
    if mem is None:
        return new
    if scale is not None:
        mem = mem.float() * scale[..., None]
    return torch.cat((mem.to(new.dtype), new), -3)
