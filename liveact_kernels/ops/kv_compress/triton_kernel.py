"""The whole end-of-block update of the window in one launch, in place if the caller wants it: NOTES.md says why.

A program owns some channels of one head, of the keys or of the values. It walks the schedule in order and, where
outputs may overwrite what others read, all tokens upwards; no other program touches its channels.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from liveact_kernels import tuned
from liveact_kernels.common.tiles import OPTIONS
from liveact_kernels.common.triton_rope import rotate
from liveact_kernels.common.triton_rows import code, group_scale, next_power_of_two
from liveact_kernels.contract import mark

from .schedule import entries

LARGEST = {torch.int8: 127, torch.float8_e4m3fn: 448}


@triton.jit
def _source_rows(
    j, TAP: tl.constexpr, SOURCES: tl.constexpr, FROM: tl.constexpr, COUNT: tl.constexpr, tokens, RASTER: tl.constexpr
):
    """Window row that tap TAP of outputs j reads: in the flattened sources (raster) or in source TAP (temporal)."""
    if RASTER and COUNT > 1:
        flat = j * COUNT + TAP
        nth = flat // tokens
        slot = tl.zeros_like(j) + SOURCES[FROM]
        for n in tl.static_range(1, COUNT):
            slot = tl.where(nth == n, SOURCES[FROM + n], slot)
        row = (slot - nth) * tokens + flat
    else:
        row = SOURCES[FROM + TAP] * tokens + j
    return row


@triton.jit
def _place(row, pitch, column):
    """[rows, 1, channels] offsets; the hint keeps 8 channels with a thread for every dtype, so none changes hands."""
    return tl.max_contiguous(row[:, None, None].to(tl.int64) * pitch + column, [1, 1, 8])


@triton.jit
def _values(
    mem, mem_scale, new, new_scale, row, fits, inside, head, column, P, H, D, OLD: tl.constexpr, NEW: tl.constexpr
):
    """Float32 values of window rows: the memory's first P, then the block's own, dequantised; 0 outside."""
    x = 0.0
    if OLD:
        old = row < P
        x = tl.load(mem + _place(row, H * D, column), mask=inside & old[:, None, None], other=0.0).to(tl.float32)
        if mem_scale is not None:
            x *= tl.load(mem_scale + row.to(tl.int64) * H + head, mask=old, other=0.0)[:, None, None]
    if NEW:
        fresh = row >= P
        y = tl.load(new + _place(row - P, H * D, column), mask=inside & fresh[:, None, None], other=0.0).to(tl.float32)
        if new_scale is not None:
            y *= tl.load(new_scale + (row - P) * H + head, mask=fits & fresh, other=0.0)[:, None, None]
        x += y
    return x


@triton.jit
def _entry(
    out, out_scale, mem, mem_scale, new, new_scale, taps, rope, first, last, head, d, inside_head, tokens, P, H,
    ENTRY: tl.constexpr, SLOT: tl.constexpr, COUNT: tl.constexpr, OLD: tl.constexpr, NEW: tl.constexpr,
    SOURCES: tl.constexpr, S: tl.constexpr, RASTER: tl.constexpr, D: tl.constexpr, ROWS: tl.constexpr,
    MOST: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """Chunks first .. last of one entry of the schedule; rope None: values, which are not rotated."""
    column = head * D + d
    # Only what no program writes may be fetched ahead of the stores: the block's own slots.
    for chunk in tl.range(first, last, num_stages=1 if OLD else STAGES):
        j = chunk * ROWS + tl.arange(0, ROWS)
        fits = j < tokens
        inside = fits[:, None, None] & inside_head
        y = tl.zeros(inside.shape, tl.float32)
        for tap in tl.static_range(COUNT):
            row = _source_rows(j, tap, SOURCES, ENTRY * S, COUNT, tokens, RASTER)
            x = _values(mem, mem_scale, new, new_scale, row, fits, inside, head, column, P, H, D, OLD, NEW)
            if rope is not None:
                x = rotate(x, tl.load(rope + _place(row, D, d), mask=inside, other=0.0), True)
            if COUNT > 1:
                x *= tl.load(taps + tap * H * D + column, mask=inside_head, other=0.0)
            y += x
        if rope is not None:
            y = rotate(y, tl.load(rope + _place(SLOT * tokens + j, D, d), mask=inside, other=0.0), False)
        to = ENTRY * tokens + j
        if MOST:
            scale = group_scale(tl.max(tl.max(tl.abs(y), 2), 1), MOST)
            if MOST == 448:
                scale = next_power_of_two(scale)
            y = code(y, tl.div_rn(1.0, scale)[:, None, None], MOST)
        if OLD:
            tl.debug_barrier()  # every thread has read its rows of this chunk before any thread overwrites one
        if MOST:
            tl.store(out_scale + to.to(tl.int64) * H + head, scale, mask=fits)
        tl.store(out + _place(to, H * D, column), y.to(out.dtype.element_ty), mask=inside)


@triton.jit
def kv_compress_kernel(
    k_out, v_out, k_out_scale, v_out_scale, k_new, v_new, k_mem, v_mem, k_scale, v_scale, k_new_scale, v_new_scale,
    taps, taps_v, rope, tokens, P, H,
    SLOTS: tl.constexpr, COUNTS: tl.constexpr, OLD: tl.constexpr, NEW: tl.constexpr, SOURCES: tl.constexpr,
    S: tl.constexpr, RASTER: tl.constexpr, WALK: tl.constexpr, D: tl.constexpr, WIDTH: tl.constexpr,
    ROWS: tl.constexpr, K_MOST: tl.constexpr, V_MOST: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """Grid: channels, keys or values, chunks of tokens (one program for all chunks when it must WALK)."""
    SPLITS: tl.constexpr = (D + WIDTH - 1) // WIDTH
    head = tl.program_id(0) // SPLITS
    d = (tl.program_id(0) % SPLITS * WIDTH + tl.arange(0, WIDTH))[None, None, :]
    first = tl.program_id(2)
    last = first + 1
    if WALK:
        last = tl.cdiv(tokens, ROWS)
    for e in tl.static_range(len(SLOTS)):
        if tl.program_id(1) == 0:
            _entry(
                k_out, k_out_scale, k_mem, k_scale, k_new, k_new_scale, taps, rope, first, last, head, d, d < D,
                tokens, P, H, e, SLOTS[e], COUNTS[e], OLD[e], NEW[e], SOURCES, S, RASTER, D, ROWS, K_MOST, STAGES,
            )  # fmt: skip
        else:
            _entry(
                v_out, v_out_scale, v_mem, v_scale, v_new, v_new_scale, taps_v, None, first, last, head, d, d < D,
                tokens, P, H, e, SLOTS[e], COUNTS[e], OLD[e], NEW[e], SOURCES, S, RASTER, D, ROWS, V_MOST, STAGES,
            )  # fmt: skip


def _heuristic(at: tuned.Limits, tokens: int, D: int, eight_bit: int, codes: int) -> dict[str, int]:
    """A head per program when it needs the head's maximum, else a quarter of 128 channels: enough for every SM."""
    if not eight_bit:
        return {"width": min(32, triton.next_power_of_2(D)), "rows": 32, "warps": 4, "stages": 2}
    small = at.arch != 90  # less shared memory, or ptxas spills at 16 warps
    rows = 16 if small or codes else 32  # with the scales of the block's codes 32 rows spill
    return {"width": triton.next_power_of_2(D), "rows": rows, "warps": 8 if small else 16, "stages": 2}


def _candidates(tokens: int, D: int, eight_bit: int, codes: int) -> tuple[dict[str, int], ...]:
    """8 bits need a head's maximum, so there a program owns whole heads."""
    widths = (triton.next_power_of_2(D),) if eight_bit else (16, 32, 64, 128)
    return tuned.grid(width=widths, rows=(16, 32, 64), warps=(4, 8, 16), stages=(1, 2, 3))


def launch(
    k_out, v_out, k_out_scale, v_out_scale, k_new, v_new, k_mem, v_mem, k_scale, v_scale, k_new_scale, v_new_scale,
    taps, taps_v, rope, schedule, tokens, k_dtype, v_dtype, grouping="raster",
):  # fmt: skip
    """See reference.kv_compress."""
    (_, H, D), P, raster = k_new.shape, 0 if k_mem is None else k_mem.shape[0], grouping == "raster"
    most = LARGEST.get(k_dtype, 0), LARGEST.get(v_dtype, 0)
    at, eight_bit = tuned.limits(k_new.device), int(any(most))
    codes = int(k_new_scale is not None)
    c = tuned.config("kv_compress", _heuristic, at, tokens=tokens, D=D, eight_bit=eight_bit, codes=codes)
    walk = raster and P > 0
    grid = (H * triton.cdiv(D, c["width"]), 2, 1 if walk else triton.cdiv(tokens, c["rows"]))
    kv_compress_kernel[grid](
        k_out, v_out, k_out_scale, v_out_scale, k_new, v_new, k_mem, v_mem, k_scale, v_scale, k_new_scale, v_new_scale,
        taps, taps if taps_v is None else taps_v, rope, tokens, P, H,
        *entries(schedule, P // tokens, taps.shape[0], raster),
        taps.shape[0], raster, walk, D, c["width"], c["rows"], *most, c["stages"],
        num_warps=c["warps"], **OPTIONS,
    )  # fmt: skip


mark(
    launch,
    requires_sass=("BAR",),  # between a chunk's loads and its stores
    candidates=_candidates,
)
