"""Attention of one tile of queries and one head over two segments of keys: the memory slots, then the new ones."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from liveact_kernels import tuned
from liveact_kernels.common.flash import LOG2E, attend, carried_state, empty_state, log_sum, rows_of
from liveact_kernels.common.tiles import OPTIONS, described, load_tile, store_tile, tma_takes
from liveact_kernels.contract import mark


@triton.jit
def attention_kernel(
    out, lse, q, k_new, v_new, k_mem, v_mem, k_scale, v_scale, out_old, lse_old, L, R, P, heads,
    out_pitch, q_pitch, new_pitch, mem_pitch, old_pitch, scale2,
    BM: tl.constexpr, BN: tl.constexpr, BN_MEM: tl.constexpr, D: tl.constexpr, BD: tl.constexpr,
    NEW_TAIL: tl.constexpr, MEM_TAIL: tl.constexpr, TMA: tl.constexpr,
):  # fmt: skip
    """softmax(q k^T / sqrt(D)) v of BM queries of one head; k_mem None when there is no memory yet.

    lse (and out_old, lse_old) of attention_segment, None in attention.
    """
    om, head = tl.program_id(0) * BM, tl.program_id(1)
    col = head * D
    if lse_old is None:
        state = empty_state(BM, BD)
    else:
        old = load_tile(out_old, om, col, old_pitch, L, col + D, BM, BD, TMA)
        state = carried_state(old, lse_old, om, L, head, heads, BM)
    tile = load_tile(q, om, col, q_pitch, L, col + D, BM, BD, TMA)
    if k_mem is not None:
        state = attend(
            state, tile, k_mem, v_mem, k_scale, v_scale, None, scale2, 0, P, mem_pitch, head, heads,
            BN_MEM, D, BD, MEM_TAIL, TMA,
        )  # fmt: skip
    state = attend(
        state, tile, k_new, v_new, None, None, None, scale2, 0, R, new_pitch, head, heads,
        BN, D, BD, NEW_TAIL, TMA,
    )  # fmt: skip
    acc, top, total = state
    if lse is not None:
        log_sum(lse, top, total, om, L, head, heads, BM)
    store_tile(out, acc / total[:, None], om, col, out_pitch, L, col + D, TMA)


def _heuristic(at: tuned.Limits, L: int, R: int, P: int, H: int, D: int, bits: int, mem_bits: int) -> dict[str, int]:
    """128 queries; 128 new keys a step, 64 of the memory (two loops share the memory of a block) and of 8-bit windows.

    Less where shared memory is smaller, and where float32 products fill the registers.
    """
    if bits == 32:
        return {"bm": 32, "bn": 32, "bn_mem": 32, "warps": 4, "stages": 1}
    if at.shared < 200_000:
        return {"bm": 64, "bn": 32, "bn_mem": 32, "warps": 8, "stages": 2}
    return {"bm": 128, "bn": 64 if mem_bits == 8 else 128, "bn_mem": 64, "warps": 8, "stages": 2}


def launch(out, q, k_new, v_new, k_mem=None, v_mem=None, k_scale=None, v_scale=None):
    """See reference.attention."""
    launch_segment(out, None, q, k_new, v_new, k_mem, v_mem, k_scale, v_scale)


def launch_segment(
    out, lse, q, k_new, v_new, k_mem=None, v_mem=None, k_scale=None, v_scale=None, out_old=None, lse_old=None
):  # fmt: skip
    """See reference.attention_segment."""
    (L, H, D), R, P = q.shape, k_new.shape[0], 0 if k_mem is None else k_mem.shape[0]
    at = tuned.limits(q.device)
    bits, mem_bits = 8 * q.element_size(), 0 if k_mem is None else 8 * k_mem.element_size()
    op = "attention" if lse is None else "attention_segment"
    c = tuned.config(op, _heuristic, at, L=L, R=R, P=P, H=H, D=D, bits=bits, mem_bits=mem_bits)
    bm, bn, bd = c["bm"], c["bn"], max(16, triton.next_power_of_2(D))
    out, q, k_new, v_new, k_mem, v_mem, out_old = (
        x if x is None else rows_of(x) for x in (out, q, k_new, v_new, k_mem, v_mem, out_old)
    )  # fmt: skip
    pitches = [0 if x is None else x.stride(0) for x in (out, q, k_new, k_mem, out_old)]
    tiled = [x for x in (out, q, k_new, v_new, k_mem, v_mem, out_old) if x is not None]
    tma = q.dtype != torch.float32 and bd == D and at.arch >= 90 and tma_takes(*tiled)
    if tma:
        out, q, out_old = (x if x is None else described(x, bm, bd) for x in (out, q, out_old))
        k_new, v_new = described(k_new, bn, bd), described(v_new, bn, bd)
        k_mem, v_mem = (x if x is None else described(x, c["bn_mem"], bd) for x in (k_mem, v_mem))
    attention_kernel[(triton.cdiv(L, bm), H)](
        out, lse, q, k_new, v_new, k_mem, v_mem, k_scale, v_scale, out_old, lse_old, L, R, P, H, *pitches,
        LOG2E * D**-0.5,
        bm, bn, c["bn_mem"], D, bd, R % bn != 0, P % c["bn_mem"] != 0, tma,
        num_warps=c["warps"], num_stages=c["stages"], **OPTIONS,
    )  # fmt: skip


mark(
    launch, launch_segment,
    requires_sass=("HGMMA", "UTMALDG"),
    candidates=tuned.grid(
        bm=(64, 128), bn=(64, 128), bn_mem=(64, 128), warps=(4, 8), stages=(1, 2, 3)
    ),
)
