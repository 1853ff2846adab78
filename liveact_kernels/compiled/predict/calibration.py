"""The model beside times that others published for an H100: how far off it is where something is known.

The kernels are written here in the form of Triton's tutorials 09 (persistent product) and 06 (fused attention), which
is what was timed; compilers have changed since, so an error holds what they changed, too.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from triton.runtime.jit import JITFunction
from triton.tools.tensor_descriptor import TensorDescriptor

from liveact_kernels.compiled.aot import StubDriver

from . import rates
from .estimate import Prediction, predict
from .launches import Launch, compiled_launch
from .work import LOOPS, TILES, Work, up


class Published(NamedTuple):
    """A time that others measured; bounds: predicted / published must lie between."""

    us: float
    source: str
    bounds: tuple[float, float]


PUBLISHED = {
    "fp8 product": Published(413.1, "triton-lang/triton pull request 5461, descriptor, H100", (0.90, 1.05)),
    "fp8 product, promoted": Published(890.0, "pytorch/FBGEMM issue 2766, block scales, H100", (0.95, 1.20)),
    "fp16 attention": Published(9470.0, "facebookexperimental/triton pull request 206, H100", (0.70, 1.00)),
}
"""The attention's is 464.4 TFLOP/s at batch 4, 32 heads of 128, 8192 tokens, not causal. The model is optimistic there
by a fifth: it knows neither bank conflicts nor the loss from warpgroups that wait for each other's tensor core."""


@triton.jit
def calibration_product(
    a, b, c, M, N, K, BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, BAND: tl.constexpr, PROMOTE: tl.constexpr
):
    """c = a b^T, tiles walked by as many programs as there are SMs, in bands of BAND tile rows."""
    rows, columns, steps = tl.cdiv(M, BM), tl.cdiv(N, BN), tl.cdiv(K, BK)
    for tile in tl.range(tl.program_id(0), rows * columns, tl.num_programs(0)):
        band = tile // (BAND * columns)
        height = tl.minimum(rows - band * BAND, BAND)
        within = tile % (BAND * columns)
        i, j = band * BAND + within % height, within // height
        total = tl.zeros((BM, BN), tl.float32)
        for step in range(steps):
            left, right = a.load([i * BM, step * BK]), b.load([j * BN, step * BK])
            if PROMOTE:
                total += tl.dot(left, right.T)
            else:
                total = tl.dot(left, right.T, total)
        c.store([i * BM, j * BN], total.to(c.dtype))


@triton.jit
def calibration_attention(q, k, v, out, lse, N, scale2, BM: tl.constexpr, BN: tl.constexpr, D: tl.constexpr):
    """softmax(q k^T) v of BM queries of one (batch, head); scores in units of log2."""
    first = tl.program_id(1) * N
    at = first + tl.program_id(0) * BM
    top, total = tl.full((BM,), float("-inf"), tl.float32), tl.full((BM,), 1.0, tl.float32)
    acc = tl.zeros((BM, D), tl.float32)
    queries = q.load([at, 0])
    for start in range(0, N, BN):
        s = tl.dot(queries, k.load([first + start, 0]).T)
        new = tl.maximum(top, tl.max(s, 1) * scale2)
        p = tl.exp2(s * scale2 - new[:, None])
        fade = tl.exp2(top - new)
        row = tl.sum(p, 1)
        acc = acc * fade[:, None]
        acc = tl.dot(p.to(v.dtype), v.load([first + start, 0]), acc)
        total, top = total * fade + row, new
    tl.store(lse + at + tl.arange(0, BM), top + tl.log2(total))
    out.store([at, 0], (acc / total[:, None]).to(out.dtype))


def predictions() -> Iterator[tuple[str, Prediction]]:
    """(case of PUBLISHED, what the model says of it on an H100)."""
    e4m3, half = torch.float8_e4m3fn, torch.float16
    yield "fp8 product", product(8192, 8192, 4096, e4m3, half, (128, 256, 128), False)
    yield "fp8 product, promoted", product(6144, 8192, 8192, e4m3, torch.bfloat16, (128, 128, 128), True)
    yield "fp16 attention", attention(4 * 32, 8192, 128, half, 128, 128)


def product(M: int, N: int, K: int, dtype: torch.dtype, out: torch.dtype, tile: tuple, promote: bool) -> Prediction:
    """A product with 8 warps and 3 stages."""
    BM, BN, BK = tile
    machine = rates.MACHINES["h100"]
    a, b, c = (_described(*x) for x in (((M, K), dtype, (BM, BK)), ((N, K), dtype, (BN, BK)), ((M, N), out, (BM, BN))))
    tiles, steps = up(M, BM) * up(N, BN), up(K, BK)
    launch = _compiled(
        calibration_product, (min(machine.sms, tiles),), (a, b, c, M, N, K, BM, BN, BK, 8, promote), warps=8, stages=3
    )
    macs = tiles * steps * BM * BN * BK
    work = Work(
        TILES, macs=macs, useful=M * N * K, shared=tiles * steps * (BM + BN) * BK * dtype.itemsize, tiles=tiles,
        per_block=up(tiles, machine.sms), steps=steps,
    )  # fmt: skip
    moved = (M + N) * K * dtype.itemsize + M * N * out.itemsize
    return predict(launch, machine, {"fp8" if dtype.itemsize == 1 else "bf16": 2.0 * M * N * K}, moved, work)


def attention(heads: int, N: int, D: int, dtype: torch.dtype, BM: int, BN: int) -> Prediction:
    """Attention of N tokens in `heads` (batch, head) pairs, 8 warps and 3 stages."""
    machine, size = rates.MACHINES["h100"], dtype.itemsize
    q, k, v, o = (_described((heads * N, D), dtype, (rows, D)) for rows in (BM, BN, BN, BM))
    lse = torch.empty(heads * N, device="meta")
    grid = (N // BM, heads)
    launch = _compiled(calibration_attention, grid, (q, k, v, o, lse, N, 0.1, BM, BN, D), warps=8, stages=3)
    macs = 2 * heads * N * N * D
    work = Work(LOOPS, (N // BN,), macs=macs, useful=macs, shared=math.prod(grid) * N * 2 * D * size)
    return predict(launch, machine, {"bf16": 2.0 * macs}, 4 * heads * N * D * size, work)


def _described(shape: tuple[int, int], dtype: torch.dtype, box: tuple[int, int]) -> TensorDescriptor:
    x = torch.empty(shape, dtype=dtype, device="meta")
    return TensorDescriptor(x, list(x.shape), list(x.stride()), list(box))


def _compiled(kernel: JITFunction, grid: tuple[int, ...], args: tuple, warps: int, stages: int) -> Launch:
    triton.runtime.driver.set_active(StubDriver(rates.ARCH))
    try:
        made = kernel.warmup(*args, grid=grid, num_warps=warps, num_stages=stages)
    finally:
        triton.runtime.driver.set_active(None)
    return compiled_launch(made, grid, dict(zip(kernel.arg_names, args)))
