"""The CUDA kernels whole, on the CPU: every index, cast, barrier and shuffle, against the float64 reference."""

import pytest
import torch
from cuda_cpu import CpuOps, cuda_include
from kv_cases import CHUNKS, KINDS, window

from liveact_kernels.contract import REGISTRY, Case, bf16
from liveact_kernels.ops.kv_compress import FIRST, kv_compress
from liveact_kernels.ops.kv_compress import cuda_kernel as kv
from liveact_kernels.ops.modulate import cuda_kernel as modulate
from liveact_kernels.ops.qkv_norm_rope import cuda_kernel as qkv

pytestmark = pytest.mark.skipif(cuda_include() is None, reason="needs nvcc's headers and g++")


def first(tokens, kind="bf16", **more):
    """The first block: its slots become the memory, which nothing precedes."""
    dims = {name: value for name, value in KINDS[kind].items() if name not in ("has_k_scale", "has_v_scale")}
    slots = {"k_dtype": dims.pop("KM"), "v_dtype": dims.pop("VM")}
    return dims | slots | {"R": 6 * tokens, "tokens": tokens, "S": 5, "schedule": FIRST} | more


KV = CHUNKS | {
    "straddle": dict(H=3, E=16, **window(7)),
    "four_heads": dict(H=8, E=16, **window(70)),
    "eight_bit": dict(H=2, E=16, **window(37, "eight_bit")),
    "codes": dict(H=2, E=16, **window(37, "codes")),
    "codes_first_block": dict(H=4, E=8, **first(18, "codes")),
    "temporal": dict(H=4, E=8, **window(33, grouping="temporal")),
    "temporal_eight_bit": dict(H=2, E=32, **window(9, "eight_bit", grouping="temporal")),
    "separate_v": dict(H=2, E=4, **window(8, has_taps_v=True)),
    "first_block": dict(H=4, E=64, **first(19)),
    "first_block_eight_bit": dict(H=3, E=64, **first(18, "eight_bit")),
}


@pytest.fixture(scope="module")
def kv_on_cpu(tmp_path_factory):
    return CpuOps(tmp_path_factory.mktemp("kv"), "kv_compress")


@pytest.fixture(scope="module")
def qkv_on_cpu(tmp_path_factory):
    return CpuOps(tmp_path_factory.mktemp("qkv"), "qkv_norm_rope")


def nan(shape, dtype):
    return torch.full((*shape, dtype.itemsize), 255, dtype=torch.uint8).view(dtype).squeeze(-1)


def made(op, dims):
    """(arguments, poisoned outputs, the reference's results) of a case."""
    args = op.make(Case("odd", **dims))
    d = op.dims(args)
    outs = [nan(s.shape(d), s.dtype_of(d)) if s.present(d) else None for s in op.out.values()]
    return args, outs, op.reference(**args)


def wrong(op, got, want):
    return [f"{name}: {said}" for name, ok, said in op.check(tuple(got), want) if not ok]


def update(ops, dims, falling=False, in_place=True):
    """What is wrong with kv_compress, in place as the model calls it, and with the copy for a peer."""
    args, outs, want = made(kv_compress, dims)
    assert kv.takes(kv_compress.dims(args)) is None
    if in_place and args["k_mem"] is not None:
        rows = slice(2 * args["tokens"], 6 * args["tokens"])
        mine = (args["k_mem"], args["v_mem"], args["k_scale"], args["v_scale"])
        outs = [None if m is None else m[rows] for m in mine]
    peer = [None if o is None else nan(o.shape, o.dtype) for o in outs]
    ops("kv_compress", *kv.operands(*outs, **args, peer=tuple(peer)), falling=falling)
    return wrong(kv_compress, outs, want) + wrong(kv_compress, peer, want)


@pytest.mark.parametrize("falling", [False, True], ids=["rising", "falling"])
@pytest.mark.parametrize("case", KV)
def test_kv_compress_in_place_on_the_cpu(kv_on_cpu, case, falling):
    assert not update(kv_on_cpu, KV[case], falling)


def test_kv_compress_into_other_tensors_without_a_peer(kv_on_cpu):
    args, outs, want = made(kv_compress, KV["eight_bit"])
    kv_on_cpu("kv_compress", *kv.operands(*outs, **args))
    assert not wrong(kv_compress, outs, want)


NORM = {"small": (6, 2, 32), "odd_heads": (9, 5, 64), "wide": (5, 40, 128), "walks": (14, 9, 128), "narrow": (9, 3, 8)}


def split(ops, dims, falling=False):
    """What is wrong with qkv_norm_rope and with the copy for a peer."""
    (L, H, D), op = dims, REGISTRY["qkv_norm_rope"]
    args, outs, want = made(op, {"L": L, "C": H * D, "E": D // 2, "A": bf16, "eps": 0.25})  # an eps that shows
    peer = [nan(o.shape, bf16) for o in outs[1:]]
    ops("qkv_norm_rope", *qkv.operands(*outs, **args, peer=tuple(peer)), falling=falling)
    return wrong(op, outs, want) + wrong(op, [outs[0], *peer], want)


@pytest.mark.parametrize("falling", [False, True], ids=["rising", "falling"])
@pytest.mark.parametrize("case", NORM)
def test_qkv_norm_rope_on_the_cpu(qkv_on_cpu, case, falling):
    assert not split(qkv_on_cpu, NORM[case], falling)


def split_8bit(ops, dims, falling=False):
    """What is wrong with qkv_norm_rope_8bit."""
    (L, H, D), op = dims, REGISTRY["qkv_norm_rope_8bit"]
    args, outs, want = made(op, {"L": L, "C": H * D, "E": D // 2, "A": bf16, "eps": 0.25})
    ops("qkv_norm_rope_8bit", *qkv.operands_8bit(*outs, **args), falling=falling)
    return wrong(op, outs, want)


@pytest.mark.parametrize("falling", [False, True], ids=["rising", "falling"])
@pytest.mark.parametrize("case", NORM)
def test_qkv_norm_rope_8bit_on_the_cpu(qkv_on_cpu, case, falling):
    assert not split_8bit(qkv_on_cpu, NORM[case], falling)


ROWS = {"small": (5, 96), "one_row": (1, 192), "ragged": (9, 1032), "wide": (7, 5120), "walks": (23, 320)}


def rows(ops, dims, falling=False):
    """What is wrong with modulate_quant, of rows that lie far from zero: their spread is no difference of squares."""
    (L, C), op = dims, REGISTRY["modulate_quant"]
    args, outs, _ = made(op, {"L": L, "C": C, "A": bf16, "eps": 0.25})
    args["x"] = (args["x"].float() + 50).to(bf16)
    ops("modulate_quant", *modulate.operands(*outs, **args), falling=falling)
    return wrong(op, outs, op.reference(**args))


@pytest.fixture(scope="module")
def modulate_on_cpu(tmp_path_factory):
    return CpuOps(tmp_path_factory.mktemp("modulate"), "modulate")


@pytest.mark.parametrize("falling", [False, True], ids=["rising", "falling"])
@pytest.mark.parametrize("case", ROWS)
def test_modulate_quant_on_the_cpu(modulate_on_cpu, case, falling):
    assert not rows(modulate_on_cpu, ROWS[case], falling)


BARRIER = "  __syncthreads();\n  x = 0.f;\n"
LARGEST = "#pragma unroll\n  for (int w = 0; w < THREADS / 32; ++w) x = fmaxf"
MUTATIONS = {
    "no barrier before the sum of the warps": ("qkv_norm_rope", BARRIER, "  x = 0.f;\n"),
    "no barrier after the taps": ("kv_compress", "  __syncthreads();\n  for (int e", "  for (int e"),
    "no wait for the cluster": ("kv_compress", "    if (OLD && p.overlaps) la::cluster_wait();\n", ""),
    "no cluster in temporal order": ("kv_compress", "raster != 0, memory > 0}", "raster != 0, raster && memory > 0}"),
    "codes of unrotated keys": ("qkv_norm_rope_8bit", "      la::rotate<false>(x[0], turn);\n", ""),
    "a head's scale of half of its lanes": ("qkv_norm_rope_8bit", "LANES : lanes) / 2", "LANES : lanes) / 4"),
    "one scale for all heads": ("qkv_norm_rope_8bit", "p.heads + head] = ", "p.heads] = "),
    "a scale by the next lower power": ("qkv_norm_rope_8bit", "+ 0x1FFFFF)", "+ 0)"),
    "one place for both sums": ("modulate_quant", "slots + WARPS)", "slots)"),
    "padding counts as variance": ("modulate_quant", "< p.words)  // padding", "< 9999)  // padding"),
    "the next row over this one": (
        "modulate_quant", "next);\n    const float mean", "next), Bf16::unpack(next[0], x[0]);\n    const float mean",
    ),
    "another half of the vectors": ("modulate_quant", "mul[(2 * n + half)", "mul[(2 * n + 1 - half)"),
    "no barrier before the largest": ("modulate_quant", BARRIER + LARGEST, "  x = 0.f;\n" + LARGEST),
    "one sum for all tokens": ("qkv_norm_rope", "turnabout * (THREADS / 32)", "0"),
}


@pytest.mark.parametrize("mutation", MUTATIONS)
def test_a_break_shows(tmp_path, mutation):
    op, text, instead = MUTATIONS[mutation]
    folder = {"qkv_norm_rope_8bit": "qkv_norm_rope", "modulate_quant": "modulate"}.get(op, op)
    broken = CpuOps(tmp_path, folder, (text, instead))
    run = {"kv_compress": update, "qkv_norm_rope": split, "qkv_norm_rope_8bit": split_8bit, "modulate_quant": rows}[op]
    if run is update:
        case = KV["bf16_temporal_1" if "temporal" in mutation else "bf16_raster_1"]
    else:
        case = ROWS["ragged"] if run is rows else NORM["walks"]
    assert any(run(broken, case, falling) for falling in (False, True)), f"nobody noticed: {mutation}"


def test_a_barrier_that_not_every_thread_reaches_is_a_deadlock(tmp_path):
    odd = ("  __syncthreads();\n  x = 0.f;", "  if (threadIdx.x) __syncthreads();\n  x = 0.f;")
    with pytest.raises(RuntimeError, match="deadlock"):
        split(CpuOps(tmp_path, "qkv_norm_rope", odd), NORM["small"])
