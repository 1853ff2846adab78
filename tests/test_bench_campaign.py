"""bench/campaign.py: sections with limits, what a cut-off run keeps, and the whole of it with tiny shapes."""

import json
import re
import subprocess
import sys
import time

import campaign
import predicted
import pytest
from campaign import Outcome, Section
from manifest import SCHEMA

from liveact_model.errors import InputError


def python(name, code, share=1.0):
    return Section(name, share, f"{name}.log", lambda out, minutes: [sys.executable, "-c", code])


def test_sections_are_independent_and_the_summary_is_there_after_each(tmp_path):
    seen = []

    def look(line):
        path = tmp_path / "out" / "summary.txt"
        seen.append(path.read_text() if path.exists() else None)

    todo = [
        python("good", "print('hello')"),
        Section("none", 1.0, "none.log", lambda out, minutes: "there is nothing to build"),
        python("bad", "import sys; print('oh'); sys.exit(3)"),
        python("last", "print(1)"),
    ]
    outcomes = campaign.run(tmp_path / "out", 1.0, todo, look)
    assert [o.status for o in outcomes] == ["ok", "skipped: there is nothing to build", "failed (3)", "ok"]
    assert "hello" in (tmp_path / "out" / "good.log").read_text() and "oh" in (tmp_path / "out" / "bad.log").read_text()
    assert seen[0] is None and "good" in seen[2] and "bad" not in seen[2] and "failed (3)" in seen[6]


def run_until(monkeypatch, section, folder, seconds, line):
    """run_section, its time being up as soon as its log has a line: on a busy machine a process starts slowly."""

    class Popen(subprocess.Popen):
        limited = False

        def wait(self, timeout=None):
            if self.limited or timeout is None:
                return super().wait(timeout)
            assert timeout == seconds
            self.limited = True
            while not re.search(f"^{line}", (folder / section.log).read_text(), re.M):
                assert self.poll() is None, (folder / section.log).read_text()
                time.sleep(0.02)
            raise subprocess.TimeoutExpired(self.args, timeout)

    monkeypatch.setattr(subprocess, "Popen", Popen)
    return campaign.run_section(section, folder, seconds)


def test_a_section_ends_when_its_time_is_up(tmp_path):
    outcome = campaign.run_section(python("hangs", "import time; time.sleep(3600)"), tmp_path, 0.2)
    assert outcome.status == "out of time (0 s)" and outcome.seconds >= 0.2


def test_a_section_that_hangs_is_killed_with_its_children_and_keeps_its_log(tmp_path, monkeypatch):
    code = (
        "import subprocess, sys, time; sleep = 'import time; time.sleep(3600)';"
        "child = subprocess.Popen([sys.executable, '-c', sleep]); print('child', child.pid, flush=True); exec(sleep)"
    )
    outcome = run_until(monkeypatch, python("hangs", code), tmp_path, 1.5, "child [0-9]+$")
    assert outcome.status == "out of time (2 s)"
    child = int(re.search(r"child ([0-9]+)", (tmp_path / "hangs.log").read_text())[1])
    deadline = time.monotonic() + 300
    while (alive := _alive(child)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not alive


def test_a_section_out_of_time_may_still_write_what_it_knows(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "carried"))
    code = (
        "import os, time\ntry:\n print('ready', os.environ['PYTHONPATH'], flush=True)\n time.sleep(3600)\n"
        "except KeyboardInterrupt: print('what it knows')"
    )
    outcome = run_until(monkeypatch, python("slow", code), tmp_path, 2.0, "ready ")
    said = (tmp_path / "slow.log").read_text()
    assert outcome.status == "out of time (2 s)" and "what it knows" in said.splitlines()
    assert f"{campaign.root.ROOT}:{tmp_path / 'carried'}" in said  # packages that the caller brought stay in reach


def _alive(pid):
    """Whether a process still runs; a zombie is dead, only not yet collected by its new parent."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8") as stat:
            return stat.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_time_that_is_left_goes_to_those_after():
    todo = [python("a", "", 0.25), python("b", "", 0.25), python("c", "", 0.5)]
    assert campaign.limits(todo, 100.0) == 25.0
    assert campaign.limits(todo[1:], 99.0) == pytest.approx(33.0)
    assert campaign.limits(todo[2:], 98.0) == 98.0


def test_the_summary_has_the_best_backend_of_a_case_and_what_is_wrong(tmp_path):
    base = {"schema": SCHEMA, "op": "quant", "case": "live"}
    found = [
        base | {"kind": "op", "backend": "torch", "us": 90.0, "percent_of_floor": 30.0},
        base | {"kind": "op", "backend": "triton", "us": 30.0, "percent_of_floor": 90.0},
        base | {"kind": "red", "backend": "cuda", "why": "tiny: x8: worst 3 ulp"},
        base | {"kind": "skip", "backend": "flash", "why": "not installed"},
    ]
    (tmp_path / "ops.jsonl").write_text("".join(json.dumps(r) + "\n" for r in found))
    lines = campaign.summary(tmp_path, [Outcome("ops", "ok", 1.0)])
    text = [" ".join(line.split()) for line in lines]
    assert "quant live triton 30.0 90% of the floor" in text and not any("torch" in t for t in text)
    assert "quant live cuda WRONG: tiny: x8: worst 3 ulp" in text


def test_the_summary_ends_with_measured_beside_predicted(tmp_path):
    base = {"schema": SCHEMA, "kind": "op", "op": "quant", "case": "live", "percent_of_floor": 50.0}
    said = {"us": 40.0, "compiler": "triton 3.6.0"}
    found = [
        base | {"backend": "triton", "us": 60.0, "predicted": said},
        base | {"backend": "scaled_mm", "us": 55.0, "predicted": None},
    ]
    (tmp_path / "ops.jsonl").write_text("".join(json.dumps(r) + "\n" for r in found))
    base = {"schema": SCHEMA, "kind": "frame", "model": "m", "size": "512*512", "precision": "fp8"}
    steady = base | {"what": "steady", "ms_per_video_frame": 47.0, "verdict": "50 ms met"}
    parts = base | {"kind": "breakdown", "parts": {"linear": {"ms": 20.0}, "copy to host": {"ms": 0.5}}}
    said = {"label": "predicted", "ms_per_video_frame": {"linear": 16.0, "total": 36.0}}
    path = tmp_path / "frame.jsonl"
    path.write_text(json.dumps(steady) + "\n")
    text = [" ".join(line.split()) for line in campaign.summary(tmp_path, [])]
    assert text[-3:] == ["m 512*512 fp8: 50 ms met", "ms per video frame measured predicted", "total 47.000"]
    assert "quant live triton 60.0 40.0 1.50 50% of the floor" in text
    assert "quant live scaled_mm 55.0 50% of the floor" in text
    assert "predicted for an H200 from the code of triton 3.6.0; ratio: measured over predicted" in text
    beside = base | {"kind": "predicted", "predicted": said}
    path.write_text("".join(json.dumps(r) + "\n" for r in (steady, parts, beside)))
    text = [" ".join(line.split()) for line in campaign.summary(tmp_path, [])]
    assert text[-3:] == ["linear 20.000 16.000", "copy to host 0.500", "total 47.000 36.000"]


def test_predictions_of_ops_come_from_the_ledger(tmp_path, monkeypatch):
    book = {
        "triton 3.6.0": {"H200": {"a/live": {"us": 1.0}, "a/live/1": {"us": 2.0}, "a/live_2": {"us": 9.0}}},
        "triton 3.7.1": {"H200": {"a/live": {"us": 5.0}}}, "nvcc 13": {"H200": {"a/live": {"us": 0.5}}},
    }  # fmt: skip
    (tmp_path / "profiles").mkdir()
    (tmp_path / "profiles" / "predicted.json").write_text(json.dumps(book))
    monkeypatch.setattr(predicted.root, "ROOT", tmp_path)
    predicted._ledger.cache_clear()
    try:
        assert predicted.of_op("a", "live", "triton", "3.6.0") == {"us": 3.0, "compiler": "triton 3.6.0"}
        assert predicted.of_op("a", "live", "triton", "3.9.0") == {"us": 5.0, "compiler": "triton 3.7.1"}
        assert predicted.of_op("a", "live", "cuda") == {"us": 0.5, "compiler": "nvcc 13"}
        assert predicted.of_op("b", "live", "cuda") is None and predicted.of_op("a", "live", "torch") is None
    finally:
        predicted._ledger.cache_clear()


def test_a_real_run_builds_checks_and_measures_in_this_order(tmp_path, monkeypatch):
    todo = campaign.sections(dry=False)
    assert [s.name for s in todo] == ["build", "parity", "ceilings", "ops", "frame"]
    monkeypatch.setattr(campaign.root, "ROOT", tmp_path)
    assert todo[0].command(tmp_path, 1.0) == "there is no csrc/ to build"
    assert todo[1].command(tmp_path, 1.0) == "there is no tests/gpu"
    (tmp_path / "csrc").mkdir()
    (tmp_path / "csrc" / "cmake_build.py").touch()
    (tmp_path / "tests" / "gpu").mkdir(parents=True)
    (tmp_path / "tests" / "gpu" / "resume.py").touch()
    assert todo[0].command(tmp_path, 1.0)[1:] == [str(tmp_path / "csrc" / "cmake_build.py")]
    parity = todo[1].command(tmp_path, 1.0)
    assert parity[1] == str(tmp_path / "tests" / "gpu" / "resume.py") and parity[3] == str(tmp_path / "parity")
    assert parity[parity.index("--minutes") + 1] == "0.900"
    assert "--ignore=tests/gpu/test_device_sanitizer.py" in parity
    ops = todo[3].command(tmp_path, 2.0)
    assert ops[ops.index("--minutes") + 1] == "1.800"  # it stops by itself before it is stopped


def test_bad_input(tmp_path, capsys, monkeypatch):
    (tmp_path / "x").touch()
    with pytest.raises(InputError, match="--minutes: expected more than 0, got 0"):
        campaign.run(tmp_path / "new", 0, [])
    for argv, words in (
        (["--out", str(tmp_path), "--dry-run"], "--out: expected an empty folder"),
        (["--out", str(tmp_path / "x" / "y"), "--dry-run"], "--out: expected a folder that can be made"),
    ):
        assert campaign.main(argv) == 2 and words in capsys.readouterr().err
    monkeypatch.setattr(campaign.torch.cuda, "is_available", lambda: False)
    assert campaign.main(["--out", str(tmp_path / "z")]) == 2
    assert "expected a CUDA device" in capsys.readouterr().err and not (tmp_path / "z").exists()


def test_the_dry_run_goes_through_everything(tmp_path, capsys, monkeypatch):
    out = tmp_path / "out"
    sections = [s for s in campaign.sections(dry=True) if s.name != "parity"]  # that one is tests/gpu, tested elsewhere
    monkeypatch.setattr(campaign, "sections", lambda dry: sections)
    assert campaign.main(["--dry-run", "--minutes", "5", "--out", str(out)]) == 0
    kinds = {p.name: [json.loads(line)["kind"] for line in p.open()] for p in out.glob("*.jsonl")}
    assert kinds["ceilings.jsonl"] == ["ceiling"] * 4 and kinds["frame.jsonl"] == ["frame"] * 3 + ["breakdown"]
    assert kinds["ops.jsonl"].count("op") == 4
    assert len(list(out.iterdir())) <= 8
    text = capsys.readouterr().out
    assert "build           0.0  skipped: a dry run builds nothing" in text and "50 ms" in text
