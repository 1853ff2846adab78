"""Device tests: `make gpu`, or `python -m pytest tests/gpu -m gpu` with nothing installed but torch, triton and pytest.

Without a device every test is skipped with the reason; `--junitxml FILE` keeps op, backend, case, output, error, bound.
`--lines FILE` keeps them too, at once, and leaves out what FILE already has; resume.py starts such processes.
"""

import faulthandler
import json
import os
import sys
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
# an uninstalled checkout, whatever the working directory
sys.path[:0] = [str(ROOT), str(ROOT / "tests"), str(ROOT / "tests" / "gpu")]

import pytest  # noqa: E402
import resume  # noqa: E402
import torch  # noqa: E402

WHY = None if torch.cuda.is_available() else f"torch {torch.__version__} finds no CUDA device"


SLOW = {"test_device_sanitizer.py": 580.0}
"""Seconds of tests that run another program for minutes, whatever --each says."""

LOST = 70
"""Exit status of a process whose CUDA context is lost: every later test would fail of it."""


def pytest_addoption(parser):
    parser.addoption("--lines", metavar="FILE", help="a JSON line before and after each test; tests in it are left out")
    parser.addoption("--each", type=float, default=0.0, metavar="SECONDS", help="end the process if a test is longer")


def pytest_configure(config):
    if path := config.getoption("--lines"):
        config.pluginmanager.register(Lines(Path(path), config.getoption("--each")), "lines")


class Lines:
    """Writes what is known the moment it is known, and ends the process when it can no longer be trusted."""

    def __init__(self, path, each):
        self._path, self._each, self._about, self._reports = path, each, {}, []
        self._stack = open(path.with_suffix(".stack"), "a", encoding="utf-8")  # noqa: SIM115 - as long as the process

    def _write(self, row):
        with open(self._path, "a", encoding="utf-8") as file:
            file.write(json.dumps(row, default=str) + "\n")

    def pytest_collection_modifyitems(self, config, items):
        done = resume.outcomes(self._path)
        dead = [r for r in done.values() if r["outcome"] == "died" or "lost" in r]
        deaths = Counter((r.get("op"), r.get("backend")) for r in dead)
        left = [item for item in items if item.nodeid not in done]
        for item in list(left):
            about = _about(item)
            if about["op"] and deaths[about["op"], about["backend"]] >= resume.LIMIT:
                left.remove(item)
                self._write({"id": item.nodeid, **about, "outcome": "skipped", "said": f"died {resume.LIMIT} times"})
        config.hook.pytest_deselected(items=[item for item in items if item not in left])
        items[:] = left

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item):
        about, self._reports = {"id": item.nodeid, **_about(item)}, []
        self._write(about | {"outcome": "began"})
        if seconds := self._each and SLOW.get(item.path.name, self._each):
            faulthandler.dump_traceback_later(seconds, exit=True, file=self._stack)
        try:
            return (yield)
        finally:
            faulthandler.cancel_dump_traceback_later()
            row = about | {"outcome": "failed" if not self._reports else "passed"}
            for report in self._reports:
                row |= dict(report.user_properties) | {"seconds": round(row.get("seconds", 0.0) + report.duration, 3)}
                if report.outcome != "passed":
                    row |= {"outcome": report.outcome, "said": _words(report)[:1500]}
            lost = row["outcome"] == "failed" and _context_is_lost()
            self._write(row | ({"lost": True} if lost else {}))
            if lost:
                os._exit(LOST)

    def pytest_runtest_logreport(self, report):
        self._reports.append(report)


def _words(report):
    """Why a test was skipped, or the message that it failed with."""
    if report.skipped:
        return str(report.longrepr[2])
    crash = getattr(report.longrepr, "reprcrash", None)
    return str(report.longrepr if crash is None else crash.message)


def _about(item):
    """Op and backend of a test that has them."""
    params = getattr(getattr(item, "callspec", None), "params", {})
    backend = params.get("backend")
    return {"op": getattr(params.get("op"), "name", None), "backend": backend if isinstance(backend, str) else None}


def _context_is_lost():
    try:
        torch.cuda.synchronize()
    except Exception:
        return not WHY  # without a device there is nothing to lose
    return False


@pytest.hookimpl(tryfirst=True)  # before `-m gpu` looks for the mark
def pytest_collection_modifyitems(items):
    """Mark every test of this folder, and skip all of them at no cost where there is no device."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.gpu)
            if WHY:
                item.add_marker(pytest.mark.skip(reason=WHY))


@pytest.fixture
def device() -> torch.device:
    """The GPU under test."""
    return torch.device("cuda", torch.cuda.current_device())


@pytest.fixture(scope="session", autouse=True)
def _machine(record_testsuite_property):
    """Chip and versions go into the JUnit file."""
    record_testsuite_property("torch", torch.__version__)
    if not WHY:
        record_testsuite_property("device", torch.cuda.get_device_name())
        record_testsuite_property("cuda", torch.version.cuda)
