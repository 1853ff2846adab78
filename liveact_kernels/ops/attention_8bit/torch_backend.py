"""Plain eager torch on the values that the codes stand for, in float32: any device."""

import torch

from liveact_kernels.common.mma_order import PAD, from_mma_order
from liveact_kernels.common.quantise import per_group
from liveact_kernels.common.softmax import attend


def attention_8bit(
    q, q_scale, k_new, k_new_scale, v_new, v_new_scale, k_mem=None, k_mem_scale=None, v_mem=None, v_mem_scale=None,
    out_dtype=torch.bfloat16,
):  # fmt: skip
    """See reference.attention_8bit."""
    k, v = plain_keys(k_new, k_new_scale), plain_values(v_new, v_new_scale, k_new.shape[0])
    if k_mem is not None:
        k = torch.cat((plain_keys(k_mem, k_mem_scale), k))
        v = torch.cat((plain_values(v_mem, v_mem_scale, k_mem.shape[0]), v))
    out = attend(q.float() * q_scale[..., None], k, v)
    if out_dtype != torch.float8_e4m3fn:
        return out, None
    codes, scale = per_group(out, 1)
    return codes, scale.squeeze(-1)


def plain_keys(codes, scale):
    """int8 keys [R, H, D] and scales [H, RP] -> float32 [R, H, D]."""
    return codes.float() * scale[:, : codes.shape[0]].T[..., None]


def plain_values(codes, scale, tokens):
    """V^T [H, D, RP] as `head_major` makes it and scales [H, RP / 128] -> float32 [tokens, H, D]."""
    return (from_mma_order(codes.float()) * scale.repeat_interleave(PAD, -1)[:, None])[..., :tokens].movedim(-1, 0)
