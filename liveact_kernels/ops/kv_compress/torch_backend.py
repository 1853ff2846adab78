"""Plain eager torch: any device, differentiable, and safe when the outputs alias the memory (it reads first)."""

import torch

from liveact_kernels.common.quantise import per_group
from liveact_kernels.common.rope import rotate


def kv_compress(
    k_new, v_new, k_mem, v_mem, k_scale, v_scale, taps, taps_v, rope, schedule, tokens, mem_dtype, grouping="raster"
):
    """See reference.kv_compress."""
    window = rope.unflatten(0, (-1, tokens))
    taps_v = taps if taps_v is None else taps_v
    keys, values = _slots(k_mem, k_scale, k_new, tokens), _slots(v_mem, v_scale, v_new, tokens)
    k_out, v_out = [], []
    for slot, sources in schedule:
        k = torch.stack([rotate(keys(s), window[s], inverse=True) for s in sources])
        k_out.append(rotate(_fold(k, taps, grouping), window[slot]))
        v_out.append(_fold(torch.stack([values(s) for s in sources]), taps_v, grouping))
    k, v = torch.cat(k_out), torch.cat(v_out)
    if mem_dtype != torch.float8_e4m3fn:
        return k.to(mem_dtype), v.to(mem_dtype), None, None
    (k8, k_s), (v8, v_s) = per_group(k, 1), per_group(v, 1)
    return k8, v8, k_s.squeeze(-1), v_s.squeeze(-1)


def _slots(mem, scale, new, tokens):
    """slot index -> float32 [tokens, H, D]; memory slots come first."""
    old = 0 if mem is None else mem.shape[0] // tokens

    def slot(s):
        if s >= old:
            return new[(s - old) * tokens : (s - old + 1) * tokens].float()
        rows = slice(s * tokens, (s + 1) * tokens)
        return mem[rows].float() if scale is None else mem[rows].float() * scale[rows, :, None]

    return slot


def _fold(sources, weight, grouping):
    if sources.shape[0] == 1:
        return sources[0]
    if grouping == "temporal":
        return (sources * weight[:, None]).sum(0)
    s, n = sources.shape[:2]
    return (sources.flatten(0, 1).unflatten(0, (n, s)) * weight).sum(1)
