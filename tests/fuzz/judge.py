"""The rule: exit 0 or 2, at most 3 lines of stderr, no traceback, nothing left behind, bounded time and memory."""

from __future__ import annotations

import re
import signal

from liveact_app.cli import EXIT_NO_READER

from .case import Case
from .outcome import Outcome

PROGRESS = re.compile(r"liveact: \d+/\d+ video frames")
MAX_LINES, MAX_NOTES, MAX_SENTENCE = 3, 4, 500


def judge(case: Case, got: Outcome) -> dict[str, str]:
    """Violations: kind -> what was seen. Empty when all is well."""
    wrong: dict[str, str] = {}
    if got.rc is None:
        wrong["hang"] = f"still running after {got.wall_s:.0f} s"
    elif got.rc not in _exits(case):
        wrong["exit"] = f"exit code {got.rc}" if got.rc >= 0 else f"killed by {signal.Signals(-got.rc).name}"
    text = got.stdout + got.stderr
    if "Traceback (most recent call last)" in text:
        wrong["traceback"] = text.strip().splitlines()[-1]
    if case.stderr == "file":
        wrong |= {k: v for k, v in _words(case, got).items() if "traceback" not in wrong or k != "stderr lines"}
    allowed = case.allowed if got.rc in (0, 130) else set()
    if case.do == "rmtree":  # where the folder was, the video is kept elsewhere, and the sentence says where
        allowed = allowed | {path for path in got.new if f"/{path}'" in got.stderr and path.endswith(".mp4")}
    if got.rc is not None and (left := sorted(set(got.new) - allowed - {"canary"})):  # who is killed cannot tidy up
        wrong["left behind"] = ", ".join(left[:5])
    if spoilt := sorted({*got.changed} - allowed) + [f"{path} is gone" for path in got.lost]:
        wrong["input changed"] = ", ".join(spoilt[:5])
    if got.rc == 0 and case.video and not got.playable:
        wrong["unplayable"] = "exit 0 without a video that plays"
    if got.rc == 130 and set(got.new) & allowed and not got.playable:
        wrong["unplayable"] = "interrupted, and what was left does not play"
    if got.grown_bytes > case.memory_bytes:
        wrong["memory"] = f"{got.grown_bytes / 1e6:.0f} MB"
    if got.processes:
        wrong["processes"] = ", ".join(got.processes[:3])
    if got.canary:
        wrong["code ran"] = "a file of the input was executed"
    return wrong


def _exits(case: Case) -> set[int]:
    if case.do in ("SIGINT", "SIGTERM", "SIGHUP"):
        asked = getattr(signal, case.do)
        # before the handlers are there, a stop signal other than Ctrl-C ends the process as everywhere
        return {0, 2, 130} | ({-asked} if case.do != "SIGINT" else set())
    # the reader of a help text that left is no error; who asked for a video has it all the same
    return {0, 2} | ({EXIT_NO_READER} if case.stdout == "broken" and not case.video else set())


def _words(case: Case, got: Outcome) -> dict[str, str]:
    """What is wrong with stderr."""
    wrong: dict[str, str] = {}
    lines = [line for line in got.stderr.splitlines() if not PROGRESS.match(line)]
    errors = [line for line in lines if "liveact: error:" in line]
    if got.rc == 0:
        if noise := [line for line in lines if not line.startswith("liveact: ")]:
            wrong["noise"] = noise[0]
        elif len(lines) > MAX_NOTES or errors:
            wrong["stderr lines"] = f"{len(lines)} lines after a success"
        return wrong
    # what goes wrong in the midst of a run comes after the notes that a success has, too
    if len(lines) > (MAX_NOTES + 1 if any(line.startswith("liveact: loading ") for line in lines) else MAX_LINES):
        wrong["stderr lines"] = f"{len(lines)} lines"
    if got.rc != 2:
        return wrong
    if case.do == "cwd gone" and not errors and len(lines) == 1 and lines[0].startswith("Intel oneMKL FATAL ERROR: "):
        return wrong  # the library ends the process by itself when the folder goes in the midst of `import torch`
    follows = case.env.get("RANK") or "0"  # another process of a group speaks for all
    if not errors and not (follows.isdecimal() and int(follows) > 0):
        wrong["silent"] = "exit code 2 without an error line"
    elif errors and (len(errors) > 1 or lines[-1] != errors[0] or not lines[-1].startswith("liveact: error: ")):
        wrong["error line"] = lines[-1]
    elif errors and len(errors[0]) > MAX_SENTENCE:
        wrong["error line"] = f"a sentence of {len(errors[0])} characters"
    elif errors and not errors[0].isprintable():
        wrong["error line"] = f"control characters: {errors[0]!r}"
    return wrong
