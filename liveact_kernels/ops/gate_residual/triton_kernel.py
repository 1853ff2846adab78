"""x + gate * y in one pass."""

from __future__ import annotations

import triton
import triton.language as tl

from liveact_kernels import tuned
from liveact_kernels.common.tiles import OPTIONS
from liveact_kernels.common.triton_rows import (
    ROWS_CANDIDATES,
    load_part,
    load_vector,
    rows_heuristic,
    split,
    store_part,
)
from liveact_kernels.contract import mark


@triton.jit
def _part(out, x, y, gate, row, L, START: tl.constexpr, SIZE: tl.constexpr, C: tl.constexpr):
    added = load_vector(gate, START, SIZE, C) * load_part(y, row, L, START, SIZE, C)
    store_part(out, load_part(x, row, L, START, SIZE, C) + added, row, L, START, SIZE, C)


@triton.jit
def gate_residual_kernel(
    out, x, y, gate, L, C: tl.constexpr, HEAD: tl.constexpr, TAIL: tl.constexpr, ROWS: tl.constexpr
):
    """ROWS rows of a [L, C] matrix, in two parts because C is no power of two."""
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    _part(out, x, y, gate, row, L, 0, HEAD, C)
    if TAIL:
        _part(out, x, y, gate, row, L, HEAD, TAIL, C)


def launch(out, x, y, gate):
    """See reference."""
    L, C = x.shape
    c = tuned.config("gate_residual", rows_heuristic, tuned.limits(x.device), L=L, C=C)
    grid = (triton.cdiv(L, c["rows"]),)
    gate_residual_kernel[grid](out, x, y, gate, L, C, *split(C), c["rows"], num_warps=c["warps"], **OPTIONS)


mark(launch, candidates=ROWS_CANDIDATES)
