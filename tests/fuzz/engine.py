"""Runs many cases on a few zygotes."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from . import ROOT


class Zygote:
    """A warmed process and the pipe to it; it is started again when a case takes it down."""

    def __init__(self, miniature: Path, keep: bool = False):
        env = os.environ | {
            "PYTHONPATH": os.pathsep.join((str(ROOT), str(ROOT / "tests"))), "OMP_NUM_THREADS": "1",
            "CUDA_VISIBLE_DEVICES": "",
            "HF_HUB_OFFLINE": "1", "PYTHONDONTWRITEBYTECODE": "1",
        }  # fmt: skip
        for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LIVEACT_BACKEND", "LIVEACT_NVTX"):
            env.pop(name, None)
        command = [sys.executable, "-m", f"{__package__}.zygote", str(miniature), *(["--keep"] if keep else [])]
        self._start = lambda: subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, encoding="utf-8", cwd=ROOT, env=env
        )
        self._process = self._ready()

    def _ready(self) -> subprocess.Popen:
        process = self._start()
        if process.stdout.readline() != "ready\n":
            raise RuntimeError("the process that forks for the cases did not start")
        return process

    def run(self, name: str) -> dict[str, Any]:
        """The answer for one case; see zygote.py."""
        try:
            self._process.stdin.write(name + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except OSError:
            line = ""
        if line:
            return json.loads(line)
        self._process.wait()
        self._process = self._ready()
        return {"case": name, "about": "", "argv": [], "env": {}, "outcome": None, "root": None,
                "violations": {"harness": "the case took the harness down"}}  # fmt: skip

    def close(self) -> None:
        """End the process."""
        with contextlib.suppress(OSError):
            self._process.stdin.close()
        self._process.wait(timeout=30)


class Engine:
    """A context manager: `submit(name)` returns a Future of the answer.

    workers  zygotes side by side
    keep     leave the folders of the cases where they are
    """

    def __init__(self, workers: int = 2, keep: bool = False):
        self._folder = Path(tempfile.mkdtemp(prefix="liveact-fuzz-miniature-"))
        self._todo: queue.Queue = queue.Queue()
        self._workers, self._keep = workers, keep
        self._threads: list[threading.Thread] = []

    def __enter__(self) -> Engine:
        for number in range(self._workers):
            self._threads.append(
                threading.Thread(target=self._work, args=(self._folder / f"released-{number}",), daemon=True)
            )
            self._threads[-1].start()
        return self

    def _work(self, miniature: Path) -> None:
        zygote, failed = None, None
        try:
            zygote = Zygote(miniature, self._keep)
        except Exception as error:
            failed = error
        while (item := self._todo.get()) is not None:
            name, future = item
            try:
                if failed:
                    raise failed
                future.set_result(zygote.run(name))
            except Exception as error:
                future.set_exception(error)
        if zygote:
            zygote.close()

    def submit(self, name: str) -> Future:
        """Queue a case."""
        future: Future = Future()
        self._todo.put((name, future))
        return future

    def map(self, names: Iterable[str], said: Callable[[dict], None]) -> list[dict]:
        """Run the cases, calling `said` with each answer as it comes; in the order of `names`."""
        lock = threading.Lock()

        def done(future: Future) -> None:
            with lock:
                said(future.result())

        futures = [self.submit(name) for name in names]
        for future in futures:
            future.add_done_callback(done)
        return [future.result() for future in futures]

    def __exit__(self, *exc: object) -> None:
        for _ in self._threads:
            self._todo.put(None)
        for thread in self._threads:
            thread.join(timeout=120)
        shutil.rmtree(self._folder, ignore_errors=True)
