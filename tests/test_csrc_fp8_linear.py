"""fp8_linear in CUDA C++: the whole kernel on the CPU (copies, barriers, products, epilogues), and its choice of tile."""

import itertools

import pytest
import torch
from cuda_cpu import CpuOps, cuda_include

from liveact_kernels.contract import REGISTRY, Case, bf16, f32, fp8
from liveact_kernels.ops.fp8_linear import cuda_kernel as cuda
from liveact_kernels.spec import Dims

needs_headers = pytest.mark.skipif(cuda_include() is None, reason="needs nvcc's headers and g++")

BF16 = {"fp8_linear": {"out_dtype": bf16}, "fp8_linear_gate": {"A": bf16}, "fp8_linear_residual": {"A": bf16}}
CASES = {
    # name: op, configuration, dims. M and N end inside tiles, K inside a step; the ring turns over several times.
    "wide": ("fp8_linear", dict(bn=256, side=0), dict(M=70, N=264, K=1200, G=1)),
    "wide_beside": ("fp8_linear", dict(bn=256, side=1), dict(M=300, N=520, K=400, G=1, has_b=False)),
    "fast": ("fp8_linear", dict(bn=256, side=1, promote=0), dict(M=140, N=264, K=1296, G=1)),
    "fast_160": ("fp8_linear", dict(bn=160, side=0, promote=0), dict(M=270, N=328, K=784, G=1)),
    "float32": ("fp8_linear", dict(bn=128, side=0), dict(M=130, N=136, K=272, G=1, out_dtype=f32)),
    "gelu": ("fp8_linear_gelu", dict(bn=256, side=1), dict(M=140, N=384, K=272, G=1)),
    "gelu_narrow": ("fp8_linear_gelu", dict(bn=128, side=0, band=1), dict(M=300, N=384, K=400, G=1)),
    "gelu_fast": ("fp8_linear_gelu", dict(bn=256, side=0, promote=0), dict(M=30, N=128, K=144, G=1, has_b=False)),
    "gate_160": ("fp8_linear_gate", dict(bn=160, side=1), dict(M=270, N=328, K=1024, G=8)),
    "gate_wide": ("fp8_linear_gate", dict(bn=256, side=1, band=1), dict(M=270, N=328, K=768, G=3, has_b=False)),
    "gate_float32": ("fp8_linear_gate", dict(bn=128, side=1), dict(M=34, N=136, K=144, G=1, A=f32)),
    "residual": ("fp8_linear_residual", dict(bn=128, side=1), dict(M=130, N=328, K=1152, G=9)),
    "residual_tokens": ("fp8_linear_residual", dict(bn=256, side=0), dict(M=257, N=16, K=256, G=1)),
}


def wrong(ops, name, clusters=2):
    """What is wrong with a case's outputs, poisoned before; the configuration is given, not chosen."""
    op, config, dims = CASES[name]
    op = REGISTRY[op]
    args = op.make(Case(name, **{"has_b": True} | BF16.get(op.name, {}) | dims))
    d = op.dims(args)
    outs = [torch.full((*s.shape(d), s.dtype_of(d).itemsize), 255, dtype=torch.uint8) for s in op.out.values()]
    outs = [o.view(s.dtype_of(d)).squeeze(-1) for o, s in zip(outs, op.out.values())]
    rest = {k: v for k, v in args.items() if k != "out_dtype"}
    config = {"promote": 1, "band": 8} | config
    with cuda.tuned.pinned(**config):
        values = cuda.operands(op.name, outs[0], outs[1] if len(outs) > 1 else None, **rest)
    ops("fp8_linear", *values[:-1], 2 * clusters)
    return [f"{n}: {said}" for n, ok, said in op.check(tuple(outs), op.reference(**args)) if not ok]


@pytest.fixture(scope="module")
def on_cpu(tmp_path_factory):
    return CpuOps(tmp_path_factory.mktemp("fp8_linear"), "fp8_linear")


@needs_headers
@pytest.mark.parametrize("name", CASES)
def test_kernel_matches_reference(on_cpu, name):
    assert wrong(on_cpu, name) == []


@needs_headers
def test_one_cluster_walks_every_tile(on_cpu):
    assert wrong(on_cpu, "gate_160", clusters=1) == []


BREAKS = {
    "products do not wait for copies": (
        "gate_wide",
        "    hopper::barrier_wait(ring.full + turn.stage, turn.parity);\n#pragma unroll",
        "#pragma unroll",
    ),
    "a stage is given back before its products end": (
        "gate_wide",
        "if (part == BN / N - 1) release(ring.empty + turn.stage);",
        "if (part == 0) release(ring.empty + turn.stage);",
    ),
    "the other block does not hear that a stage is free": (
        "gate_160",
        "hopper::barrier_arrive(empty, threadIdx.x % 32)",
        "hopper::barrier_arrive(empty, hopper::cluster_rank())",
    ),
    "a block ends while the other needs it": ("residual", "  cluster_sync();  // a block must not end", "  //"),
    "a row's scale goes to the row eight below": ("gate_160", "scale[i / 2 % 2]", "scale[1 - i / 2 % 2]"),
}


@needs_headers
@pytest.mark.parametrize("what", BREAKS)
def test_a_broken_kernel_is_caught(tmp_path, what):
    name, text, instead = BREAKS[what]
    broken = CpuOps(tmp_path, "fp8_linear", (text, instead))
    try:
        assert wrong(broken, name)
    except RuntimeError as error:
        assert "barrier" in str(error)


@needs_headers
def test_the_host_function_says_what_it_does_not_take(on_cpu):
    pointers = [16, 0, 16, 16, 16, 16, 0, 0, 0]
    good = dict(M=8, N=256, K=128, G=1, kind=0, bn=256, promote=1, band=8, side=0, sms=2)
    for change, said in (
        (dict(K=40), "K a multiple of 16"),
        (dict(N=36), "N a multiple of 8"),
        (dict(kind=2, N=136), "N a multiple of 128"),
        (dict(G=2), "groups that 128 divides"),
        (dict(G=2, K=512, promote=0), "promote=1"),
        (dict(kind=2, bn=160), "a compiled tile"),
        (dict(side=2), "side 0 or 1"),
    ):
        with pytest.raises(RuntimeError, match=said):
            on_cpu("fp8_linear", *pointers, *(good | change).values())
    with pytest.raises(RuntimeError, match="aligned to 16 bytes"):
        on_cpu("fp8_linear", 8, *pointers[1:], *good.values())


def test_takes_says_what_and_why():
    good = dict(M=9360, N=5120, K=13824, G=108)
    assert cuda.takes(Dims(**good)) is None and cuda.fp8_linear_gelu.takes(Dims(**good)) is None
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
    bn, side = cuda.tile(M, N, K, 132, cuda.WIDTHS[out])
    assert bn in cuda.WIDTHS[out]
    useful = M * N / (132 * cuda.waves(M, N, bn, side, 132) * cuda.ROWS * bn)
    assert useful > 0.93, f"{useful:.3f} of the tiles' outputs are wanted with {bn} columns"


def test_waves_are_counted_as_clusters_walk():
    for M, N, bn, side, sms in itertools.product((1, 257, 9360), (8, 5120), (128, 160, 256), (0, 1), (2, 66, 132)):
        rows, columns = (128, 2 * bn) if side else (256, bn)
        tiles = len(range(0, M, rows)) * len(range(0, N, columns))
        busiest = len(range(0, tiles, sms // 2))
        assert cuda.waves(M, N, bn, side, sms) == busiest


def test_a_narrower_tile_is_chosen_where_it_saves_a_wave():
    assert cuda.tile(8192, 5120, 5120, 132, cuda.WIDTHS["bf16"]) == (256, 0)
    assert cuda.tile(9360, 5120, 5120, 132, cuda.WIDTHS["bf16"]) == (160, 0)
    assert cuda.tile(4680, 5120, 5120, 132, cuda.WIDTHS["bf16"]) == (160, 1)
    assert cuda.tile(9360, 13824, 5120, 132, cuda.WIDTHS["e4m3"]) == (256, 0)


def test_the_table_names_what_is_compiled():
    source = (cuda_source := CpuOps.__init__.__globals__["ROOT"] / "csrc/ops/fp8_linear/fp8_linear.cu").read_text()
    for out, name in (("bf16", "bf16"), ("f32", "float"), ("e4m3", "e4m3")):
        for bn in cuda.WIDTHS[out]:
            assert f"compiled<{bn}, true, {name}>" in source, f"{cuda_source.name} lacks {bn} columns of {out}"


def test_outputs_of_the_contract_are_the_kinds():
    assert {cuda.SHORT[t] for t in (bf16, f32, fp8)} == set(cuda.KINDS) == set(cuda.WIDTHS)
