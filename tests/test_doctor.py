"""The self-test finds what is wrong, and doctor says so."""

import pytest
import torch

from liveact_app.cli import main
from liveact_app.loading import self_test
from liveact_kernels import ops, selftest
from liveact_kernels.contract import use
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
            outcome = selftest.check(ops.rms_norm)
        assert not outcome.ok and outcome.backend == "fake"
        assert main(["doctor", "--backend", "rms_norm=fake"]) == 1
    finally:
        del ops.rms_norm.backends["fake"]
    out = capsys.readouterr().out
    assert "WRONG" in out and any(w in out for w in words.split("|"))


def test_the_whole_self_test_is_quick():
    _, seconds = selftest.run()
    assert seconds < 20  # well under a second when the machine is idle


def test_unknown_backend_is_one_sentence(capsys, monkeypatch):
    assert main(["doctor", "--backend", "nope"]) == 2
    assert "--backend: expected one of" in capsys.readouterr().err
    monkeypatch.setenv("LIVEACT_BACKEND", "kv_compress=nope")
    assert main(["doctor"]) == 2
    assert "LIVEACT_BACKEND: expected one of" in capsys.readouterr().err


def test_generation_refuses_wrong_kernels():
    """Fail closed: what a GPU run does before its first block."""
    ops.rms_norm.backends["fake"] = lambda out, x, weight, eps=1e-6: out.copy_(x)
    try:
        words = r"1 ops do not, first rms_norm on fake .*--backend torch"
        with use(rms_norm="fake"), pytest.raises(InputError, match=words):
            self_test("cpu")
    finally:
        del ops.rms_norm.backends["fake"]
    self_test("cpu")
