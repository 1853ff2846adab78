"""The end-of-block update of the window in hand-written CUDA, in place if the caller wants it: NOTES.md says why."""

from __future__ import annotations

import functools

import torch

from liveact_kernels.common.cuda import addresses, enqueue
from liveact_kernels.contract import Dims, bf16, fp8, int8, mark

from .schedule import entries

TAPS, ENTRIES = 5, 8  # as csrc/ops/kv_compress/source.cuh has them


@functools.lru_cache(maxsize=64)
def _numbers(schedule: tuple, memory_slots: int, raster: bool) -> torch.Tensor:
    """[entries, 2 + TAPS] on the host, kept while its address is in use: slot, how many sources, sources, zeros."""
    e = entries(schedule, memory_slots, TAPS, raster)
    sources = torch.tensor(e.sources, dtype=torch.int64).view(-1, TAPS)
    return torch.cat((torch.tensor([e.slots, e.counts]).T, sources), 1).contiguous()


def takes(d: Dims) -> str | None:
    """Why the kernel does not take these dims, or None."""
    block, slots = (d.KN, d.VN), (d.k_dtype, d.v_dtype)
    if (block, slots) not in (((bf16, bf16), (bf16, bf16)), ((bf16, bf16), (int8, fp8)), ((int8, fp8), (int8, fp8))):
        return f"needs bf16, or slots of int8 keys and e4m3 values made of these or of bf16, got {slots} of {block}"
    if d.D not in (8, 16, 32, 64, 128, 256):
        return f"needs D of 8, 16, 32, 64, 128 or 256, got {d.D}"
    if d.S != TAPS:
        return f"needs {TAPS} taps, got {d.S}"
    if len(d.schedule) > ENTRIES or any(len(sources) not in (1, TAPS) for _, sources in d.schedule):
        return f"needs at most {ENTRIES} entries of 1 or {TAPS} sources, got {d.schedule}"
    return None


def launch(*outs, **args):
    """See reference.kv_compress, and `operands` for peer."""
    enqueue("kv_compress", args["k_new"].device, *operands(*outs, **args))


def operands(
    k_out, v_out, k_out_scale, v_out_scale, k_new, v_new, k_mem, v_mem, k_scale, v_scale, k_new_scale, v_new_scale,
    taps, taps_v, rope, schedule, tokens, k_dtype, v_dtype, grouping="raster", peer=(None, None, None, None),
) -> list[int]:  # fmt: skip
    """What the C++ function takes, without the stream.

    peer: tensors like the four outputs, in another GPU's window; the same rows go there.
    """
    (_, H, D), P, raster = k_new.shape, 0 if k_mem is None else k_mem.shape[0], grouping == "raster"
    named = {"k_out": k_out, "v_out": v_out}
    scales = {"k_out_scale": k_out_scale, "v_out_scale": v_out_scale}
    to = addresses("kv_compress", **named) + addresses("kv_compress", aligned=4, **scales)
    to += addresses("kv_compress", **dict(zip(("peer k", "peer v"), peer[:2])))
    to += addresses("kv_compress", aligned=4, **dict(zip(("peer k scale", "peer v scale"), peer[2:])))
    source = addresses("kv_compress", k_new=k_new, v_new=v_new, k_mem=k_mem, v_mem=v_mem)
    scales = {"k_scale": k_scale, "v_scale": v_scale, "k_new_scale": k_new_scale, "v_new_scale": v_new_scale}
    source += addresses("kv_compress", aligned=4, **scales)
    source += addresses("kv_compress", taps=taps, taps_v=taps if taps_v is None else taps_v, rope=rope)
    numbers = _numbers(schedule, P // tokens, raster)
    eight_bit = k_dtype == int8
    return [*to, *source, numbers.data_ptr(), len(schedule), tokens, P, H, D, int(eight_bit), int(raster)]


mark(
    launch,
    takes=takes,
    requires_sass=("UCGABAR_ARV", "LDG.128", "STG.128"),  # the cluster's barrier; 16-byte accesses
)
