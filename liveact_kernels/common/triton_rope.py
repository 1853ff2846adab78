"""Rotary embedding of neighbouring channels in registers, for the kernels that rotate."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def rotate(x, turn, INVERSE: tl.constexpr):
    """Rotate pairs (2i, 2i + 1) of x's last axis; `turn` holds their (cos, sin) in the same two places.

    A rope table [.., D/2, 2] read flat has just that form, so a thread that holds a pair holds its angle too.
    """
    A: tl.constexpr = x.shape[0]
    B: tl.constexpr = x.shape[1]
    PAIRS: tl.constexpr = x.shape[2] // 2
    even, odd = tl.split(tl.reshape(x, [A, B, PAIRS, 2]))
    cos, sin = tl.split(tl.reshape(turn, [turn.shape[0], turn.shape[1], PAIRS, 2]))
    if INVERSE:
        sin = -sin
    return tl.reshape(tl.join(even * cos - odd * sin, even * sin + odd * cos), [A, B, 2 * PAIRS])
