"""Split, norm, rope and store: one program per token and per q, k or v, so every value is read and written once."""

from __future__ import annotations

import triton
import triton.language as tl

from liveact_kernels import tuned
from liveact_kernels.common.tiles import OPTIONS
from liveact_kernels.common.triton_rope import rotate
from liveact_kernels.common.triton_rows import (
    ROWS_CANDIDATES,
    code,
    group_scale,
    next_power_of_two,
    rows_heuristic,
    rsqrt,
    split,
)
from liveact_kernels.contract import mark


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
    dst, scale, y, row, L,
    START: tl.constexpr, HEADS: tl.constexpr, H: tl.constexpr, D: tl.constexpr, WIDTH: tl.constexpr,
    MOST: tl.constexpr,
):  # fmt: skip
    """Write heads rounded once; with `scale` as codes up to MOST, and one scale per token and head."""
    if scale is not None:
        step = group_scale(tl.max(tl.abs(y), 2), MOST)
        if MOST == 448:
            step = next_power_of_two(step)
        head = START + tl.arange(0, HEADS)[None, :]
        at = scale + row[:, None].to(tl.int64) * H + head
        tl.store(at, step, mask=(row < L)[:, None] & (head < H))
        y = code(y, tl.div_rn(1.0, step)[:, :, None], MOST)
    mask = _within(row, L, START, HEADS, H, D, WIDTH)
    tl.store(dst + _at(row, H * D, START, HEADS, D, WIDTH), y.to(dst.dtype.element_ty), mask=mask)


@triton.jit
def _normed(
    dst, scale, src, weight, rope, row, L, eps,
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
    _store(dst, scale, rotate(a, turn, False), row, L, 0, HEAD, H, D, WIDTH, 127)
    if TAIL:
        b = b * inverse * _load(weight, only, 1, 0, HEAD, TAIL, H, D, WIDTH)
        _store(dst, scale, rotate(b, turn, False), row, L, HEAD, TAIL, H, D, WIDTH, 127)


@triton.jit
def _copied(
    dst, scale, src, row, L,
    H: tl.constexpr, D: tl.constexpr, HEAD: tl.constexpr, TAIL: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    _store(dst, scale, _load(src, row, L, 3 * H * D, 0, HEAD, H, D, WIDTH), row, L, 0, HEAD, H, D, WIDTH, 448)
    if TAIL:
        b = _load(src, row, L, 3 * H * D, HEAD, TAIL, H, D, WIDTH)
        _store(dst, scale, b, row, L, HEAD, TAIL, H, D, WIDTH, 448)


@triton.jit
def qkv_norm_rope_kernel(
    q, k, v, q_scale, k_scale, v_scale, qkv, norm_q, norm_k, rope, L, eps,
    H: tl.constexpr, D: tl.constexpr, HEAD: tl.constexpr, TAIL: tl.constexpr, WIDTH: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """ROWS tokens; the second grid axis is q, k, v. Heads in two parts because 40 is no power of two.

    Scales None: q, k, v in the activations' dtype. Otherwise int8 queries and keys and e4m3 values.
    """
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    part = tl.program_id(1)
    if part == 0:
        _normed(q, q_scale, qkv, norm_q, rope, row, L, eps, H, D, HEAD, TAIL, WIDTH)
    elif part == 1:
        _normed(k, k_scale, qkv + H * D, norm_k, rope, row, L, eps, H, D, HEAD, TAIL, WIDTH)
    else:
        _copied(v, v_scale, qkv + 2 * H * D, row, L, H, D, HEAD, TAIL, WIDTH)


def _heuristic_8bit(at: tuned.Limits, L: int, C: int) -> dict[str, int]:
    """As unquantised, but eight warps: four spill with Triton 3.6."""
    plain = rows_heuristic(at, L, C)
    return plain | {"warps": 8} if C >= 1024 else plain


def _launch(name, heuristic, q, k, v, q_scale, k_scale, v_scale, qkv, norm_q, norm_k, rope, eps):
    L, H, D = q.shape
    c = tuned.config(name, heuristic, tuned.limits(q.device), L=L, C=H * D)
    qkv_norm_rope_kernel[(triton.cdiv(L, c["rows"]), 3)](
        q, k, v, q_scale, k_scale, v_scale, qkv, norm_q, norm_k, rope, L, eps,
        H, D, *split(H), triton.next_power_of_2(D), c["rows"], num_warps=c["warps"], **OPTIONS,
    )  # fmt: skip


def qkv_norm_rope(q, k, v, qkv, norm_q, norm_k, rope, eps=1e-6):
    """See reference.qkv_norm_rope."""
    _launch("qkv_norm_rope", rows_heuristic, q, k, v, None, None, None, qkv, norm_q, norm_k, rope, eps)


def qkv_norm_rope_8bit(q, k, v, q_scale, k_scale, v_scale, qkv, norm_q, norm_k, rope, eps=1e-6):
    """See reference.qkv_norm_rope_8bit."""
    _launch("qkv_norm_rope_8bit", _heuristic_8bit, q, k, v, q_scale, k_scale, v_scale, qkv, norm_q, norm_k, rope, eps)


for _op in (qkv_norm_rope, qkv_norm_rope_8bit):
    mark(_op, candidates=ROWS_CANDIDATES)
