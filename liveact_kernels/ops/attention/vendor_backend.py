"""Other people's attention kernels, to compare with: `reference.attention` on whatever library is there.

None of them reads 8-bit memory slots or two segments of keys, so the window is dequantised and joined first: a peer
pays for that as its user would.
"""

import torch
import torch.nn.functional as F

from liveact_kernels.contract import FLASH, Rel, found, mark

from .torch_backend import window


def _takes(largest: int, multiple: int):
    """A backend's `takes`: bf16 heads of no more than `largest` channels, in multiples."""

    def takes(d) -> str | None:
        if d.A != torch.bfloat16:
            return f"it wants bfloat16, got {d.A}"
        if d.D > largest or d.D % multiple:
            return f"it wants heads of up to {largest} channels in multiples of {multiple}, got {d.D}"
        return None

    return takes


def _sdpa(q, k, v):
    q, k, v = (x.transpose(0, 1).unsqueeze(0) for x in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v).squeeze(0).transpose(0, 1)


def sdpa(q, k_new, v_new, k_mem=None, v_mem=None, k_scale=None, v_scale=None):
    """torch's own choice among its kernels."""
    return _sdpa(q, window(k_mem, k_scale, k_new), window(v_mem, v_scale, v_new))


def cudnn(q, k_new, v_new, k_mem=None, v_mem=None, k_scale=None, v_scale=None):
    """torch restricted to cuDNN; it raises where cuDNN has no kernel instead of taking another one."""
    from torch.nn.attention import SDPBackend, sdpa_kernel

    with sdpa_kernel(SDPBackend.CUDNN_ATTENTION):
        return _sdpa(q, window(k_mem, k_scale, k_new), window(v_mem, v_scale, v_new))


def flash(q, k_new, v_new, k_mem=None, v_mem=None, k_scale=None, v_scale=None):
    """FlashAttention 3 if installed, else 2: both take [batch, rows, heads, D]."""
    if found(FLASH[0]):
        from flash_attn_interface import flash_attn_func
    else:
        from flash_attn import flash_attn_func
    k, v = window(k_mem, k_scale, k_new), window(v_mem, v_scale, v_new)
    out = flash_attn_func(q[None], k[None], v[None])
    return (out[0] if isinstance(out, tuple) else out)[0]  # early versions of 3 return (out, log-sum-exp)


def sage(q, k_new, v_new, k_mem=None, v_mem=None, k_scale=None, v_scale=None):
    """SageAttention's choice for the chip: int8 queries and keys; on Hopper e4m3 probabilities and values."""
    from sageattention import sageattn

    k, v = window(k_mem, k_scale, k_new), window(v_mem, v_scale, v_new)
    return sageattn(q[None], k[None], v[None], tensor_layout="NHD")[0]


class _Quantised(Rel):
    SHRINK = 2.0  # quantisation noise adds to magnitudes, 1.3 u emulated on nine rows


mark(cudnn, takes=_takes(128, 8))
mark(flash, takes=_takes(256, 8))
mark(
    sage,
    takes=_takes(128, 1),
    tol=_Quantised(24.0, "e4m3 probabilities and values, int8 queries and keys: 10 to 13 u emulated"),
)
