"""Plain eager torch: any device, differentiable, and safe when the outputs alias the memory (it reads first)."""

import torch

from liveact_kernels.common.quantise import per_group
from liveact_kernels.common.rope import rotate


def kv_compress(
    k_new, v_new, k_mem, v_mem, k_scale, v_scale, k_new_scale, v_new_scale, taps, taps_v, rope, schedule, tokens,
    k_dtype, v_dtype, grouping="raster",
):  # fmt: skip
    """See reference.kv_compress."""
    window = rope.unflatten(0, (-1, tokens))
    taps_v = taps if taps_v is None else taps_v
    keys = _slots(k_mem, k_scale, k_new, k_new_scale, tokens)
    values = _slots(v_mem, v_scale, v_new, v_new_scale, tokens)
    k_out, v_out = [], []
    for slot, sources in schedule:
        k = torch.stack([rotate(keys(s), window[s], inverse=True) for s in sources])
        k_out.append(rotate(_fold(k, taps, grouping), window[slot]))
        v_out.append(_fold(torch.stack([values(s) for s in sources]), taps_v, grouping))
    (k, k_s), (v, v_s) = _stored(torch.cat(k_out), k_dtype), _stored(torch.cat(v_out), v_dtype)
    return k, v, k_s, v_s


def _stored(x, dtype):
    if dtype not in (torch.int8, torch.float8_e4m3fn):
        return x.to(dtype), None
    codes, scale = per_group(x, 1, dtype, power_of_two=dtype != torch.int8)
    return codes, scale.squeeze(-1)


def _slots(mem, scale, new, new_scale, tokens):
    """slot index -> float32 [tokens, H, D]; memory slots come first."""
    old = 0 if mem is None else mem.shape[0] // tokens

    def slot(s):
        x, x_scale, first = (new, new_scale, s - old) if s >= old else (mem, scale, s)
        rows = slice(first * tokens, (first + 1) * tokens)
        return x[rows].float() if x_scale is None else x[rows].float() * x_scale[rows, :, None]

    return slot


def _fold(sources, weight, grouping):
    if sources.shape[0] == 1:
        return sources[0]
    if grouping == "temporal":
        return (sources * weight[:, None]).sum(0)
    s, n = sources.shape[:2]
    return (sources.flatten(0, 1).unflatten(0, (n, s)) * weight).sum(1)
