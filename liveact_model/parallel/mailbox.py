"""One-sided exchange: every rank pushes its pieces into the others' memory and signals; they read when they need them.

A mailbox has two boxes, used in turn. A rank pushes exchange e + 2 only after it has waited for everybody's e + 1, and
nobody sends e + 1 before it has read e: so two boxes suffice, and no acknowledgement travels.
"""

from __future__ import annotations

from collections.abc import Callable
from math import prod

import torch
from torch import Tensor

from .wire import Wire, as_bytes

BOXES = 2
ALIGNED = 256  # bytes; what any load needs


class Mailbox:
    """Where the pieces of the other ranks arrive. A subclass is one kind of memory that peers can write to.

    order  the other ranks as their pieces lie in a box; every rank sends to its successor first
    """

    def __init__(self, wire: Wire, timeout_s: float, boxes: int = BOXES):
        self.wire, self.timeout_s, self.boxes = wire, timeout_s, boxes
        self.order = self._sources(wire.rank)
        self._rows: list[int] = []
        self._epoch, self._capacity = 0, 0
        self._parts: list[tuple[int, tuple[int, ...], torch.dtype]] = []  # start, shape of a row, dtype

    def arrange(self, rows: list[int]) -> None:
        """Rows of each rank's piece in the exchanges that follow."""
        self._rows = rows

    def push(self, tensors: tuple[Tensor, ...]) -> None:
        """Begin an exchange: send this rank's rows to every other rank. Called by all ranks alike; does not wait."""
        self._epoch += 1
        self._parts, start = [], 0
        for t in tensors:
            self._parts.append((start, tuple(t.shape[1:]), t.dtype))
            start += -(-sum(self._rows) * prod(t.shape[1:]) * t.element_size() // ALIGNED) * ALIGNED
        if start > self._capacity:
            self._reserve(start)
            self._capacity = start
        epoch, parts = self._epoch, self._parts
        sent = [as_bytes(t) for t in tensors]
        targets = [(rank, self._before(rank)) for rank in self._targets()]
        self._submit(lambda: self._send(epoch, parts, sent, targets))

    def wait(self, source: int, what: str) -> None:
        """Until the piece of rank `source` is here. Raises PeerError naming it and `what` when it does not come."""
        self._await(source, self._epoch, what)

    def arrived(self) -> list[Tensor]:
        """Per tensor of the exchange, the rows of the others in `order`; valid where `wait` has returned."""
        box, count = self._box(self.wire.rank, self._epoch), sum(self._rows[s] for s in self.order)
        out = []
        for start, shape, dtype in self._parts:
            size = count * prod(shape) * dtype.itemsize
            out.append(box[start : start + size].view(dtype).view(count, *shape))
        return out

    def done(self) -> None:
        """End the exchange: everything that arrived has been used."""

    # ---- layout -----------------------------------------------------------------------------------------------------

    def _sources(self, rank: int) -> list[int]:
        return [(rank - i) % self.wire.size for i in range(1, self.wire.size)]

    def _targets(self) -> list[int]:
        return [(self.wire.rank + i) % self.wire.size for i in range(1, self.wire.size)]

    def _before(self, target: int) -> int:
        """Rows that lie before this rank's in the boxes of `target`."""
        order = self._sources(target)
        return sum(self._rows[s] for s in order[: order.index(self.wire.rank)])

    def _send(self, epoch: int, parts: list, sent: list[Tensor], targets: list[tuple[int, int]]) -> None:
        for target, before in targets:
            box = self._box(target, epoch)
            for (start, shape, dtype), t in zip(parts, sent):
                offset = start + before * prod(shape) * dtype.itemsize
                self._copy(box[offset : offset + len(t)], t, target)
            self._signal(target, epoch)

    # ---- the memory -------------------------------------------------------------------------------------------------

    def _reserve(self, nbytes: int) -> None:
        """Make boxes of nbytes on every rank; all ranks come here at the same exchange."""
        raise NotImplementedError

    def _box(self, rank: int, epoch: int) -> Tensor:
        """The box uint8 [capacity] of a rank for an exchange."""
        raise NotImplementedError

    def _submit(self, send: Callable[[], None]) -> None:
        """Run `send` beside the computation, after what has been computed so far."""
        raise NotImplementedError

    def _copy(self, box: Tensor, x: Tensor, target: int) -> None:
        box.copy_(x, non_blocking=True)

    def _signal(self, target: int, epoch: int) -> None:
        raise NotImplementedError

    def _await(self, source: int, epoch: int, what: str) -> None:
        raise NotImplementedError


def open_mailbox(wire: Wire, timeout_s: float) -> Mailbox:
    """The mailbox that fits the ranks' devices."""
    if wire.device == torch.device("cpu"):
        from .shared_memory import SharedMemoryMailbox

        return SharedMemoryMailbox(wire, timeout_s)
    from .symmetric_memory import SymmetricMailbox

    return SymmetricMailbox(wire, timeout_s)
