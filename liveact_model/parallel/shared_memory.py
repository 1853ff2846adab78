"""Mailboxes in shared memory without a name: ranks that are processes of one machine, computing on the CPU."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

import torch
from torch import Tensor

from liveact_model.errors import InputError, PeerError

from .mailbox import ALIGNED, BOXES, Mailbox
from .wire import Wire

LOOK_S = 0.05  # how often a waiting rank asks whether the run has ended


class SharedMemoryMailbox(Mailbox):
    """Each rank's boxes are a file in memory that all have mapped; a thread copies, as a copy engine would.

    The file begins with a number per box and source: the exchange whose piece is complete there. It must be exactly the
    one that is waited for, so that a lost piece is never taken for another. It has no name in any
    folder: nothing stays behind, however and whenever a process ends.
    """

    def __init__(self, wire: Wire, timeout_s: float, boxes: int = BOXES):
        if not hasattr(os, "memfd_create"):
            raise InputError("parallel form: expected one that this system has on CPUs, got overlap (Linux only)")
        super().__init__(wire, timeout_s, boxes)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="push")
        self._pushed: Future | None = None
        self._maps: list[Tensor] = []
        self._size = 0

    def _reserve(self, nbytes: int) -> None:
        self._finish_push()
        self._size, total = nbytes, ALIGNED * -(-8 * self.boxes * self.wire.size // ALIGNED) + self.boxes * nbytes
        handle, problem = self._create(total)
        try:
            mine = (f"/proc/{os.getpid()}/fd/{handle}", problem)
            paths, problems = zip(*(self.wire.broadcast(mine, r) for r in range(self.wire.size)))
            if any(problems):
                raise PeerError(next(filter(None, problems)))
            self._maps = [torch.from_file(p, shared=True, size=total, dtype=torch.uint8) for p in paths]
            self.wire.barrier()
        finally:
            os.close(handle)

    def _create(self, total: int) -> tuple[int, str]:
        """The file and its memory now: what is not there would be a bus error at the first write; -> what is wrong."""
        handle = os.memfd_create("liveact")
        try:
            os.posix_fallocate(handle, 0, total)
            return handle, ""
        except OSError as error:
            return handle, f"rank {self.wire.rank} cannot share {total >> 20} MiB of memory: {error.strerror}"

    def _numbers(self, rank: int, turn: int) -> Tensor:
        start = 8 * self.wire.size * turn
        return self._maps[rank][start : start + 8 * self.wire.size].view(torch.int64)

    def _box(self, rank: int, turn: int) -> Tensor:
        start = len(self._maps[rank]) - (self.boxes - turn) * self._size
        return self._maps[rank][start : start + self._size]

    def _submit(self, send: Callable[[], None]) -> None:
        self._finish_push()
        self._pushed = self._thread.submit(send)

    def _finish_push(self) -> None:
        if self._pushed is not None:
            self._pushed.result()

    def _signal(self, target: int, epoch: int, turn: int) -> None:
        # After the copy: stores are seen in order on x86, and elsewhere the locks between the two calls order them.
        self._numbers(target, turn)[self.wire.rank] = epoch

    def _await(self, source: int, epoch: int, turn: int, what: str) -> None:
        number = self._numbers(self.wire.rank, turn)[source]
        start = looked = time.monotonic()
        pause = 1e-5
        while (found := number.item()) != epoch:
            self._refuse(found > epoch, source)
            time.sleep(pause)
            pause, now = min(2 * pause, 1e-3), time.monotonic()
            if now - looked > LOOK_S:
                self.wire.watch.check()
                looked = now
            if now - start > self.timeout_s:
                raise PeerError(
                    f"{what}: nothing from rank {source} within {self.timeout_s:g} s (exchange {epoch}, rank "
                    f"{self.wire.rank} waits)"
                )

    def done(self) -> None:
        """End the exchange, and make sure that nobody wrote into the box while it was read."""
        for source in self.order:
            self._refuse(self._numbers(self.wire.rank, self._turn)[source].item() != self._epoch, source)

    def _refuse(self, wrong: bool, source: int) -> None:
        if wrong:
            raise PeerError(f"rank {source} wrote over exchange {self._epoch} while rank {self.wire.rank} read it")
