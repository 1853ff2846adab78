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
    """See reference.kv_compress."""
    window = rope.unflatten(0, (-1, tokens))
    sources, slots = _read(schedule), tuple(slot for slot, _ in schedule)
    k = _take(k_mem, k_scale, k_new, k_new_scale, sources, tokens)
    v = _take(v_mem, v_scale, v_new, v_new_scale, sources, tokens)
    k = _folded(rotate(k, _pick(window, sources), inverse=True), taps, schedule, grouping)
    k = rotate(k, _pick(window, slots)).flatten(0, 1)
    v = _folded(v, taps if taps_v is None else taps_v, schedule, grouping).flatten(0, 1)
    (k, k_s), (v, v_s) = _stored(k, k_dtype), _stored(v, v_dtype)
    return k, v, k_s, v_s


def _stored(x, dtype):
    if dtype not in (torch.int8, torch.float8_e4m3fn):
        return x.to(dtype), None
    codes, scale = per_group(x, 1, dtype, power_of_two=dtype != torch.int8)
    return codes, scale.squeeze(-1)


@functools.cache
def _read(schedule):
    """The source slots of all entries, in order."""
    return tuple(s for _, sources in schedule for s in sources)


@functools.cache
def _runs(slots, old):
    """Slots as runs [first, stop) of neighbours, none of them on both sides of `old`: few, so little is launched."""
    starts = [i for i, s in enumerate(slots) if i == 0 or s != slots[i - 1] + 1 or s == old]
    return [(slots[i], slots[i] + j - i) for i, j in itertools.pairwise([*starts, len(slots)])]


def _pick(window, slots):
    """Rows of these slots of window [slots, ...]; a view where they are neighbours."""
    parts = [window[first:stop] for first, stop in _runs(slots, -1)]
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


def _folded(sources, weight, schedule, grouping):
    """[sources, tokens, H, D] of all entries -> [entries, tokens, H, D]; entries of one length side by side at once."""
    out, start = [], 0
    for length, entries in itertools.groupby(len(sources) for _, sources in schedule):
        count = len(list(entries))
        part = sources[start : start + count * length]
        out.append(part if length == 1 else _fold(part.unflatten(0, (count, length)), weight, grouping))
        start += count * length
    return out[0] if len(out) == 1 else torch.cat(out)


def _fold(sources, weight, grouping):
    """[entries, S, tokens, H, D] -> [entries, tokens, H, D]."""
    if grouping == "raster":
        entries, s, n = sources.shape[:3]
        sources = sources.flatten(1, 2).unflatten(1, (n, s)).transpose(1, 2)
    first, *others = zip(sources.unbind(1), weight)
    out = first[0] * first[1]
    for x, w in others:
        out = torch.addcmul(out, x, w)
    return out
