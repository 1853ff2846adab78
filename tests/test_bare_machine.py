"""Device tests, campaign and tuner where nothing is installed but torch, Triton, pytest and build tools."""

import json
import subprocess
import sys
import textwrap
from pathlib import Path

import bare
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent / "gpu"))
import resume
from test_bench_frame import NETWORK, SMALL

ROOT = bare.ROOT
RUN = "import runpy, sys; sys.path[:0] = [sys.argv[1].rpartition('/')[0]]; sys.argv = sys.argv[1:]; "
RUN += "runpy.run_path(sys.argv[0], run_name='__main__')"


def test_the_hook_hides_what_is_installed_here(tmp_path):
    for name in ("pydantic", "av", "transformers", "safetensors", "hypothesis"):
        done = bare.python(f"import {name}", folder=tmp_path)
        assert done.returncode == 1 and f"No module named '{name}'" in done.stderr
    assert bare.python("import torch, numpy, pytest", folder=tmp_path).returncode == 0


def test_a_block_of_the_big_models_parts(tmp_path):
    code = f"""
        import sys
        sys.path.insert(0, "bench")
        import campaign, ceilings, run, frame, test_speed, torch, avatars
        from liveact_kernels.tune import command
        from liveact_app import doctor, tune
        from liveact_app.predict import command
        from liveact_model.config import DiTConfig
        from liveact_model.vae.wan_coder import WanVAEConfig
        small = avatars.assemble("small", DiTConfig(**{SMALL.to_dict()!r}), WanVAEConfig(dim=8, num_res_blocks=1),
            "fp8", torch.device("cpu"), **{NETWORK!r})
        one = frame.Run(small, (32, 32), True, False, torch.device("cpu"))
        print(one.block(one.start())[1])
    """
    done = bare.python(textwrap.dedent(code), folder=tmp_path)
    assert done.returncode == 0 and done.stdout.strip() == "21", done.stderr


@pytest.mark.skipif(torch.cuda.is_available(), reason="a machine with a GPU runs them")
def test_the_device_tests_are_collected_and_leave_a_line_each(tmp_path):
    out = tmp_path / "out"
    done = bare.python(RUN, str(ROOT / "tests/gpu/resume.py"), "--out", str(out), folder=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    found = resume.outcomes(out / "tests.jsonl")
    assert len(found) > 500 and {r["outcome"] for r in found.values()} == {"skipped"}
    assert all(r["said"].startswith("Skipped: ") for r in found.values())
    assert (out / "summary.txt").read_text().startswith("all tests were reached")


TESTS = """
import os, time, pytest
class Op:
    def __init__(self, name):
        self.name = name
    def __str__(self):
        return self.name

@pytest.mark.parametrize("op,backend", [(Op("good"), "cuda"), (Op("bad"), "cuda"), (Op("hangs"), "cuda")], ids=str)
@pytest.mark.parametrize("case", range(4))
def test_parity(op, backend, case, record_property):
    record_property("error", 0.5)
    print("something that pytest keeps to itself")
    if op.name == "bad":
        os.abort() if case == 1 else pytest.fail("3 ulp") if case == 3 else None
    if op.name == "hangs" and case < 3:
        time.sleep(3600)
"""


@pytest.fixture
def suite(tmp_path, monkeypatch):
    """A checkout whose device tests crash and hang."""
    folder = tmp_path / "checkout" / "tests" / "gpu"
    folder.mkdir(parents=True)
    for name in ("conftest.py", "resume.py"):
        (folder / name).write_text((ROOT / "tests" / "gpu" / name).read_text(encoding="utf-8"), encoding="utf-8")
    (folder / "test_device_fake.py").write_text(TESTS, encoding="utf-8")
    (tmp_path / "checkout" / "pyproject.toml").write_text('[tool.pytest.ini_options]\nmarkers = ["gpu: "]\n')
    text = (folder / "conftest.py").read_text(encoding="utf-8")
    start = text.index("WHY = ")
    there = text[:start] + "WHY = ''" + text[text.index("\n", start) :]  # as if there were a device
    there = there.replace("torch.cuda.get_device_name()", "'fake'").replace("torch.cuda.synchronize()", "None")
    (folder / "conftest.py").write_text(there, encoding="utf-8")
    return folder


def go(suite, out, *more):
    command = [sys.executable, str(suite / "resume.py"), "--out", str(out), *more]
    return subprocess.run(command, capture_output=True, text=True)


@pytest.mark.slow
def test_a_hang_and_a_crash_end_one_test_each(suite, tmp_path):
    done = go(suite, tmp_path / "out", "--each", "10", "--minutes", "9")
    assert done.returncode == 1, done.stderr
    found = resume.outcomes(tmp_path / "out" / "tests.jsonl")
    of = {name: [r["outcome"] for n, r in found.items() if f"{name}-" in n] for name in ("good", "bad", "hangs")}
    assert of["good"] == ["passed"] * 4 and sorted(of["bad"]) == ["died", "failed", "passed", "passed"]
    assert sorted(of["hangs"]) == ["died", "died", "skipped", "skipped"]  # twice, and then it is left alone
    assert "test_device_fake.py" in (tmp_path / "out" / "tests.stack").read_text()  # where it hung
    assert next(r for r in found.values() if r["outcome"] == "passed")["error"] == 0.5
    text = (tmp_path / "out" / "summary.txt").read_text()
    assert text.startswith("all tests were reached") and "3 ulp" in text
    assert "hangs on cuda" in text and "it hung, crashed, or was killed" in text
    again = go(suite, tmp_path / "out", "--each", "10")  # nothing is left: no test runs a second time
    assert again.returncode == 1 and resume.outcomes(tmp_path / "out" / "tests.jsonl") == found


def test_what_the_end_of_the_time_stopped_is_run_the_next_time(tmp_path):
    rows = [{"id": "a", "outcome": "began"}, {"id": "a", "outcome": "passed"}, {"id": "b", "outcome": "began"}]
    path = tmp_path / "tests.jsonl"
    path.write_text("".join(json.dumps(r) + "\n" for r in rows) + '{"id": "c", "outc')
    assert {n: r["outcome"] for n, r in resume.outcomes(path).items()} == {"a": "passed", "b": "died"}
    path.write_text("".join(json.dumps(r) + "\n" for r in [*rows, {"id": "b", "outcome": "stopped"}]))
    assert {n: r["outcome"] for n, r in resume.outcomes(path).items()} == {"a": "passed"}


def test_unusable_input_of_the_runner(tmp_path):
    (tmp_path / "file").touch()
    cases = ((["--minutes", "0"], "expected more than 0, got 0"), ([], "expected a folder that can be made"))
    for argv, words in cases:
        done = go(ROOT / "tests" / "gpu", tmp_path / "file" / "x", *argv)
        assert done.returncode == 2 and words in done.stderr and done.stderr.count("\n") == 1
