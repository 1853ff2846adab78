"""The device tests, whatever a kernel does: a hang or a lost context ends one test, and the rest go on.

    python tests/gpu/resume.py --out DIR [--minutes N] [--each SECONDS] [pytest's own arguments]

A kernel that waits for ever cannot be interrupted, and one that writes where it may not takes its process's context
with it. So tests run in a process that can be thrown away: it writes a line to DIR/tests.jsonl before and after each
test, ends itself when one lasts longer than --each seconds or leaves a dead context, and this command starts another
one with the tests that are left. A backend of an op that died twice is left alone after that. Run again with the same
DIR it goes on where it stopped, also after it was killed; DIR/summary.txt is rewritten after every process.

exit codes: 0 all passed or were skipped, 1 some failed, died or were not reached, 2 unusable input
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DONE = (0, 1, 5)  # pytest's exit status when it reached the end: passed, some failed, nothing was left
LIMIT = 2  # of deaths of a backend of an op


def lines_of(path: Path) -> list[dict]:
    """What was written so far; a process that was killed may leave half a line."""
    found = []
    for text in path.read_text(encoding="utf-8").splitlines() if path.is_file() else ():
        with contextlib.suppress(ValueError):
            found.append(json.loads(text))
    return found


def outcomes(path: Path) -> dict[str, dict]:
    """Test -> its last line; one that began and never ended has outcome "died", one that was stopped is left out."""
    found = {row["id"]: row for row in lines_of(path)}
    died = {"outcome": "died", "said": "it hung, crashed, or was killed"}
    found = {name: row | (died if row["outcome"] == "began" else {}) for name, row in found.items()}
    return {name: row for name, row in found.items() if row["outcome"] != "stopped"}


def summary(found: dict[str, dict], ended: str) -> list[str]:
    """How it ended, counts by op and backend (or file), then what failed or died, with its last words."""
    table: dict[str, Counter] = {}
    for name, row in found.items():
        who = f"{row['op']} on {row['backend']}" if row.get("op") and row.get("backend") else name.partition("::")[0]
        table.setdefault(who, Counter())[row["outcome"]] += 1
    kinds = ("passed", "failed", "died", "skipped")
    lines = [ended, f"{'':44} " + " ".join(f"{k:>8}" for k in kinds)]
    lines += [f"{who:44} " + " ".join(f"{counts[k] or '':>8}" for k in kinds) for who, counts in table.items()]
    bad = [(name, row) for name, row in found.items() if row["outcome"] in ("failed", "died")]
    return [*lines, *(f"{row['outcome']}: {name}: {row.get('said', '')}"[:400] for name, row in bad)]


def one_process(out: Path, each: float, seconds: float, more: Sequence[str]) -> int | None:
    """A process with the tests that are left; its exit status, None when the time was up."""
    command = [
        sys.executable, "-m", "pytest", "tests/gpu", "-m", "gpu", "-p", "no:cacheprovider",
        "--lines", str(out / "tests.jsonl"), "--each", str(each), *more,
    ]  # fmt: skip
    places = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    env = os.environ | {"PYTHONPATH": os.pathsep.join(places), "PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen(command, cwd=ROOT, env=env, start_new_session=True)
    try:
        return process.wait(timeout=max(seconds, 0.01))
    except subprocess.TimeoutExpired:
        return None
    finally:
        with contextlib.suppress(ProcessLookupError):  # its children may outlive it
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def run(out: Path, minutes: float, each: float, more: Sequence[str]) -> int:
    """Processes until none dies; returns the exit code."""
    began, path = time.monotonic(), out / "tests.jsonl"
    while True:
        before = len(lines_of(path))
        status = one_process(out, each, 60 * minutes - (time.monotonic() - began), more)
        lines = lines_of(path)
        cut = bool(lines) and lines[-1]["outcome"] == "began"
        ended = "a process died in a test: the others follow"
        if status is None:
            ended = "time is up: the same command goes on from here"
            if cut:
                with open(path, "a", encoding="utf-8") as file:
                    file.write(json.dumps({"id": lines[-1]["id"], "outcome": "stopped"}) + "\n")
        elif status in DONE and not cut:
            ended = "all tests were reached"
        elif len(lines) == before:
            ended = f"pytest cannot run here: exit status {status}"
        found = outcomes(path)
        text = "\n".join(summary(found, ended)) + "\n"
        (out / "summary.txt").write_text(text, encoding="utf-8")
        if ended.startswith("a process died"):
            continue
        print(text, end="")
        bad = any(r["outcome"] in ("failed", "died") for r in found.values())
        return 1 if bad or ended != "all tests were reached" else 0


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--out", required=True, type=Path, metavar="DIR", help="of the lines; one that has some goes on")
    p.add_argument("--minutes", type=float, default=9.0, help="for everything (default: %(default)s)")
    p.add_argument("--each", type=float, default=120.0, metavar="SECONDS", help="for a test (default: %(default)s)")
    args, more = p.parse_known_args(argv)
    if not (args.minutes > 0 and args.each > 0):
        print(f"resume.py: --minutes, --each: expected more than 0, got {args.minutes}, {args.each}", file=sys.stderr)
        return 2
    try:
        args.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        print(f"resume.py: --out: expected a folder that can be made, got {args.out}: {error}", file=sys.stderr)
        return 2
    return run(args.out.resolve(), args.minutes, args.each, more)


if __name__ == "__main__":
    sys.exit(main())
