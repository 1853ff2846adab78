"""Plain eager torch: any device, differentiable, and safe when the outputs alias the memory (it reads first)."""

import functools
import itertools

import torch

from liveact_kernels.common.quantise import per_group
from liveact_kernels.common.rope import rotate


def kv_compress(
    k_new, v_new, k_mem, v_mem, k_scale, v_scale, k_new_scale, v_new_scale, taps, taps_v, rope, schedule, tokens,
    k_dtype, v_dtype, grouping="raster",
):  # fmt: skip
    """See reference.kv_compress. Entry by entry, so that what lies between two passes stays in a CPU's cache."""
    window = rope.unflatten(0, (-1, tokens))
    taps_v = taps if taps_v is None else taps_v
    k_out, v_out = [], []
    for slots, sources, fold in _entries(schedule):
        k = rotate(_take(k_mem, k_scale, k_new, k_new_scale, sources, tokens), _rows(window, sources), inverse=True)
        v = _take(v_mem, v_scale, v_new, v_new_scale, sources, tokens)
        if fold:
            k, v = _fold(k, taps, grouping), _fold(v, taps_v, grouping)
        k_out.append(rotate(k, _rows(window, slots)))
        v_out.append(v)
    k, v = torch.cat(k_out), torch.cat(v_out)  # copies a single one too: no output may be a view of an argument
    (k, k_s), (v, v_s) = _stored(k.flatten(0, 1), k_dtype), _stored(v.flatten(0, 1), v_dtype)
    return k, v, k_s, v_s


def _stored(x, dtype):
    if dtype not in (torch.int8, torch.float8_e4m3fn):
        return x.to(dtype), None
    codes, scale = per_group(x, 1, dtype, power_of_two=dtype != torch.int8)
    return codes, scale.squeeze(-1)


@functools.cache
def _entries(schedule):
    """[(slots, sources, whether they fold into one slot)]; moves that follow each other are one entry."""
    out = []
    for moves, entries in itertools.groupby(schedule, lambda entry: len(entry[1]) == 1):
        if moves:
            slots, sources = zip(*((slot, source[0]) for slot, source in entries))
            out.append((slots, sources, False))
        else:
            out += [((slot,), tuple(sources), True) for slot, sources in entries]
    return out


@functools.cache
def _runs(slots, old):
    """Slots as runs [first, stop) of neighbours, none of them on both sides of `old`: few, so little is launched."""
    starts = [i for i, s in enumerate(slots) if i == 0 or s != slots[i - 1] + 1 or s == old]
    return [(slots[i], slots[i] + j - i) for i, j in itertools.pairwise([*starts, len(slots)])]


def _rows(window, slots):
    """These slots of window [slots, ...]; a view where they are neighbours."""
    parts = [window[first:stop] for first, stop in _runs(slots, 0)]
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def _take(mem, scale, new, new_scale, slots, tokens):
    """float32 [len(slots), tokens, H, D] of the window's slots; memory slots come first."""
    old = 0 if mem is None else mem.shape[0] // tokens
    parts = []
    for first, stop in _runs(slots, old):
        x, x_scale, before = (new, new_scale, old) if first >= old else (mem, scale, 0)
        rows = slice((first - before) * tokens, (stop - before) * tokens)
        parts.append(x[rows].float() if x_scale is None else x[rows].float() * x_scale[rows, :, None])
    return (parts[0] if len(parts) == 1 else torch.cat(parts)).unflatten(0, (-1, tokens))


def _fold(sources, weight, grouping):
    """[S, tokens, H, D] -> [1, tokens, H, D]."""
    if grouping == "temporal":
        return (sources * weight[:, None]).sum(0, keepdim=True)
    s, n = sources.shape[:2]
    return (sources.flatten(0, 1).unflatten(0, (n, s)) * weight).sum(1)[None]
