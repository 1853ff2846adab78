"""Attention over 8-bit memory and current keys, in float64 on the values that the codes stand for."""

import torch

from liveact_kernels.common.mma_order import PAD, from_mma_order


def attention_8bit(
    q, q_scale, k_new, k_new_scale, v_new, v_new_scale, k_mem, k_mem_scale, v_mem, v_mem_scale,
    out_dtype: torch.dtype = torch.bfloat16,
):  # fmt: skip
    """out = softmax(q k^T / sqrt(D)) v over the window, memory slots first; value = code * scale.

    q, q_scale     [L, H, D] int8 and [L, H] f32: roped queries
    k_new, k_mem   [R, H, D] and [P, H, D] int8: roped keys of the block and of the memory slots
    v_new, v_mem   [H, D, RP] and [H, D, PP] e4m3: V^T as `head_major` makes it (R, P rounded up to 128, tokens in the
                   order of common.mma_order, zeros beyond R, P)
    k_new_scale, k_mem_scale  [H, RP] and [H, PP] f32, v_new_scale, v_mem_scale  [H, RP / 128] and [H, PP / 128] f32,
                   one per 128 tokens: likewise
    k_mem and all that belongs to it is None in the first block.
    out            [L, H, D] in out_dtype: float32, bf16, or e4m3 with a scale per token and head, as `quant` with
                   H groups gives it
    out_scale      [L, H] f32 = max|row of a head| / 448, at least 1e-12; None unless out_dtype is e4m3
    Source         Wan2.1 self attention over the released 14-slot window; the 8-bit recipe is ours, see NOTES.md.
    """
    tokens = k_new.shape[0]
    k, v = _keys(k_new, k_new_scale), _values(v_new, v_new_scale, tokens)
    if k_mem is not None:
        k = torch.cat((_keys(k_mem, k_mem_scale), k))
        v = torch.cat((_values(v_mem, v_mem_scale, k_mem.shape[0]), v), -1)
    scores = torch.einsum("lhd,rhd->hlr", q.double() * q_scale.double()[..., None], k) * q.shape[-1] ** -0.5
    out = torch.einsum("hlr,hdr->lhd", scores.softmax(-1), v)
    if out_dtype != torch.float8_e4m3fn:
        return out, None
    out_scale = (out.abs().amax(-1) / 448).clamp_min(1e-12)
    return out / out_scale[..., None], out_scale


def _keys(codes, scale):
    return codes.double() * scale.double()[:, : codes.shape[0]].T[..., None]


def _values(codes, scale, tokens):
    return (from_mma_order(codes.double()) * scale.double().repeat_interleave(PAD, -1)[:, None])[..., :tokens]
