"""Quantised random data for attention_8bit, and how far a result is from float64."""

import torch

from liveact_kernels import ops
from liveact_kernels.common.quantise import per_group
from liveact_kernels.contract import f32, fp8, int8

UNIT = 2.0**-8
"""Unit roundoff of bf16."""

WORST = 15.0
"""e4m3 probabilities have four bits (a rounding errs by 16 units at most) and values here cancel; 12.4 is measured."""


def segment(g, tokens, H, D, sharp, zeros=0):
    """Codes and scales of keys and values of one segment, ready for the op; the first `zeros` values are zero."""
    k, v = sharp * torch.randn(tokens, H, D, generator=g), torch.randn(tokens, H, D, generator=g)
    v[:zeros] = 0
    (k8, k_scale), (v8, v_scale) = per_group(k, 1, int8), per_group(v, 1, fp8, power_of_two=True)
    return k8, *ops.head_major(v=v8, k_scale=k_scale.squeeze(-1), v_scale=v_scale.squeeze(-1))


def arguments(L, R, P, H, D, sharp=1.0, zeros=0):
    """Arguments of one call; P 0 is the first block."""
    g = torch.Generator().manual_seed(L + R + P)
    q, q_scale = per_group(torch.randn(L, H, D, generator=g), 1, int8)
    names = ("k", "v", "k_scale", "v_scale")
    found = {"q": q, "q_scale": q_scale.squeeze(-1)}
    for part, tokens in (("new", R), ("mem", P)):
        if tokens:
            made = segment(g, tokens, H, D, sharp, zeros)
            found |= {f"{n[0]}_{part}{n[1:]}": x for n, x in zip(names, made)}
    return found


def worst(args, out, scale):
    """Worst error of a query and head, relative to the root mean square output, in unit roundoffs of bf16."""
    want, _ = ops.attention_8bit.reference(**dict.fromkeys(ops.attention_8bit.args) | args, out_dtype=f32)
    got = out.double() if scale is None else out.double() * scale.double()[..., None]
    return ((got.cpu() - want).norm(dim=-1) / want.norm(dim=-1).clamp_min(1e-30)).max().item() / UNIT
