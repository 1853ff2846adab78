"""attention_8bit in CUDA C++: the whole kernel on the CPU (copies, barriers, products, softmax, epilogue)."""

import pytest
import torch
from cuda_cpu import CpuOps, cuda_include
from eight_bit import WORST, arguments, worst

from liveact_kernels.contract import REGISTRY, Case, Dims, bf16, f32, fp8
from liveact_kernels.ops.attention_8bit import cuda_kernel as cuda

needs_headers = pytest.mark.skipif(cuda_include() is None, reason="needs nvcc's headers and g++")

SHAPES = {  # L, R, P, H: queries end inside tiles and warpgroups, keys inside tiles; the ring turns over, sums are flushed
    "one_of_each": (1, 1, 1, 1),
    "one_key": (5, 1, 0, 2),
    "tail_of_one": (20, 129, 257, 1),
    "whole_tiles": (128, 256, 128, 1),
    "first_block": (70, 140, 0, 2),
    "five_tiles": (65, 640, 0, 1),
    "nine_tiles": (150, 530, 500, 1),
}


@pytest.fixture(scope="module")
def on_cpu(tmp_path_factory):
    return CpuOps(tmp_path_factory.mktemp("attention_8bit"), "attention_8bit")


def attend(ops, args, out_dtype, falling=False):
    """(out, out_scale or None), poisoned before."""
    L, H, D = args["q"].shape
    out = torch.full((L, H, D * out_dtype.itemsize), 255, dtype=torch.uint8).view(out_dtype)
    scale = torch.full((L, H), float("nan")) if out_dtype == fp8 else None
    ops("attention_8bit", *cuda.operands(out, scale, **args), falling=falling)
    return out, scale


def error(ops, args, out_dtype=bf16, falling=False):
    return worst(args, *attend(ops, args, out_dtype, falling))


@needs_headers
@pytest.mark.parametrize("falling", (False, True), ids=("rising", "falling"))
@pytest.mark.parametrize("shape", SHAPES)
def test_shapes(on_cpu, shape, falling):
    assert error(on_cpu, arguments(*SHAPES[shape], 128), falling=falling) < WORST


@needs_headers
@pytest.mark.parametrize("out_dtype", (f32, fp8), ids=("float32", "e4m3"))
def test_other_outputs(on_cpu, out_dtype):
    assert error(on_cpu, arguments(100, 150, 140, 2, 128), out_dtype) < WORST


@needs_headers
@pytest.mark.parametrize("sharp", [3.0, 10.0])
def test_sharp_scores(on_cpu, sharp):
    assert error(on_cpu, arguments(60, 150, 640, 1, 128, sharp), f32) < WORST


@needs_headers
def test_values_of_zero_have_a_scale_and_no_weight(on_cpu):
    assert error(on_cpu, arguments(10, 150, 0, 1, 128, zeros=140), f32) < WORST  # the first tile, part of the second
