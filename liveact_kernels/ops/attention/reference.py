"""Unmasked attention over memory and current keys, in float64."""

import torch


def attention(q, k_new, v_new, k_mem, v_mem, k_scale, v_scale):
    """out = softmax(q k^T / sqrt(D)) v over the window, memory slots first.

    q             [L, H, D] activations, roped
    k_new, v_new  [R, H, D] activations: the current block's keys (roped) and values
    k_mem, v_mem  [P, H, D] memory slots (roped keys), float32, bf16 or e4m3; None in the first block
    k_scale, v_scale  [P, H] f32, with e4m3 memory only: value = code * scale
    out           [L, H, D] in q's dtype
    Source        Wan2.1 self attention (no mask, scale D^-0.5) over the released 14-slot window.
    """
    k, v = k_new.double(), v_new.double()
    if k_mem is not None:
        k_old, v_old = k_mem.double(), v_mem.double()
        if k_scale is not None:
            k_old, v_old = k_old * k_scale.double()[..., None], v_old * v_scale.double()[..., None]
        k, v = torch.cat((k_old, k)), torch.cat((v_old, v))
    p = (torch.einsum("lhd,rhd->hlr", q.double(), k) * q.shape[-1] ** -0.5).softmax(-1)
    return torch.einsum("hlr,rhd->lhd", p, v)
