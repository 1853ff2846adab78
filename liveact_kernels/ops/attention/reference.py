"""Unmasked attention over memory and current keys, in float64."""

import torch


def attention(q, k_new, v_new, k_mem, v_mem, k_scale, v_scale):
    """out = softmax(q k^T / sqrt(D)) v over the window, memory slots first.

    q             [L, H, D] activations, roped
    k_new, v_new  [R, H, D] activations: the current block's keys (roped) and values
    k_mem, v_mem  [P, H, D] memory slots (roped keys) in float32 or bf16, or int8 keys and e4m3 values; None in the
                  first block
    k_scale, v_scale  [P, H] f32, with 8-bit memory only: value = code * scale
    out           [L, H, D] in q's dtype
    Source        Wan2.1 self attention (no mask, scale D^-0.5) over the released 14-slot window.
    """
    k, v = k_new.double(), v_new.double()
    if k_mem is not None:
        k = torch.cat((_values(k_mem, k_scale), k))
        v = torch.cat((_values(v_mem, v_scale), v))
    p = (torch.einsum("lhd,rhd->hlr", q.double(), k) * q.shape[-1] ** -0.5).softmax(-1)
    return torch.einsum("hlr,rhd->lhd", p, v)


def _values(codes, scale):
    return codes.double() if scale is None else codes.double() * scale.double()[..., None]
