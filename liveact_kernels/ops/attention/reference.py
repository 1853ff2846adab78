"""Unmasked attention over memory and current keys, whole or segment by segment, in float64."""

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
    return _attend(q, k_new, v_new, k_mem, v_mem, k_scale, v_scale)[0]


def attention_segment(q, k_new, v_new, k_mem, v_mem, k_scale, v_scale, out_old, lse_old):
    """Attention over some of the keys, folded into what the queries found in the segments before.

    out = (exp(lse_old) out_old + sum_j exp(s_j) v_j) / exp(lse),  lse = log(exp(lse_old) + sum_j exp(s_j)),
    s_j = q k_j / sqrt(D) over the keys of this segment. The last segment's `out` is `attention` over all of them, in
    whatever order they come.

    q .. v_scale      as in attention; R and P count this segment's keys
    out_old, lse_old  [L, H, D] in q's dtype, [L, H] f32 (natural logarithm); None for the first segment
    returns           out [L, H, D] in q's dtype, normalised; lse [L, H] f32
    Source            the associativity of softmax sums (online softmax).
    """
    out, lse = _attend(q, k_new, v_new, k_mem, v_mem, k_scale, v_scale)
    if out_old is None:
        return out, lse
    both = torch.logaddexp(lse_old.double(), lse)
    old, new = ((x - both).exp()[..., None] for x in (lse_old.double(), lse))
    return old * out_old.double() + new * out, both


def _attend(q, k_new, v_new, k_mem, v_mem, k_scale, v_scale):
    k, v = k_new.double(), v_new.double()
    if k_mem is not None:
        k = torch.cat((_values(k_mem, k_scale), k))
        v = torch.cat((_values(v_mem, v_scale), v))
    s = torch.einsum("lhd,rhd->hlr", q.double(), k) * q.shape[-1] ** -0.5
    return torch.einsum("hlr,rhd->lhd", s.softmax(-1), v), s.logsumexp(-1).T.contiguous()


def _values(codes, scale):
    return codes.double() if scale is None else codes.double() * scale.double()[..., None]
