"""attention_8bit on quantised random data: odd shapes, sharp scores, zero values; the op's own cases are gentle."""

import pytest
import torch

from liveact_kernels import ops
from liveact_kernels.common.quantise import per_group
from liveact_kernels.contract import bf16, f32, fp8, int8, use

pytest.importorskip("triton.language", reason="triton is not installed: pip install 'liveact[triton]'")
from liveact_kernels import tuned

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


def error(args, out_dtype, device):
    """Worst error of a query and head, relative to the root mean square output, in unit roundoffs of bf16."""
    want, _ = ops.attention_8bit.reference(**dict.fromkeys(ops.attention_8bit.args) | args, out_dtype=f32)
    with use(attention_8bit="triton"):
        out, scale = ops.attention_8bit(**{k: x.to(device) for k, x in args.items()}, out_dtype=out_dtype)
    got = out.double() if scale is None else out.double() * scale.double()[..., None]
    return ((got.cpu() - want).norm(dim=-1) / want.norm(dim=-1).clamp_min(1e-30)).max().item() / UNIT


SHAPES = {
    "one_query": (1, 40, 30, 3, 32),
    "one_key": (5, 1, 0, 2, 32),
    "one_of_each": (3, 1, 1, 5, 32),
    "tail_of_one": (20, 129, 257, 2, 32),
    "whole_tiles": (128, 256, 128, 2, 32),
    "one_head": (30, 140, 20, 1, 32),
    "narrow_heads": (30, 60, 90, 3, 20),
    "first_block": (70, 140, 0, 2, 128),
    "wide": (130, 150, 100, 2, 128),
}


@pytest.mark.parametrize("shape", SHAPES)
def test_shapes(shape, device):
    assert error(arguments(*SHAPES[shape]), bf16, device) < WORST


@pytest.mark.parametrize("sharp", [3.0, 10.0])
def test_sharp_scores(sharp, device):
    assert error(arguments(150, 150, 140, 2, 64, sharp), f32, device) < WORST


def test_quantised_output(device):
    assert error(arguments(100, 150, 140, 2, 64), fp8, device) < WORST


def test_values_of_zero_have_a_scale_and_no_weight(device):
    args = arguments(10, 150, 0, 2, 32, zeros=140)  # the whole first tile, and part of the second
    assert error(args, f32, device) < WORST


def test_scores_a_tile_ahead(device):
    with tuned.pinned(ahead=1, bn=64, bn_mem=64):
        assert error(arguments(*SHAPES["wide"]), bf16, device) < WORST
