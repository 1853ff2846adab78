"""e4m3 linear layers on common.gemm, promoted to float32 every 128 of K.

The tensor core keeps about 14 bits while it sums, so each 128 of K is summed there into a fresh tile and added to a
float32 one; scales of 1x128 activation groups are applied at that same point, scales per token in the epilogue.
"""

from __future__ import annotations

import triton
import triton.language as tl

from liveact_kernels import tuned
from liveact_kernels.common.gemm import affine, launch_gemm, products
from liveact_kernels.common.tiles import OPTIONS, gelu_tanh, store_tile, tma_takes
from liveact_kernels.common.triton_rows import code, group_scale
from liveact_kernels.contract import mark

GROUP = 128
"""Columns of one half of a tile and of one scale of the quantised output; the most of K summed at low precision."""


@triton.jit
def gelu_rows_kernel(
    x8, x_scale, a8, per_group, per_token, w8, w_scale, b, M, N, K, G,
    BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, STEPS: tl.constexpr,
):  # fmt: skip
    """GELU and codes with one scale per row: its maximum must be known before the first code, so sums are made twice.

    Only widths that 128 does not divide come here; no layer of the released model has one.
    """
    om = tl.program_id(0) * BM
    rows = om + tl.arange(0, BM)
    top = tl.zeros((BM,), tl.float32)
    scale = top
    for write in tl.static_range(2):
        for on in range(0, N, BN):
            acc, _ = products(a8, per_group, w8, om, on, M, N, K, G, BM, BN, BK, 1, STEPS, True, False)
            y = gelu_tanh(affine(acc, per_token, w_scale, b, om, on, M, N))
            if write:
                store_tile(x8, code(y, (1.0 / scale)[:, None], 448), om, on, N, M, N, False)
            else:
                top = tl.maximum(top, tl.max(tl.abs(y), 1))
        scale = group_scale(top, 448)
    tl.store(x_scale + rows, scale, mask=rows < M)


def _heuristic(at: tuned.Limits, M: int, N: int, K: int, G: int) -> dict[str, int]:
    """128x256 tiles when they fill the chip, else 128 columns; 64 rows when there are no more.

    One tile's epilogue overlaps the next one's loads (flatten) where registers allow: with per-token scales.
    """
    large = at.shared >= 200_000
    wide = large and (G == 1 or at.arch < 100) and triton.cdiv(M, 128) * triton.cdiv(N, 2 * GROUP) >= at.sms
    shape = {"bm": 128, "warps": 8} if M > 64 else {"bm": 64, "warps": 4}
    bk = min(GROUP, triton.next_power_of_2(max(K // G, 32)))
    rest = {"band": 8, "flatten": int(G == 1), "ws": 0, "stages": 3 if large else 2}
    return shape | rest | {"bn": GROUP, "bk": bk, "halves": 1 + wide}


_CANDIDATES = (
    *tuned.grid(halves=(1, 2), stages=(2, 3, 4), band=(4, 8, 16), flatten=(0, 1)),
    *tuned.grid(ws=(1,), warps=(4,), flatten=(0,), halves=(1, 2), stages=(2, 3), band=(4, 8)),
    *tuned.grid(bm=(64,), warps=(4,), halves=(1, 2), stages=(3, 4), flatten=(0, 1)),
)


def _launch(op, out, out_scale, a8, a_scale, w8, w_scale, b, x=None, gate=None):
    (M, K), (N, G) = a8.shape, (w8.shape[0], a_scale.shape[1])
    at = tuned.limits(a8.device)
    c = tuned.config(op, _heuristic, at, M=M, N=N, K=K, G=G)
    if out_scale is not None:
        c = {**c, "bn": GROUP}  # a half is a group of the output, whatever was tuned
    per_group, per_token = (None, a_scale) if G == 1 else (a_scale, None)
    if out_scale is not None and N % GROUP:
        steps, bm, bn = triton.cdiv(K // G, c["bk"]), 64, 64
        gelu_rows_kernel[(triton.cdiv(M, bm),)](
            out, out_scale, a8, per_group, per_token, w8, w_scale, b, M, N, K, G, bm, bn, c["bk"], steps, **OPTIONS
        )
        return
    tma = at.arch >= 90 and tma_takes(a8, w8, out, *([] if x is None else [x])) and (G == 1 or K // G % c["bk"] == 0)
    launch_gemm(
        at, c, out, a8, w8, b=b, x=x, gate=gate, out_scale=out_scale, group_scale=per_group, row_scale=per_token,
        w_scale=w_scale, promote=True, gelu=out_scale is not None, tma=tma,
    )  # fmt: skip


def fp8_linear(out, a8, a_scale, w8, w_scale, b, out_dtype=None):
    """See reference.fp8_linear; out already has out_dtype."""
    _launch("fp8_linear", out, None, a8, a_scale, w8, w_scale, b)


def fp8_linear_gate(out, a8, a_scale, w8, w_scale, b, x, gate):
    """See reference.fp8_linear_gate."""
    _launch("fp8_linear_gate", out, None, a8, a_scale, w8, w_scale, b, x, gate)


def fp8_linear_residual(out, a8, a_scale, w8, w_scale, b, x):
    """See reference.fp8_linear_residual."""
    _launch("fp8_linear_residual", out, None, a8, a_scale, w8, w_scale, b, x)


def fp8_linear_gelu(x8, x_scale, a8, a_scale, w8, w_scale, b):
    """See reference.fp8_linear_gelu."""
    _launch("fp8_linear_gelu", x8, x_scale, a8, a_scale, w8, w_scale, b)


for _op in (fp8_linear, fp8_linear_gelu, fp8_linear_gate, fp8_linear_residual):
    mark(_op, candidates=_CANDIDATES, requires_sass=("QGMMA", "UTMALDG"))
