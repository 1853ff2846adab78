"""Mailboxes in memory that the devices of all ranks have mapped: pushes run on the copy engines, beside the kernels.

Not yet measured, and not yet run on more than one device.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.distributed._symmetric_memory as symmetric_memory
from torch import Tensor

from .mailbox import BOXES, Mailbox
from .wire import Wire


class SymmetricMailbox(Mailbox):
    """A side stream copies each piece into the peers' boxes and then sets their flag; the main stream waits for flags.

    Flags are one word per (box, source): setting waits until the last one was taken, taking clears it. A flag that
    does not come within `timeout_s` stops the kernel that waits, which prints both ranks and raises at the host's next
    synchronisation: no frame is made of what did not arrive.
    """

    _memory: Tensor  # all boxes of this rank, once there is something to send

    def __init__(self, wire: Wire, timeout_s: float, boxes: int = BOXES):
        super().__init__(wire, timeout_s, boxes)
        self._side = torch.Stream(device=wire.device)
        self._size = 0

    def _main(self) -> torch.Stream:
        return torch.accelerator.current_stream(self.wire.device)

    def _reserve(self, nbytes: int) -> None:
        torch.accelerator.synchronize(self.wire.device)
        self.wire.barrier()
        self._memory = symmetric_memory.empty(self.boxes * nbytes, dtype=torch.uint8, device=self.wire.device)
        self._handle = symmetric_memory.rendezvous(self._memory, self.wire.group)
        self._size = nbytes

    def _box(self, rank: int, turn: int) -> Tensor:
        start = turn * self._size
        if rank == self.wire.rank:
            return self._memory[start : start + self._size]
        return self._handle.get_buffer(rank, (self._size,), torch.uint8, start)

    def _submit(self, send: Callable[[], None]) -> None:
        self._side.wait_stream(self._main())
        with self._side:
            send()

    def _signal(self, target: int, epoch: int, turn: int) -> None:
        self._handle.put_signal(target, turn, int(1000 * self.timeout_s))

    def _await(self, source: int, epoch: int, turn: int, what: str) -> None:
        self._handle.wait_signal(source, turn, int(1000 * self.timeout_s))

    def done(self) -> None:
        """End the exchange: what was pushed may be freed, and a graph that records this has joined its streams."""
        self._main().wait_stream(self._side)
