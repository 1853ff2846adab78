"""Values and scales of a segment of the window as 8-bit attention reads them."""

from torch.nn.functional import pad

from liveact_kernels.common.mma_order import PAD, padded, to_mma_order


def head_major(v, k_scale, v_scale):
    """v_t = v^T per head at one scale per 128 tokens, k_scale_t = k_scale^T; tokens padded with zeros.

    v        [R, H, D] e4m3 values, tokens in natural order
    k_scale  [R, H] f32 scales of the segment's keys
    v_scale  [R, H] f32, powers of two: bringing a code to a larger one moves its exponent, and rounds only what
             falls below e4m3's smallest normal number
    v_t      [H, D, RP] e4m3, RP = R rounded up to 128; tokens in the order of common.mma_order
    k_scale_t  [H, RP] f32, tokens in natural order
    v_scale_t  [H, RP / 128] f32, the largest of each 128 tokens
    Source   Hopper multiplies 8-bit operands only with the summed dimension contiguous: P V sums over tokens.
    """

    def turned(x):
        x = x.double()
        return pad(x.movedim(0, -1), (0, padded(x.shape[0]) - x.shape[0]))

    scale = turned(v_scale)
    largest = scale.unflatten(-1, (-1, PAD)).amax(-1)
    ratio = scale / largest.repeat_interleave(PAD, -1)
    return to_mma_order(turned(v) * ratio[:, None]), turned(k_scale), largest
