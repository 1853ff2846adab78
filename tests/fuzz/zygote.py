"""A warmed process that forks for each case: importing torch and its friends would cost seconds every time.

It reads a case's name per line and answers with a line of JSON: {"case", "about", "argv", "outcome", "violations"}.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import json
import os
import pkgutil
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from .case import SHARES, Case, Place, make
from .child import become, play
from .judge import judge
from .outcome import Outcome, snapshot

PREPARE_S, PLAY_S = 120.0, 30.0
PR_SET_CHILD_SUBREAPER = 36


def warm() -> None:
    """Import what the command will want; no threads may start here."""
    import torch

    torch.set_num_threads(1)
    for package in ("liveact_app", "liveact_model", "liveact_kernels.ops"):
        found = importlib.import_module(package)
        for module in pkgutil.walk_packages(found.__path__, f"{package}."):
            if not module.name.rsplit(".", 1)[1].startswith(("__main__", "cuda_", "triton_", "vendor_")):
                with contextlib.suppress(Exception):  # what cannot be imported here will say so in the run
                    importlib.import_module(module.name)
    for name in ("transformers.models.umt5.modeling_umt5", "transformers.models.wav2vec2.modeling_wav2vec2",
                 "transformers.models.auto.tokenization_auto", "transformers.models.t5.tokenization_t5",
                 "rich.console", "rich.progress", "soundfile", "soxr", "av", "PIL.Image",
                 "safetensors.torch"):  # fmt: skip
        with contextlib.suppress(Exception):
            importlib.import_module(name)
    from PIL import Image

    Image.init()
    for name in SHARES:
        importlib.import_module(f".{name}", __package__)


def status(name: str) -> int:
    """A size of /proc/self/status in bytes."""
    with open("/proc/self/status", encoding="ascii", errors="replace") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith(f"{name}:"))


def ask(work: Callable[[], Any], seconds: float) -> Any:
    """The value of `work`, computed in a fork so that nothing of it stays here. Raises RuntimeError."""
    with tempfile.TemporaryFile("w+", encoding="utf-8") as file:
        pid = os.fork()
        if pid == 0:
            try:
                os.setsid()
                answer = {"value": work()}
            except BaseException as error:
                answer = {"error": f"{type(error).__name__}: {error}"}
            json.dump(answer, file)
            file.flush()
            os._exit(0)
        rc, _, _ = wait(pid, seconds)
        file.seek(0)
        text = file.read()
    answer = json.loads(text) if text else {"error": f"ended with {rc}"}
    if "error" in answer:
        raise RuntimeError(answer["error"])
    return answer["value"]


def wait(
    pid: int, seconds: float, at: float = 0.0, do: Callable[[], None] | None = None
) -> tuple[int | None, int, float]:
    """(exit code, None after a hang; peak bytes; wall seconds); `do` happens `at` seconds after the start."""
    start = time.monotonic()
    while True:
        found, state, usage = os.wait4(pid, os.WNOHANG)
        spent = time.monotonic() - start
        if found:
            return os.waitstatus_to_exitcode(state), usage.ru_maxrss * 1024, spent
        if do and spent >= at:
            do()
            do = None
        if spent > seconds:
            os.killpg(pid, signal.SIGKILL)
            _, _, usage = os.wait4(pid, 0)
            return None, usage.ru_maxrss * 1024, spent
        time.sleep(0.003)


def survivors(session: int) -> list[str]:
    """Names of the processes that a run left; they are ended."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError, ValueError):
                name, rest = (entry / "stat").read_text().rsplit(")", 1)
                state, _, _, sid = rest.split()[:4]
                if int(sid) == session and state != "Z":
                    found.append(name.split("(", 1)[1])
                    os.kill(int(entry.name), signal.SIGKILL)
    with contextlib.suppress(ChildProcessError):  # orphans come to this process
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    return found


def run(name: str, released: Path, keep: bool = False) -> dict[str, Any]:
    """Make, run and judge one case."""
    root = Path(tempfile.mkdtemp(prefix="liveact-fuzz-"))
    place = Place(root, released)
    for folder in ("in", "run", "home", "tmp"):
        (root / folder).mkdir()
    try:
        case = Case(**ask(lambda: asdict(make(name, place)), PREPARE_S))
        got = _outcome(case, place)
        return {
            "case": name, "about": case.about, "argv": case.argv, "env": case.env, "outcome": asdict(got),
            "violations": judge(case, got), "root": str(root) if keep else None,
        }  # fmt: skip
    finally:
        if not keep:
            shutil.rmtree(root, ignore_errors=True)


def _outcome(case: Case, place: Place) -> Outcome:
    before = snapshot(place.root)
    slow = min(3.0, max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1)))
    base, space = status("RssAnon"), status("VmSize")
    pid = os.fork()
    if pid == 0:
        become(case, place, space)
    rc, peak, wall = wait(pid, case.deadline_s * slow, case.after, _action(case, place, pid))
    processes = survivors(pid)
    words = []
    for stream in ("stdout", "stderr"):
        path = place.root / stream
        words.append(path.read_bytes()[:200_000].decode("utf-8", "replace") if path.exists() else "")
    after = snapshot(place.root)
    ours = ("stdout", "stderr", "yes")
    new = [p for p in after if p not in before and p not in ours]
    watched = [p for p, mark in before.items() if p.startswith(("in", "run")) and not _folder(mark)]
    lost = [p for p in watched if p not in after]
    changed = [p for p in watched if p in after and after[p] != before[p]]
    if case.do in ("rmtree", "cwd gone"):
        lost = [p for p in lost if not p.startswith("run")]
    made = [place.root / name for name in case.allowed & {*new, *changed}]
    videos = ask(lambda: play(made), PLAY_S * slow) if made and rc in (0, 130) else []
    return Outcome(rc, *words, wall, max(0, peak - (0 if case.fresh else base)), new, changed, lost, processes, videos,
                   place.canary.exists())  # fmt: skip


def _folder(mark: tuple) -> bool:
    return len(mark) == 2


def _action(case: Case, place: Place, pid: int) -> Callable[[], None] | None:
    if case.do == "rmtree":
        return lambda: shutil.rmtree(place.run / "out", ignore_errors=True)
    if case.do and case.do.startswith("SIG"):
        return lambda: os.kill(pid, getattr(signal, case.do))
    return None


def main() -> None:
    """Serve until the input ends. Arguments: where to write the released miniature, and --keep."""
    released, keep = Path(sys.argv[1]), "--keep" in sys.argv
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    warm()
    if not released.is_dir():
        ask(lambda: bool(importlib.import_module("released").write_released(released)), PREPARE_S)
    print("ready", file=answers, flush=True)
    for line in sys.stdin:
        try:
            answer = run(line.strip(), released, keep)
        except Exception as error:
            answer = {"case": line.strip(), "about": "", "argv": [], "env": {}, "outcome": None, "root": None,
                      "violations": {"harness": f"{type(error).__name__}: {error}"}}  # fmt: skip
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
