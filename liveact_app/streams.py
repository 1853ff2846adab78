"""Standard output and error that may be closed, full or read by nobody: no work is lost to them."""

from __future__ import annotations

import contextlib
import errno
import os
import select
import stat
import sys
from collections.abc import Iterator
from typing import Any, TextIO


class OutputLost(OSError):
    """Standard output took no more; `quiet` when its reader has left, which is no error (`liveact budget | head`)."""

    @property
    def quiet(self) -> bool:
        """Whether the reader has left."""
        return self.errno == errno.EPIPE

    def __str__(self) -> str:
        return f"cannot write to standard output ({self.strerror})"


class _Results:
    """Standard output; what it does not take is an OutputLost, once, and then goes nowhere."""

    def __init__(self, stream: TextIO | None):
        self._stream = stream
        self._lost: OutputLost | None = None

    def write(self, text: str) -> int:
        if self._stream is None:
            self._lost = OutputLost(errno.EBADF, os.strerror(errno.EBADF))
            raise self._lost
        return len(text) if self._lost else self._try(self._stream.write, text)

    def flush(self) -> None:
        if self._stream is not None and not self._lost:
            self._try(self._stream.flush)

    def settle(self) -> None:
        """Flush; raises OutputLost also for what was lost before, which argparse swallows when it prints its help."""
        self.flush()
        if self._lost:
            raise self._lost

    def _try(self, action: Any, *args: str) -> Any:
        try:
            return action(*args)
        except OSError as error:
            self._lost = OutputLost(error.errno, error.strerror)
            _discard(self._stream)
            raise self._lost from error

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


class _Remarks:
    """Standard error; what it does not take is dropped, and so is what would wait for a pipe that nobody reads."""

    def __init__(self, stream: TextIO | None):
        self._stream, self._pipe = stream, -1
        with contextlib.suppress(OSError, ValueError, AttributeError):
            if stat.S_ISFIFO(os.fstat(stream.fileno()).st_mode):
                self._pipe = stream.fileno()

    def write(self, text: str) -> int:
        if self._stream is not None and (self._pipe < 0 or select.select([], [self._pipe], [], 0)[1]):
            self._try(self._stream.write, text)
        return len(text)

    def flush(self) -> None:
        if self._stream is not None:
            self._try(self._stream.flush)

    def _try(self, action: Any, *args: str) -> None:
        try:
            action(*args)
        except (OSError, ValueError):
            _discard(self._stream)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def _discard(stream: TextIO | None) -> None:
    """Let what a stream still holds go nowhere, or Python would complain about it when it ends."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        number = os.open(os.devnull, os.O_WRONLY)
        os.dup2(number, stream.fileno())
        os.close(number)


@contextlib.contextmanager
def libraries_silenced() -> Iterator[None]:
    """What C libraries write to standard error inside goes nowhere (libtiff warns of every tag it does not know)."""
    try:
        kept = os.dup(2)
    except OSError:  # there is none
        yield
        return
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    os.close(nowhere)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


@contextlib.contextmanager
def guarded() -> Iterator[_Results]:
    """Standard output, which is the value, raises OutputLost inside, and standard error raises nothing."""
    for number in range(3):  # a file that is opened later must not become standard error, which libraries write to
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    old = sys.stdout, sys.stderr
    for stream in old:
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")  # a terminal that cannot show a file's name
    results = _Results(old[0])
    sys.stdout, sys.stderr = results, _Remarks(old[1])  # type: ignore[assignment]
    try:
        yield results
    finally:
        sys.stdout, sys.stderr = old
