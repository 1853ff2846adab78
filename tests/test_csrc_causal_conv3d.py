"""causal_conv3d and upsample_conv in CUDA C++: the whole kernel on the CPU (copies, barriers, products, epilogue)."""

import itertools

import pytest
import torch
from conftest import ROOT
from cuda_cpu import CpuOps, breaks, cuda_include

from liveact_kernels.contract import REGISTRY, Case, Dims, bf16, f32
from liveact_kernels.ops.causal_conv3d import cuda_kernel as cuda

needs_headers = pytest.mark.skipif(cuda_include() is None, reason="needs nvcc's headers and g++")

GUARD = 1 << 14  # numbers before and behind the output that nobody may write


def conv(F, H, W, C, O, pw, sms=1, KT=3, prev=False, residual=False):  # noqa: E741
    """(op, dims, pixels across a tile, blocks)."""
    dims = {"F": F, "H": H, "W": W, "C": C, "O": O, "KT": KT, "KH": 3, "KW": 3}
    return "causal_conv3d", dims | {"has_prev": prev, "has_residual": residual}, pw, sms


def up(F, H, W, C, O, pw, sms=1):  # noqa: E741
    return "upsample_conv", {"F": F, "H": H, "W": W, "C": C, "O": O}, pw, sms


CASES = {  # frames end inside tiles; the ring turns over; blocks walk over several tiles
    "head": conv(3, 20, 17, 32, 3, 16, sms=2, prev=True),
    "head_first_chunk": conv(4, 9, 31, 32, 3, 16),
    "head_walks": conv(3, 9, 57, 32, 3, 16, sms=2, KT=1),  # five tiles a frame: two groups of two, one of one
    "head_residual": conv(2, 5, 35, 96, 8, 16, sms=3, KT=1, residual=True),
    "one_pixel": conv(1, 1, 1, 32, 1, 16, prev=True),
    "wide": conv(2, 17, 7, 32, 96, 16, sms=2, prev=True, residual=True),
    "wide_first_chunk": conv(3, 5, 12, 32, 96, 8, residual=True),
    "wide_one_frame": conv(1, 9, 33, 32, 96, 32, prev=True),
    "wide_2d": conv(2, 16, 16, 64, 96, 16, KT=1, residual=True),
    "three_parts": conv(1, 4, 5, 32, 288, 8, sms=2, KT=1),
    "widest": conv(1, 7, 12, 32, 192, 16, prev=True, residual=True),
    "two_parts": conv(2, 3, 9, 64, 384, 8, sms=3, KT=1, residual=True),
    "up": up(2, 9, 10, 32, 96, 8, sms=2),
    "up_flat": up(1, 3, 35, 64, 96, 32),
    "up_widest": up(1, 5, 18, 96, 192, 16, sms=3),
}


def error(ops, name, falling=False):
    """A kernel's error over what one rounding to bf16 leaves: a worst pixel of one unit roundoff with few channels, 0.6
    with many, 0.45 over all of many. 1e9 for what nobody wrote, and for what should not have been written."""
    op, dims, pw, sms = CASES[name]
    op = REGISTRY[op]
    args = op.make(Case(name, A=bf16, **dims))
    want = op.reference(**args)
    memory = torch.full((want.numel() + 2 * GUARD,), float("nan"), dtype=bf16)
    out = memory[GUARD:-GUARD].view(want.shape)
    given = {k: v for k, v in args.items() if k not in op.scalars}
    operands = cuda.operands_up if op.name == "upsample_conv" else cuda.operands
    with cuda.tuned.pinned(pw=pw):
        values = operands(out, **given)
    ops(op.name, *values[:-1], sms, falling=falling)
    out, want, N = out.double().flatten(0, -2), want.flatten(0, -2), want.shape[-1]
    outside = torch.cat((memory[:GUARD], memory[-GUARD:]))
    if out.isnan().any() or not outside.isnan().all():
        return 1e9
    unit, many = torch.finfo(bf16).eps / 2, N >= cuda.PART
    worst = ((out - want).norm(dim=-1) / want.norm(dim=-1)).max() / unit / (0.6 if many else 1.0)
    whole = (out - want).norm() / want.norm() / unit / 0.45
    return max(worst, whole if many else worst).item()


@pytest.fixture(scope="module")
def on_cpu(tmp_path_factory):
    return CpuOps(tmp_path_factory.mktemp("causal_conv3d"), "causal_conv3d")


@needs_headers
@pytest.mark.parametrize("falling", (False, True), ids=("rising", "falling"))
@pytest.mark.parametrize("name", CASES)
def test_kernel_matches_reference(on_cpu, name, falling):
    assert error(on_cpu, name, falling) < 1


BREAKS = {  # what is broken: (case, text, instead)
    "products do not wait for copies": ("wide", "view.wait(turn.stage, turn.parity);", ";"),
    "a stage is filled while it is multiplied": (
        "wide",
        "hopper::barrier_wait(ring.empty + turn.stage * BARRIER, turn.parity ^ 1);",
        ";",
    ),
    "a stage is given back before its products end": ("wide", "hopper::products_wait<1>(acc[0], acc[1]);", ";"),
    "the last stage is given back before its products end": (
        "wide",
        "    hopper::products_wait<0>(acc[0], acc[1]);\n    view.release(last);",
        "view.release(last); hopper::products_wait<0>(acc[0], acc[1]);",
    ),
    "sums are read before the last products end": ("head_walks", "hopper::products_wait<0>(acc[0], acc[1]);", ";"),
    "a tile begins with the sums of the last": ("head_walks", "step > 0 || dy > 0 || k > 0", "true"),
    "copies start before there are barriers": (
        "head",
        "  ring.fetch(g.e.bias, g.s.N);\n  __syncthreads();",
        "ring.fetch(g.e.bias, g.s.N);",
    ),
    "vertical taps are upside down": ("wide_2d", "group * 128 + dy * pw", "group * 128 + (2 - dy) * pw"),
    "vertical taps are a row off": ("wide_2d", "o.y - 1", "o.y"),
    "horizontal taps are mirrored": ("wide_2d", "dx - 1", "1 - dx"),
    "both warpgroups multiply the same pixels": ("wide_2d", "64 * (2 * group + m)", "64 * m"),
    "all channels have the first ones' weights": (
        "two_parts",
        "(tap * s.KT + t) * s.C + c",
        "(tap * s.KT + t) * s.C",
    ),
    "weights of rows and columns change places": ("head", "tap * s.KT + t", "(tap % 3 * 3 + tap / 3) * s.KT + t"),
    "the second part of the channels has the first one's biases": ("two_parts", "bias + walk.at.n", "bias"),
    "the history is read backwards": ("head", "source + s.KT - 1", "-1 - source"),
    "the history is the chunk's own frames": ("head", "source < 0 ? &maps.prev : &maps.x", "&maps.x"),
    "frames before the video are read": ("head_first_chunk", "s.KT - 1 > frame ? s.KT - 1 - frame : 0", "0"),
    "biases are dropped": ("wide", "v[0] + b.x", "v[0]"),
    "a lane has its neighbour's biases": ("wide", "8 * j + 2 * at.q", "8 * j + 2 * (at.q ^ 1)"),
    "the residual is added after a rounding": (
        "wide",
        "sum.x += add.x, sum.y += add.y;",
        "sum = unpacked(packed(sum.x, sum.y)), sum.x += add.x, sum.y += add.y;",
    ),
    "the residual's words are not exchanged": ("wide", "hopper::quad_transpose(now.x[h], at.q);", ";"),
    "the outputs' words are not exchanged": ("up", "hopper::quad_transpose(y[h], at.q);", ";"),
    "the residual of the first channels is added to all": (
        "wide",
        "ahead.load(e, at, part + 1);",
        "ahead.load(e, at, 0);",
    ),
    "few channels take the next pixel's place": ("head", "n + i % 2 < s.N", "true"),
    "the right neighbour's columns are the pixel's own": ("head", "(row + dx) % 8 * 4 + at.q", "row * 4 + at.q"),
    "the last columns of a patch's upper half stay there": ("head", "row + dx < 8", "true"),
    "pixels without right neighbours are written": ("head_walks", "(row & (1 << s.pw_bits) - 1) < made(s, BN)", "true"),
    "columns right of the frame are written": ("wide", "x < wide", "true"),
    "rows below the frame are written": ("wide", "y < high", "true"),
    "tiles of a frame's end go to the wrong frame": ("head_walks", "within / count", "within / width"),
    "a block stays in the first tiles": ("head_walks", "first += width, within = block;", "within = g.frames * width;"),
    "up: rows of both parities read alike": ("up", "shift(dy, group) + 1", "shift(dy, 0) + 1"),
    "up: columns of both parities read alike": ("up", "shift(dx, p)", "shift(dx, 0)"),
    "up: columns of both parities change places": ("up", "x = 2 * x + m", "x = 2 * x + 1 - m"),
}


@pytest.fixture(scope="module")
def broken(tmp_path_factory):
    """One library with every break in it, each behind a switch."""
    edits = breaks((text, instead) for _, text, instead in BREAKS.values())
    return CpuOps(tmp_path_factory.mktemp("broken_conv"), "causal_conv3d", *edits)


@needs_headers
@pytest.mark.parametrize("what", BREAKS)
def test_a_broken_kernel_is_caught(broken, what):
    name = BREAKS[what][0]
    broken.break_at(1 + [*BREAKS].index(what))
    try:
        errors = [error(broken, name, falling) for falling in (False, True)]
    except RuntimeError as said:
        assert "barrier" in str(said)
    else:
        assert not max(errors) < 1
    finally:
        broken.break_at(0)


@needs_headers
def test_the_library_of_breaks_is_right_while_none_is_in_effect(broken):
    assert max(error(broken, name) for name in ("head", "wide", "up")) < 1


@needs_headers
def test_the_ops_own_cases_that_the_kernel_takes_run(on_cpu):
    for op, operands in (("causal_conv3d", cuda.operands), ("upsample_conv", cuda.operands_up)):
        op = REGISTRY[op]
        taken = [c for c in op.cases if c.rung == "cpu" and op.refused("cuda", op.dims_of(c)) is None]
        assert taken
        for case in taken:
            args = op.make(case)
            want = op.reference(**args)
            out = torch.full(want.shape, float("nan"), dtype=bf16)
            on_cpu(op.name, *operands(out, **{k: v for k, v in args.items() if k not in op.scalars}))
            assert op.check(out, want)[0][1], case.id


@needs_headers
def test_the_host_functions_say_what_they_do_not_take(on_cpu):
    good = {"F": 1, "H": 4, "W": 4, "C": 32, "N": 96, "KT": 3, "pw": 8, "sms": 1}
    for change, said in (
        ({"F": 0}, "F of 1 or more, got 0"),
        ({"C": 48}, "C a multiple of 32, got 48"),
        ({"N": 40}, "N of 1 to 8, 96, 192, 288 or 384, got 40"),
        ({"N": 480}, "N of 1 to 8, 96, 192, 288 or 384, got 480"),
        ({"KT": 2}, "KT 1 or 3, got 2"),
        ({"pw": 4}, "pw 8, 16 or 32, got 4"),
        ({"N": 3}, "pw 16 with 8 output channels or fewer, got 8"),
        ({"F": 1 << 20, "H": 64}, "fewer than 2.31 numbers, got 25769803776"),
    ):
        with pytest.raises(RuntimeError, match=said):
            on_cpu("causal_conv3d", *[16] * 6, *(good | change).values())
        if change.keys() <= {"F", "H", "C", "pw"}:
            with pytest.raises(RuntimeError, match="upsample_conv: expected"):
                on_cpu("upsample_conv", *[16] * 4, *(v for k, v in (good | change).items() if k != "KT"))
    with pytest.raises(RuntimeError, match="N of 96, 192, 288 or 384, got 3"):
        on_cpu("upsample_conv", *[16] * 4, 1, 4, 4, 32, 3, 8, 1)
    with pytest.raises(RuntimeError, match="aligned to 16 bytes, got 8"):
        on_cpu("causal_conv3d", 16, 16, 8, 16, 0, 0, *good.values())


def dims(**more):
    good = {"F": 2, "H": 8, "W": 8, "C": 96, "O": 96, "A": bf16, "KT": 3, "KH": 3, "KW": 3, "stride": 1, "stride_t": 1}
    return Dims(**good | {"interleave": 1} | more)


def test_takes_says_what_and_why():
    for O in (1, 3, 8, 96, 192, 384):  # noqa: E741
        assert cuda.takes(dims(O=O)) is None
    for more, said in (
        ({"KH": 1, "KW": 1}, "3x3 pixels and 1 or 3 frames, got 3x1x1"),
        ({"stride": 2}, "stride, stride_t and interleave of 1"),
        ({"interleave": 2}, "interleave of 1"),
        ({"A": f32}, "needs bf16"),
        ({"C": 16}, "C in multiples of 32, got 16"),
        ({"O": 16}, "at most 8 output channels, 96, 192, 288 or 384, got 16"),
        ({"O": 768}, "at most 8 output channels, 96, 192, 288 or 384, got 768"),
        ({"F": 1 << 22}, "fewer than 2^31 numbers"),
    ):
        assert said in cuda.takes(dims(**more))
    assert cuda.takes_up(dims()) is None
    assert "needs 96, 192, 288 or 384 output channels, got 3" in cuda.takes_up(dims(O=3))
    assert "C in multiples of 32, got 6" in cuda.takes_up(dims(C=6))


@pytest.mark.parametrize("H,W", ((512, 512), (256, 256), (128, 128), (720, 416), (360, 208)))
def test_the_vae_wastes_little_of_its_tiles(H, W):
    pw = cuda._heuristic(None, H, W, 1)["pw"]
    assert H * W / (cuda.PIXELS * cuda.tiles(H, W, pw, cuda.PART)) > 0.97


def test_the_patch_with_the_fewest_tiles_is_taken_and_of_equals_the_narrowest():
    assert cuda._heuristic(None, 512, 512, 1) == {"pw": 8}
    assert cuda._heuristic(None, 720, 416, 1) == {"pw": 16}
    for H, W, up in itertools.product((1, 8, 33, 90), (1, 16, 33, 52), (1, 2)):
        pw = cuda._heuristic(None, H, W, up)["pw"]
        high = 256 // up**2 // pw
        assert cuda.tiles(H, W, pw, cuda.PART, up) == len(range(0, W, pw)) * len(range(0, H, high))
        assert all(cuda.tiles(H, W, pw, cuda.PART, up) <= cuda.tiles(H, W, p, cuda.PART, up) for p in cuda.PATCHES)


def test_the_python_side_knows_the_kernels_constants():
    maps = (ROOT / "csrc/ops/causal_conv3d/maps.cuh").read_text()
    assert f"PIXELS = {cuda.PIXELS};" in maps and f"BK = {cuda.CHANNELS}," in maps
    source = (ROOT / "csrc/ops/causal_conv3d/causal_conv3d.cu").read_text()
    for bn, enlarged in (("FEW", "false"), (96, "false"), (192, "false"), (96, "true"), (192, "true")):
        assert f"start<{bn}, {enlarged}>" in source
    assert [cuda.part(N) for N in (1, 8, 96, 192, 288, 384)] == [24, 24, 96, 192, 96, 192]
