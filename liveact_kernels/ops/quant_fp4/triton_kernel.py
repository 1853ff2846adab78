"""Rows to 4-bit codes: a program holds whole rows, because the scale of a row is known last."""

from __future__ import annotations

import triton
import triton.language as tl

from liveact_kernels import tuned
from liveact_kernels.common.fp4 import BLOCK
from liveact_kernels.common.tiles import OPTIONS
from liveact_kernels.common.triton_fp4 import store_fp4
from liveact_kernels.common.triton_rows import ROWS_CANDIDATES, load_part, rows_heuristic, split
from liveact_kernels.contract import fp8, mark


@triton.jit
def quant_fp4_kernel(
    x4, x_scale, x_row, x, L,
    C: tl.constexpr, HEAD: tl.constexpr, TAIL: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """ROWS rows of a [L, C] matrix; in two parts when C is no power of two."""
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    a = load_part(x, row, L, 0, HEAD, C)
    b = a
    if TAIL:
        b = load_part(x, row, L, HEAD, TAIL, C)
    store_fp4(x4, x_scale, x_row, a, b, row, L, C, HEAD, TAIL, BLOCK)


def launch(x4, x_scale, x_row, x, scale_dtype=fp8):
    """See reference."""
    L, C = x.shape
    c = tuned.config("quant_fp4", rows_heuristic, tuned.limits(x.device), L=L, C=C)
    grid = (triton.cdiv(L, c["rows"]),)
    quant_fp4_kernel[grid](
        x4, x_scale, x_row, x, L, C, *split(C), c["rows"], BLOCK[x_scale.dtype], num_warps=c["warps"], **OPTIONS
    )


mark(launch, candidates=ROWS_CANDIDATES)
