"""Channel RMS norm and SiLU: each pixel is read once and written once."""

from __future__ import annotations

import triton
import triton.language as tl

from liveact_kernels import tuned
from liveact_kernels.common.tiles import OPTIONS
from liveact_kernels.common.triton_rows import load_part, load_vector, split, store_part
from liveact_kernels.contract import mark


@triton.jit
def _scaled(x, inverse, gamma, START: tl.constexpr, SIZE: tl.constexpr, C: tl.constexpr, SILU: tl.constexpr):
    y = x * inverse * load_vector(gamma, START, SIZE, C)
    if SILU:
        y = y / (1.0 + tl.exp(-y))
    return y


@triton.jit
def norm_silu_kernel(
    out, x, gamma, L, C: tl.constexpr, HEAD: tl.constexpr, TAIL: tl.constexpr, SILU: tl.constexpr, ROWS: tl.constexpr
):
    """ROWS pixels of a [L, C] matrix, in two parts because 96 and 384 are no powers of two."""
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    a = load_part(x, row, L, 0, HEAD, C)
    total = tl.sum(a * a, 1)
    if TAIL:
        b = load_part(x, row, L, HEAD, TAIL, C)
        total += tl.sum(b * b, 1)
    inverse = tl.div_rn(tl.sqrt_rn(tl.zeros_like(total) + C), tl.maximum(tl.sqrt_rn(total), 1e-12))[:, None]
    store_part(out, _scaled(a, inverse, gamma, 0, HEAD, C, SILU), row, L, 0, HEAD, C)
    if TAIL:
        store_part(out, _scaled(b, inverse, gamma, HEAD, TAIL, C, SILU), row, L, HEAD, TAIL, C)


def heuristic(at: tuned.Limits, L: int, C: int) -> dict[str, int]:
    """About 4096 values to a program of 4 warps: 16-byte loads, four or so of them in flight in each thread."""
    return {"rows": max(1, 4096 // triton.next_power_of_2(C)), "warps": 4}


def launch(out, x, gamma, silu=True):
    """See reference."""
    C = x.shape[-1]
    L = x.numel() // C
    c = tuned.config("norm_silu", heuristic, tuned.limits(x.device), L=L, C=C)
    grid = (triton.cdiv(L, c["rows"]),)
    norm_silu_kernel[grid](out, x, gamma, L, C, *split(C), silu, c["rows"], num_warps=c["warps"], **OPTIONS)


mark(launch, candidates=tuned.grid(rows=(8, 16, 32, 64, 128), warps=(1, 2, 4, 8)))
