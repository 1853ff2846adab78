"""Plain eager torch: any device."""

import torch
import torch.nn.functional as F

from liveact_kernels.common.mma_order import padded, to_mma_order


def head_major(v, k_scale, v_scale):
    """See reference.head_major."""

    def turned(x):
        return F.pad(x.movedim(0, -1), (0, padded(x.shape[0]) - x.shape[0])).contiguous()

    return to_mma_order(turned(v.view(torch.uint8))).view(v.dtype), turned(k_scale), turned(v_scale)
