"""The device suite's own logic, on the CPU: slices of a call are the call, and what is wrong is seen."""

import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
import small
import torch
from spoil import SPOIL, spoiled

from liveact_kernels import ops
from liveact_kernels.contract import REGISTRY, Case, bf16, cast, use
from liveact_kernels.ops.attention import memory_dims
from liveact_kernels.proof import parity

ROOT = Path(__file__).resolve().parents[1]
SLICED = [
    (op, case)
    for op in REGISTRY.values()
    for case in op.cases
    if op.rows and case.rung == "cpu" and getattr(op.dims_of(case), op.rows) > 1
]
WINDOW = Case("window", L=96, R=130, P=70, H=2, D=32, **memory_dims(True))
ROWS = Case("rows", L=96, C=640, A=bf16)
LINEAR = Case("linear", M=96, N=384, K=384, G=3, has_b=True, A=bf16)
MANY = [(ops.attention, WINDOW), (ops.modulate_quant, ROWS), (ops.fp8_linear_gelu, LINEAR), (ops.linear_gate, LINEAR)]


def whole(op, inputs):
    want = op.reference(**inputs)
    return want if isinstance(want, tuple) else (want,)


@pytest.mark.parametrize("op,case", SLICED, ids=str)
def test_slices_of_the_reference_are_the_reference(op, case):
    inputs = op.make(case)
    want = whole(op, inputs)
    parts = [w for _, w in parity.pieces(op, inputs, want, count=3)]
    assert len(parts) > 1
    for spec, full, *cuts in zip(op.out.values(), want, *parts):
        if full is not None:
            axis = spec.dims.split().index(op.rows)
            torch.testing.assert_close(torch.cat(cuts, axis), full, rtol=1e-12, atol=1e-12)


def test_large_calls_are_cut_and_small_ones_are_not(monkeypatch):
    inputs = ops.modulate_quant.make(ROWS)
    outs = whole(ops.modulate_quant, inputs)
    assert len(list(parity.pieces(ops.modulate_quant, inputs, outs))) == 1
    monkeypatch.setattr(parity, "WHOLE", 0)
    assert len(list(parity.pieces(ops.modulate_quant, inputs, outs))) == parity.SLICES


@pytest.mark.parametrize("op,case", MANY, ids=str)
def test_the_torch_backend_passes_in_slices(op, case, monkeypatch):
    monkeypatch.setattr(parity, "SLICES", 4)
    monkeypatch.setattr(parity, "WHOLE", 0)
    results = parity.run(op, "torch", parity.make(op, case, "cpu"))
    assert [r.output for r in results] == [*op.out] and all(r.ok and 0 <= r.error <= r.bound for r in results), results


@pytest.mark.parametrize("spoil", SPOIL)
@pytest.mark.parametrize("op,case", MANY, ids=str)
def test_a_spoiled_slice_is_seen_whichever_it_is(op, case, spoil):
    inputs = parity.make(op, case, "cpu")
    d = op.dims(inputs)
    good = tuple(cast(w, s.dtype_of(d)) for w, s in zip(whole(op, inputs), op.out.values()))
    for place in range(4):
        parts = list(parity.pieces(op, inputs, good, count=4))
        for name, bad in spoiled(op, *parts[place], spoil):
            cuts = zip(*[p[0] if i != place else bad for i, p in enumerate(parts)])
            outs = tuple(torch.cat([c.view(torch.uint8) for c in cut]).view(cut[0].dtype) for cut in cuts)
            worst = {r.output: r for r in compare_in_four(op, inputs, outs)}
            assert not worst[name].ok and all(r.ok for n, r in worst.items() if n != name), (spoil, place, worst)


def compare_in_four(op, inputs, outs):
    old = parity.SLICES, parity.WHOLE
    parity.SLICES, parity.WHOLE = 4, 0
    try:
        return parity.compare(op, inputs, outs)
    finally:
        parity.SLICES, parity.WHOLE = old


def faulty(kind):
    """gate_residual with a fault: launch(out, x, y, gate)."""

    def launch(out, x, y, gate):
        rows = len(out) - (kind == "leaves a row")
        out[:rows] = (x + gate * y)[:rows]
        if kind == "writes outside":
            out.untyped_storage()[parity.GUARD - 1] = 0
        if kind == "changes an argument":
            y[0, 0] += 1
        if kind == "differs every time":
            faulty.calls += 1
            out[0, 0] += faulty.calls

    return launch


faulty.calls = 0


@pytest.mark.parametrize("kind", ["writes outside", "changes an argument", "leaves a row", "differs every time"])
def test_a_faulty_kernel_is_seen(kind, monkeypatch):
    op, inputs = ops.gate_residual, ops.gate_residual.make(Case("rows", L=5, C=40, A=torch.float32))
    monkeypatch.setitem(op.backends, "fake", lambda out, x, y, gate: out.copy_(x + gate * y))
    assert all(r.ok for r in parity.run(op, "fake", inputs)) and parity.twice(op, "fake", inputs) == []
    monkeypatch.setitem(op.backends, "fake", faulty(kind))
    with use():  # plans keep the callable of before
        if kind == "differs every time":
            assert parity.twice(op, "fake", inputs) == ["out"]
        elif kind == "leaves a row":
            (result,) = parity.run(op, "fake", inputs)
            assert not result.ok and ("nan" in result.said or "NaN" in result.said)
        else:
            words = {"writes outside": "wrote outside its outputs", "changes an argument": "changed its argument y"}
            with pytest.raises(AssertionError, match=f"gate_residual on fake {words[kind]}"):
                parity.run(op, "fake", inputs)


@pytest.mark.parametrize("options", [{}, {"eight_bit_memory": True}], ids=["", "eight-bit memory"])
def test_a_wrong_op_shows_in_a_session(monkeypatch, options):
    right = small.latents(small.avatar(), **options)
    with use(all="reference"):
        assert small.relative(small.latents(small.avatar(), **options), right) < small.LATENTS / 10

    def one_key_short(out, q, k_new, v_new, **memory):
        out.copy_(ops.attention.implementation("torch")(q, k_new[:-1], v_new[:-1], **memory))

    monkeypatch.setitem(ops.attention.backends, "fake", one_key_short)
    with use(attention="fake"):
        assert small.relative(small.latents(small.avatar(), **options), right) > 10 * small.LATENTS


def pytest_run(*args):
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *args]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


@pytest.mark.skipif(torch.cuda.is_available(), reason="a machine with a GPU runs them")
def test_without_a_device_the_suite_is_skipped_with_the_reason(tmp_path):
    done = pytest_run("tests/gpu", "-m", "gpu", "-rs", f"--junitxml={tmp_path / 'gpu.xml'}")
    assert done.returncode == 0 and "finds no CUDA device" in done.stdout and " passed" not in done.stdout, done.stdout
    cases = list(ET.parse(tmp_path / "gpu.xml").iter("testcase"))
    assert len(cases) > 200 and all(c.find("skipped") is not None for c in cases)
    names = " ".join(c.get("name") for c in cases)
    for wanted in ("[attention-live_512x512-triton]", "[kv_compress-torch]", "[memcheck-triton]"):
        assert wanted in names


def test_the_suite_is_collected_only_when_asked_for():
    rest = ("--collect-only", "-q", "tests", "--ignore-glob=tests/test_*")  # all that is left is the folder itself
    assert pytest_run(*rest).stdout.strip() == ""
    assert "test_device_parity.py" in pytest_run(*rest, "-m", "gpu").stdout


TOOL = """#!/bin/sh
echo "========= $*"
case "$*" in *racecheck*) echo "========= ERROR SUMMARY: 1 error"; exit 9;; esac
echo "called x on triton: tiny"
"""


def test_the_sanitizer_is_asked_the_right_thing(tmp_path, monkeypatch):
    sys.path.insert(0, str(ROOT / "tests" / "gpu"))
    try:
        import sanitize
    finally:
        sys.path.pop(0)
    tool = tmp_path / sanitize.TOOL
    tool.write_text(TOOL)
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    assert sanitize.find_tool() == str(tool)
    status, said = sanitize.watch("memcheck", "triton", str(tool))
    assert status == 0 and "--tool memcheck" in said and "sanitize.py triton" in said and "called x" in said
    assert sanitize.watch("racecheck", "triton", str(tool))[0] == sanitize.FAULT
