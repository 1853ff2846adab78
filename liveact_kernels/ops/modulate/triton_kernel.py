"""LayerNorm, multiplier and offset, with or without quantisation and a gated residual before: one pass over a row."""

from __future__ import annotations

import triton
import triton.language as tl

from liveact_kernels import tuned
from liveact_kernels.common.fp4 import BLOCK
from liveact_kernels.common.tiles import OPTIONS
from liveact_kernels.common.triton_fp4 import store_fp4
from liveact_kernels.common.triton_rows import (
    ROWS_CANDIDATES,
    code,
    group_scale,
    inside,
    load_part,
    load_vector,
    rows_heuristic,
    rsqrt,
    split,
    store_part,
)
from liveact_kernels.contract import fp8, mark


@triton.jit
def _centred(x, mean, row, L, START: tl.constexpr, SIZE: tl.constexpr, C: tl.constexpr):
    """x - mean, and 0 in the padding, which must not count as variance."""
    y = x - mean
    if START + SIZE > C:
        y = tl.where(inside(row, L, START, SIZE, C), y, 0.0)
    return y


@triton.jit
def _affine(x, inverse, mul, add, START: tl.constexpr, SIZE: tl.constexpr, C: tl.constexpr):
    return x * inverse * load_vector(mul, START, SIZE, C) + load_vector(add, START, SIZE, C)


@triton.jit
def _summed(x_out, x, y, gate, row, L, START: tl.constexpr, SIZE: tl.constexpr, C: tl.constexpr):
    """A part of x; with a y, x + gate * y, which is also written. The norm then sees the unrounded sum."""
    a = load_part(x, row, L, START, SIZE, C)
    if y is not None:
        a += load_vector(gate, START, SIZE, C) * load_part(y, row, L, START, SIZE, C)
        store_part(x_out, a, row, L, START, SIZE, C)
    return a


@triton.jit
def modulate_kernel(
    x_out, out, out_scale, x_row, x, y, gate, mul, add, L, eps,
    C: tl.constexpr, HEAD: tl.constexpr, TAIL: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """ROWS rows of a [L, C] matrix, in two parts because C is no power of two.

    out_scale None: no quantisation; BLOCK: columns per scale of 4-bit codes, 0 for e4m3; y None: no residual before
    the norm, and no x_out.
    """
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    a = _summed(x_out, x, y, gate, row, L, 0, HEAD, C)
    total = tl.sum(a, 1)
    if TAIL:
        b = _summed(x_out, x, y, gate, row, L, HEAD, TAIL, C)
        total += tl.sum(b, 1)
    mean = tl.div_rn(total, 1.0 * C)[:, None]

    a = _centred(a, mean, row, L, 0, HEAD, C)
    total = tl.sum(a * a, 1)
    if TAIL:
        b = _centred(b, mean, row, L, HEAD, TAIL, C)
        total += tl.sum(b * b, 1)
    inverse = rsqrt(tl.div_rn(total, 1.0 * C) + eps)[:, None]

    a = _affine(a, inverse, mul, add, 0, HEAD, C)
    if TAIL:
        b = _affine(b, inverse, mul, add, HEAD, TAIL, C)
    if BLOCK:
        store_fp4(out, out_scale, x_row, a, b if TAIL else a, row, L, C, HEAD, TAIL, BLOCK)
        return
    if out_scale is not None:
        largest = tl.max(tl.abs(a), 1)
        if TAIL:
            largest = tl.maximum(largest, tl.max(tl.abs(b), 1))
        scale = group_scale(largest, 448)
        tl.store(out_scale + row, scale, mask=row < L)
        per_code = tl.div_rn(1.0, scale)[:, None]
        a = code(a, per_code, 448)
        if TAIL:
            b = code(b, per_code, 448)
    store_part(out, a, row, L, 0, HEAD, C)
    if TAIL:
        store_part(out, b, row, L, HEAD, TAIL, C)


def _launch(op, out, out_scale, x, mul, add, eps, x_out=None, y=None, gate=None, x_row=None, block=0):
    L, C = x.shape
    c = tuned.config(op, rows_heuristic, tuned.limits(x.device), L=L, C=C)
    grid = (triton.cdiv(L, c["rows"]),)
    modulate_kernel[grid](
        x_out, out, out_scale, x_row, x, y, gate, mul, add, L, eps, C, *split(C), c["rows"], block,
        num_warps=c["warps"], **OPTIONS,
    )  # fmt: skip


def modulate(out, x, mul, add, eps=1e-6):
    """See reference.modulate."""
    _launch("modulate", out, None, x, mul, add, eps)


def modulate_quant(x8, x_scale, x, mul, add, eps=1e-6):
    """See reference.modulate_quant."""
    _launch("modulate_quant", x8, x_scale, x, mul, add, eps)


def gate_modulate_quant(x_out, x8, x_scale, x, y, gate, mul, add, eps=1e-6):
    """See reference.gate_modulate_quant."""
    _launch("gate_modulate_quant", x8, x_scale, x, mul, add, eps, x_out, y, gate)


def modulate_fp4(x4, x_scale, x_row, x, mul, add, eps=1e-6, scale_dtype=fp8):
    """See reference.modulate_fp4."""
    _launch("modulate_fp4", x4, x_scale, x, mul, add, eps, x_row=x_row, block=BLOCK[x_scale.dtype])


for _op in (modulate, modulate_quant, modulate_fp4, gate_modulate_quant):
    mark(_op, candidates=ROWS_CANDIDATES)
