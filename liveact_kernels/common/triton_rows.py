"""Rows of any width, held in registers: for kernels that read a row once, reduce over it and write it."""

from __future__ import annotations

import triton
import triton.language as tl

from liveact_kernels import tuned

SCALE_FLOOR = tl.constexpr(1e-12)  # an all-zero group keeps a finite scale: common.quantise.SCALE_FLOOR
TO_NEAREST = tl.constexpr(12582912.0)  # 1.5 * 2^23: adding it leaves no room for a fraction


def split(width: int) -> tuple[int, int]:
    """(head, tail): powers of two that cover `width`, the head its largest power of two, the tail 0 when that is all.

    5120 is 4096 + 1024, exactly: one padded block of 8192 would spend 60% more instructions on lanes that are masked.
    """
    head = 1 << (width.bit_length() - 1)
    return head, triton.next_power_of_2(width - head) if width > head else 0


def rows_heuristic(at: tuned.Limits, L: int, C: int) -> dict[str, int]:
    """One row per program on a chip: it needs few registers, so many programs keep loads in flight, and every tile
    has one shape, so no value changes threads. The interpreter pays per program, not per element: 16 rows there."""
    return {"rows": 16 if at.sms == tuned.INTERPRET_SMS else 1, "warps": 4 if C >= 1024 else 1}


ROWS_CANDIDATES = tuned.grid(rows=(1, 2, 4), warps=(1, 2, 4, 8, 16))
"""What a tuner tries for the kernels that `rows_heuristic` serves."""


@triton.jit
def inside(row, L, START: tl.constexpr, SIZE: tl.constexpr, C: tl.constexpr):
    """[rows, SIZE] mask of the elements of columns START .. START + SIZE that a [L, C] matrix has."""
    mask = (row < L)[:, None]
    if START + SIZE > C:
        mask = mask & (START + tl.arange(0, SIZE) < C)[None, :]
    return mask


@triton.jit
def element(row, START: tl.constexpr, SIZE: tl.constexpr, C: tl.constexpr):
    """[rows, SIZE] offsets into a [L, C] matrix.

    The hint keeps 8 columns with a thread, as 16-byte loads of bf16 place them, for every dtype: codes then leave in
    8-byte stores, still whole lines per warp, and no value passes through shared memory to change hands.
    """
    col = START + tl.arange(0, SIZE)
    return tl.max_contiguous(row[:, None].to(tl.int64) * C + col[None, :], [1, 8])


@triton.jit
def load_part(src, row, L, START: tl.constexpr, SIZE: tl.constexpr, C: tl.constexpr):
    """Columns START .. START + SIZE of these rows of a [L, C] matrix as float32; 0 outside it."""
    mask = inside(row, L, START, SIZE, C)
    return tl.load(src + element(row, START, SIZE, C), mask=mask, other=0.0).to(tl.float32)


@triton.jit
def store_part(dst, y, row, L, START: tl.constexpr, SIZE: tl.constexpr, C: tl.constexpr):
    """Write float32 values to columns START .. START + SIZE of these rows, rounded once."""
    at = dst + element(row, START, SIZE, C)
    tl.store(at, y.to(dst.dtype.element_ty), mask=inside(row, L, START, SIZE, C))


@triton.jit
def load_vector(src, START: tl.constexpr, SIZE: tl.constexpr, C: tl.constexpr):
    """[1, SIZE] float32 of a vector of C channels; 0 beyond it."""
    row = tl.zeros((1,), tl.int32)
    return load_part(src, row, 1, START, SIZE, C)


@triton.jit
def rsqrt(x):
    """1 / sqrt(x), each step rounded to nearest: the chip's own rsqrt may be off by two units of float32."""
    return tl.div_rn(1.0, tl.sqrt_rn(x))


@triton.jit
def group_scale(largest, MOST: tl.constexpr):
    """Scale of a group of codes from its largest magnitude: that becomes MOST, 448 for e4m3 and 127 for int8."""
    return tl.maximum(tl.div_rn(largest, 1.0 * MOST), SCALE_FLOOR)


@triton.jit
def next_power_of_two(scale):
    """A positive scale rounded up to a power of two: common.quantise says why."""
    bits = scale.to(tl.int32, bitcast=True)
    return ((bits + 0x7FFFFF) & 0x7F800000).to(tl.float32, bitcast=True)


@triton.jit
def code(y, inverse, MOST: tl.constexpr):
    """y / scale as a float32 that a cast to e4m3 or int8 keeps in range; int8 is rounded to nearest even here.

    `inverse` is 1 / scale: one product per element, and a step of 2^-23 never moves a code by more than one. NaN
    stays NaN, or a broken row would pass for -MOST.
    """
    q = tl.maximum(y * inverse, -1.0 * MOST, propagate_nan=tl.PropagateNan.ALL)
    q = tl.minimum(q, 1.0 * MOST, propagate_nan=tl.PropagateNan.ALL)
    if MOST == 127:
        q = (q + TO_NEAREST) - TO_NEAREST
    return q


@triton.jit
def head_codes(y, out_scale, rows, L, head, heads):
    """One head of some rows, float32 [rows, D], as the e4m3 codes of `quant`; stores their scales [L, heads]."""
    scale = group_scale(tl.max(tl.abs(y), 1), 448)
    tl.store(out_scale + rows.to(tl.int64) * heads + head, scale, mask=rows < L)
    return code(y, tl.div_rn(1.0, scale)[:, None], 448)
