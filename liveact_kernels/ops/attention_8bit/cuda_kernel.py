"""8-bit attention in CUDA C++ for sm_90a (csrc/ops/attention_8bit): one launch over memory and the block itself."""

from __future__ import annotations

import torch

from liveact_kernels.common.cuda import addresses, enqueue
from liveact_kernels.contract import SHORT, Dims, mark

CHANNELS, ROWS, KEYS, ONES = 128, 128, 128, 8  # as csrc/ops/attention_8bit has them: of a head; a tile; ones below V^T
KINDS = {"bf16": 0, "f32": 1, "e4m3": 2}


def takes(d: Dims) -> str | None:
    """Why the kernel does not take these dims, or None."""
    return None if d.D == CHANNELS else f"needs heads of {CHANNELS} channels, got {d.D}"


def operands(
    out, out_scale, q, q_scale, k_new, k_new_scale, v_new, v_new_scale,
    k_mem=None, k_mem_scale=None, v_mem=None, v_mem_scale=None, out_dtype=torch.bfloat16,
) -> list[int]:  # fmt: skip
    """What the C++ function takes, without the stream."""
    (L, H, _), R, P = q.shape, k_new.shape[0], 0 if k_mem is None else k_mem.shape[0]
    op = "attention_8bit"
    pointers = addresses(op, out=out) + addresses(op, aligned=4, out_scale=out_scale)
    pointers += addresses(op, q=q) + addresses(op, aligned=4, q_scale=q_scale)
    pointers += addresses(op, k_new=k_new, k_new_scale=k_new_scale, v_new=v_new)
    pointers += addresses(op, aligned=4, v_new_scale=v_new_scale)
    pointers += addresses(op, k_mem=k_mem, k_mem_scale=k_mem_scale, v_mem=v_mem)
    pointers += addresses(op, aligned=4, v_mem_scale=v_mem_scale)
    return [*pointers, L, H, R, P, KINDS[SHORT[out.dtype]]]


def launch(out, out_scale, q, *rest, **args):
    """See reference.attention_8bit; out already has out_dtype."""
    enqueue("attention_8bit", q.device, *operands(out, out_scale, q, *rest, **args))


mark(
    launch,
    takes=takes,
    requires_sass=("IGMMA", "QGMMA", "UTMALDG.2D", "UBLKCP", "USETMAXREG", "STG.E.128"),
)
