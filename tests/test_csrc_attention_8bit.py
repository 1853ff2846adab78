"""attention_8bit in CUDA C++: the whole kernel on the CPU (copies, barriers, products, softmax, epilogue)."""

import pytest
import torch
from cuda_cpu import CpuOps, cuda_include
from eight_bit import WORST, arguments, worst

from liveact_kernels.contract import REGISTRY, Dims, bf16, f32, fp8
from liveact_kernels.ops.attention_8bit import cuda_kernel as cuda

needs_headers = pytest.mark.skipif(cuda_include() is None, reason="needs nvcc's headers and g++")

SHAPES = {  # L, R, P, H: queries and keys end inside tiles; the ring turns over, sums are flushed
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


BREAKS = {  # what is broken: (shape, text, instead)
    "scores are read before their products end": ("nine_tiles", "hopper::products_wait<1>(next);", "(void)0;"),
    "probabilities change under the products": (
        "nine_tiles",
        "  hopper::products_wait<0>(state.sum, p);\n  if (tile > 0)",
        "  if (tile > 0)",
    ),
    "keys are multiplied before they are there": (
        "five_tiles",
        "  hopper::barrier_wait(view.k_full + walk.turn.stage * hopper::BARRIER, walk.turn.parity);\n",
        "",
    ),
    "values are copied over those that are still multiplied": (
        "nine_tiles",
        "      hopper::barrier_wait(ring.v_empty + at, turn.parity ^ 1);\n",
        "",
    ),
    "keys' scales are given back before they are read": (
        "nine_tiles",
        "  const Note note = view.notes[stage];\n  scale_scores(",
        "  const Note note = view.notes[stage];\n  View::release(view.k_empty, stage);\n  scale_scores(",
    ),
    "values are given back while they are multiplied": (
        "nine_tiles",
        "if (tile > 0) View::release(view.v_empty, walk.before);",
        "View::release(view.v_empty, stage);",
    ),
    "a segment's missing keys count": ("tail_of_one", "if (keys < BN)  // the last", "if (keys < 0)  // the last"),
    "the unit of the values is forgotten": ("nine_tiles", "fade[h] * note.ratio", "fade[h]"),
    "memory's last tile fades nothing": ("nine_tiles", "fade[h] = hopper::fast_exp2(top[h] - now);", "fade[h] = 1.f;"),
    "what was flushed does not fade": ("nine_tiles", "x.x * state.unit[0]", "x.x"),
    "nothing is flushed": ("five_tiles", "if (fresh && tile > 0) flush(state, kept);", ""),
    "the second row has the first one's scale": (
        "first_block",
        "x * q_scale[h] + least[h]",
        "x * q_scale[0] + least[h]",
    ),
}


@needs_headers
@pytest.mark.parametrize("what", BREAKS)
def test_a_broken_kernel_is_caught(tmp_path, what):
    shape, text, instead = BREAKS[what]
    broken = CpuOps(tmp_path, "attention_8bit", (text, instead))
    args = arguments(*SHAPES[shape], 128)
    try:
        errors = [error(broken, args, falling=falling) for falling in (False, True)]
    except RuntimeError as said:
        assert "barrier" in str(said)
    else:
        assert not max(errors) < WORST  # a NaN is no pass either


@needs_headers
def test_fourteen_bits_are_enough_between_two_flushes_and_not_for_all_keys(on_cpu, tmp_path):
    """Values of one sign, where every bit that is cut off counts the same way; the op's bound is 1.3 units."""
    args = arguments(64, 4096, 0, 1, 128)
    args["v_new"] = args["v_new"].float().abs().to(fp8)

    def with_14_bits(ops):
        ops._library.keep_bits(14)
        found = error(ops, args, f32)
        ops._library.keep_bits(0)
        return found

    once = CpuOps(tmp_path, "attention_8bit", ("constexpr int GROUP = 2;", "constexpr int GROUP = 1 << 20;"))
    assert error(on_cpu, args, f32) < 0.3 and with_14_bits(on_cpu) < 0.8 and with_14_bits(once) > 4


@needs_headers
def test_the_host_function_says_what_it_does_not_take(on_cpu):
    pointers, good = [16] * 12, {"L": 8, "H": 2, "R": 8, "P": 8, "kind": 0}
    for change, said in (
        ({"L": 0}, "L of 1 or more, got 0"),
        ({"R": 0}, "R of 1 or more, got 0"),
        ({"P": -1}, "P of 0 or more"),
        ({"H": 70000}, "H of 1 to 65535, got 70000"),
        ({"kind": 3}, "kind 0, 1 or 2, got 3"),
    ):
        with pytest.raises(RuntimeError, match=said):
            on_cpu("attention_8bit", *pointers, *(good | change).values())
    with pytest.raises(RuntimeError, match="aligned to 16 bytes"):
        on_cpu("attention_8bit", *pointers[:2], 8, *pointers[3:], *good.values())


def test_takes_says_what_and_why():
    assert cuda.takes(Dims(D=128)) is None
    assert cuda.takes(Dims(D=64)) == "needs heads of 128 channels, got 64"


@needs_headers
def test_the_ops_own_cases_with_wide_heads_run(on_cpu):
    """Exact probabilities, so that the scales of e4m3 output are held to float32's rounding."""
    op = REGISTRY["attention_8bit"]
    case = next(c for c in op.cases if c.id == "quantised")
    args = op.make(case)
    out = attend(on_cpu, {k: v for k, v in args.items() if k != "out_dtype"}, fp8)
    assert [said for _, ok, said in op.check(out, op.reference(**args)) if not ok] == []
