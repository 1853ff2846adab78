"""Other people's kernels: called with the layout they document, believed only after they computed the right thing."""

import sys
import types

import pytest
import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend

from liveact_kernels import contract, ops
from liveact_kernels.common.softmax import attend
from liveact_kernels.contract import Case, bf16, dispatch, missing, trust, use
from liveact_kernels.ops.attention import memory_dims

WINDOW = Case("window", L=9, R=8, P=7, H=2, D=32, **memory_dims(True))
QKV = {k: torch.randn(6, 2, 16, generator=torch.Generator().manual_seed(0)).to(bf16) for k in ("q", "k_new", "v_new")}


@pytest.fixture
def vendor(monkeypatch):
    """Install a module as a vendor library that may run on this CPU."""

    def install(name, **functions):
        module = types.ModuleType(name)
        module.__spec__ = object()
        vars(module).update(functions)
        monkeypatch.setitem(sys.modules, name, module)

    monkeypatch.setattr(dispatch, "missing", lambda backend, device: None)
    missing.cache_clear()
    trust.distrusted.cache_clear()
    yield install
    missing.cache_clear()
    trust.distrusted.cache_clear()


def batched(q, k, v):
    """What a library computes of [batch, rows, heads, D]; it insists on contiguous bf16."""
    assert q.ndim == 4 and q.shape[0] == 1 and q.shape[2:] == k.shape[2:] and k.shape == v.shape
    assert all(x.is_contiguous() and x.dtype == bf16 for x in (q, k, v))
    return F.scaled_dot_product_attention(*(x.transpose(1, 2) for x in (q, k, v))).transpose(1, 2)


def sageattn(q, k, v, tensor_layout="HND"):
    assert tensor_layout == "NHD"
    return batched(q, k, v)


LIBRARIES = [
    ("flash", "flash_attn_interface", {"flash_attn_func": batched}),
    ("flash", "flash_attn_interface", {"flash_attn_func": lambda *qkv: (batched(*qkv), torch.zeros(1))}),
    ("flash", "flash_attn", {"flash_attn_func": batched}),
    ("sage", "sageattention", {"sageattn": sageattn}),
]


@pytest.mark.parametrize("backend,name,functions", LIBRARIES, ids=["fa3", "fa3 with lse", "fa2", "sage"])
def test_a_library_gets_its_own_layout_and_one_segment(vendor, backend, name, functions):
    vendor(name, **functions)
    inputs = ops.attention.make(WINDOW)
    with use(attention=backend):
        got = ops.attention(**inputs)
    (_, ok, said), *_ = ops.attention.check(got, ops.attention.reference(**inputs))
    assert ok, said


def test_cudnn_is_alone(monkeypatch):
    enabled = torch.backends.cuda

    def only_cudnn(q, k, v):
        assert enabled.cudnn_sdp_enabled()
        assert not (enabled.flash_sdp_enabled() or enabled.mem_efficient_sdp_enabled() or enabled.math_sdp_enabled())
        assert q.shape == (1, 2, 9, 32) and k.shape == (1, 2, 15, 32)
        return torch.zeros_like(q)

    monkeypatch.setattr(F, "scaled_dot_product_attention", only_cudnn)
    assert ops.attention.implementation("cudnn")(**ops.attention.make(WINDOW)).shape == (9, 2, 32)


@pytest.mark.parametrize(
    "backend,dims,words",
    [
        ("flash", {"A": torch.float32, "D": 64}, "bfloat16, got torch.float32"),
        ("flash", {"A": bf16, "D": 20}, "multiples of 8, got 20"),
        ("sage", {"A": bf16, "D": 256}, "up to 128 channels"),
    ],
)
def test_what_a_library_does_not_take_is_said(backend, dims, words):
    assert words in ops.attention.refused(backend, types.SimpleNamespace(**dims))


def stale(q, k, v, tensor_layout):
    """Writes nothing: returns memory in which the right result was a moment ago."""
    right = batched(q, k, v).contiguous()
    shape = right.shape
    del right
    return torch.empty(shape, dtype=bf16)


GARBAGE = {
    "writes nothing": stale,
    "the mean of the values": lambda q, k, v, tensor_layout: v.mean(1, keepdim=True).expand(q.shape),
    "one head zero": lambda q, k, v, tensor_layout: batched(q, k, v) * torch.tensor([1, 0], dtype=bf16)[:, None],
    "raises": lambda q, k, v, tensor_layout: (_ for _ in ()).throw(RuntimeError("no kernel image")),
}


@pytest.mark.parametrize("what", GARBAGE)
def test_a_library_that_computes_something_else_is_refused_with_the_reason(vendor, what):
    vendor("sageattention", sageattn=GARBAGE[what])
    words = {"writes nothing": "NaN|nan", "raises": "RuntimeError: no kernel image"}.get(what, "worst row")
    with use(attention="sage"):
        outcome = trust.check(ops.attention)
        assert not outcome.ok and outcome.backend == "sage", outcome
        with pytest.raises(ValueError, match=rf"backend 'sage' is not trusted here: .*({words})"):
            ops.attention(**QKV)


def test_a_library_is_tested_once_per_device(vendor):
    calls = []
    vendor("sageattention", sageattn=lambda *a, **k: calls.append(1) or sageattn(*a, **k))
    with use(attention="sage"):
        for _ in range(3):
            ops.attention(**QKV)
    first = len(trust.small(ops.attention, "sage", each=True)) + 3  # the test itself, then three calls
    assert len(calls) == first
    assert torch.equal(ops.attention(**QKV), ops.attention(**QKV)) and len(calls) == first  # not the default


def test_a_call_that_is_not_taken_raises_when_chosen_and_gives_way_when_default(vendor, monkeypatch):
    op = ops.gate_residual
    args = {k: torch.ones(4, 8) for k in "xy"} | {"gate": torch.ones(8)}

    def launch(out, x, y, gate):
        out.fill_(7)

    launch.takes = lambda d: None if d.C % 16 == 0 else f"it wants C that 16 divides, got C={d.C}"
    monkeypatch.setitem(op.backends, "cuda", launch)
    monkeypatch.setitem(dispatch.PREFERRED, "cpu", ("cuda", "torch"))
    with use(gate_residual="cuda"), pytest.raises(ValueError, match=r"\[.*C=8.*does not take .*divides, got C=8"):
        op(**args)
    with contract.record() as calls:
        op(**args)
        op(x=torch.ones(4, 16), y=torch.ones(4, 16), gate=torch.ones(16))
    assert [c.backend for c in calls] == ["torch", "cuda"]


def test_poison_reaches_memory_that_a_library_allocates_itself():
    before = torch.are_deterministic_algorithms_enabled()
    for dtype in (bf16, torch.float32, torch.float8_e4m3fn):
        got = dispatch.run_poisoned(lambda dtype: torch.empty(64, dtype=dtype), {"dtype": dtype})
        assert got.float().isnan().all()
    assert torch.are_deterministic_algorithms_enabled() == before


def test_plain_attention_without_a_batch_can_take_a_fused_kernel(monkeypatch):
    """torch's fused kernels want four dimensions; otherwise it writes every score out."""
    seen, plain = [], F.scaled_dot_product_attention

    def listening(q, k, v, attn_mask=None):
        seen.append(torch._fused_sdp_choice(q, k, v, attn_mask))
        return plain(q, k, v, attn_mask=attn_mask)

    monkeypatch.setattr(F, "scaled_dot_product_attention", listening)
    q, k, v = torch.randn(3, 16, 2, 32).unbind()
    with torch.no_grad():
        out = attend(q, k, v)
    assert seen == [SDPBackend.FLASH_ATTENTION.value] and out.shape == q.shape
