"""Noticing that a rank died: every rank sends every other a beat, and no rank is needed to hear of another."""

from __future__ import annotations

import contextlib
import json
import os
import select
import socket
import sys
import threading
import time
from collections.abc import Callable

from liveact_model.errors import PeerError

BEAT_S = 0.5
DEAD_AFTER_S = 10.0  # without a beat; a rank that computes still beats, from a thread of its own
GRACE_S = 3.0  # for the main thread to stop by itself before the process is ended under it
LONGEST = 1000  # characters of a reason: a datagram holds them


class Watch:
    """A thread that beats for this rank and ends its process when another rank is gone.

    links     per rank a connected UDP socket that does not block, None for this one (`meeting.meet`)
    cleanup   called before the process is ended by force: what must not stay behind

    A datagram is ["beat"], ["bye"] of a rank that leaves as it should, or ["over", code, speaker, reason]: the run
    ends, and rank `speaker` tells the user. Who hears that it is over passes it on, so all give the same reason.
    """

    def __init__(self, links: list[socket.socket | None], rank: int, size: int, dead_after_s: float = DEAD_AFTER_S):
        self.cleanup: list[Callable[[], None]] = []
        self._links = {r: s for r, s in enumerate(links) if s is not None}
        self._rank, self._size, self._limit = rank, size, dead_after_s
        self._verdict: PeerError | None = None
        self._known, self._closed, self._all_told = threading.Event(), threading.Event(), threading.Event()
        self._says: list = ["beat"]
        self._awake, self._looked = 0.0, time.monotonic()
        self._heard: dict[int, float] = {}  # awake time of the last beat
        self._left: set[int] = set()  # said goodbye, or know that it is over
        self._refused: set[int] = set()  # nobody listens at their port any more
        self._thread = threading.Thread(target=self._run, name="watch", daemon=True)

    def start(self) -> None:
        """Begin to beat and to watch."""
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
        if code and self._verdict is None:
            # the leading rank shows its own errors; those of others reach the user through the lowest rank that lives
            speaker = self._speaker(but=self._rank) if reason and self._rank else -1
            self._says = ["over", code, speaker, f"rank {self._rank} failed: {reason[:LONGEST]}" if reason else ""]
            self._send()
            self._all_told.wait(6 * BEAT_S)  # sockets outlive no process: stay until the others know why
        elif not code:
            self._says = ["bye"]
            self._send()
        self._closed.set()

    # ---- the thread -------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        poll, due, forced = select.poll(), 0.0, float("inf")
        for link in self._links.values():
            poll.register(link, select.POLLIN)
        while not self._closed.is_set():
            now = time.monotonic()
            if now >= due:
                self._send()
                due = now + BEAT_S
            poll.poll(1000 * (due - now) + 1)
            self._count()
            for r, link in self._links.items():
                self._receive(r, link)
            if self._says[0] == "beat":
                self._judge()
            if self._left | self._refused == set(self._links):
                self._all_told.set()
            if self._verdict is not None:
                forced = min(forced, now + GRACE_S)
                if now > forced:
                    self._end(self._verdict)

    def _send(self) -> None:
        data = json.dumps(self._says).encode()
        for r, link in self._links.items():
            try:
                link.send(data)
            except ConnectionRefusedError:
                self._refused.add(r)
            except OSError:  # no room, no route: silence will tell
                pass

    def _count(self) -> None:
        """Time in which this process itself was stopped or swapped out says nothing about the others."""
        now = time.monotonic()
        self._awake, self._looked = self._awake + min(now - self._looked, BEAT_S), now

    def _receive(self, r: int, link: socket.socket) -> None:
        while True:
            try:
                what, *more = json.loads(link.recv(65536))
            except BlockingIOError:
                return
            except ConnectionRefusedError:
                self._refused.add(r)
                continue
            except (OSError, ValueError, TypeError):  # unreachable, or not from a rank
                return
            self._heard[r] = self._awake
            if what != "beat":
                self._left.add(r)
            if what == "over" and self._says[0] == "beat":
                self._conclude(*more)

    def _silent(self, r: int) -> float:
        return 0.0 if r == self._rank or r in self._left else self._awake - self._heard.get(r, 0.0)

    def _judge(self) -> None:
        died = sorted((self._refused & set(self._heard)) - self._left)
        hangs = [r for r in self._links if self._silent(r) > self._limit]
        if died:
            what = "has died"
        elif hangs and hangs[0] in self._heard:
            what = f"has died or hangs: no sign of it for {self._limit:g} s"
        elif hangs:
            host, port = self._links[hangs[0]].getpeername()[:2]
            what = f"was never heard: nothing from its UDP port {port} at {host} in {self._limit:g} s"
        else:
            return
        self._conclude(1, self._speaker(), f"rank {(died or hangs)[0]} of {self._size} {what}")

    def _speaker(self, but: int = -1) -> int:
        """The lowest rank that lives: the one that tells the user; -1 where there is none."""
        lives = (r for r in range(self._size) if self._silent(r) <= self._limit / 2 and r not in self._refused)
        return next((r for r in lives if r != but), -1)

    def _conclude(self, code: int, speaker: int, text: str) -> None:
        self._says = ["over", code, speaker, text]
        self._send()  # first: the main thread may end the process as soon as it knows
        self._verdict = PeerError(text, code, aloud=speaker == self._rank)
        self._known.set()

    def _end(self, verdict: PeerError) -> None:
        """The main thread is stuck where no exception reaches it."""
        for action in self.cleanup:
            with contextlib.suppress(Exception):
                action()
        if verdict.aloud and str(verdict):
            print(f"liveact: error: {verdict}", file=sys.stderr, flush=True)
        os._exit(verdict.code)
