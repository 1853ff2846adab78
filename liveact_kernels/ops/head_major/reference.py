"""Values and scales of a segment of the window with their tokens side by side."""

import torch

from liveact_kernels.common.mma_order import padded, to_mma_order


def head_major(v, k_scale, v_scale):
    """v_t = v^T per head, k_scale_t = k_scale^T, v_scale_t = v_scale^T; tokens padded with zeros.

    v                 [R, H, D] e4m3 values, tokens in natural order
    k_scale, v_scale  [R, H] f32 of the segment's keys and values
    v_t               [H, D, RP] e4m3, RP = R rounded up to 128; tokens in the order of common.mma_order
    k_scale_t, v_scale_t  [H, RP] f32, tokens in natural order
    Source            Hopper multiplies 8-bit operands only with the summed dimension contiguous: P V sums over tokens.
    """

    def turned(x):
        rows = torch.nn.functional.pad(x.double().flatten(1), (0, 0, 0, padded(x.shape[0]) - x.shape[0]))
        return rows.T.unflatten(0, x.shape[1:])

    return to_mma_order(turned(v)), turned(k_scale), turned(v_scale)
