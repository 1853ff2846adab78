"""Plain eager torch: any device, differentiable."""

import torch

from liveact_kernels.common.softmax import attend


def attention(q, k_new, v_new, k_mem=None, v_mem=None, k_scale=None, v_scale=None):
    """See reference.attention."""
    return attend(q, window(k_mem, k_scale, k_new), window(v_mem, v_scale, v_new))


def attention_segment(
    q, k_new, v_new, k_mem=None, v_mem=None, k_scale=None, v_scale=None, out_old=None, lse_old=None
):  # fmt: skip
    """See reference.attention_segment; float32 inside."""
    k, v = window(k_mem, k_scale, k_new.float()), window(v_mem, v_scale, v_new.float())
    s = torch.einsum("lhd,rhd->hlr", q.float() * q.shape[-1] ** -0.5, k)
    lse = s.logsumexp(-1)
    out = torch.einsum("hlr,rhd->lhd", (s - lse[..., None]).exp(), v)
    lse = lse.transpose(0, 1).contiguous()
    if out_old is None:
        return out.to(q.dtype), lse
    both = torch.logaddexp(lse_old, lse)
    old, new = ((x - both).exp()[..., None] for x in (lse_old, lse))
    return (old * out_old.float() + new * out).to(q.dtype), both


def window(mem, scale, new):
    """Memory slots, dequantised, and the block's own rows as one [P + R, H, D] tensor in the block's dtype."""
    if mem is None:
        return new
    if scale is not None:
        mem = mem.float() * scale[..., None]
    return torch.cat((mem.to(new.dtype), new), -3)
