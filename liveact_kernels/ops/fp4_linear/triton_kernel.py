"""FP4 linear layers by the tensor core's block-scaled product: tcgen05 of sm_100, mma.sync of sm_120.

Codes come by TMA, block scales as they lie in memory, row by row: Triton moves them to where the instruction reads them
(tensor memory on sm_100, registers on sm_120). Sums stay in float32 for all of K.
"""

from __future__ import annotations

import triton
import triton.language as tl

from liveact_kernels import tuned
from liveact_kernels.common.fp4 import BLOCK
from liveact_kernels.common.gemm import affine, finish
from liveact_kernels.common.tiles import OPTIONS, described, gelu_tanh, load_tile, store_tile, tile_at, tma_takes
from liveact_kernels.common.triton_fp4 import block_codes, row_scale
from liveact_kernels.common.triton_rows import load_part, split, store_part
from liveact_kernels.contract import mark

LEAST_ARCH = 100
"""Below sm_100 no tensor core multiplies e2m1, and Triton would multiply bf16 copies, spilling, or fail."""


@triton.jit
def _part(acc, out, out_scale, a_row, w_row, b, x, gate, om, on, M, N, B: tl.constexpr, TMA: tl.constexpr):
    """Epilogue of some columns. out_scale: GELU and codes; for nvfp4 the scales as numbers, for row_scales_kernel."""
    if out_scale is not None:
        y = gelu_tanh(affine(acc, a_row, w_row, b, om, on, M, N))
        codes, scale = block_codes(y, B)
        store_tile(out, codes, om, on // 2, N // 2, M, N // 2, TMA)
        store_tile(out_scale, scale, om, on // B, N // B, M, N // B, False)
    else:
        finish(acc, out, None, a_row, w_row, b, x, gate, om, on, M, N, False, TMA)


@triton.jit
def _finish(
    acc, out, out_scale, a_row, w_row, b, x, gate, om, on, M, N,
    B: tl.constexpr, PARTS: tl.constexpr, TMA: tl.constexpr,
):  # fmt: skip
    """Epilogue of a tile, in parts where its vectors would not fit in registers: tcgen05 gives a thread a whole row."""
    if PARTS == 1:
        _part(acc, out, out_scale, a_row, w_row, b, x, gate, om, on, M, N, B, TMA)
    else:
        BM: tl.constexpr = acc.shape[0]
        BN: tl.constexpr = acc.shape[1] // 2
        left, right = tl.split(tl.permute(tl.reshape(acc, (BM, 2, BN)), (0, 2, 1)))
        _finish(left, out, out_scale, a_row, w_row, b, x, gate, om, on, M, N, B, PARTS // 2, TMA)
        _finish(right, out, out_scale, a_row, w_row, b, x, gate, om, on + BN, M, N, B, PARTS // 2, TMA)


@triton.jit
def fp4_gemm_kernel(
    out, out_scale, a, a_scale, a_row, w, w_scale, w_row, b, x, gate, M, N, K,
    BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, PARTS: tl.constexpr, B: tl.constexpr, BAND: tl.constexpr,
    TMA: tl.constexpr, FLATTEN: tl.constexpr,
):  # fmt: skip
    """One program walks tiles of [BM, BN] outputs; operands that are None are skipped, out_scale: GELU and codes."""
    tiles_m, tiles_n = tl.cdiv(M, BM), tl.cdiv(N, BN)
    for t in tl.range(tl.program_id(0), tiles_m * tiles_n, tl.num_programs(0), flatten=FLATTEN):
        i, j = tile_at(t, tiles_m, tiles_n, BAND)
        om, on = i * BM, j * BN
        acc = tl.zeros((BM, BN), tl.float32)
        for k in range(0, K, BK):
            left = load_tile(a, om, k // 2, K // 2, M, K // 2, BM, BK // 2, TMA)
            left_scale = load_tile(a_scale, om, k // B, K // B, M, K // B, BM, BK // B, False)
            right = load_tile(w, on, k // 2, K // 2, N, K // 2, BN, BK // 2, TMA)
            right_scale = load_tile(w_scale, on, k // B, K // B, N, K // B, BN, BK // B, False)
            acc = tl.dot_scaled(left, left_scale, "e2m1", right.T, right_scale, "e2m1", acc)
        _finish(acc, out, out_scale, a_row, w_row, b, x, gate, om, on, M, N, B, PARTS, TMA)


@triton.jit
def row_scales_kernel(
    x_scale, x_row, x_wide, L, C: tl.constexpr, HEAD: tl.constexpr, TAIL: tl.constexpr, ROWS: tl.constexpr
):
    """Block scales as numbers [L, C] -> e4m3 over a power of two per row: what no tile of a row could know."""
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    a = load_part(x_wide, row, L, 0, HEAD, C)
    largest = tl.max(a, 1)
    if TAIL:
        b = load_part(x_wide, row, L, HEAD, TAIL, C)
        largest = tl.maximum(largest, tl.max(b, 1))
    whole = row_scale(largest)
    tl.store(x_row + row, whole, mask=row < L)
    store_part(x_scale, tl.div_rn(a, whole[:, None]), row, L, 0, HEAD, C)
    if TAIL:
        store_part(x_scale, tl.div_rn(b, whole[:, None]), row, L, HEAD, TAIL, C)


def _heuristic(at: tuned.Limits, M: int, N: int, K: int, B: int) -> dict[str, int]:
    """128 rows, below which tcgen05 has no block scales; 256 columns where such tiles fill the chip."""
    rest = {"bm": 128, "band": 8, "flatten": 0, "warps": 8}
    if at.shared >= 200_000:
        wide = triton.cdiv(M, 128) * triton.cdiv(N, 256) >= at.sms
        return rest | {"bn": 128 << wide, "bk": 256, "parts": 2 << wide, "stages": 4}
    return rest | {"bn": 128, "bk": 128, "parts": 1, "stages": 3}


def _gate_heuristic(at: tuned.Limits, M: int, N: int, K: int, B: int) -> dict[str, int]:
    """A third vector of the columns: parts half as wide, or Triton 3.6 spills."""
    found = _heuristic(at, M, N, K, B)
    return found | {"parts": 2 * found["parts"]} if found["parts"] > 1 else found


_CANDIDATES = (
    *tuned.grid(bn=(128,), parts=(2, 4), stages=(3, 4, 5), band=(4, 8, 16)),
    *tuned.grid(bn=(256,), parts=(4, 8), stages=(2, 3, 4), band=(4, 8, 16)),
    *tuned.grid(bk=(128,), stages=(4, 6), flatten=(0, 1)),
)


def _launch(op, out, out_scale, a4, a_scale, a_row, w4, w_scale, w_row, b, x=None, gate=None):
    (M, P), N, block = a4.shape, w4.shape[0], BLOCK[a_scale.dtype]
    at = tuned.limits(a4.device)
    c = tuned.config(op, _heuristic if gate is None else _gate_heuristic, at, M=M, N=N, K=2 * P, B=block)
    bm, bn, bk = c["bm"], c["bn"], c["bk"]
    tma = at.arch >= 90 and tma_takes(a4, w4, out, *([] if x is None else [x]))
    a, w, to = a4, w4, out
    if tma:
        a, w = described(a4, bm, bk // 2), described(w4, bn, bk // 2)
        part = bn // c["parts"]
        to = described(out, bm, part if out_scale is None else part // 2)
        x = None if x is None else described(x, bm, part)
    tiles = triton.cdiv(M, bm) * triton.cdiv(N, bn)
    fp4_gemm_kernel[(min(at.sms, tiles),)](
        to, out_scale, a, a_scale, a_row, w, w_scale, w_row, b, x, gate, M, N, 2 * P,
        bm, bn, bk, c["parts"], block, c["band"], tma, bool(c["flatten"]), num_warps=c["warps"], num_stages=c["stages"],
        **OPTIONS,
    )  # fmt: skip


def fp4_linear(out, a4, a_scale, a_row, w4, w_scale, w_row, b, out_dtype=None):
    """See reference.fp4_linear; out already has out_dtype."""
    _launch("fp4_linear", out, None, a4, a_scale, a_row, w4, w_scale, w_row, b)


def fp4_linear_gate(out, a4, a_scale, a_row, w4, w_scale, w_row, b, x, gate):
    """See reference.fp4_linear_gate."""
    _launch("fp4_linear_gate", out, None, a4, a_scale, a_row, w4, w_scale, w_row, b, x, gate)


def fp4_linear_residual(out, a4, a_scale, a_row, w4, w_scale, w_row, b, x):
    """See reference.fp4_linear_residual."""
    _launch("fp4_linear_residual", out, None, a4, a_scale, a_row, w4, w_scale, w_row, b, x)


def fp4_linear_gelu(x4, x_scale, x_row, x_wide, a4, a_scale, a_row, w4, w_scale, w_row, b):
    """See reference.fp4_linear_gelu."""
    to = x_scale if x_wide is None else x_wide
    _launch("fp4_linear_gelu", x4, to, a4, a_scale, a_row, w4, w_scale, w_row, b)
    if x_wide is None:
        return
    L, C = x_wide.shape
    rows = 16 if tuned.limits(x4.device).sms == tuned.INTERPRET_SMS else 1
    row_scales_kernel[(triton.cdiv(L, rows),)](x_scale, x_row, x_wide, L, C, *split(C), rows, num_warps=4, **OPTIONS)


for _op in (fp4_linear, fp4_linear_gelu, fp4_linear_gate, fp4_linear_residual):
    mark(_op, candidates=_CANDIDATES, least_arch=LEAST_ARCH, requires_sass=("UTCOMMA|OMMA", "UTMALDG"))
