"""Convolution of channels-last video frames as one matrix product whose left operand is gathered, never stored.

M = output pixels, N = output channels, K = taps x channels. A tap is a shift of the pixels' addresses, so a tile of A
is a masked gather of rows of C adjacent channels; history, zero padding, strides and nearest x2 upsampling are all in
the address. B is the weight matrix [N, KH*KW*KT*C] as it is stored.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from liveact_kernels import tuned

from .tiles import OPTIONS
from .triton_rows import split


@triton.jit
def _fold(acc, a, w, n0, k, c, N, C: tl.constexpr, K: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr):
    """acc + a @ (rows n0 .. n0 + BN of w at the tap that starts at column k, channels from c)^T."""
    n = n0 + tl.arange(0, BN)
    inside = (n < N)[:, None]
    channel = c + tl.arange(0, BK)
    if C % BK:
        inside = inside & (channel < C)[None, :]
    b = tl.load(w + n[:, None].to(tl.int64) * K + k + channel[None, :], mask=inside, other=0.0)
    return tl.dot(a, b.T, acc, input_precision="ieee")


@triton.jit
def _finish(out, acc, bias, residual, f, pixel, pixels, n0, N, BN: tl.constexpr, INTERLEAVE: tl.constexpr):
    """Bias and residual in float32, one rounding; channels of an interleaved output belong to following frames."""
    n = n0 + tl.arange(0, BN)
    known = n < N
    acc += tl.load(bias + n, mask=known, other=0.0).to(tl.float32)[None, :]
    wide = N // INTERLEAVE
    first = f.to(tl.int64) * INTERLEAVE * pixels * wide
    if INTERLEAVE > 1:
        first += n // wide * (pixels * wide)
        n = n % wide
    at = (first + n)[None, :] + pixel[:, None].to(tl.int64) * wide
    inside = (pixel < pixels)[:, None] & known[None, :]
    if residual is not None:
        acc += tl.load(residual + at, mask=inside, other=0.0).to(tl.float32)
    tl.store(out + at, acc.to(out.dtype.element_ty), mask=inside)


@triton.jit
def conv_kernel(
    out, x, prev, w, bias, residual, H, W, HO, WO, N,
    C: tl.constexpr, KT: tl.constexpr, KH: tl.constexpr, KW: tl.constexpr,
    STRIDE_T: tl.constexpr, STRIDE: tl.constexpr, UP: tl.constexpr, INTERLEAVE: tl.constexpr,
    BM: tl.constexpr, BN: tl.constexpr, TAIL: tl.constexpr, BK: tl.constexpr,
):  # fmt: skip
    """BM pixels by BN + TAIL channels of one output frame of HO x WO; x has frames of H x W, prev too.

    A program stays in one frame, so which tensor a time tap reads is one choice of a scalar address.
    """
    CHUNKS: tl.constexpr = (C + BK - 1) // BK
    K: tl.constexpr = KH * KW * KT * C
    BEFORE: tl.constexpr = KT - STRIDE_T
    n0 = tl.program_id(0) * (BN + TAIL)
    pixel = tl.program_id(1) * BM + tl.arange(0, BM)
    f, pixels = tl.program_id(2), HO * WO
    row, col = pixel // WO, pixel % WO
    step = H.to(tl.int64) * W * C
    acc = tl.zeros((BM, BN), tl.float32)
    if TAIL:
        tail = tl.zeros((BM, TAIL), tl.float32)
    for i in range(KH * KW * KT * CHUNKS):
        tap, c = i // CHUNKS, i % CHUNKS * BK
        t, y, z = tap % KT, tap // (KT * KW), tap // KT % KW
        source = f * STRIDE_T + t - BEFORE
        py, px = row * STRIDE + y - (KH - STRIDE) // 2, col * STRIDE + z - (KW - STRIDE) // 2
        held = pixels
        frame = x + source * step
        if BEFORE:
            if prev is None:
                held = tl.where(source < 0, 0, pixels)  # no pixel exists before the video
            else:
                frame = tl.where(source < 0, prev + (source + BEFORE) * step, frame)
        inside = (pixel < held) & (py >= 0) & (py < H * UP) & (px >= 0) & (px < W * UP)
        base = frame + (py // UP * W + px // UP) * C
        channel = c + tl.arange(0, BK)
        valid = inside[:, None]
        if C % BK:
            valid = valid & (channel < C)[None, :]
        a = tl.load(base[:, None] + channel[None, :], mask=valid, other=0.0)
        acc = _fold(acc, a, w, n0, tap * C, c, N, C, K, BN, BK)
        if TAIL:
            tail = _fold(tail, a, w, n0 + BN, tap * C, c, N, C, K, TAIL, BK)
    _finish(out, acc, bias, residual, f, pixel, pixels, n0, N, BN, INTERLEAVE)
    if TAIL:
        _finish(out, tail, bias, residual, f, pixel, pixels, n0 + BN, N, TAIL, INTERLEAVE)


def heuristic(at: tuned.Limits, M: int, N: int, C: int, taps: int, bits: int) -> dict[str, int]:
    """128 pixels and up to 192 channels: 96, 192 and 384 are one or two tiles without a padded column.

    `bn` and `tail` are the two powers of two that make the tile's width; `bk` divides C where C allows.
    """
    bk = min(64, max(16, C & -C))
    bn, tail = split(min(N, 192))
    tail = max(tail, 16) if tail else 0  # the narrowest product
    small = at.shared < 200_000
    if bits == 32 or N < 16:
        return {"bm": 64, "bn": max(16, min(bn, 64)), "tail": 0, "bk": min(bk, 32), "warps": 4, "stages": 2}
    return {"bm": 64 if small else 128, "bn": bn, "tail": tail, "bk": min(bk, 32) if small else bk,
            "warps": 8 if bn + tail > 64 else 4, "stages": 3 if small else 4}  # fmt: skip


def candidates(M: int, N: int, C: int, taps: int, bits: int) -> tuple[dict[str, int], ...]:
    """What a tuner tries; `bk` divides C, so that no channel is masked."""
    steps = tuple(bk for bk in (16, 32, 64, 128) if C % bk == 0)
    return tuned.grid(bm=(64, 128, 256), bk=steps, warps=(4, 8), stages=(2, 3, 4, 5)) if steps else ()


def launch_conv(
    op: str, out: torch.Tensor, x: torch.Tensor, w: torch.Tensor, bias: torch.Tensor, prev: torch.Tensor | None = None,
    residual: torch.Tensor | None = None, stride_t: int = 1, stride: int = 1, up: int = 1, interleave: int = 1,
) -> None:  # fmt: skip
    """One convolution: x [F, H, W, C], w [N, KH, KW, KT, C], bias [N]; shapes and meaning as in ops.causal_conv3d.

    up  2 convolves the nearest-neighbour enlargement of x, which does not exist in memory
    """
    F, H, W, C = x.shape
    N, KH, KW, KT, _ = w.shape
    HO, WO = H * up // stride, W * up // stride
    at, frames = tuned.limits(x.device), F // stride_t
    c = tuned.config(op, heuristic, at, M=frames * HO * WO, N=N, C=C, taps=KT * KH * KW, bits=8 * x.element_size())
    grid = (triton.cdiv(N, c["bn"] + c["tail"]), triton.cdiv(HO * WO, c["bm"]), frames)
    conv_kernel[grid](
        out, x, prev, w, bias, residual, H, W, HO, WO, N,
        C, KT, KH, KW, stride_t, stride, up, interleave, c["bm"], c["bn"], c["tail"], c["bk"],
        num_warps=c["warps"], num_stages=c["stages"], **OPTIONS,
    )  # fmt: skip
