"""Where a long measurement is: one bar that stays in place on a terminal, plain lines in a log."""

from __future__ import annotations

import sys
import time
from typing import TextIO


class Progress:
    """`step("...")` before each of `total` pieces of work; results go through `say`, so that they do not collide."""

    def __init__(self, total: int, stream: TextIO | None = None):
        self._total, self._done, self._began = total, 0, time.perf_counter()
        self._stream = sys.stderr if stream is None else stream
        self._bar = self._stream.isatty()

    def step(self, what: str) -> None:
        """The next piece begins."""
        spent = time.perf_counter() - self._began
        left = f", {spent / self._done * (self._total - self._done):.0f} s left" if self._done else ""
        head = f"{self._done + 1}/{self._total} {what}{left}"
        if self._bar:
            filled = 20 * self._done // max(self._total, 1)
            self._stream.write(f"\r\x1b[K[{'#' * filled}{'-' * (20 - filled)}] {head[:76]}")
        else:
            self._stream.write(head + "\n")
        self._stream.flush()
        self._done += 1

    def say(self, line: str) -> None:
        """Print a result on stdout."""
        if self._bar:
            self._stream.write("\r\x1b[K")
            self._stream.flush()
        print(line, flush=True)

    def end(self) -> None:
        """Take the bar away."""
        if self._bar:
            self._stream.write("\r\x1b[K")
            self._stream.flush()
