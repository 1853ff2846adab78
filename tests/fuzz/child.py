"""What happens in a child between the fork and the command: streams, limits, environment, folder."""

from __future__ import annotations

import io
import os
import resource
import runpy
import signal
import sys
import traceback
from pathlib import Path

from . import ROOT
from .case import Case, Place

CEILING_BYTES = 4_000_000_000
"""Address space above the zygote's own: protects the machine, far above what the judge takes."""


def plain_environment(place: Place) -> dict[str, str]:
    """The variables that every case starts from."""
    return {
        "PATH": os.environ.get("PATH", os.defpath), "HOME": str(place.root / "home"), "TMPDIR": str(place.root / "tmp"),
        "PYTHONPATH": os.pathsep.join((str(ROOT), str(ROOT / "tests"))), "OMP_NUM_THREADS": "1", "LANG": "C.UTF-8",
        "CUDA_VISIBLE_DEVICES": "", "PYTHONDONTWRITEBYTECODE": "1", "TERM": "dumb",
    }  # fmt: skip


def become(case: Case, place: Place, address_space: int) -> None:
    """Turn this forked process into the run of `case`; never returns."""
    try:
        os.setsid()
        env = plain_environment(place) | {k: v for k, v in case.env.items() if v is not None}
        for name in [k for k, v in case.env.items() if v is None]:
            env.pop(name, None)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
        os.chdir(place.run)
        _streams(case, place)
        ceiling = CEILING_BYTES + (0 if case.fresh else address_space)
        for name, value in ({"AS": ceiling, "CORE": 0} | case.limits).items():
            resource.setrlimit(getattr(resource, f"RLIMIT_{name}"), (value, value))
        if case.do == "cwd gone":
            os.rmdir(place.run)
        if case.fresh:
            signal.signal(signal.SIGPIPE, signal.SIG_DFL)
            command = [sys.executable, "-m", case.module, *case.argv]
            os.execve(sys.executable, [os.fsencode(a) for a in command], env)
        os.environ.clear()
        os.environ.update(env)
    except BaseException:
        traceback.print_exc()
        os._exit(99)
    os._exit(_run(case))


def _streams(case: Case, place: Place) -> None:
    (place.root / "yes").write_bytes(b"y\n" * 100_000) if case.stdin == "yes" else None
    stdin = os.open(place.root / "yes" if case.stdin == "yes" else os.devnull, os.O_RDONLY)
    mode = os.O_WRONLY | os.O_CREAT | os.O_APPEND
    stdout = os.open("/dev/full" if case.stdout == "full" else place.root / "stdout", mode)
    stderr = os.open(place.root / "stderr", mode)
    if case.stdout == "broken":
        reader, stdout = os.pipe()
        os.close(reader)
    for number, fd in enumerate((stdin, stdout, stderr)):
        os.dup2(fd, number)
    os.closerange(3, 256)
    for number, state in enumerate((case.stdin, case.stdout, case.stderr)):
        if state == "closed":
            os.close(number)


def _run(case: Case) -> int:
    """The command in this process, its exit code as the interpreter would give it."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        file = None
        if getattr(case, name) != "closed":
            how = "r" if not number else "w"
            raw = open(number, how, encoding="utf-8", errors="surrogateescape", closefd=False)  # noqa: SIM115
            file = raw if number < 2 else io.TextIOWrapper(
                raw.buffer, "utf-8", "backslashreplace", line_buffering=True, write_through=True
            )  # fmt: skip
        setattr(sys, name, file)
        setattr(sys, f"__{name}__", file)
    sys.argv = [case.module, *case.argv]
    code = 0
    try:
        runpy.run_module(case.module, run_name="__main__", alter_sys=True)
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else 0 if stop.code is None else 1
    except BaseException:
        traceback.print_exc()
        code = 1
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except (OSError, ValueError) as error:
        print(f"Exception ignored while flushing sys.stdout: {error!r}", file=sys.stderr)
        code = 120
    if sys.stderr is not None:
        sys.stderr.flush()
    return code & 0xFF


def play(paths: list[Path]) -> list[str]:
    """Those of `paths` that hold a video that decodes to the end."""
    import av

    found = []
    for path in paths:
        try:
            with av.open(str(path)) as file:
                if sum(1 for _ in file.decode(video=0)) > 0:
                    found.append(str(path))
        except (av.error.FFmpegError, IndexError, OSError):
            continue
    return found
