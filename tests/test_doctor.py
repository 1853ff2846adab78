"""The self-test finds what is wrong, and doctor says so."""

import subprocess
import sys

import pytest
import torch

from liveact_app.cli import main
from liveact_app.generate import loading
from liveact_app.generate.job import Job
from liveact_app.generate.loading import self_test
from liveact_kernels import ops
from liveact_kernels.contract import REGISTRY, bf16, f32, fp8, int8, trust, use
from liveact_kernels.proof.primitives import PRIMITIVES
from liveact_model.errors import InputError


def test_every_op_is_right_here(capsys):
    assert main(["doctor", "--backend", "torch"]) == 0
    text = capsys.readouterr().out
    assert "kv_compress" in text and "chosen for all ops" in text and "WRONG" not in text
    assert f"torch {torch.__version__}" in text


@pytest.mark.parametrize(
    "fake,words",
    [
        (lambda out, x, weight, eps=1e-6: out.copy_(x), "rms_norm"),
        (lambda out, x, weight, eps=1e-6: None, "NaN|nan"),
        ("liveact_kernels.absent:launch", "ModuleNotFoundError"),
    ],
)
def test_a_wrong_or_missing_backend_is_found(capsys, fake, words):
    """A kernel that copies its input, one that never writes (its output is poisoned), one that cannot be imported."""
    ops.rms_norm.backends["fake"] = fake
    try:
        with use(rms_norm="fake"):
            outcome = trust.check(ops.rms_norm)
        assert not outcome.ok and outcome.backend == "fake"
        assert main(["doctor", "--backend", "rms_norm=fake"]) == 1
    finally:
        del ops.rms_norm.backends["fake"]
    out = capsys.readouterr().out
    assert "WRONG" in out and any(w in out for w in words.split("|"))


def test_the_self_test_is_small():
    """What keeps it below a second: few elements, and no import of torch's compiler, which takes seconds."""
    for op in REGISTRY.values():
        for case in trust.small(op, "torch", each=True):
            assert sum(x.numel() for x in op.make(case).values() if isinstance(x, torch.Tensor)) < 1_000_000
    assert all(torch.Size(shape).numel() < 100_000 for p in PRIMITIVES for shape in p.shapes)
    code = "import sys; from liveact_kernels.proof import selftest; selftest.run(); "
    code += "print('torch._inductor' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "False\n"


def test_each_dtype_is_tested_on_a_cpu():
    wide, narrow = frozenset([f32]), frozenset([bf16])
    found = {trust._dtypes(ops.linear, case) for case in trust.small(ops.linear, "torch", each=True)}
    assert {wide, narrow} <= {kinds - (wide if kinds > wide else frozenset()) for kinds in found}
    assert len(trust.small(ops.linear, "torch", each=False)) == 1


@pytest.fixture
def amx(monkeypatch):
    """A processor on which torch's narrow convolutions of few channels a group are wrong."""
    right = torch.nn.functional.conv1d

    def conv1d(x, weight, bias=None, *args, groups=1, **kw):
        out = right(x, weight, bias, *args, groups=groups, **kw)
        return out * 0.4 if groups > 1 and x.dtype == bf16 and weight.shape[1] <= 4 else out

    monkeypatch.setattr(torch.nn.functional, "conv1d", conv1d)


def test_a_wrong_function_that_nothing_calls_is_distrusted_and_stops_nobody(amx, capsys):
    assert main(["doctor"]) == 0
    out = capsys.readouterr().out
    assert "distrusted: torch conv1d, 16 groups of 4, bf16 (worst row" in out
    assert "conv1d, 4 groups of 4, bf16 (worst row" in out and "WRONG" not in out
    self_test("cpu")


def _spoil(monkeypatch, name, dtype):
    right = getattr(torch.nn.functional, name)

    def spoiled(x, *args, **kw):
        out = right(x, *args, **kw)
        return out * 1.1 if x.dtype == dtype else out

    monkeypatch.setattr(torch.nn.functional, name, spoiled)


def test_a_wrong_function_that_networks_call_is_refused_where_they_compute_in_it(monkeypatch, capsys):
    """What is wrong in bf16 is nothing to a job in float32."""
    _spoil(monkeypatch, "group_norm", bf16)
    self_test("cpu", frozenset([f32]))
    with pytest.raises(InputError, match=r"--device: .*torch group_norm, bf16, called by the small VAE, is wrong"):
        self_test("cpu", frozenset([f32, bf16]))
    assert main(["doctor"]) == 1
    assert "WRONG" in capsys.readouterr().out


def test_a_wrong_torch_backend_is_refused_with_a_way_out(monkeypatch):
    right = ops.rms_norm.implementation("torch")
    spoiled = {bf16: 1.1, f32: 1.0}
    monkeypatch.setitem(ops.rms_norm.backends, "torch", lambda **kw: right(**kw) * spoiled[kw["x"].dtype])
    words = r"first rms_norm on torch \(.*--backend rms_norm=reference runs without them"
    with use():  # forgets the plans of earlier calls
        with pytest.raises(InputError, match=words):
            self_test("cpu")
        self_test("cpu", frozenset([f32]))
    with use(rms_norm="reference"):
        self_test("cpu")


@pytest.mark.parametrize(
    "options,dtypes",
    [
        ({}, {f32}),
        ({"dtype": "bfloat16"}, {f32, bf16}),
        ({"model": "elsewhere"}, {f32, bf16}),
        ({"model": "elsewhere", "dtype": "float32"}, {f32}),
        ({"eight_bit_memory": True}, {f32, int8, fp8}),
        ({"dtype": "fp8"}, {f32, bf16, int8, fp8}),
    ],
)
def test_a_generation_is_refused_for_the_dtypes_it_may_use(monkeypatch, tmp_path, options, dtypes):
    asked = []

    def stop(device, kinds):
        asked.append((device, kinds))
        raise InputError("that is all")

    monkeypatch.setattr(loading, "self_test", stop)
    (tmp_path / "a").touch()
    files = {"image": str(tmp_path / "a"), "audio": str(tmp_path / "a"), "out": str(tmp_path / "v.mp4")}
    with pytest.raises(InputError, match="that is all"):
        loading.load(Job(prompt="", **files, **options), "cpu")
    assert asked == [("cpu", frozenset(dtypes))]


def test_unknown_backend_is_one_sentence(capsys, monkeypatch):
    assert main(["doctor", "--backend", "nope"]) == 2
    assert "--backend: expected one of" in capsys.readouterr().err
    monkeypatch.setenv("LIVEACT_BACKEND", "kv_compress=nope")
    assert main(["doctor"]) == 2
    assert "LIVEACT_BACKEND: expected one of" in capsys.readouterr().err


def test_generation_refuses_wrong_kernels():
    """Fail closed: what a run does before it loads a model."""
    ops.rms_norm.backends["fake"] = lambda out, x, weight, eps=1e-6: out.copy_(x)
    try:
        words = r"1 ops do not, first rms_norm on fake .*--backend torch"
        with use(rms_norm="fake"), pytest.raises(InputError, match=words):
            self_test("cpu")
    finally:
        del ops.rms_norm.backends["fake"]
    self_test("cpu")
