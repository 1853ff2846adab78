"""fp8_linear in CUDA C++: the whole kernel on the CPU (copies, barriers, products, epilogue); the choice of tile."""

import itertools

import pytest
import torch
from conftest import ROOT
from cuda_cpu import CpuOps, cuda_include

from liveact_kernels.contract import REGISTRY, Case, Dims, bf16, f32, fp8
from liveact_kernels.ops.fp8_linear import cuda_kernel as cuda

needs_headers = pytest.mark.skipif(cuda_include() is None, reason="needs nvcc's headers and g++")


def case(op, M, N, K, bn, side, G=1, promote=1, band=8, has_b=True, kind=bf16):
    """(op, dims, configuration); the configuration is given, not chosen."""
    dims = {"M": M, "N": N, "K": K, "G": G, "has_b": has_b}
    dims |= {} if op == "gelu" else {"A": kind} if op else {"out_dtype": kind}
    return f"fp8_linear_{op}".rstrip("_"), dims, {"bn": bn, "side": side, "promote": promote, "band": band}


CASES = {  # M and N end inside tiles, K inside a step; the ring turns over several times
    "wide": case("", 70, 264, 1200, 256, 0),
    "wide_beside": case("", 300, 520, 400, 256, 1, has_b=False),
    "fast": case("", 140, 264, 1296, 256, 1, promote=0),
    "fast_160": case("", 270, 328, 784, 160, 0, promote=0),
    "float32": case("", 130, 136, 272, 128, 0, kind=f32),
    "float32_walks": case("", 40, 648, 144, 128, 0, kind=f32),
    "gelu": case("gelu", 140, 384, 272, 256, 1),
    "gelu_narrow": case("gelu", 300, 384, 400, 128, 0, band=1),
    "gelu_fast": case("gelu", 30, 128, 144, 256, 0, promote=0, has_b=False),
    "gate_160": case("gate", 270, 328, 1024, 160, 1, G=8),
    "gate_wide": case("gate", 270, 328, 768, 256, 1, G=3, band=1, has_b=False),
    "gate_float32": case("gate", 34, 136, 144, 128, 1, kind=f32),
    "residual": case("residual", 130, 328, 1152, 128, 1, G=9),
    "residual_tokens": case("residual", 257, 16, 256, 256, 0),
}


def run(ops, op, args, config, outs, sms=2, falling=False):
    """The kernel on the CPU, as the backend calls it."""
    rest = {k: v for k, v in args.items() if k != "out_dtype"}
    with cuda.tuned.pinned(**config):
        values = cuda.operands(op.name, outs[0], outs[1] if len(outs) > 1 else None, **rest)
    ops("fp8_linear", *values[:-1], sms, falling=falling)


def wrong(ops, name, clusters=2, falling=False):
    """What is wrong with a case's outputs, poisoned before."""
    op, dims, config = CASES[name]
    op = REGISTRY[op]
    args = op.make(Case(name, **dims))
    d = op.dims(args)
    outs = [torch.full((*s.shape(d), s.dtype_of(d).itemsize), 255, dtype=torch.uint8) for s in op.out.values()]
    outs = [o.view(s.dtype_of(d)).squeeze(-1) for o, s in zip(outs, op.out.values())]
    run(ops, op, args, config, outs, sms=2 * clusters, falling=falling)
    return [f"{n}: {said}" for n, ok, said in op.check(tuple(outs), op.reference(**args)) if not ok]


@pytest.fixture(scope="module")
def on_cpu(tmp_path_factory):
    return CpuOps(tmp_path_factory.mktemp("fp8_linear"), "fp8_linear")


@needs_headers
@pytest.mark.parametrize("falling", (False, True), ids=("rising", "falling"))
@pytest.mark.parametrize("name", CASES)
def test_kernel_matches_reference(on_cpu, name, falling):
    assert wrong(on_cpu, name, falling=falling) == []


@needs_headers
def test_one_cluster_walks_every_tile(on_cpu):
    assert wrong(on_cpu, "gate_160", clusters=1) == []


BREAKS = {
    "products do not wait for copies": (
        "gate_wide",
        "    view.wait(turn.stage, turn.parity);\n#pragma unroll",
        "#pragma unroll",
    ),
    "a stage is given back before its products end": (
        "gate_wide",
        "if (part == BN / N - 1) view.release(turn.stage);",
        "if (part == 0) view.release(turn.stage);",
    ),
    "the other block does not hear that a stage is free": (
        "gate_160",
        "hopper::barrier_arrive(empty + stage * BARRIER, threadIdx.x % 32)",
        "hopper::barrier_arrive(empty + stage * BARRIER, hopper::cluster_rank())",
    ),
    "a block ends while the other needs it": ("residual", "  cluster_sync();  // a block must not end", "  //"),
    "copies start before the other block has its barriers": ("residual", "  cluster_sync();  // no copy", "  //"),
    "a group's scale is kept for the next": ("gate_160", "      left = per_group;", "      left = 2 * per_group;"),
    "the columns' vectors are not waited for": ("wide", "    hopper::words_wait();\n", ""),
    "a lane fetches the next tile's vectors while others need the last": (
        "float32_walks",
        "    __syncwarp();  // every lane",
        "    //",
    ),
    "a row's scale goes to the row eight below": ("gate_160", "scale[i / 2 % 2]", "scale[1 - i / 2 % 2]"),
}


@needs_headers
@pytest.mark.parametrize("what", BREAKS)
def test_a_broken_kernel_is_caught(tmp_path, what):
    name, text, instead = BREAKS[what]
    broken = CpuOps(tmp_path, "fp8_linear", (text, instead))
    try:
        assert wrong(broken, name) or wrong(broken, name, falling=True)
    except RuntimeError as error:
        assert "barrier" in str(error)


@needs_headers
def test_only_promoted_sums_survive_fourteen_bits_on_values_of_one_sign(on_cpu):
    name, dims, config = case("", 8, 16, 5120, 128, 0, has_b=False)
    op = REGISTRY[name]
    args = op.make(Case("one_sign", **dims))
    args["a8"], args["w8"] = (args[a].float().abs().to(fp8) for a in ("a8", "w8"))

    def accepted(promote, bits):
        out = torch.empty(8, 16, dtype=bf16)
        on_cpu._library.keep_bits(bits)
        run(on_cpu, op, args, config | {"promote": promote}, [out])
        on_cpu._library.keep_bits(0)
        return op.check(out, op.reference(**args))[0][1]

    assert accepted(promote=1, bits=14) and accepted(promote=0, bits=0) and not accepted(promote=0, bits=14)


@needs_headers
def test_the_host_function_says_what_it_does_not_take(on_cpu):
    pointers = [16, 0, 16, 16, 16, 16, 0, 0, 0]
    good = {"M": 8, "N": 256, "K": 128, "G": 1, "kind": 0, "bn": 256, "promote": 1, "band": 8, "side": 0, "sms": 2}
    for change, said in (
        ({"K": 40}, "K a multiple of 16, got 40"),
        ({"N": 36}, "N a multiple of 8"),
        ({"kind": 2, "N": 136}, "N a multiple of 128"),
        ({"G": 2}, "groups that 128 divides"),
        ({"G": 2, "K": 512, "promote": 0}, "promote=1"),
        ({"kind": 2, "bn": 160}, "a compiled tile .* got 160"),
        ({"side": 2}, "side 0 or 1"),
    ):
        with pytest.raises(RuntimeError, match=said):
            on_cpu("fp8_linear", *pointers, *(good | change).values())
    for misaligned in ([8, *pointers[1:]], [*pointers[:2], 8, *pointers[3:]]):
        with pytest.raises(RuntimeError, match="aligned to 16 bytes"):
            on_cpu("fp8_linear", *misaligned, *good.values())


def test_takes_says_what_and_why():
    down, up = Dims(M=9360, N=5120, K=13824, G=108), Dims(M=9360, N=13824, K=5120, G=1)
    assert cuda.takes(down) is None and cuda.fp8_linear_gelu.takes(up) is None
    assert "K in multiples of 16, got 36" in cuda.takes(Dims(M=3, N=40, K=36, G=2))
    assert "N in multiples of 8, got 20" in cuda.takes(Dims(M=3, N=20, K=128, G=1))
    assert "N in multiples of 128, got 136" in cuda.fp8_linear_gelu.takes(Dims(M=3, N=136, K=128, G=1))
    assert "per 128 channels (or a multiple), got one per 96" in cuda.takes(Dims(M=3, N=40, K=192, G=2))


def test_an_address_inside_a_vector_is_refused():
    op = REGISTRY["fp8_linear"]
    args = op.make(Case("c", M=2, N=16, K=32, G=1, has_b=True, out_dtype=bf16))
    args["w_scale"] = torch.rand(17)[1:]
    with pytest.raises(ValueError, match="fp8_linear: w_scale must start at a multiple of 16 bytes"):
        cuda.fp8_linear(torch.empty(2, 16, dtype=bf16), **args)


@pytest.mark.parametrize("M", (8192, 9360, 4096, 4680))
@pytest.mark.parametrize(
    "N,K,out", ((15360, 5120, "bf16"), (5120, 5120, "bf16"), (13824, 5120, "e4m3"), (5120, 13824, "bf16"))
)
def test_live_shapes_lose_little_to_the_last_wave(M, N, K, out):
    bn, side = cuda.tile(M, N, K, 132, out)
    assert bn in cuda.WIDTHS[out]
    useful = M * N / (132 * cuda.waves(M, N, bn, side, 132) * cuda.ROWS * bn)
    assert useful > 0.92, f"{useful:.3f} of the tiles' outputs are wanted with {bn} columns"


def test_waves_are_counted_as_clusters_walk():
    for M, N, bn, side, sms in itertools.product((1, 257, 9360), (8, 5120), (128, 160, 256), (0, 1), (2, 66, 132)):
        rows, columns = (128, 2 * bn) if side else (256, bn)
        tiles = len(range(0, M, rows)) * len(range(0, N, columns))
        busiest = len(range(0, tiles, sms // 2))
        assert cuda.waves(M, N, bn, side, sms) == busiest


def test_a_narrower_tile_is_chosen_where_it_saves_a_wave():
    assert cuda.tile(128, 5120, 5120, 132, "bf16") == (128, 0)
    assert cuda.tile(128, 5120, 5120, 132, "e4m3") == (128, 0)
    assert cuda.tile(4680, 15360, 5120, 132, "bf16") == (256, 1)
    for M in (8192, 9360):
        assert cuda.tile(M, 5120, 5120, 132, "bf16") == cuda.tile(M, 13824, 5120, 132, "e4m3") == (256, 0)


def test_the_table_names_what_is_compiled():
    source = (ROOT / "csrc/ops/fp8_linear/fp8_linear.cu").read_text()
    for out, name in (("bf16", "bf16"), ("f32", "float"), ("e4m3", "e4m3")):
        for bn in cuda.WIDTHS[out]:
            assert f"compiled<{bn}, true, {name}>" in source, f"no tile of {bn} columns for {out} is compiled"
