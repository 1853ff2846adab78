"""4-bit codes in Triton: every tie and its neighbours, the block-scaled product, tiles, epilogues in parts."""

import math

import numpy as np
import pytest
import torch
from conftest import INTERPRETED
from test_parity import reference

from liveact_kernels import ops
from liveact_kernels.common import fp4
from liveact_kernels.contract import Case, bf16, fp8, poisoned, u8, use
from liveact_kernels.ops.fp4_linear import _dims

tl = pytest.importorskip("triton.language", reason="triton is not installed: pip install 'liveact[triton]'")
triton = pytest.importorskip("triton")
from liveact_kernels import tuned  # noqa: E402 - imports triton
from liveact_kernels.common.triton_fp4 import e2m1, four_bits  # noqa: E402

MANY = {"M": 150, "N": 320, "has_b": True, **_dims(160, fp8)}


@triton.jit
def codes_kernel(codes, rounded, x, N: tl.constexpr):
    at = tl.arange(0, N)
    tl.store(codes + at, e2m1(tl.load(x + at)).to(tl.uint8))
    tl.store(rounded + at, four_bits(tl.abs(tl.load(x + at))))


def test_codes_and_four_bits_are_those_of_torch_on_every_tie_and_its_neighbours(device):
    steps = torch.arange(1, 257) / 16  # every middle of two values, and of two scales of four bits, is among them
    x = torch.cat([steps, *(torch.nextafter(steps, torch.tensor(to)) for to in (0.0, math.inf))])
    x = torch.cat((x, -x, torch.zeros(2048 - 2 * len(x))))
    x = x.to(device)
    codes, rounded = torch.empty_like(x, dtype=u8), torch.empty_like(x)
    codes_kernel[(1,)](codes, rounded, x, len(x))
    assert torch.equal(codes, fp4.e2m1(x))
    some = x != 0
    assert torch.equal(rounded[some], fp4.four_bits(x.abs())[some])


@pytest.mark.parametrize("scale_dtype", (fp8, u8), ids=("nvfp4", "mxfp4"))
def test_ties_of_bf16_values_go_where_torch_sends_them(scale_dtype, device):
    """Multiples of a sixteenth of the scale: a product with the reciprocal would break many ties the wrong way."""
    scales = torch.tensor([8, 9, 10, 11, 12, 13, 14, 15])
    ties = torch.tensor([0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5.0, 6.0] * 4)
    x = (scales[:, None] * ties).to(device, bf16)
    with use(quant_fp4="torch"):
        want = ops.quant_fp4(x=x, scale_dtype=scale_dtype)
    with use(quant_fp4="triton"):
        got = ops.quant_fp4(x=x, scale_dtype=scale_dtype)
    for g, w in zip(got, want):
        assert g is w is None or torch.equal(g.view(u8), w.view(u8))


def test_nan_is_seen_in_its_row_and_leaves_others_alone(device):
    x = torch.randn(3, 96, generator=torch.Generator().manual_seed(0))
    clean = x.clone()
    x[1, 7] = math.nan
    for scale_dtype in (fp8, u8):
        with use(quant_fp4="triton"):
            got, right = (ops.quant_fp4(x=t.to(device), scale_dtype=scale_dtype) for t in (x, clean))
        back = fp4.dequantise_fp4(*got)
        assert back[1].isnan().any() and torch.equal(back[[0, 2]], fp4.dequantise_fp4(*right)[[0, 2]])


def run(op, case, device):
    if why := op.refused("triton", op.dims_of(case)):
        pytest.skip(why)
    inputs = op.make(case, device)
    with use(**{op.name: "triton"}), poisoned():
        got = op(**inputs)
    for name, ok, said in op.check(got, reference(op, inputs)):
        assert ok, f"{op.name}.{name}: {said}"


@pytest.mark.parametrize("pin", ({"bn": 256, "parts": 4, "bk": 128}, {"bn": 128, "parts": 1, "band": 1}), ids=str)
def test_any_tile_and_any_number_of_parts_cover_the_product(pin, device):
    with tuned.pinned(**pin):
        run(ops.fp4_linear_gate, Case("many_tiles", A=bf16, **MANY), device)
        run(ops.fp4_linear_gelu, Case("many_tiles", **MANY), device)


# ---- the interpreter's own ------------------------------------------------------------------------------------------


@pytest.mark.skipif(not INTERPRETED, reason="a GPU runs the compiled kernels")
def test_the_interpreter_s_block_scaled_product_is_exact_and_its_patch_still_needed():
    import interp

    @triton.jit
    def kernel(out, a, a_scale, w, w_scale, B: tl.constexpr):
        m, n, k, s = tl.arange(0, 16), tl.arange(0, 8), tl.arange(0, 32), tl.arange(0, 64 // B)
        left = tl.load(a + m[:, None] * 32 + k[None, :])
        right = tl.load(w + n[:, None] * 32 + k[None, :])
        left_scale = tl.load(a_scale + m[:, None] * (64 // B) + s[None, :])
        right_scale = tl.load(w_scale + n[:, None] * (64 // B) + s[None, :])
        acc = tl.full((16, 8), 2.0, tl.float32)
        acc = tl.dot_scaled(left, left_scale, "e2m1", right.T, right_scale, "e2m1", acc)
        tl.store(out + m[:, None] * 8 + n[None, :], acc)

    g = torch.Generator().manual_seed(0)
    a, w = (torch.randint(0, 256, (n, 32), generator=g).to(u8) for n in (16, 8))
    for dtype in (fp8, u8):
        n = 64 // fp4.BLOCK[dtype]
        if dtype == fp8:
            scales = [torch.randint(1, 16, (r, n), generator=g).float().to(fp8) for r in (16, 8)]
        else:
            scales = [torch.randint(125, 130, (r, n), generator=g).to(u8) for r in (16, 8)]
        out = torch.empty(16, 8)
        kernel[(1,)](out, a, scales[0], w, scales[1], fp4.BLOCK[dtype])
        x, y = (fp4.dequantise_fp4(c, s, None, torch.float64) for c, s in zip((a, w), scales))
        np.testing.assert_allclose(out.double(), 2 + x @ y.T, rtol=1e-6, atol=1e-3)
    assert not hasattr(interp.interpreter.InterpreterBuilder, "create_dot_scaled"), "drop interp.dot_scaled"
