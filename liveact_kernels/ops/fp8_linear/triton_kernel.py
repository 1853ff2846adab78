"""Persistent e4m3 GEMM for Hopper and later: two-level accumulation, scales and epilogue in registers.

One program walks tiles of [BM, HALVES * 128] outputs. The tensor core keeps about 14 bits while it sums, so each 128
of K is summed there into a fresh tile and added to a float32 one; scales of 1x128 activation groups are applied at
that same point. Two halves instead of one wide tile: only one fresh half needs registers at a time, and a half is
exactly one group of the quantising epilogue.
"""

from __future__ import annotations

import triton
import triton.language as tl

from liveact_kernels import tuned
from liveact_kernels.common.tiles import describe, described, gelu_tanh, load_tile, store_tile, tile_at, tma_takes

E4M3_MAX, SCALE_FLOOR = tl.constexpr(448.0), tl.constexpr(1e-12)
GROUP = 128  # columns of one half, and of one scale of a quantised output


@triton.jit
def _add(acc, a, w, scale):
    """acc + a @ w.T * scale, the product summed apart from acc."""
    fresh = tl.dot(a, w.T)
    if scale is not None:
        fresh *= scale[:, None]
    return acc + fresh


@triton.jit
def _products(
    a8, group_scale, w8, om, on, M, N, K, G,
    BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, HALVES: tl.constexpr, STEPS: tl.constexpr, TMA: tl.constexpr,
):  # fmt: skip
    """Both halves' sums over K; STEPS steps walk one group of it. The second half is dead code when HALVES is 1."""
    first = tl.zeros((BM, BN), tl.float32)
    second = tl.zeros((BM, BN), tl.float32)
    rows = om + tl.arange(0, BM)
    size = K // G
    for step in range(G * STEPS):
        group = step // STEPS
        k = group * size + step % STEPS * BK
        scale = None
        if group_scale is not None:
            scale = tl.load(group_scale + rows * G + group, mask=rows < M, other=0.0)
        end = (group + 1) * size
        a = load_tile(a8, om, k, K, M, end, BM, BK, TMA)
        first = _add(first, a, load_tile(w8, on, k, K, N, end, BN, BK, TMA), scale)
        if HALVES == 2:
            second = _add(second, a, load_tile(w8, on + BN, k, K, N, end, BN, BK, TMA), scale)
    return first, second


@triton.jit
def _affine(acc, row_scale, w_scale, b, om, on, M, N):
    """Sums -> values: per-token and per-channel scales, then the bias."""
    rows = om + tl.arange(0, acc.shape[0])
    cols = on + tl.arange(0, acc.shape[1])
    y = acc * tl.load(w_scale + cols, mask=cols < N, other=0.0)[None, :]
    if row_scale is not None:
        y *= tl.load(row_scale + rows, mask=rows < M, other=0.0)[:, None]
    if b is not None:
        y += tl.load(b + cols, mask=cols < N, other=0.0)[None, :]
    return y


@triton.jit
def _finish(acc, out, out_scale, row_scale, w_scale, b, x, gate, om, on, M, N, TMA: tl.constexpr):
    """Epilogue of one half: GELU and codes when there is an out_scale, else the (gated) residual when there is an x."""
    y = _affine(acc, row_scale, w_scale, b, om, on, M, N)
    if out_scale is not None:
        rows = om + tl.arange(0, acc.shape[0])
        y = gelu_tanh(y)
        scale = tl.maximum(tl.max(tl.abs(y), 1) / E4M3_MAX, SCALE_FLOOR)
        at = out_scale + rows * (N // acc.shape[1]) + on // acc.shape[1]
        tl.store(at, scale, mask=(rows < M) & (on < N))
        y *= (1.0 / scale)[:, None]
    if x is not None:
        if gate is not None:
            cols = on + tl.arange(0, acc.shape[1])
            y *= tl.load(gate + cols, mask=cols < N, other=0.0)[None, :]
        y += load_tile(x, om, on, N, M, N, acc.shape[0], acc.shape[1], TMA).to(tl.float32)
    store_tile(out, y, om, on, N, M, N, TMA)


@triton.jit
def fp8_linear_kernel(
    out, out_scale, a8, group_scale, row_scale, w8, w_scale, b, x, gate, M, N, K, G,
    BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, HALVES: tl.constexpr, STEPS: tl.constexpr,
    BAND: tl.constexpr, TMA: tl.constexpr, FLATTEN: tl.constexpr, WS: tl.constexpr,
):  # fmt: skip
    """Every epilogue that needs no more than its own 128 columns of a row."""
    if WS:
        a8, w8 = describe(a8, M, K, K, BM, BK), describe(w8, N, K, K, BN, BK)
        out = describe(out, M, N, N, BM, BN)
        if x is not None:
            x = describe(x, M, N, N, BM, BN)
    tiles_m, tiles_n = tl.cdiv(M, BM), tl.cdiv(N, HALVES * BN)
    for t in tl.range(tl.program_id(0), tiles_m * tiles_n, tl.num_programs(0), flatten=FLATTEN, warp_specialize=WS):
        i, j = tile_at(t, tiles_m, tiles_n, BAND)
        om, on = i * BM, j * HALVES * BN
        first, second = _products(a8, group_scale, w8, om, on, M, N, K, G, BM, BN, BK, HALVES, STEPS, TMA)
        _finish(first, out, out_scale, row_scale, w_scale, b, x, gate, om, on, M, N, TMA)
        if HALVES == 2:
            _finish(second, out, out_scale, row_scale, w_scale, b, x, gate, om, on + BN, M, N, TMA)


def _heuristic(at: tuned.Limits, M: int, N: int, K: int, G: int) -> dict[str, int]:
    wide = triton.cdiv(M, 128) * triton.cdiv(N, 2 * GROUP) >= at.sms and at.shared >= 200_000
    return {"bm": 128 if M > 64 else 64, "halves": 2 if wide else 1, "band": 8, "flatten": 0, "ws": 0, "warps": 8 if M > 64 else 4, "stages": 3}


def _launch(out, out_scale, a8, a_scale, w8, w_scale, b, x=None, gate=None):
    (M, K), (N, G) = a8.shape, (w8.shape[0], a_scale.shape[1])
    at = tuned.limits(a8.device)
    c = tuned.config("fp8_linear", _heuristic, at, M=M, N=N, K=K, G=G)
    bk = min(128, triton.next_power_of_2(max(K // G, 32)))
    tma = at.arch >= 90 and tma_takes(a8, w8, out, *([] if x is None else [x])) and (G == 1 or K // G % bk == 0)
    tiles = triton.cdiv(M, c["bm"]) * triton.cdiv(N, c["halves"] * GROUP)
    per_token, per_group = (a_scale, None) if G == 1 else (None, a_scale)
    ws = tma and bool(c["ws"])
    if tma and not ws:
        a8, w8 = described(a8, c["bm"], bk), described(w8, GROUP, bk)
        out, x = (None if y is None else described(y, c["bm"], GROUP) for y in (out, x))
    fp8_linear_kernel[(min(at.sms, tiles),)](
        out, out_scale, a8, per_group, per_token, w8, w_scale, b, x, gate, M, N, K, G,
        c["bm"], GROUP, bk, c["halves"], triton.cdiv(K // G, bk), c["band"], tma, bool(c["flatten"]), ws,
        num_warps=c["warps"], num_stages=c["stages"],
    )  # fmt: skip


def fp8_linear(out, a8, a_scale, w8, w_scale, b, out_dtype=None):
    """See reference.fp8_linear; out's dtype is out_dtype."""
    _launch(out, None, a8, a_scale, w8, w_scale, b)


def fp8_linear_gate(out, a8, a_scale, w8, w_scale, b, x, gate):
    """See reference.fp8_linear_gate."""
    _launch(out, None, a8, a_scale, w8, w_scale, b, x, gate)


def fp8_linear_residual(out, a8, a_scale, w8, w_scale, b, x):
    """See reference.fp8_linear_residual."""
    _launch(out, None, a8, a_scale, w8, w_scale, b, x)


def fp8_linear_gelu(x8, x_scale, a8, a_scale, w8, w_scale, b):
    """See reference.fp8_linear_gelu."""
    _launch(x8, x_scale, a8, a_scale, w8, w_scale, b)
