"""Split, norm, rope and store: one program per token and per q, k or v, so every value is read and written once."""

from __future__ import annotations

import triton
import triton.language as tl

from liveact_kernels import tuned
from liveact_kernels.common.tiles import OPTIONS
from liveact_kernels.common.triton_rope import rotate
from liveact_kernels.common.triton_rows import ROWS_CANDIDATES, rows_heuristic, rsqrt, split


@triton.jit
def _at(row, pitch, START: tl.constexpr, HEADS: tl.constexpr, D: tl.constexpr, WIDTH: tl.constexpr):
    """[rows, HEADS, WIDTH] offsets of heads START .. START + HEADS; `pitch` elements between rows."""
    head = START + tl.arange(0, HEADS)
    offsets = row[:, None, None].to(tl.int64) * pitch + head[None, :, None] * D + tl.arange(0, WIDTH)[None, None, :]
    return tl.max_contiguous(offsets, [1, 1, 8])  # 16 bytes of bf16 to a thread, and its float32 operands alike


@triton.jit
def _within(
    row, L, START: tl.constexpr, HEADS: tl.constexpr, H: tl.constexpr, D: tl.constexpr, WIDTH: tl.constexpr
):
    mask = (row < L)[:, None, None]
    if START + HEADS > H:
        mask = mask & (START + tl.arange(0, HEADS) < H)[None, :, None]
    if WIDTH > D:
        mask = mask & (tl.arange(0, WIDTH) < D)[None, None, :]
    return mask


@triton.jit
def _load(
    src, row, L, pitch,
    START: tl.constexpr, HEADS: tl.constexpr, H: tl.constexpr, D: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """Heads START .. START + HEADS of these rows as float32 [rows, HEADS, WIDTH]; 0 outside."""
    mask = _within(row, L, START, HEADS, H, D, WIDTH)
    return tl.load(src + _at(row, pitch, START, HEADS, D, WIDTH), mask=mask, other=0.0).to(tl.float32)


@triton.jit
def _store(
    dst, y, row, L, START: tl.constexpr, HEADS: tl.constexpr, H: tl.constexpr, D: tl.constexpr, WIDTH: tl.constexpr
):
    mask = _within(row, L, START, HEADS, H, D, WIDTH)
    tl.store(dst + _at(row, H * D, START, HEADS, D, WIDTH), y.to(dst.dtype.element_ty), mask=mask)


@triton.jit
def _normed(
    dst, src, weight, rope, row, L, eps,
    H: tl.constexpr, D: tl.constexpr, HEAD: tl.constexpr, TAIL: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """rotate(rms(x) * weight) of these rows: the mean of squares runs over all heads."""
    only = tl.zeros((1,), tl.int32)
    turn = _load(rope, row, L, D, 0, 1, 1, D, WIDTH)
    a = _load(src, row, L, 3 * H * D, 0, HEAD, H, D, WIDTH)
    total = tl.sum(tl.sum(a * a, 2), 1)
    if TAIL:
        b = _load(src, row, L, 3 * H * D, HEAD, TAIL, H, D, WIDTH)
        total += tl.sum(tl.sum(b * b, 2), 1)
    inverse = rsqrt(tl.div_rn(total, 1.0 * H * D) + eps)[:, None, None]
    a = a * inverse * _load(weight, only, 1, 0, 0, HEAD, H, D, WIDTH)
    _store(dst, rotate(a, turn, False), row, L, 0, HEAD, H, D, WIDTH)
    if TAIL:
        b = b * inverse * _load(weight, only, 1, 0, HEAD, TAIL, H, D, WIDTH)
        _store(dst, rotate(b, turn, False), row, L, HEAD, TAIL, H, D, WIDTH)


@triton.jit
def _copied(
    dst, src, row, L,
    H: tl.constexpr, D: tl.constexpr, HEAD: tl.constexpr, TAIL: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    _store(dst, _load(src, row, L, 3 * H * D, 0, HEAD, H, D, WIDTH), row, L, 0, HEAD, H, D, WIDTH)
    if TAIL:
        _store(dst, _load(src, row, L, 3 * H * D, HEAD, TAIL, H, D, WIDTH), row, L, HEAD, TAIL, H, D, WIDTH)


@triton.jit
def qkv_norm_rope_kernel(
    q, k, v, qkv, norm_q, norm_k, rope, L, eps,
    H: tl.constexpr, D: tl.constexpr, HEAD: tl.constexpr, TAIL: tl.constexpr, WIDTH: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """ROWS tokens; the second grid axis is q, k, v. Heads in two parts because 40 is no power of two."""
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    part = tl.program_id(1)
    if part == 0:
        _normed(q, qkv, norm_q, rope, row, L, eps, H, D, HEAD, TAIL, WIDTH)
    elif part == 1:
        _normed(k, qkv + H * D, norm_k, rope, row, L, eps, H, D, HEAD, TAIL, WIDTH)
    else:
        _copied(v, qkv + 2 * H * D, row, L, H, D, HEAD, TAIL, WIDTH)


def launch(q, k, v, qkv, norm_q, norm_k, rope, eps=1e-6):
    """See reference.qkv_norm_rope."""
    L, H, D = q.shape
    c = tuned.config("qkv_norm_rope", rows_heuristic, tuned.limits(q.device), L=L, C=H * D)
    qkv_norm_rope_kernel[(triton.cdiv(L, c["rows"]), 3)](
        q, k, v, qkv, norm_q, norm_k, rope, L, eps,
        H, D, *split(H), triton.next_power_of_2(D), c["rows"], num_warps=c["warps"], **OPTIONS,
    )  # fmt: skip


launch.candidates = ROWS_CANDIDATES
