"""Streaming softmax attention over segments of keys: the part that every attention kernel shares.

Keys, values and queries are [rows, H * D] matrices of which a program reads the D columns of its head. Scores stay in
units of log2, so that a probability is one exp2; running maximum, sum and output are float32.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from .tiles import load_tile

LOG2E = 1.4426950408889634


@triton.jit
def empty_state(BM: tl.constexpr, BD: tl.constexpr):
    """Output so far (not normalised), running maximum and sum of BM queries that have seen no key."""
    return tl.zeros((BM, BD), tl.float32), tl.full((BM,), float("-inf"), tl.float32), tl.zeros((BM,), tl.float32)


@triton.jit
def _like(x, q):
    """8-bit codes (exact in bf16) or a wider memory in the dtype of the queries; by way of float32, as chips do it."""
    if x.dtype != q.dtype:
        x = x.to(tl.float32).to(q.dtype)
    return x


@triton.jit
def _codes_scale(scale, rows, n, head, heads):
    """Scales of one head's rows; 0 outside, where the codes read 0 too."""
    return tl.load(scale + rows * heads + head, mask=rows < n, other=0.0)


@triton.jit
def _tile(
    acc, top, total, q, k, v, k_scale, v_scale, bias, scale2, start, n, pitch, head, heads,
    BN: tl.constexpr, D: tl.constexpr, BD: tl.constexpr, MASK: tl.constexpr, TMA: tl.constexpr,
):  # fmt: skip
    """Fold the BN keys from `start` into the state. MASK: fewer than BN are left, or the last one carries a bias."""
    rows = start + tl.arange(0, BN)
    col = head * D
    if v_scale is not None:
        v_scale = _codes_scale(v_scale, rows, n, head, heads)
    keys = _like(load_tile(k, start, col, pitch, n, col + D, BN, BD, TMA), q)
    s = tl.dot(q, keys.T, input_precision="ieee")
    if k_scale is not None:  # a key's scale times log2(e) / sqrt(D): then the scores need no further factor
        s *= (_codes_scale(k_scale, rows, n, head, heads) * scale2)[None, :]
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
        p *= v_scale[None, :]
    values = _like(load_tile(v, start, col, pitch, n, col + D, BN, BD, TMA), q)
    acc = tl.dot(p.to(q.dtype), values, acc * fade[:, None], input_precision="ieee")
    return acc, new, total


@triton.jit
def attend(
    state, q, k, v, k_scale, v_scale, bias, scale2, first, n, pitch, head, heads,
    BN: tl.constexpr, D: tl.constexpr, BD: tl.constexpr, TAIL: tl.constexpr, TMA: tl.constexpr, WS: tl.constexpr,
):  # fmt: skip
    """State after the keys first..n of one segment; scale2 is log2(e) / sqrt(D).

    k_scale, v_scale  [n, heads] f32 of 8-bit codes, or None; folded into scores and probabilities, so that the codes
                      themselves are exact in bf16
    bias              added to the last key's raw score (before scale2), or None
    TAIL              the last tile needs a mask: BN does not divide n, or there is a bias
    """
    acc, top, total = state
    full = n
    if TAIL:
        full = first + (n - 1 - first) // BN * BN
    for start in tl.range(first, full, BN, warp_specialize=WS):
        acc, top, total = _tile(
            acc, top, total, q, k, v, k_scale, v_scale, None, scale2, start, n, pitch, head, heads,
            BN, D, BD, False, TMA,
        )  # fmt: skip
    if TAIL:
        acc, top, total = _tile(
            acc, top, total, q, k, v, k_scale, v_scale, bias, scale2, full, n, pitch, head, heads,
            BN, D, BD, True, TMA,
        )  # fmt: skip
    return acc, top, total


def rows_of(x: torch.Tensor) -> torch.Tensor:
    """[..., H, D] as a matrix [rows, H * D] without a copy; heads and channels must be adjacent."""
    return x.view(-1, x.shape[-2] * x.shape[-1])
