"""Activations to e4m3: a group of channels is a row of the same memory, so there is one kernel for any grouping."""

from __future__ import annotations

import triton
import triton.language as tl

from liveact_kernels import tuned
from liveact_kernels.common.tiles import OPTIONS
from liveact_kernels.common.triton_rows import code, group_scale, load_part, split, store_part
from liveact_kernels.contract import mark


@triton.jit
def quant_kernel(x8, x_scale, x, L, C: tl.constexpr, HEAD: tl.constexpr, TAIL: tl.constexpr, ROWS: tl.constexpr):
    """ROWS rows of a [L, C] matrix, one scale per row; in two parts when C is no power of two."""
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    a = load_part(x, row, L, 0, HEAD, C)
    largest = tl.max(tl.abs(a), 1)
    if TAIL:
        b = load_part(x, row, L, HEAD, TAIL, C)
        largest = tl.maximum(largest, tl.max(tl.abs(b), 1))
    scale = group_scale(largest, 448)
    tl.store(x_scale + row, scale, mask=row < L)
    per_code = tl.div_rn(1.0, scale)[:, None]
    store_part(x8, code(a, per_code, 448), row, L, 0, HEAD, C)
    if TAIL:
        store_part(x8, code(b, per_code, 448), row, L, HEAD, TAIL, C)


def _heuristic(at: tuned.Limits, L: int, C: int) -> dict[str, int]:
    """About 4096 values per program: 32 to a thread of four warps."""
    rows = max(1, 4096 // triton.next_power_of_2(C))
    return {"rows": max(rows, 16) if at.sms == tuned.INTERPRET_SMS else rows, "warps": 4}


def launch(x8, x_scale, x, groups=1):
    """See reference."""
    L, C = x.shape[0] * groups, x.shape[1] // groups
    c = tuned.config("quant", _heuristic, tuned.limits(x.device), L=L, C=C)
    grid = (triton.cdiv(L, c["rows"]),)
    quant_kernel[grid](x8, x_scale, x, L, C, *split(C), c["rows"], num_warps=c["warps"], **OPTIONS)


mark(launch, candidates=tuned.grid(rows=(8, 16, 32, 64, 128), warps=(1, 2, 4, 8)))
