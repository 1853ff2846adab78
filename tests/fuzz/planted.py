"""Wrong programs: `planted:N` is the Nth; each must be caught. Run as a module, this is the program itself."""

from __future__ import annotations

import os
import subprocess
import sys
import time

from .case import Case, Draw, Place
from .common import good_picture


def traceback() -> None:
    raise KeyError("dim")


def leaves_a_file() -> None:
    open("half.tmp", "w").close()
    fail()


def leaves_in_home() -> None:
    open(os.path.expanduser("~/cache"), "w").close()
    fail()


def hang() -> None:
    time.sleep(600)


def eats_memory() -> None:
    bytearray(b"x") * 200_000_000
    fail()


def exits_one() -> None:
    sys.exit(1)


def crash() -> None:
    os.abort()


def talks_too_much() -> None:
    print("warning: a\nwarning: b\nwarning: c", file=sys.stderr)
    fail()


def noise() -> None:
    print("[mp3 @ 0x1] header missing", file=sys.stderr)


def silent() -> None:
    sys.exit(2)


def long_sentence() -> None:
    fail("x" * 600)


def two_sentences() -> None:
    print("liveact: error: a", file=sys.stderr)
    fail()


def escape() -> None:
    fail("\x1b[2J")


def orphan() -> None:
    subprocess.Popen(["sleep", "600"])
    fail()


def loses_input() -> None:
    os.remove("../in/face.png")
    fail()


def spoils_input() -> None:
    with open("../in/face.png", "a") as file:
        file.write("x")
    fail()


def no_video() -> None:
    sys.exit(0)


def broken_video() -> None:
    with open("v.mp4", "w") as file:
        file.write("not a video")


def runs_code() -> None:
    open("../canary", "w").close()
    fail()


def well_behaved() -> None:
    fail()


def fail(text: str = "one sentence") -> None:
    print(f"liveact: error: {text}", file=sys.stderr)
    sys.exit(2)


CAUGHT = {
    traceback: {"traceback", "exit"}, leaves_a_file: {"left behind"}, leaves_in_home: {"left behind"}, hang: {"hang"},
    eats_memory: {"memory"}, exits_one: {"exit"}, crash: {"exit"}, talks_too_much: {"stderr lines"},
    noise: {"noise", "unplayable"}, silent: {"silent"}, long_sentence: {"error line"}, two_sentences: {"error line"},
    escape: {"error line"}, orphan: {"processes"}, spoils_input: {"input changed"},
    loses_input: {"input changed"}, no_video: {"unplayable"},
    broken_video: {"unplayable"}, runs_code: {"code ran"}, well_behaved: set(),
}  # fmt: skip
"""Program -> the kinds of violation that it must be charged with."""


def make(rng: Draw, place: Place) -> Case:
    """The program of the case's number."""
    program = list(CAUGHT)[rng.number].__name__
    good_picture(place)
    return Case([program], program, module=__name__, deadline_s=1.0 if program == "hang" else 40.0,
                memory_bytes=100_000_000)  # fmt: skip


if __name__ == "__main__":
    {f.__name__: f for f in CAUGHT}[sys.argv[1]]()
