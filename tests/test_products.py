"""What the torch backends compute with on a CPU: oneDNN's products and convolutions by name, torch's own elsewhere."""

import pytest
import torch
import torch.nn.functional as F

from liveact_kernels import ops  # noqa: F401 - fills the registry
from liveact_kernels.common import products, rope, softmax
from liveact_kernels.contract import REGISTRY, use
from liveact_kernels.ops.kv_compress import FIRST, STEADY
from liveact_model.dit import TWO_RANK_RELEASED

CASES = [(op, case) for op in REGISTRY.values() for case in op.cases if case.rung == "cpu"]
HAS = pytest.mark.skipif(not products._has_onednn(), reason="this torch was built without oneDNN")


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


FORMS = {
    "product": (products.product, lambda a, w, b, x: F.linear(a, w, b)),
    "gelu": (products.product_gelu, lambda a, w, b, x: F.gelu(F.linear(a, w, b), approximate="tanh")),
    "add": (products.product_add, lambda a, w, b, x: x + F.linear(a, w, b)),
}


@pytest.mark.parametrize("biased", [True, False], ids=["bias", ""])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["f32", "bf16"])
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("least", [0, products.LEAST], ids=["oneDNN", "small"])
def test_forms_agree_in_and_outside_autograd_and_leave_their_arguments(monkeypatch, least, form, dtype, biased):
    """Operands that are views of larger tensors, as heads of a qkv product are."""
    monkeypatch.setattr(products, "LEAST", least)
    a, w = draw(37, 3, 48)[:, 1].to(dtype), (draw(48, 40, seed=1) / 7).T.to(dtype)
    b, x = (draw(40, seed=2).to(dtype) if biased else None), draw(37, 40, seed=3).to(dtype)
    ours, want = FORMS[form]
    extra = (x,) if form == "add" else ()
    before = [t.clone() for t in (a, w, x)]
    with torch.no_grad():
        outside = ours(a, w, b, *extra)
    exact = want(*(None if t is None else t.double() for t in (a, w, b, x)))
    bound = 1e-5 if dtype == torch.float32 else 6e-2
    for got in (outside, ours(a, w, b, *extra)):
        assert got.dtype == dtype and float((got.double() - exact).abs().max()) < bound
    assert all(torch.equal(now, old) for now, old in zip((a, w, x), before))


@HAS
def test_onednn_is_asked_for_float32_outside_autograd_alone():
    x = draw(4, 8)
    with torch.no_grad():
        assert products.by_onednn(x)
        assert not any(map(products.by_onednn, (x.bfloat16(), x.double(), x.to("meta"), x[:0])))
    assert not products.by_onednn(x)


def test_a_torch_without_onednn_runs_every_op(monkeypatch):
    monkeypatch.setattr(products, "_has_onednn", lambda: False)
    for op, case in CASES:
        inputs = op.make(case)
        with use(**{op.name: "torch"}), torch.no_grad():
            got = op(**inputs)
        assert all(ok for _, ok, _ in op.check(got, op.reference(**inputs), "torch")), f"{op.name} {case}"


@HAS
@pytest.mark.parametrize("biased", [True, False], ids=["bias", ""])
def test_attention_by_heads_in_pieces_is_attention(monkeypatch, biased):
    """Pieces of 3 queries, the last of them shorter."""
    monkeypatch.setattr(softmax, "LEAST", 0)
    monkeypatch.setattr(products, "LEAST", 0)
    monkeypatch.setattr(softmax, "ROWS", 3)
    monkeypatch.setattr(softmax, "SCORES", 1)
    q, k, v, bias = draw(10, 3, 16), draw(21, 3, 16, seed=1), draw(21, 3, 16, seed=2), draw(21, seed=3)
    with torch.no_grad():
        got = softmax.attend(q, k, v, bias if biased else None)
    wide = (t.transpose(0, 1).double() for t in (q, k, v))
    mask = bias.double().expand(10, -1) if biased else None
    want = F.scaled_dot_product_attention(*wide, attn_mask=mask).transpose(0, 1)
    assert got.is_contiguous() and float((got - want).abs().max()) < 2e-6


@pytest.mark.parametrize("inverse", [False, True], ids=["", "inverse"])
def test_rotations_that_compilers_take_are_those_of_eager_torch(monkeypatch, inverse):
    angle = draw(6, 4).double()
    x, table = draw(6, 2, 8), torch.stack((angle.cos(), angle.sin()), -1).float()
    eager = rope.rotate(x, table, inverse)
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    assert torch.allclose(eager, rope.rotate(x, table, inverse), atol=1e-6)
    assert not torch.allclose(eager, rope.rotate(x, table, not inverse), atol=1e-2)


def owned(op, inputs):
    """Results of the torch backend outside autograd; fails where one is a view of an argument."""
    with use(**{op.name: "torch"}), torch.no_grad():
        got = op(**inputs)
    given = {t.untyped_storage().data_ptr() for t in inputs.values() if isinstance(t, torch.Tensor)}
    for name, t in zip(op.out, got if isinstance(got, tuple) else (got,)):
        assert t is None or t.untyped_storage().data_ptr() not in given, f"{op.name}.{name} is an argument's"
    return got


@pytest.mark.parametrize("op,case", CASES, ids=str)
def test_no_result_is_a_view_of_an_argument(op, case):
    """A block's keys are a scratch that the next layer overwrites, and torch.library forbids it."""
    owned(op, op.make(case))


@pytest.mark.parametrize("schedule", [FIRST, STEADY, TWO_RANK_RELEASED], ids=["first", "steady", "two ranks"])
@pytest.mark.parametrize("grouping", ["raster", "temporal"])
def test_slots_fold_and_move_whatever_lies_beside_what(schedule, grouping):
    op = REGISTRY["kv_compress"]
    case = next(c for c in op.cases if c.dims.get("k_dtype") == torch.float32)
    inputs = op.make(case) | {"schedule": schedule, "grouping": grouping}
    got = owned(op, inputs)
    assert all(ok for _, ok, _ in op.check(got, op.reference(**inputs), "torch"))
