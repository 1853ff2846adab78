"""The tuner's search with a fake chip and a clock that the test holds: what it tries, takes, writes and leaves."""

import argparse
import json
import os
import re
from dataclasses import replace

import pytest
import torch

from liveact_app.cli import main
from liveact_kernels import ops, tuned
from liveact_kernels.contract import REGISTRY
from liveact_kernels.tune.command import main as tune_main
from liveact_kernels.tune.search import Table, Task, combinations, run, search

pytest.importorskip("triton.language", reason="triton is not installed: pip install 'liveact[triton]'")

HEURISTIC = {"rows": 1, "warps": 4}
TASK = Task("rms_norm", "live_512x512", "rms_norm", "L=8192,C=5120", HEURISTIC,
            ({"rows": 2, "warps": 4}, {"rows": 4, "warps": 4}, {"rows": 8, "warps": 4}), 1.0)  # fmt: skip


class Chip:
    """Microseconds by rows; each call takes a second of the fake clock."""

    def __init__(self, us, wrong=(), unfit=(), raises=(), lucky=()):
        self.us, self.bad, self.unfit, self.raises, self.lucky = us, wrong, unfit, raises, set(lucky)
        self.now, self.timed = 0.0, []

    def clock(self):
        return self.now

    def rejected(self, task, configs):
        return ["needs 999999 bytes of shared memory" if c["rows"] in self.unfit else None for c in configs]

    def time(self, task, config):
        self.now += 1
        rows = config["rows"]
        self.timed.append(rows)
        if rows in self.raises:
            raise RuntimeError("out of resources")
        if rows in self.lucky:
            self.lucky.remove(rows)
            return 1.0
        return self.us[rows]

    def wrong(self, task, config):
        return "out: worst row 99 u" if config["rows"] in self.bad else None


def found(chip, seconds=1e9):
    said = []
    return search(TASK, chip, lambda: seconds - chip.now, said.append), said


def test_overlays_change_what_the_heuristic_names_and_repeat_nothing():
    grid = tuned.grid(rows=(1, 2), warps=(4, 8), other=(1, 2))
    assert len(grid) == 8
    made = combinations(HEURISTIC, grid)
    assert made == ({"rows": 1, "warps": 8}, {"rows": 2, "warps": 4}, {"rows": 2, "warps": 8})


def test_the_fastest_right_candidate_wins():
    result, _ = found(Chip({1: 100, 2: 90, 4: 80, 8: 85}))
    assert result.config["rows"] == 4 and result.better and (result.heuristic_us, result.us) == (100, 80)
    assert (result.tried, result.dropped, result.finished) == (3, 0, True)


def test_wrong_unfit_failing_and_lucky_candidates_do_not():
    result, said = found(Chip({1: 100, 2: 90, 4: 80, 8: 70}, wrong=(8,)))
    assert result.config["rows"] == 4 and "wrong: out: worst row 99 u" in said[0]
    chip = Chip({1: 100, 2: 90, 4: 80, 8: 70}, unfit=(8,))
    assert found(chip)[0].config["rows"] == 4 and 8 not in chip.timed
    result, said = found(Chip({1: 100, 2: 90, 4: 80, 8: 70}, raises=(8, 4)))
    assert result.config["rows"] == 2 and len(said) == 2 and "RuntimeError: out of resources" in said[0]
    result, _ = found(Chip({1: 100, 2: 90, 4: 99, 8: 100}, lucky=(4,)))
    assert result.config["rows"] == 2


def test_two_percent_is_noise():
    result, _ = found(Chip({1: 100, 2: 98.1, 4: 100, 8: 120}))
    assert not result.better and result.us == 100
    assert found(Chip({1: 100, 2: 97.9, 4: 100, 8: 120}))[0].better


def test_a_wrong_heuristic_ends_the_search():
    with pytest.raises(ValueError, match="heuristic's result is wrong: out: worst row 99"):
        found(Chip({1: 100}, wrong=(1,)))


def test_when_the_time_is_up_what_was_found_is_kept(tmp_path):
    chip = Chip({1: 100, 2: 90, 4: 80, 8: 70})
    result, _ = found(chip, seconds=3)  # the heuristic and two candidates
    assert result.config["rows"] == 4 and not result.finished and 8 not in chip.timed
    chip, said = Chip({1: 100, 2: 90, 4: 80, 8: 70}), []
    tasks = [replace(TASK, label=f"L={i}", share=float(i)) for i in range(5)]
    table = Table(tmp_path / "chip.json", "a test")
    results = run(tasks, chip, table, seconds=9, clock=chip.clock, say=said.append)
    assert [r.task.label for r in results] == ["L=4", "L=3"]  # dearest first
    assert "time is up after 2 of 5 shapes" in said[-1]
    assert set(json.loads((tmp_path / "chip.json").read_text())["ops"]["rms_norm"]) == {"L=4", "L=3"}


def test_a_shape_that_fails_does_not_end_the_run(tmp_path):
    class Broken(Chip):
        def rejected(self, task, configs):
            if task.label == "L=1":
                raise OSError("no space")
            return super().rejected(task, configs)

    chip, said = Broken({1: 100, 2: 90, 4: 80, 8: 70}), []
    tasks = [replace(TASK, label="L=1", share=2.0), TASK]
    assert len(run(tasks, chip, Table(tmp_path / "t.json", "a test"), 1e9, chip.clock, said.append)) == 1
    assert "left out: OSError: no space" in said[0]


def test_a_table_keeps_what_is_not_its_business_and_is_never_half_written(tmp_path, monkeypatch):
    path = tmp_path / "chip.json"
    path.write_text(json.dumps({"source": "old", "ops": {"quant": {"L=1": {"rows": 2}}, "rms_norm": {TASK.label: {}}}}))
    good, _ = found(Chip({1: 100, 2: 90, 4: 80, 8: 70}))
    assert Table(path, "new").add(good)
    read = json.loads(path.read_text())
    assert read["source"] == "new" and read["ops"]["quant"] == {"L=1": {"rows": 2}}
    assert read["ops"]["rms_norm"][TASK.label] == {"rows": 8, "warps": 4}

    before = path.read_bytes()
    same, _ = found(Chip({1: 100, 2: 100, 4: 100, 8: 100}))
    assert not Table(path, "x").add(replace(same, finished=False)) and path.read_bytes() == before
    monkeypatch.setattr("liveact_kernels.tune.search.json.dumps", lambda *a, **k: "half")
    full = OSError("disk full")
    monkeypatch.setattr("liveact_kernels.tune.search.os.replace", lambda *a: (_ for _ in ()).throw(full))
    with pytest.raises(OSError, match="disk full"):
        Table(path, "x").add(good)
    assert path.read_bytes() == before
    monkeypatch.undo()
    assert Table(path, "newer").add(same)  # it no longer beats the heuristic
    assert json.loads(path.read_text())["ops"] == {"quant": {"L=1": {"rows": 2}}}


def test_what_is_written_is_what_a_launch_gets(tmp_path, monkeypatch):
    good, _ = found(Chip({1: 100, 2: 90, 4: 80, 8: 85}))
    Table(tmp_path / "mychip.json", "a test").add(good)
    monkeypatch.setattr(tuned.resources, "files", lambda _: tmp_path)
    tuned.table.cache_clear()
    try:
        at = tuned.Limits("mychip", 90, 132, 232448)
        assert tuned.config("rms_norm", lambda at, L, C: HEURISTIC, at, L=8192, C=5120) == {"rows": 4, "warps": 4}
    finally:
        tuned.table.cache_clear()


def test_every_fused_op_has_candidates_that_its_heuristic_knows():
    from liveact_kernels.compiled import aot
    from liveact_kernels.tune import gpu as tune_gpu

    tasks = tune_gpu.tasks(None, None)
    able = {n: aot.home(op) for n, op in REGISTRY.items() if "triton" in op.backends}
    assert {t.op for t in tasks} == {n for n, arch in able.items() if arch <= aot.BOUND}
    for name in able.keys() - {t.op for t in tasks}:  # of chips to come
        launch, case = REGISTRY[name].implementation("triton"), next(aot.cases(REGISTRY[name], False))[1]
        (asked,) = aot.configurations(REGISTRY[name], case, able[name])
        known = asked.heuristic(tuned.Limits("b200", able[name], 148, tuned.SHARED[able[name]]), **asked.dims)
        assert {k for o in launch.candidates for k in o} <= known.keys(), name
    at = tuned.Limits("h200", aot.BOUND, tuned.COMPILE_SMS, tuned.SHARED[aot.BOUND])
    for task in tasks:
        op, case = tune_gpu.case_of(task)
        overlays = op.implementation("triton").candidates
        (asked,) = aot.configurations(op, case, aot.BOUND)
        assert task.key == task.op and task.label == tuned.label(**asked.dims) and task.share > 0
        assert dict(task.heuristic) == dict(asked.heuristic(at, **asked.dims)) and 3 < len(task.candidates) < 200
        overlays = overlays(**asked.dims) if callable(overlays) else overlays
        assert {k for o in overlays for k in o} <= task.heuristic.keys(), task.op


def test_the_share_of_the_frame_decides_the_order():
    from liveact_kernels.tune import gpu as tune_gpu

    tasks = tune_gpu.tasks(["quant", "rms_norm"], None, lambda: {"quant": 1, "rms_norm": 1000})
    assert max(tasks, key=lambda t: t.share).op == "rms_norm"


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
@pytest.mark.parametrize(
    "options,words",
    [
        ([], "tuning needs a GPU, torch .* finds none: --dry-run"),
        (["--op", "nope", "--dry-run"], r"--op: expected an op with a Triton backend \(attention, .*got 'nope'"),
        (["--op", "frame_attention", "--dry-run"], "--op: expected an op with a Triton .*got 'frame_attention'"),
        (["--minutes", "0"], "--minutes: expected a number over 0, at most 1440, got 0"),
        (["--minutes", "nan"], "--minutes: expected a number over 0"),
        (["--minutes", "soon"], "--minutes: invalid float value: 'soon'"),
        (["--out", "/no/such/folder/t.json"], "--out: expected a file in a folder that can be written to"),
    ],
)
def test_unusable_options_are_one_sentence(capsys, options, words):
    assert main(["tune", *options]) == 2
    error = capsys.readouterr().err.strip()
    assert error.startswith("liveact: error: ") and len(error.splitlines()) == 1
    assert re.search(words, error), error
    if "soon" not in options:
        assert tune_main(options) == 2
        assert re.search(words, capsys.readouterr().err)


@pytest.mark.parametrize(
    "name,found",
    [("", "a directory"), ("folder", "a directory"), ("new/", "a directory"), ("pipe", "a device, socket or pipe"),
     ("/dev/null", "a device, socket or pipe"), ("n" * 300, "File name too long"), ("n\0", "--out: ")],
)  # fmt: skip
def test_a_table_goes_into_a_regular_file(name, found, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    os.mkdir("folder")
    os.mkfifo("pipe")
    assert main(["tune", "--dry-run", "--op", "quant", "--out", name]) == 2
    got = capsys.readouterr()
    assert got.err.startswith("liveact: error: --out: expected a ") and got.err.count("\n") == 1, got.err
    assert found in got.err and got.out == "" and sorted(os.listdir()) == ["folder", "pipe"]


def test_a_machine_without_triton_is_one_sentence(capsys, monkeypatch):
    from liveact_kernels.tune import gpu as tune_gpu

    monkeypatch.setattr(tune_gpu, "found", lambda module: False)
    monkeypatch.setattr(tune_gpu, "missing", lambda backend, device: "triton is not installed: get it")
    assert tune_main(["--dry-run"]) == 2 and capsys.readouterr().err == "tune: error: triton is not installed: get it\n"


def test_a_dry_run_lists_shapes_dearest_first(capsys):
    assert tune_main(["--dry-run", "--op", "quant", "fp8_linear"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("fp8_linear/live_qkv_416x720: ") and lines[-1].startswith("quant/live_512x512")
    assert "heuristic {'rows': " in lines[-1]


def test_the_options_need_no_torch():
    from liveact_kernels.tune import command as tune

    parser = argparse.ArgumentParser()
    tune.add_arguments(parser)
    assert parser.parse_args([]).minutes == 20 and "torch" not in vars(tune) and ops is not None
