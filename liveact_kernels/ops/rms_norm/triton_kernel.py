"""RMS norm of whole rows: each is read once and written once."""

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
    rsqrt,
    split,
    store_part,
)
from liveact_kernels.contract import mark


@triton.jit
def rms_norm_kernel(
    out, x, weight, L, eps, C: tl.constexpr, HEAD: tl.constexpr, TAIL: tl.constexpr, ROWS: tl.constexpr
):
    """ROWS rows of a [L, C] matrix, in two parts because C is no power of two."""
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    a = load_part(x, row, L, 0, HEAD, C)
    total = tl.sum(a * a, 1)
    if TAIL:
        b = load_part(x, row, L, HEAD, TAIL, C)
        total += tl.sum(b * b, 1)
    inverse = rsqrt(tl.div_rn(total, 1.0 * C) + eps)[:, None]
    store_part(out, a * inverse * load_vector(weight, 0, HEAD, C), row, L, 0, HEAD, C)
    if TAIL:
        store_part(out, b * inverse * load_vector(weight, HEAD, TAIL, C), row, L, HEAD, TAIL, C)


def launch(out, x, weight, eps=1e-6):
    """See reference."""
    L, C = x.shape
    c = tuned.config("rms_norm", rows_heuristic, tuned.limits(x.device), L=L, C=C)
    grid = (triton.cdiv(L, c["rows"]),)
    rms_norm_kernel[grid](out, x, weight, L, eps, C, *split(C), c["rows"], num_warps=c["warps"], **OPTIONS)


mark(launch, candidates=ROWS_CANDIDATES)
