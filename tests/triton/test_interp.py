"""The patched interpreter rounds as torch does, and each patch is still needed: the stock function still fails."""

import numpy as np
import pytest
import torch
from conftest import INTERPRETED

tl = pytest.importorskip("triton.language", reason="triton is not installed: pip install 'liveact[triton]'")
triton = pytest.importorskip("triton")
if not INTERPRETED:
    pytest.skip("a GPU runs the compiled kernels", allow_module_level=True)
import interp  # noqa: E402 - imports triton

FP8, BF16 = (tl.float8e4nv, torch.float8_e4m3fn), (tl.bfloat16, torch.bfloat16)


def float_patterns(bits: int = 12) -> np.ndarray:
    """Float32 values of every sign and exponent with `bits` random mantissa bits, their ties and their neighbours."""
    heads = np.arange(1 << 9, dtype=np.uint32) << 23
    rng = np.random.default_rng(0)
    mantissas = rng.integers(0, 1 << bits, 300, dtype=np.uint32) << (23 - bits)
    values = (heads[:, None] | mantissas).ravel()
    near = np.concatenate([values, values + 1, values - 1]).astype(np.uint32).view(np.float32)
    return near[~np.isnan(near)]


def torch_codes(x: np.ndarray, dtype: torch.dtype) -> np.ndarray:
    limit = torch.finfo(dtype).max
    t = torch.from_numpy(x)
    if dtype.itemsize == 1:
        t = t.clamp(-limit, limit)
    t = t.to(dtype)
    return t.view(torch.uint8).numpy() if dtype.itemsize == 1 else t.view(torch.int16).numpy().view(np.uint16)


@pytest.mark.parametrize("kind,dtype", [FP8, BF16], ids=["e4m3", "bf16"])
def test_rounding_is_torchs(kind, dtype):
    x = float_patterns()
    assert np.array_equal(interp.convert(x, tl.float32, kind, None), torch_codes(x, dtype))


@pytest.mark.parametrize("kind,dtype", [FP8, BF16], ids=["e4m3", "bf16"])
def test_rounding_patch_is_still_needed(kind, dtype):
    x = float_patterns()
    wrong = (interp.STOCK["convert"](x, tl.float32, kind, None) != torch_codes(x, dtype)).sum()
    assert wrong, f"triton {triton.__version__} rounds to {kind} itself: drop it from interp.convert"


@pytest.mark.parametrize("kind,dtype", [FP8, BF16], ids=["e4m3", "bf16"])
def test_widening_is_exact_and_its_patch_still_needed(kind, dtype):
    codes = np.arange(1 << kind.primitive_bitwidth).astype(f"uint{kind.primitive_bitwidth}")
    signed = codes if codes.itemsize == 1 else codes.view(np.int16)
    want = torch.from_numpy(signed).view(dtype).float().numpy()
    got = interp.convert(codes, kind, tl.float32, None).view(np.float32)
    np.testing.assert_array_equal(got, want)
    stock = interp.STOCK["convert"](codes, kind, tl.float32, None).view(np.float32)
    same = np.array_equal(stock, want, equal_nan=True)
    assert not same, f"triton {triton.__version__} widens {kind} itself: drop it from interp.convert"


def product(dot, dtype) -> tuple[np.ndarray, np.ndarray]:
    """(result, exact) of an 8x16 by 16x8 product through one of the two dot functions."""
    g = torch.Generator().manual_seed(0)
    a, b = (torch.randn(s, generator=g).to(dtype) for s in ((8, 16), (16, 8)))
    kind = next(k for k, v in interp.FLOATS.items() if v == dtype)
    view = torch.uint8 if dtype.itemsize == 1 else torch.int16
    a_, b_ = (interp.interpreter.TensorHandle(t.view(view).numpy().view(interp._unsigned(kind)), kind) for t in (a, b))
    zero = interp.interpreter.TensorHandle(np.zeros((8, 8), np.float32), tl.float32)
    return dot(interp.interpreter.interpreter_builder, a_, b_, zero, None, 0).data, (a.double() @ b.double()).numpy()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float8_e4m3fn], ids=["bf16", "e4m3"])
def test_dot_widens(dtype):
    got, want = product(interp.dot, dtype)
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)


def test_bf16_dot_patch_is_still_needed():
    got, want = product(interp.STOCK["dot"], torch.bfloat16)
    right = np.allclose(got, want, rtol=1e-3, atol=1e-3)
    assert not right, f"triton {triton.__version__} multiplies bf16 itself: drop interp.dot"


def to_int8(cast, values):
    x = interp.interpreter.TensorHandle(np.array(values, np.float32), tl.float32)
    return cast(interp.interpreter.interpreter_builder, x, tl.int8).data


def test_int8_cast_truncates_and_refuses_what_the_chip_leaves_undefined():
    assert to_int8(interp.cast, [1.9, -1.9, 127.9, -128.9]).tolist() == [1, -1, 127, -128]
    with pytest.raises(OverflowError, match="int8"):
        to_int8(interp.cast, [128.0])
    with pytest.raises(OverflowError, match="int8"):
        to_int8(interp.cast, [float("nan")])


def test_int8_cast_patch_is_still_needed():
    with np.errstate(invalid="ignore"):
        to_int8(interp.STOCK["cast"], [300.0])  # stock accepts it in silence; once it raises, drop interp.cast
