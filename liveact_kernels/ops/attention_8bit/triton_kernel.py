"""Attention of one tile of queries and one head on 8-bit tensor cores: int8 scores, e4m3 probabilities and values."""

from __future__ import annotations

import math

import torch
import triton
import triton.language as tl

from liveact_kernels import tuned
from liveact_kernels.common.flash import LOG2E, rows_of
from liveact_kernels.common.mma_order import PAD
from liveact_kernels.common.tiles import OPTIONS, described, load_tile, store_tile, tma_takes
from liveact_kernels.common.triton_rows import head_codes
from liveact_kernels.contract import mark

LOG2_MOST = tl.constexpr(math.log2(448))
GROUP = tl.constexpr(PAD)


@triton.jit
def _scores(q, k, start, n, pitch, head, BN: tl.constexpr, D: tl.constexpr, BD: tl.constexpr, TMA: tl.constexpr):
    """q k^T of the codes against the BN keys from `start`: int32, exact."""
    keys = load_tile(k, start, head * D, pitch, n, head * D + D, BN, BD, TMA)
    return tl.dot(q, keys.T)


@triton.jit
def _mma_order(p):
    """Columns of every 16 in the order of V^T: each lane keeps its own, so nothing moves."""
    BM: tl.constexpr = p.shape[0]
    BN: tl.constexpr = p.shape[1]
    return tl.reshape(tl.permute(tl.reshape(p, [BM, BN // 16, 2, 4, 2]), [0, 1, 3, 2, 4]), [BM, BN])


@triton.jit
def _fold(
    state, s, q_scale, v, k_scale, v_scale, ones, start, n, width, head,
    BN: tl.constexpr, D: tl.constexpr, BD: tl.constexpr, MASK: tl.constexpr, TMA: tl.constexpr,
):  # fmt: skip
    """Fold BN keys with scores s into the state: output in units of `unit`, largest score, sum of probabilities.

    Probabilities end at 448 instead of 1, so that they have the whole range of e4m3, and what is summed are the
    rounded ones: the weights then add up to one, whatever rounding did. Every tile's product starts from zero: Hopper
    keeps some 14 bits while it sums 8-bit products, the sum over tiles is float32.
    """
    acc, unit, top, total = state
    u = s.to(tl.float32) * load_tile(k_scale, head, start, width, head + 1, width, 1, BN, TMA)
    if MASK:
        u = tl.where((start + tl.arange(0, BN) < n)[None, :], u, float("-inf"))
    new = tl.maximum(top, tl.max(u, 1) * q_scale)
    p = tl.exp2(u * q_scale[:, None] - (new - LOG2_MOST)[:, None])
    fade = tl.exp2(top - new)
    p8 = _mma_order(p).to(tl.float8e4nv)  # the cast saturates
    here = tl.load(v_scale + head * (width // GROUP) + start // GROUP)
    values = load_tile(v, head * D, start, width, head * D + D, width, BD, BN, TMA)
    acc = acc * (fade * tl.div_rn(unit, here))[:, None] + tl.dot(p8, values.T)
    total = total * fade[:, None] + tl.dot(p8, ones.T)
    return acc, here, new, total


@triton.jit
def _attend(
    state, q, q_scale, k, v, k_scale, v_scale, n, pitch, width, head,
    BN: tl.constexpr, D: tl.constexpr, BD: tl.constexpr, TAIL: tl.constexpr, AHEAD: tl.constexpr, TMA: tl.constexpr,
):  # fmt: skip
    """State after all n keys of one segment; TAIL: BN does not divide them; AHEAD: start the scores a tile early."""
    last = (n - 1) // BN * BN
    ones = tl.full((16, BN), 1.0, tl.float32).to(tl.float8e4nv)  # one column would do, the tensor cores take no fewer
    if AHEAD:
        s = _scores(q, k, 0, n, pitch, head, BN, D, BD, TMA)
    for start in range(0, last, BN):
        if AHEAD:
            here = s
            s = _scores(q, k, start + BN, n, pitch, head, BN, D, BD, TMA)
        else:
            here = _scores(q, k, start, n, pitch, head, BN, D, BD, TMA)
        state = _fold(state, here, q_scale, v, k_scale, v_scale, ones, start, n, width, head, BN, D, BD, False, TMA)
    if not AHEAD:
        s = _scores(q, k, last, n, pitch, head, BN, D, BD, TMA)
    return _fold(state, s, q_scale, v, k_scale, v_scale, ones, last, n, width, head, BN, D, BD, TAIL, TMA)


@triton.jit
def attention_8bit_kernel(
    out, out_scale, q, q_scale, k_new, k_new_scale, v_new, v_new_scale, k_mem, k_mem_scale, v_mem, v_mem_scale,
    L, R, P, heads, pitch, new_width, mem_width, scale2,
    BM: tl.constexpr, BN: tl.constexpr, BN_MEM: tl.constexpr, D: tl.constexpr, BD: tl.constexpr,
    NEW_TAIL: tl.constexpr, MEM_TAIL: tl.constexpr, AHEAD: tl.constexpr, TMA: tl.constexpr,
):  # fmt: skip
    """softmax(q k^T / sqrt(D)) v of BM queries of one head; k_mem None when there is no memory yet."""
    om, head = tl.program_id(0) * BM, tl.program_id(1)
    row, col = om + tl.arange(0, BM), head * D
    at = row.to(tl.int64) * heads + head
    tile = load_tile(q, om, col, pitch, L, col + D, BM, BD, TMA)
    turn = tl.load(q_scale + at, mask=row < L, other=1.0) * scale2
    zero, top = tl.zeros((BM, BD), tl.float32), tl.full((BM,), float("-inf"), tl.float32)
    state = zero, 1.0, top, tl.zeros((BM, 16), tl.float32)
    if k_mem is not None:
        state = _attend(
            state, tile, turn, k_mem, v_mem, k_mem_scale, v_mem_scale, P, pitch, mem_width, head,
            BN_MEM, D, BD, MEM_TAIL, AHEAD, TMA,
        )  # fmt: skip
    state = _attend(
        state, tile, turn, k_new, v_new, k_new_scale, v_new_scale, R, pitch, new_width, head,
        BN, D, BD, NEW_TAIL, AHEAD, TMA,
    )  # fmt: skip
    acc, unit, _, total = state
    y = acc * tl.div_rn(unit, tl.max(total, 1))[:, None]
    if out_scale is not None:
        y = head_codes(y, out_scale, row, L, head, heads)
    store_tile(out, y, om, col, pitch, L, col + D, TMA)


def _heuristic(at: tuned.Limits, L: int, R: int, P: int, H: int, D: int, out_bits: int) -> dict[str, int]:
    """128 queries and 128 keys a step; less where shared memory is smaller."""
    if at.shared < 200_000:
        return {"bm": 64, "bn": 64, "bn_mem": 64, "ahead": 0, "warps": 4, "stages": 2}
    return {"bm": 128, "bn": 128, "bn_mem": 128, "ahead": 0, "warps": 8, "stages": 2}


def launch(
    out, out_scale, q, q_scale, k_new, k_new_scale, v_new, v_new_scale,
    k_mem=None, k_mem_scale=None, v_mem=None, v_mem_scale=None, out_dtype=torch.bfloat16,
):  # fmt: skip
    """See reference.attention_8bit."""
    (L, H, D), R, P = q.shape, k_new.shape[0], 0 if k_mem is None else k_mem.shape[0]
    at, out_bits = tuned.limits(q.device), 8 * out.element_size()
    c = tuned.config("attention_8bit", _heuristic, at, L=L, R=R, P=P, H=H, D=D, out_bits=out_bits)
    bm, bn, bn_mem, bd = c["bm"], c["bn"], c["bn_mem"], max(32, triton.next_power_of_2(D))
    widths = v_new.shape[-1], 0 if v_mem is None else v_mem.shape[-1]
    out, q, k_new, k_mem = (x if x is None else rows_of(x) for x in (out, q, k_new, k_mem))
    v_new, v_mem = (x if x is None else x.flatten(0, 1) for x in (v_new, v_mem))
    read = [x for x in (q, k_new, k_new_scale, v_new, k_mem, k_mem_scale, v_mem) if x is not None]
    tma = bd == D and at.arch >= 90 and tma_takes(out, *read)
    if tma:
        out, q = described(out, bm, bd), described(q, bm, bd)
        k_new, v_new = described(k_new, bn, bd), described(v_new, bd, bn)
        k_new_scale = described(k_new_scale, 1, bn)
        if k_mem is not None:
            k_mem, v_mem = described(k_mem, bn_mem, bd), described(v_mem, bd, bn_mem)
            k_mem_scale = described(k_mem_scale, 1, bn_mem)
    attention_8bit_kernel[(triton.cdiv(L, bm), H)](
        out, out_scale, q, q_scale, k_new, k_new_scale, v_new, v_new_scale, k_mem, k_mem_scale, v_mem, v_mem_scale,
        L, R, P, H, H * D, *widths, LOG2E * D**-0.5,
        bm, bn, bn_mem, D, bd, R % bn != 0, P % bn_mem != 0, c["ahead"], tma,
        num_warps=c["warps"], num_stages=c["stages"], **OPTIONS,
    )  # fmt: skip


mark(
    launch,
    requires_sass=("IGMMA", "QGMMA", "UTMALDG"),
    candidates=tuned.grid(
        bm=(64, 128), bn=(64, 128), bn_mem=(64, 128), ahead=(0, 1), warps=(4, 8), stages=(2, 3)
    ),
)
