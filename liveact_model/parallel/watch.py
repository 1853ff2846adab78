"""Noticing that a rank died: every rank shows a beat in the group's store, and watches the others'."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
from collections.abc import Callable

import torch.distributed as dist

from liveact_model.errors import PeerError

BEAT_S = 0.5
DEAD_AFTER_S = 10.0  # without a beat; a rank that computes still beats, from a thread of its own
GRACE = 0.8  # of that, for the main thread to stop by itself before the process is ended under it


class Watch:
    """A thread that beats for this rank and ends its process when another rank is gone.

    store     a client of its own: one that a collective waits on would block the beat
    cleanup   called before the process is ended by force: what must not stay behind
    """

    def __init__(self, store: dist.Store, rank: int, size: int, dead_after_s: float = DEAD_AFTER_S):
        self.cleanup: list[Callable[[], None]] = []
        self._store, self._rank, self._size, self._limit = store, rank, size, dead_after_s
        self._verdict: PeerError | None = None
        self._known, self._closed = threading.Event(), threading.Event()
        self._seen: dict[int, tuple[bytes, float]] = {}
        self._store.set(f"beat/{rank}", "0")
        self._thread = threading.Thread(target=self._run, name="watch", daemon=True)

    def start(self) -> None:
        """Begin to watch; every rank has made its Watch by then."""
        self._thread.start()

    def check(self) -> None:
        """Raise the PeerError that ends this run, if there is one."""
        if self._verdict is not None:
            raise self._verdict

    def blame(self, error: Exception) -> PeerError:
        """The PeerError behind a failed collective: waits until it is known who is gone."""
        self._known.wait(self._limit + 4 * BEAT_S)
        first = str(error).strip().splitlines() or [type(error).__name__]
        return self._verdict or PeerError(f"rank {self._rank} lost its connection to the others ({first[0]})")

    def close(self, code: int = 0, reason: str = "") -> None:
        """Stop watching. A code other than 0 ends the others: quietly with this code, or naming `reason`."""
        with contextlib.suppress(RuntimeError):
            if code and self._verdict is None:
                self._store.set("over", f"{code} {self._rank} {reason}")
                self._linger()
            elif code:
                self._store.set(f"gone/{self._rank}", "1")
        self._closed.set()

    def _linger(self) -> None:
        """The store may live in this process: stay until the others have read why."""
        others = [f"gone/{r}" for r in range(self._size) if r != self._rank]
        deadline = time.monotonic() + 6 * BEAT_S
        while not self._store.check(others) and time.monotonic() < deadline:
            time.sleep(BEAT_S / 4)

    # ---- the thread -------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        count = 0
        while not self._closed.wait(BEAT_S):
            count += 1
            try:
                self._store.set(f"beat/{self._rank}", str(count))
                verdict = self._look()
            except RuntimeError:
                verdict = PeerError(f"rank {self._rank} lost the group's store: rank 0 or its launcher is gone")
            if verdict is not None:
                self._verdict = verdict
                self._known.set()
                with contextlib.suppress(RuntimeError):
                    self._store.set(f"gone/{self._rank}", "1")
                if not self._closed.wait(GRACE * self._limit):
                    self._end(verdict)
                return

    def _look(self) -> PeerError | None:
        if self._store.check(["over"]):
            code, rank, reason = self._store.get("over").decode().split(" ", 2)
            return PeerError(f"rank {rank} failed: {reason}" if reason else "", int(code))
        now = time.monotonic()
        for r in range(self._size):
            if r == self._rank:
                continue
            beat = self._store.get(f"beat/{r}")
            old, since = self._seen.get(r, (b"", now))
            self._seen[r] = (beat, now if beat != old else since)
            if now - self._seen[r][1] > self._limit:
                return PeerError(f"rank {r} of {self._size} has died or hangs: no sign of it for {self._limit:g} s")
        return None

    def _end(self, verdict: PeerError) -> None:
        """The main thread is stuck where no exception reaches it."""
        for action in self.cleanup:
            with contextlib.suppress(Exception):
                action()
        if str(verdict):
            print(f"liveact: error: {verdict}", file=sys.stderr, flush=True)
        os._exit(verdict.code)
