"""Transpose of a tile of one head's values; the scales of its tokens go along."""

from __future__ import annotations

import triton
import triton.language as tl

from liveact_kernels import tuned
from liveact_kernels.common.mma_order import PAD
from liveact_kernels.common.tiles import OPTIONS
from liveact_kernels.contract import mark


@triton.jit
def head_major_kernel(
    v_t, k_scale_t, v_scale_t, v, k_scale, v_scale, R, H, RP,
    D: tl.constexpr, BD: tl.constexpr, TOKENS: tl.constexpr,
):  # fmt: skip
    """TOKENS tokens of one head; rows are fetched in the order in which they are to lie, which costs nothing."""
    first, head = tl.program_id(0) * TOKENS, tl.program_id(1)
    to = first + tl.arange(0, TOKENS)
    t = to % 16
    token = to - t + t // 4 * 2 + t // 2 % 2 * 8 + t % 2
    d = tl.arange(0, BD)
    rows = token[:, None].to(tl.int64) * H * D + head * D + d[None, :]
    tile = tl.load(v + tl.max_contiguous(rows, [1, 16]), mask=(token[:, None] < R) & (d[None, :] < D), other=0.0)
    scale = tl.load(v_scale + token * H + head, mask=token < R, other=0.0)
    largest = tl.max(scale, 0)
    tile = (tile.to(tl.float32) * tl.div_rn(scale, largest)[:, None]).to(v_t.dtype.element_ty)
    columns = (head * D + d[:, None]).to(tl.int64) * RP + to[None, :]
    tl.store(v_t + tl.max_contiguous(columns, [1, 16]), tile.T, mask=d[:, None] < D)
    tl.store(k_scale_t + head * RP + to, tl.load(k_scale + to * H + head, mask=to < R, other=0.0))
    tl.store(v_scale_t + head * (RP // TOKENS) + tl.program_id(0), largest)


def _heuristic(at: tuned.Limits, R: int, H: int, D: int) -> dict[str, int]:
    return {"warps": 4}


def launch(v_t, k_scale_t, v_scale_t, v, k_scale, v_scale):
    """See reference.head_major. A program is a square of 128 bytes: whole lines on both sides."""
    (R, H, D), RP = v.shape, v_t.shape[-1]
    c = tuned.config("head_major", _heuristic, tuned.limits(v.device), R=R, H=H, D=D)
    head_major_kernel[(RP // PAD, H)](
        v_t, k_scale_t, v_scale_t, v, k_scale, v_scale, R, H, RP,
        D, triton.next_power_of_2(D), PAD, num_warps=c["warps"], **OPTIONS,
    )  # fmt: skip


mark(launch, candidates=tuned.grid(warps=(1, 2, 4, 8, 16)))
