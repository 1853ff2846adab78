"""attention_8bit on quantised random data: odd shapes, sharp scores, zero values; the op's own cases are gentle."""

import pytest
from eight_bit import WORST, arguments, worst

from liveact_kernels import ops
from liveact_kernels.contract import bf16, f32, fp8, use

pytest.importorskip("triton.language", reason="triton is not installed: pip install 'liveact[triton]'")
from liveact_kernels import tuned


def error(args, out_dtype, device):
    """Worst error of what the kernel makes of the arguments, as `worst` counts it."""
    with use(attention_8bit="triton"):
        out, scale = ops.attention_8bit(**{k: x.to(device) for k, x in args.items()}, out_dtype=out_dtype)
    return worst(args, out, scale)


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
