"""Compression and moving of window slots, in float64."""

import torch

from liveact_kernels.common.quantise import next_power_of_two


def kv_compress(
    k_new,
    v_new,
    k_mem,
    v_mem,
    k_scale,
    v_scale,
    k_new_scale,
    v_new_scale,
    taps,
    taps_v,
    rope,
    schedule: tuple,
    tokens: int,
    k_dtype: torch.dtype,
    v_dtype: torch.dtype,
    grouping: str = "raster",
):
    """For each (slot, sources) of the schedule: un-rotate the sources, apply the taps, rotate to the slot.

    k_new, v_new  [R, H, D] the block's keys (roped) and values, in float32 or bf16, or int8 keys and e4m3 values
    k_mem, v_mem  [P, H, D] memory slots in k_dtype and v_dtype, None before the first block is stored; int8 keys and
                  e4m3 values come with scales (the reason for int8 keys is in NOTES.md)
    k_scale, v_scale  [P, H] f32 with 8-bit memory: value = code * scale
    k_new_scale, v_new_scale  [R, H] f32 with 8-bit keys and values of the block
    taps          [S, H, D] f32, one weight per tap and channel; taps_v the same for values, None = taps
    rope          [W, D/2, 2] f32 of the whole window: slot s owns rows s*tokens .. (s+1)*tokens
    schedule      ((slot, (source slots)), ...): memory slots come first in the window, new ones after them; one
                  source is a move, S sources are a compression
    grouping      "raster": out[j] = sum_i taps[i] * flat[S*j + i] over the flattened sources (five neighbouring
                  tokens, as released); "temporal": out[j] = sum_i taps[i] * source_i[j] (the paper's)
    returns       k_out, v_out [len(schedule)*tokens, H, D], one row block per schedule entry; 8-bit ones with scales
                  [.., H] f32 = max|row of a head| / 127 (int8), or / 448 rounded up to a power of two (e4m3)
    In place      outputs may alias k_mem and v_mem.
    Source        the released memory update (depthwise, stride = width, V with K's taps); positions are reset to
                  the destination slot because keys are stored roped.
    """

    def one(mem, scale, new, new_scale, weight, turn, dtype):
        window = _dequantised(new, new_scale)
        if mem is not None:
            window = torch.cat((_dequantised(mem, scale), window))
        if turn:
            window = _rotate(window, rope.double(), inverse=True)
        slots = window.unflatten(0, (-1, tokens))
        out = torch.cat([_fold(slots[list(src)], weight.double(), grouping) for _, src in schedule])
        if turn:
            rows = torch.cat([rope.double().unflatten(0, (-1, tokens))[slot] for slot, _ in schedule])
            out = _rotate(out, rows)
        if dtype not in (torch.int8, torch.float8_e4m3fn):
            return out, None
        if dtype == torch.int8:
            s = (out.abs().amax(-1) / 127).clamp_min(1e-12)
        else:
            s = next_power_of_two((out.abs().amax(-1) / 448).clamp_min(1e-12))
        return out / s[..., None], s

    k_out, k_s = one(k_mem, k_scale, k_new, k_new_scale, taps, True, k_dtype)
    v_out, v_s = one(v_mem, v_scale, v_new, v_new_scale, taps if taps_v is None else taps_v, False, v_dtype)
    return k_out, v_out, k_s, v_s


def _dequantised(x, scale):
    return x.double() if scale is None else x.double() * scale.double()[..., None]


def _fold(sources, weight, grouping):
    """sources [S or 1, tokens, H, D], weight [S, H, D] -> [tokens, H, D]."""
    if sources.shape[0] == 1:
        return sources[0]
    s, n = sources.shape[:2]
    grouped = sources.flatten(0, 1).unflatten(0, (n, s)) if grouping == "raster" else sources.transpose(0, 1)
    return (grouped * weight).sum(1)


def _rotate(x, rope, inverse=False):
    turn = torch.view_as_complex(rope.contiguous())[:, None]
    pairs = torch.view_as_complex(x.unflatten(-1, (-1, 2)).contiguous())
    return torch.view_as_real(pairs * (turn.conj() if inverse else turn)).flatten(-2)
