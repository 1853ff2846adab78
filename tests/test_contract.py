"""The contract itself: what it refuses, what it records, and how backends are chosen."""

import pytest
import torch

from liveact_kernels import ops
from liveact_kernels.contract import REGISTRY, parse_backends, poisoned, record, scope, use
from liveact_kernels.cost.budget import Tally, check_groups


def x(*shape, dtype=torch.float32):
    return torch.ones(*shape, dtype=dtype)


@pytest.mark.parametrize(
    "change,error,words",
    [
        ({"y": x(7, 97)}, ValueError, r"gate_residual: y must be \[L C\] = \(7, 96\), got shape \(7, 97\)"),
        ({"gate": x(96, dtype=torch.bfloat16)}, TypeError, "gate must be torch.float32, got torch.bfloat16"),
        ({"x": x(7, 96, dtype=torch.float64)}, TypeError, "x must be one of .*bfloat16.*got torch.float64"),
        ({"y": x(7, 96, dtype=torch.bfloat16)}, TypeError, "y must be torch.float32, got torch.bfloat16"),
        ({"x": x(7, 96, 1)}, ValueError, r"x must be \[L C\], got shape \(7, 96, 1\)"),
        ({"x": None}, TypeError, r"argument x \[L C\] is missing"),
        ({"typo": 1}, TypeError, "unknown argument 'typo'"),
        ({"gate": torch.ones(96, device="meta")}, ValueError, "gate must be on cpu .*got meta"),
    ],
)
def test_a_wrong_argument_is_named_with_expected_and_got(change, error, words):
    good = {"x": x(7, 96), "y": x(7, 96), "gate": x(96)}
    with pytest.raises(error, match=words):
        ops.gate_residual(**good | change)


def test_rules_between_arguments():
    with pytest.raises(ValueError, match=r"audio_attention: needs L % F == 0"):
        ops.audio_attention(q=x(10, 2, 8), k=x(3, 4, 2, 8), v=x(3, 4, 2, 8))


@pytest.mark.parametrize("backend", ["torch", "reference"])
def test_an_optional_argument_may_be_left_out(backend):
    q, k, v = torch.randn(3, 6, 2, 8)
    with use(attention=backend):
        short = ops.attention(q=q, k_new=k, v_new=v)
        full = ops.attention(q=q, k_new=k, v_new=v, k_mem=None, v_mem=None, k_scale=None, v_scale=None)
    assert torch.equal(short, full)


def test_out_receives_the_result_and_nothing_else():
    cache = torch.zeros(12, 8)
    fresh = ops.gate_residual(x=x(4, 8), y=x(4, 8), gate=x(8))
    ops.gate_residual(x=x(4, 8), y=x(4, 8), gate=x(8), out=cache[4:8])
    assert torch.equal(cache[4:8], fresh) and not cache[:4].any() and not cache[8:].any()
    with pytest.raises(ValueError, match=r"gate_residual\[.*L=4.*out must be"):
        ops.gate_residual(x=x(4, 8), y=x(4, 8), gate=x(8), out=cache[4:9])


def test_a_launch_backend_writes_poisoned_outputs_and_is_recorded():
    op, seen = ops.gate_residual, []

    def launch(out, x, y, gate):
        seen.append(out.isnan().all().item())
        out.copy_(x + gate * y)

    op.backends["fake"] = launch
    try:
        with use(gate_residual="fake"), poisoned(), record() as calls, scope("block[3]"):
            got = op(x=x(4, 8), y=x(4, 8), gate=x(8))
    finally:
        del op.backends["fake"]
    assert seen == [True] and torch.equal(got, x(4, 8) * 2)
    assert [(c.scope, c.op.name, c.backend) for c in calls] == [(("block[3]",), "gate_residual", "fake")]
    assert calls[0].dims.label() == "L=4,C=8,A=f32"


def test_a_strided_tensor_never_reaches_a_kernel():
    ops.rms_norm.backends["fake"] = lambda out, x, weight, eps=1e-6: out.copy_(x)
    try:
        with use(rms_norm="fake"):
            ops.rms_norm(x=x(4, 8), weight=x(8))
            with pytest.raises(ValueError, match=r"rms_norm\[.*: x must be contiguous, got strides \(1, 4\)"):
                ops.rms_norm(x=x(8, 4).T, weight=x(8))
            with pytest.raises(ValueError, match="out must be contiguous"):
                ops.rms_norm(x=x(4, 8), weight=x(8), out=x(8, 4).T)
    finally:
        del ops.rms_norm.backends["fake"]


def test_backend_choice_by_name_beats_all_and_unknown_names_are_listed():
    args = {"x": x(4, 8), "y": x(4, 8), "gate": x(8)}
    with use(all="reference", gate_residual="torch"), record() as calls:
        ops.gate_residual(**args)
        ops.rms_norm(x=x(4, 8), weight=x(8))
    assert [c.backend for c in calls] == ["torch", "reference"]
    with pytest.raises(ValueError, match=r"expected one of .*torch.*got 'nope'"), use(all="nope"):
        pass
    with pytest.raises(ValueError, match=r"expected an op of .*kv_compress.*got 'nope'"), use(nope="torch"):
        pass
    assert parse_backends("torch, rms_norm=reference") == {"*": "torch", "rms_norm": "reference"}


def test_a_failing_backend_raises_instead_of_falling_back():
    ops.gate_residual.backends["broken"] = "liveact_kernels.no_such_module:launch"
    try:
        with pytest.raises(ModuleNotFoundError, match="no_such_module"), use(gate_residual="broken"):
            ops.gate_residual(x=x(4, 8), y=x(4, 8), gate=x(8))
    finally:
        del ops.gate_residual.backends["broken"]


def test_plans_do_not_pile_up():
    for i in range(5000):
        ops.denoise_update(
            tokens=x(1, 4), latent=x(1, 1, 2, 2), noise=None, c_latent=float(i), c_velocity=1.0, c_noise=0.0
        )
    assert len(ops.denoise_update._plans) <= 4097


def test_tally_adds_up_host_time():
    tally = Tally()
    with record(tally):
        for _ in range(3):
            ops.rms_norm(x=x(4, 8), weight=x(8))
    rows = tally.rows(video_frames=2, total_seconds=1.0)
    assert rows[0][:3] == ("rms_norm", "torch", 3) and rows[0][3] > 0
    assert rows[-1][0] == "(outside ops)" and abs(sum(r[4] for r in rows) - 1) < 1e-9


def test_every_op_has_a_budget_row():
    assert check_groups() == []


def test_every_op_documents_itself():
    for op in REGISTRY.values():
        assert len(op.reference.__doc__) > 80, f"{op.name}: the reference's docstring gives formula, shapes and source"
        for tolerance in op.tol.values():
            rules = getattr(tolerance, "rules", {None: tolerance}).values()
            assert all(len(rule.why) > 10 for rule in rules), f"{op.name}: a tolerance needs its reason"
