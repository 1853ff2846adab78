"""Encode one block while the next is made."""

import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
from av.error import FFmpegError

from liveact_app.media.video import VideoWriter


class BackgroundWriter:
    """A VideoWriter on a thread of its own, at most one block behind: memory stays that of one block.

    An error of the writer is raised by the next call, as `explain` of it. `seconds` is the thread's busy time.
    """

    def __init__(self, writer: VideoWriter, explain: Callable[[Exception], Exception]):
        self._writer, self._explain = writer, explain
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="encode")
        self._pending: Future | None = None
        self.seconds = 0.0

    @property
    def frames(self) -> int:
        """Video frames written so far, the pending block not counted."""
        return self._writer.frames

    def write(self, frames: np.ndarray) -> None:
        """Take uint8 [F, H, W, 3]; waits for the block before."""
        self.drain()
        self._pending = self._thread.submit(self._timed, self._writer.write, frames)

    def drain(self) -> None:
        """Wait until everything taken is written."""
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.result()

    def close(self) -> None:
        """Write what is pending and finish the file."""
        self.drain()
        self._thread.submit(self._timed, self._writer.close).result()
        self._thread.shutdown()

    def abandon(self) -> None:
        """Give the file up; nothing is raised, because an error is already on its way."""
        self._thread.shutdown(wait=True, cancel_futures=True)
        self._pending = None
        self._writer.abandon()

    def _timed(self, action: Callable[..., None], *args: Any) -> None:
        began = time.monotonic()
        try:
            action(*args)
        except (OSError, FFmpegError) as error:
            raise self._explain(error) from error
        finally:
            self.seconds += time.monotonic() - began
