"""The CUDA extension without a GPU: what it links, what it refuses, and the code that host and device share."""

import importlib.util
import subprocess
import sys

import pytest
import torch

from liveact_kernels.contract import REGISTRY, Dims, bf16, cast, fp8, int8
from liveact_kernels.ops.kv_compress import cuda_kernel as kv
from liveact_kernels.ops.kv_compress import kv_compress
from liveact_kernels.ops.qkv_norm_rope import cuda_kernel as qkv

if importlib.util.find_spec("liveact_kernels._C") is None:
    pytest.skip("liveact_kernels._C is not built (no nvcc?)", allow_module_level=True)

from liveact_kernels import _C

without_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")


def at(t):
    return t.data_ptr()


# ---- the module -------------------------------------------------------------------------------------------------


def test_it_says_what_it_was_built_with():
    assert _C.ARCHS == ("sm_90a",)
    assert _C.CUDART // 1000 == int(_C.BUILD["nvcc"].split(".")[0])


def test_it_needs_neither_torch_nor_a_cuda_library():
    needs = subprocess.run(["ldd", _C.__file__], capture_output=True, text=True, check=True).stdout
    assert "libstdc++" in needs
    assert not any(name in needs for name in ("torch", "c10", "cuda", "cublas"))


def test_it_imports_without_torch():
    code = "import sys; sys.path.insert(0, sys.argv[1]); import _C; print('torch' in sys.modules, _C.ARCHS)"
    folder = _C.__file__.rpartition("/")[0]
    said = subprocess.run([sys.executable, "-c", code, folder], capture_output=True, text=True, check=True).stdout
    assert said.strip() == "False ('sm_90a',)"


@without_gpu
def test_a_launch_without_a_gpu_names_the_op_and_the_reason():
    with pytest.raises(RuntimeError, match=r"^qkv_norm_rope: .*driver"):
        _C.qkv_norm_rope(*[0] * 9, 8, 1, 8, 1e-6, 0)


@pytest.mark.parametrize(
    "values,said",
    [
        ((1, 2), "host_rotate: expected 4 arguments, got 2"),
        (("x", 0, 1, 0), "host_rotate: argument 0: expected an address as an integer, got 'x'"),
        ((-1, 0, 1, 0), "host_rotate: argument 0: expected an address as an integer, got -1"),
        ((0, 0, 1.5, 0), "host_rotate: argument 2: expected an integer, got 1.5"),
        ((0, 0, 2**63, 0), f"host_rotate: argument 2: expected an integer, got {2**63}"),
    ],
)
def test_wrong_arguments_are_named(values, said):
    with pytest.raises(TypeError) as caught:
        _C.host_rotate(*values)
    assert str(caught.value) == said


def test_a_refusal_of_the_op_is_a_value_error():
    with pytest.raises(ValueError, match="host_cast: expected kind 0, 1 or 2"):
        _C.host_cast(0, 0, 0, 0, 3)
    with pytest.raises(ValueError, match="host_scale: expected kind 1 or 2"):
        _C.host_scale(0, 0, 0, 0, 0)
    with pytest.raises(ValueError, match="qkv_norm_rope: expected D of 8"):
        _C.qkv_norm_rope(*[0] * 9, 8, 1, 24, 1e-6, 0)
    with pytest.raises(ValueError, match="kv_compress: expected at most 8 entries"):
        _C.kv_compress(*[0] * 20, 9, 8, 0, 1, 8, 0, 1, 0)


# ---- what host and device share ---------------------------------------------------------------------------------


def every_float():
    """All signs, exponents and leading seven bits, with what follows at, above and below each rounding's ties."""
    high = torch.arange(1 << 16, dtype=torch.int64)[:, None] << 16
    low = torch.tensor([0, 1, 0x4000, 0x7FFF, 0x8000, 0x8001, 0xC000, 0xFFFF])
    return (high | low).flatten().to(torch.int32).view(torch.float32)


@pytest.mark.parametrize("kind,dtype", [(0, bf16), (1, int8), (2, fp8)])
def test_casts_round_to_nearest_even_and_saturate(kind, dtype):
    x = every_float()
    if dtype == int8:
        small = torch.arange(-130 * 64, 130 * 64) / 64  # all halves of integers and what lies between
        x = torch.cat((x[~x.isnan()], small))
    x = x[: x.numel() // 8 * 8]
    codes, back = torch.empty(x.shape, dtype=dtype), torch.empty_like(x)
    _C.host_cast(at(x), at(codes), at(back), x.numel(), kind)
    want = cast(x, dtype).float()
    assert torch.equal(codes.float().nan_to_num(nan=1e6), want.nan_to_num(nan=1e6))
    assert torch.equal(back.nan_to_num(nan=1e6), want.nan_to_num(nan=1e6))
    assert torch.equal(codes.float().signbit()[want == 0], want.signbit()[want == 0])


@pytest.mark.parametrize("kind,most", [(1, 127.0), (2, 448.0)])
def test_the_largest_of_a_group_sets_its_scale(kind, most):
    x = every_float()
    x = torch.cat((x[x.isfinite() & (x >= 0)], 448.0 * 2.0 ** torch.arange(-60, 100)))  # where the exponent steps
    scale, inverse = torch.empty_like(x), torch.empty_like(x)
    _C.host_scale(at(x), at(scale), at(inverse), x.numel(), kind)
    want = (x.double() / most).clamp_min(1e-12)
    if kind == 2:
        assert torch.equal(scale.double(), 2.0 ** want.float().double().log2().ceil())
        assert torch.equal(inverse.double(), 1 / scale.double())
    else:
        assert ((scale - want) / want).abs().max() < 2**-22
        assert (inverse * scale.double() - 1).abs().max() < 2**-22


def test_infinity_shows_in_the_scale():
    x, scale, inverse = torch.full((1,), float("inf")), torch.empty(1), torch.empty(1)
    for kind in (1, 2):
        _C.host_scale(at(x), at(scale), at(inverse), 1, kind)
        assert scale.isinf(), kind


@pytest.mark.parametrize("inverse", [False, True])
def test_rotation_is_a_complex_product(inverse):
    g = torch.Generator().manual_seed(0)
    x, angle = torch.randn(50, 8, generator=g), torch.rand(50, 4, generator=g) * 6.3
    turn = torch.stack((angle.cos(), angle.sin()), -1).flatten(1)
    z = torch.view_as_complex(x.double().unflatten(1, (4, 2)))
    by = torch.polar(torch.ones(50, 4, dtype=torch.double), -angle.double() if inverse else angle.double())
    want = torch.view_as_real(z * by).flatten(1)
    _C.host_rotate(at(x), at(turn), 50, int(inverse))
    assert (x - want).abs().max() < 1e-6


@pytest.mark.parametrize("raster", [True, False])
@pytest.mark.parametrize("count", [1, 5])
@pytest.mark.parametrize("tokens", [1, 4, 5, 7, 1170])
def test_taps_read_the_rows_that_the_reference_reads(tokens, count, raster):
    rows = torch.full((tokens, count, 2), -1)
    _C.host_sources(at(rows), tokens, count, int(raster))
    flat = torch.arange(count * tokens)
    flat = flat.view(tokens, count) if raster else flat.view(count, tokens).T
    assert torch.equal(rows, torch.stack((flat // tokens, flat % tokens), -1))


# ---- what never reaches a kernel --------------------------------------------------------------------------------


def arguments(op, case):
    """(arguments, outputs) of one of the op's cases."""
    args = op.make(next(c for c in op.cases if c.id == case))
    d = op.dims(args)
    return args, [torch.empty(s.shape(d), dtype=s.dtype_of(d)) if s.present(d) else None for s in op.out.values()]


def shifted(t, by):
    """The same values `by` bytes past an aligned address."""
    raw = torch.empty(t.numel() * t.itemsize + 64, dtype=torch.uint8)
    begin = -raw.data_ptr() % 64 + by
    return raw[begin : begin + t.numel() * t.itemsize].view(t.dtype).view(t.shape).copy_(t)


@pytest.mark.parametrize("name,by,least", [("k_mem", 8, 16), ("rope", 4, 16), ("k_scale", 2, 4)])
def test_a_misaligned_argument_is_named(name, by, least):
    args, outs = arguments(kv_compress, "eight_bit")
    args[name] = shifted(args[name].view(torch.uint8), by)
    said = f"kv_compress: {name} must start at a multiple of {least} bytes, got {by} past"
    with pytest.raises(ValueError, match=said):
        kv.operands(*outs, **args)


def test_a_misaligned_output_is_named():
    args, (q, k, v) = arguments(REGISTRY["qkv_norm_rope"], "tiny")
    with pytest.raises(ValueError, match="qkv_norm_rope: k must start at a multiple of 16 bytes, got 2 past"):
        qkv.operands(q, shifted(k, 2), v, **args)


def test_cpu_tensors_are_refused():
    args, outs = arguments(REGISTRY["qkv_norm_rope"], "tiny")
    with pytest.raises(ValueError, match="qkv_norm_rope: backend cuda needs tensors on a CUDA device, got cpu"):
        qkv.launch(*outs, **args)


@pytest.mark.parametrize(
    "launch,dims,said",
    [
        (qkv.launch, {"A": torch.float32, "C": 64, "D": 32}, "needs bf16, got torch.float32"),
        (qkv.launch, {"A": bf16, "C": 5128, "D": 8}, "needs at most 5120 channels, got 5128"),
        (qkv.launch, {"A": bf16, "C": 120, "D": 24}, "needs D of 8, 16, 32, 64, 128 or 256, got 24"),
        (kv.launch, {"k_dtype": int8, "v_dtype": bf16}, "needs bf16, or slots of int8 keys and e4m3 values"),
        (kv.launch, {"D": 40}, "needs D of 8, 16, 32, 64, 128 or 256, got 40"),
        (kv.launch, {"S": 4}, "needs 5 taps, got 4"),
        (kv.launch, {"schedule": ((0, (1, 2)),)}, "needs at most 8 entries of 1 or 5 sources"),
    ],
)
def test_what_a_kernel_does_not_take_has_a_reason(launch, dims, said):
    kinds = {"A": bf16, "KN": bf16, "VN": bf16, "k_dtype": bf16, "v_dtype": bf16, "D": 64, "S": 5, "schedule": ()}
    assert said in launch.takes(Dims(**kinds | dims))


def test_every_real_shape_is_taken():
    for op in (kv_compress, REGISTRY["qkv_norm_rope"]):
        for case in (c for c in op.cases if c.rung == "device"):
            assert op.refused("cuda", op.dims_of(case)) is None, case
