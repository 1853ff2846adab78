"""Everything worth measuring on a GPU that is only there for ten minutes, in one command.

    python bench/campaign.py --out DIR [--minutes 8]

Builds the C++ kernels, checks parity on the device, then measures ceilings, ops (the dearest of a frame first) and
whole frames. Every section is a process of its own with its own time limit; time that one leaves goes to those after
it, and what is found is on disk at once, so a run that is cut off keeps what it has.

DIR gets build.log, parity.log, parity/ (a line per test), ceilings.jsonl, ops.jsonl, frame.jsonl, bench.log, and
summary.txt, which ends with measured beside predicted (profiles/predicted.json; the frame's is made on the spot).

exit codes: 0 every section that could run went well, 1 one failed or ran out of time, 2 unusable input
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import root
import torch
from rows import read

from liveact_model.errors import InputError

GRACE = 10.0
"""Seconds that a section has after its time to write down what it knows."""


@dataclass(frozen=True)
class Section:
    """One process: its share of the time, its log, and its command, or the reason why there is none."""

    name: str
    share: float
    log: str
    command: Callable[[Path, float], list[str] | str]


@dataclass
class Outcome:
    """How a section ended: "ok", "failed (rc)", "out of time" or "skipped: reason"."""

    name: str
    status: str
    seconds: float = 0.0


def _bench(script: str, *flags: str) -> list[str]:
    return [sys.executable, str(root.ROOT / "bench" / script), *flags]


def _build(out: Path, minutes: float) -> list[str] | str:
    script = root.ROOT / "csrc" / "cmake_build.py"
    return [sys.executable, str(script)] if script.is_file() else "there is no csrc/ to build"


def _parity(out: Path, minutes: float) -> list[str] | str:
    script = root.ROOT / "tests" / "gpu" / "resume.py"
    if not script.is_file():
        return "there is no tests/gpu"
    slow = "--ignore=tests/gpu/test_device_sanitizer.py"  # minutes under another program: `make gpu` runs it
    return [sys.executable, str(script), "--out", str(out / "parity"), "--minutes", f"{0.9 * minutes:.3f}", slow]


def sections(dry: bool) -> list[Section]:
    """In order; a dry run does the same with tiny shapes on the CPU and builds nothing."""
    ceilings = ["--seconds", "0.02", "--side", "64", "--megabytes", "1", "--device", "cpu"] if dry else []
    ops = ["--op", "quant,gate_residual", "--seconds", "0.02", "--device", "cpu", "--peers", "none"] if dry else []
    frame = ["--model", "tiny", "--blocks", "1", "--device", "cpu"] if dry else ["--blocks", "5"]

    def writes(script: str, name: str, flags: list[str], timed: bool = False) -> Callable[[Path, float], list[str]]:
        def command(out: Path, minutes: float) -> list[str]:
            limit = ["--minutes", f"{0.9 * minutes:.3f}"] if timed else []
            return _bench(script, "--out", str(out / name), *limit, *flags)

        return command

    return [
        Section("build", 0.20, "build.log", (lambda out, minutes: "a dry run builds nothing") if dry else _build),
        Section("parity", 0.25, "parity.log", _parity),
        Section("ceilings", 0.05, "bench.log", writes("ceilings.py", "ceilings.jsonl", ceilings)),
        Section("ops", 0.25, "bench.log", writes("run.py", "ops.jsonl", ops, timed=True)),
        Section("frame", 0.25, "bench.log", writes("frame.py", "frame.jsonl", frame)),
    ]


def run_section(section: Section, out: Path, seconds: float) -> Outcome:
    """Run one section for at most `seconds`, then interrupt its process group, and kill it GRACE seconds later.

    Its output goes to its log as it comes; an interrupted pytest still writes what failed so far.
    """
    command = section.command(out, seconds / 60)
    if isinstance(command, str):
        return Outcome(section.name, f"skipped: {command}")
    began = time.perf_counter()
    places = [str(root.ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(places), "PYTHONUNBUFFERED": "1"}
    with open(out / section.log, "a", encoding="utf-8") as log:
        log.write(f"$ {' '.join(command)}\n")
        log.flush()
        process = subprocess.Popen(
            command, cwd=root.ROOT, stdout=log, stderr=subprocess.STDOUT, env=environment, start_new_session=True
        )
        try:
            code = process.wait(timeout=max(seconds, 0.01))
            status = "ok" if code == 0 else f"failed ({code})"
        except subprocess.TimeoutExpired:
            status = f"out of time ({seconds:.0f} s)"
            os.killpg(process.pid, signal.SIGINT)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(timeout=GRACE)
        finally:
            with contextlib.suppress(ProcessLookupError):  # its children may outlive it
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    return Outcome(section.name, status, time.perf_counter() - began)


def limits(todo: Sequence[Section], left: float) -> float:
    """Seconds for the first of the sections that are still to come, by their shares of what is left."""
    return left * todo[0].share / sum(s.share for s in todo)


def summary(out: Path, outcomes: Sequence[Outcome]) -> list[str]:
    """The closing table: how every section ended, then ceilings, each op and every frame, measured beside predicted."""
    lines = [f"{'section':10} {'seconds':>8}  outcome"]
    lines += [f"{o.name:10} {o.seconds:8.1f}  {o.status}" for o in outcomes]
    for name, told in (("ceilings", _ceilings), ("ops", _ops), ("frame", _frames)):
        path = out / f"{name}.jsonl"
        found = told(read(path)) if path.is_file() else []
        lines += ["", *found] if found else []
    return lines


def _ceilings(rows: list[dict]) -> list[str]:
    return [f"{r['ceiling']:22} {r['per_second'] / 1e9:14.1f} G/s" for r in rows if r["kind"] == "ceiling"]


def _ops(rows: list[dict]) -> list[str]:
    """The best backend of each case, every other one of ours that was predicted, and what is wrong."""
    best: dict[tuple[str, str], dict] = {}
    for r in (r for r in rows if r["kind"] == "op"):
        known = best.setdefault((r["op"], r["case"]), r)
        best[r["op"], r["case"]] = min(known, r, key=lambda x: x["us"])
    shown = [r for r in rows if r in best.values() or r.get("predicted")]
    lines = [f"{'op':22} {'case':24} {'backend':9} {'us':>10} {'predicted':>10} {'ratio':>6}"] if shown else []
    for r in shown:
        said = r.get("predicted")
        beside = f" {said['us']:10.1f} {r['us'] / said['us']:6.2f}" if said else f" {'':10} {'':6}"
        floor = "" if r["percent_of_floor"] is None else f"  {r['percent_of_floor']:.0f}% of the floor"
        lines.append(f"{r['op']:22} {r['case']:24} {r['backend']:9} {r['us']:10.1f}{beside}{floor}".rstrip())
    if compilers := sorted({r["predicted"]["compiler"] for r in shown if r.get("predicted")}):
        lines.append(f"predicted for an H200 from the code of {', '.join(compilers)}; ratio: measured over predicted")
    lines += [f"{r['op']:22} {r['case']:24} {r['backend']:9} WRONG: {r['why']}" for r in rows if r["kind"] == "red"]
    return lines


def _frames(rows: list[dict]) -> list[str]:
    """Each size: the verdict, then its parts, measured beside predicted where both are known."""
    lines = []
    for steady in (r for r in rows if r.get("what") == "steady"):
        same = [r for r in rows if all(r.get(k) == steady[k] for k in ("model", "size", "precision"))]
        parts = next((r["parts"] for r in same if r["kind"] == "breakdown"), {})
        said = next((r["predicted"] for r in same if r["kind"] == "predicted"), {})
        ms = said.get("ms_per_video_frame", {})
        lines.append(f"{steady['model']} {steady['size']} {steady['precision']}: {steady['verdict']}")
        rows_of = {name: p["ms"] for name, p in parts.items()} | {"total": steady["ms_per_video_frame"]}
        lines.append(f"  {'ms per video frame':28} {'measured':>10} {'predicted':>10}")
        lines += [f"  {n:28} {t:10.3f}" + (f" {ms[n]:10.3f}" if n in ms else "") for n, t in rows_of.items()]
        lines += [f"  not predicted: {said['error']}"] if "error" in said else []
    return lines


def run(out: Path, minutes: float, todo: Sequence[Section], say: Callable[[str], object] = print) -> list[Outcome]:
    """Run the sections in order within `minutes`; the summary is rewritten after each."""
    if not minutes > 0:
        raise InputError(f"--minutes: expected more than 0, got {minutes}")
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"--out: expected a folder that can be made, got {out}: {error}") from error
    if any(out.iterdir()):
        raise InputError(f"--out: expected an empty folder, got {out}")
    began, outcomes = time.perf_counter(), []
    for i, section in enumerate(todo):
        left = 60 * minutes - (time.perf_counter() - began)
        seconds = limits(todo[i:], left)
        say(f"{section.name}: at most {seconds:.0f} s")
        outcomes.append(run_section(section, out, seconds))
        say(f"{section.name}: {outcomes[-1].status}, {outcomes[-1].seconds:.1f} s")
        (out / "summary.txt").write_text("\n".join(summary(out, outcomes)) + "\n", encoding="utf-8")
    return outcomes


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--out", required=True, type=Path, metavar="DIR", help="an empty or new folder")
    p.add_argument("--minutes", type=float, default=8.0, help="for everything (default: %(default)s)")
    p.add_argument("--dry-run", action="store_true", help="the same sections with tiny shapes on the CPU")
    args = p.parse_args(argv)
    try:
        if not args.dry_run and not torch.cuda.is_available():
            raise InputError("campaign: expected a CUDA device, found none: --dry-run goes through it on the CPU")
        outcomes = run(args.out, args.minutes, sections(args.dry_run))
    except InputError as error:
        print(f"campaign.py: {error}", file=sys.stderr)
        return 2
    print((args.out / "summary.txt").read_text(encoding="utf-8"), end="")
    return 0 if all(o.status == "ok" or o.status.startswith("skipped") for o in outcomes) else 1


if __name__ == "__main__":
    sys.exit(main())
