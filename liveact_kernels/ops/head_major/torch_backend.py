"""Plain eager torch: any device."""

from torch.nn.functional import pad

from liveact_kernels.common.mma_order import PAD, padded, to_mma_order
from liveact_kernels.contract import to_fp8


def head_major(v, k_scale, v_scale):
    """See reference.head_major."""

    def turned(x):
        return pad(x.float().movedim(0, -1), (0, padded(x.shape[0]) - x.shape[0])).contiguous()

    scale = turned(v_scale)
    largest = scale.unflatten(-1, (-1, PAD)).amax(-1)
    ratio = scale / largest.repeat_interleave(PAD, -1)
    return to_mma_order(to_fp8(turned(v) * ratio[:, None])), turned(k_scale), largest
