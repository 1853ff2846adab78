"""The whole end-of-block update of the window in one launch, in place if the caller wants it: see NOTES.md for why.

A program owns some channels of one head, of the keys or of the values, for all tokens of the memory; it walks the
schedule in order and each entry's tokens upwards, and no other program reads or writes its channels.
"""

from __future__ import annotations

import triton
import triton.language as tl

from liveact_kernels import tuned
from liveact_kernels.common.triton_rope import rotate
from liveact_kernels.common.triton_rows import code, group_scale

MOST = {"torch.int8": 127.0, "torch.float8_e4m3fn": 448.0}  # largest code of the 8-bit formats


@triton.jit
def _source_rows(j, TAP: tl.constexpr, SOURCES: tl.constexpr, tokens, RASTER: tl.constexpr):
    """Window row that tap TAP of outputs j reads: from the flattened sources (raster) or from source TAP (temporal)."""
    S: tl.constexpr = len(SOURCES)
    if S == 1 or not RASTER:
        row = SOURCES[TAP] * tokens + j
    else:
        flat = j * S + TAP
        nth = flat // tokens
        slot = tl.zeros_like(j) + SOURCES[0]
        for n in tl.static_range(1, S):
            slot = tl.where(nth == n, SOURCES[n], slot)
        row = slot * tokens + flat - nth * tokens
    return row


@triton.jit
def _place(row, pitch, column):
    """[rows, 1, channels] offsets; the hint keeps 8 channels with a thread for every dtype, so none changes hands."""
    return tl.max_contiguous(row[:, None, None].to(tl.int64) * pitch + column, [1, 1, 8])


@triton.jit
def _values(
    mem, mem_scale, new, row, inside, head, column, P, H, D, HAS_OLD: tl.constexpr, HAS_NEW: tl.constexpr
):
    """Float32 values of window rows: the memory's first P, dequantised, then the block's own; 0 outside."""
    x = tl.zeros(inside.shape, tl.float32)
    if HAS_OLD:
        old = inside & (row < P)[:, None, None]
        x = tl.load(mem + _place(row, H * D, column), mask=old, other=0.0).to(tl.float32)
        if mem_scale is not None:
            scale = tl.load(mem_scale + row.to(tl.int64) * H + head, mask=row < P, other=0.0)
            x *= scale[:, None, None]
    if HAS_NEW:
        fresh = inside & (row >= P)[:, None, None]
        x += tl.load(new + _place(row - P, H * D, column), mask=fresh, other=0.0).to(tl.float32)
    return x
