"""Streaming softmax attention over segments of keys: the part that every attention kernel shares.

Keys, values and queries are [rows, H * D] matrices of which a program reads the D columns of its head; rows may lie
apart (a column of a wider buffer), keys and values of a segment equally so. Scores stay in units of log2, so that a
probability is one exp2; running maximum, sum and output are float32.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from .tiles import load_tile

LOG2E = 1.4426950408889634
LOG2_E = tl.constexpr(LOG2E)  # as kernels read it


@triton.jit
def empty_state(BM: tl.constexpr, BD: tl.constexpr):
    """Output so far (not normalised), running maximum and sum of BM queries that have seen no key."""
    return tl.zeros((BM, BD), tl.float32), tl.full((BM,), float("-inf"), tl.float32), tl.zeros((BM,), tl.float32)


@triton.jit
def carried_state(old, lse, start, L, head, heads, BM: tl.constexpr):
    """The state of BM queries from `start` that gave `old` (normalised) and lse [L, heads] (natural logarithm)."""
    rows = start + tl.arange(0, BM)
    top = tl.load(lse + rows * heads + head, mask=rows < L, other=0.0) * LOG2_E
    return old.to(tl.float32), top, tl.full((BM,), 1.0, tl.float32)


@triton.jit
def log_sum(lse, top, total, start, L, head, heads, BM: tl.constexpr):
    """Store the logarithm of the sum of exponentials of BM queries."""
    rows = start + tl.arange(0, BM)
    tl.store(lse + rows * heads + head, (top + tl.log2(total)) / LOG2_E, mask=rows < L)


@triton.jit
def _like(x, q):
    """8-bit codes (exact in bf16) or a wider memory in the dtype of the queries; by way of float32, as chips do it."""
    if x.dtype != q.dtype:
        x = x.to(tl.float32).to(q.dtype)
    return x


@triton.jit
def _scores(q, k, start, n, pitch, head, BN: tl.constexpr, D: tl.constexpr, BD: tl.constexpr, TMA: tl.constexpr):
    """q k^T against the BN keys from `start`, neither scaled nor masked."""
    keys = _like(load_tile(k, start, head * D, pitch, n, head * D + D, BN, BD, TMA), q)
    return tl.dot(q, keys.T, input_precision="ieee")


@triton.jit
def _fold(
    state, s, q, v, k_scale, v_scale, bias, scale2, start, n, pitch, head, heads,
    BN: tl.constexpr, D: tl.constexpr, BD: tl.constexpr, MASK: tl.constexpr, TMA: tl.constexpr,
):  # fmt: skip
    """Fold BN keys with raw scores s into the state. MASK: fewer are left, or the last one carries a bias."""
    acc, top, total = state
    rows = start + tl.arange(0, BN)
    if k_scale is not None:  # a key's scale times log2(e) / sqrt(D): the scores then need no further factor
        s *= (tl.load(k_scale + rows * heads + head, mask=rows < n, other=0.0) * scale2)[None, :]
    if MASK:
        if bias is not None:
            s += tl.where(rows == n - 1, bias, 0.0)[None, :]
        s = tl.where((rows < n)[None, :], s, float("-inf"))
    if k_scale is not None:
        new = tl.maximum(top, tl.max(s, 1))
        p = tl.exp2(s - new[:, None])
    else:
        new = tl.maximum(top, tl.max(s, 1) * scale2)
        p = tl.exp2(s * scale2 - new[:, None])
    fade = tl.exp2(top - new)
    total = total * fade + tl.sum(p, 1)
    if v_scale is not None:
        p *= tl.load(v_scale + rows * heads + head, mask=rows < n, other=0.0)[None, :]
    values = _like(load_tile(v, start, head * D, pitch, n, head * D + D, BN, BD, TMA), q)
    acc = tl.dot(p.to(q.dtype), values, acc * fade[:, None], input_precision="ieee")
    return acc, new, total


@triton.jit
def attend(
    state, q, k, v, k_scale, v_scale, bias, scale2, first, n, pitch, head, heads,
    BN: tl.constexpr, D: tl.constexpr, BD: tl.constexpr, TAIL: tl.constexpr, TMA: tl.constexpr,
    SINGLE: tl.constexpr = False,
):  # fmt: skip
    """State after the keys first..n of one segment; scale2 is log2(e) / sqrt(D).

    k_scale, v_scale  [n, heads] f32 of 8-bit codes, or None; folded into scores and probabilities, so that the codes
                      themselves are exact in bf16
    bias              added to the last key's raw score (before scale2), or None
    TAIL              the last tile needs a mask: BN does not divide the segment, or there is a bias
    SINGLE            the segment has no more than BN keys

    The scores of a tile are started one step early: the tensor cores multiply while the exponentials of the tile
    before are taken.
    """
    s = _scores(q, k, first, n, pitch, head, BN, D, BD, TMA)
    last = first
    if not SINGLE:
        last += (n - 1 - first) // BN * BN
        for start in range(first, last, BN):
            following = _scores(q, k, start + BN, n, pitch, head, BN, D, BD, TMA)
            state = _fold(
                state, s, q, v, k_scale, v_scale, None, scale2, start, n, pitch, head, heads, BN, D, BD, False, TMA
            )  # fmt: skip
            s = following
    return _fold(state, s, q, v, k_scale, v_scale, bias, scale2, last, n, pitch, head, heads, BN, D, BD, TAIL, TMA)


def rows_of(x: torch.Tensor) -> torch.Tensor:
    """[..., H, D] as a matrix [rows, H * D] without a copy; heads and channels must be adjacent."""
    return x.view(-1, x.shape[-2] * x.shape[-1])
