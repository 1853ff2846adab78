"""The persistent GEMM of the linear layers: out = epilogue(a @ w.T), scales and epilogue in float32 registers.

One program walks tiles of [BM, HALVES * BN] outputs. Two halves that share `a` instead of one wide tile: the epilogue
then needs registers and staging for one half at a time, and a half of 128 columns is one group of quantised output.
"""

from __future__ import annotations

import triton
import triton.language as tl

from .tiles import OPTIONS, describe, described, gelu_tanh, load_tile, scratch, store_tile, tile_at
from .triton_rows import code, group_scale


@triton.jit
def _add(acc, a, w, scale, PROMOTE: tl.constexpr):
    """acc + a @ w.T; PROMOTE sums the product apart from acc, scales its rows, and adds it in float32."""
    if PROMOTE:
        fresh = tl.dot(a, w.T)
        if scale is not None:
            fresh *= scale[:, None]
        acc += fresh
    else:
        acc = tl.dot(a, w.T, acc, input_precision="ieee")
    return acc


@triton.jit
def products(
    a, group_scale, w, om, on, M, N, K, G,
    BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, HALVES: tl.constexpr, STEPS: tl.constexpr,
    PROMOTE: tl.constexpr, TMA: tl.constexpr,
):  # fmt: skip
    """Both halves' sums over K; STEPS steps walk one of its G groups. The second half is dead code when HALVES is 1."""
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
        left = load_tile(a, om, k, K, M, end, BM, BK, TMA)
        first = _add(first, left, load_tile(w, on, k, K, N, end, BN, BK, TMA), scale, PROMOTE)
        if HALVES == 2:
            second = _add(second, left, load_tile(w, on + BN, k, K, N, end, BN, BK, TMA), scale, PROMOTE)
    return first, second


@triton.jit
def affine(acc, row_scale, w_scale, b, om, on, M, N):
    """Sums -> values: scales per token and per channel, then the bias; each may be None."""
    rows = om + tl.arange(0, acc.shape[0])
    cols = on + tl.arange(0, acc.shape[1])
    if w_scale is not None:
        acc *= tl.load(w_scale + cols, mask=cols < N, other=0.0)[None, :]
    if row_scale is not None:
        acc *= tl.load(row_scale + rows, mask=rows < M, other=0.0)[:, None]
    if b is not None:
        acc += tl.load(b + cols, mask=cols < N, other=0.0).to(tl.float32)[None, :]
    return acc


@triton.jit
def finish(
    acc, out, out_scale, row_scale, w_scale, b, x, gate, om, on, M, N, GELU: tl.constexpr, TMA: tl.constexpr
):  # fmt: skip
    """Epilogue of one half: GELU, e4m3 codes when there is an out_scale, (gated) residual when there is an x."""
    y = affine(acc, row_scale, w_scale, b, om, on, M, N)
    if GELU:
        y = gelu_tanh(y)
    if out_scale is not None:
        rows = om + tl.arange(0, acc.shape[0])
        scale = group_scale(tl.max(tl.abs(y), 1), 448)
        at = out_scale + rows * (N // acc.shape[1]) + on // acc.shape[1]
        tl.store(at, scale, mask=rows < tl.where(on < N, M, 0))
        y = code(y, (1.0 / scale)[:, None], 448)
    if gate is not None:
        cols = on + tl.arange(0, acc.shape[1])
        y *= tl.load(gate + cols, mask=cols < N, other=0.0)[None, :]
    if x is not None:
        y += load_tile(x, om, on, N, M, N, acc.shape[0], acc.shape[1], TMA).to(tl.float32)
    store_tile(out, y, om, on, N, M, N, TMA)


@triton.jit
def gemm_kernel(
    out, out_scale, a, group_scale, row_scale, w, w_scale, b, x, gate, M, N, K, G,
    BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, HALVES: tl.constexpr, STEPS: tl.constexpr,
    BAND: tl.constexpr, PROMOTE: tl.constexpr, GELU: tl.constexpr, TMA: tl.constexpr, FLATTEN: tl.constexpr,
    WS: tl.constexpr,
):  # fmt: skip
    """Every epilogue that needs no more than its own BN columns of a row; operands that are None are skipped."""
    if WS:
        a, w, out = describe(a, M, K, K, BM, BK), describe(w, N, K, K, BN, BK), describe(out, M, N, N, BM, BN)
        if x is not None:
            x = describe(x, M, N, N, BM, BN)
    tiles_m, tiles_n = tl.cdiv(M, BM), tl.cdiv(N, HALVES * BN)
    for t in tl.range(tl.program_id(0), tiles_m * tiles_n, tl.num_programs(0), flatten=FLATTEN, warp_specialize=WS):
        i, j = tile_at(t, tiles_m, tiles_n, BAND)
        om, on = i * BM, j * HALVES * BN
        first, second = products(a, group_scale, w, om, on, M, N, K, G, BM, BN, BK, HALVES, STEPS, PROMOTE, TMA)
        finish(first, out, out_scale, row_scale, w_scale, b, x, gate, om, on, M, N, GELU, TMA)
        if HALVES == 2:
            finish(second, out, out_scale, row_scale, w_scale, b, x, gate, om, on + BN, M, N, GELU, TMA)


def launch_gemm(
    at, c, out, a, w, *, b=None, x=None, gate=None, out_scale=None, group_scale=None, row_scale=None, w_scale=None,
    promote=False, gelu=False, tma=False,
) -> None:  # fmt: skip
    """Enqueue gemm_kernel under configuration c (bm, bn, bk, halves, band, flatten, ws, warps, stages) on a chip.

    a [M, K], w [N, K], out and x [M, N]; `tma` only where tiles.tma_takes all four.
    """
    (M, K), N = a.shape, w.shape[0]
    G = 1 if group_scale is None else group_scale.shape[1]
    bm, bn, bk = c["bm"], c["bn"], c["bk"]
    ws = tma and bool(c["ws"])
    if ws:
        triton.set_allocator(scratch)
    elif tma:
        a, w = described(a, bm, bk), described(w, bn, bk)
        out, x = (None if y is None else described(y, bm, bn) for y in (out, x))
    tiles = triton.cdiv(M, bm) * triton.cdiv(N, c["halves"] * bn)
    gemm_kernel[(min(at.sms, tiles),)](
        out, out_scale, a, group_scale, row_scale, w, w_scale, b, x, gate, M, N, K, G,
        bm, bn, bk, c["halves"], triton.cdiv(K // G, bk), c["band"], promote, gelu, tma,
        bool(c["flatten"]) and not ws, ws, num_warps=c["warps"], num_stages=c["stages"], **OPTIONS,
    )  # fmt: skip
