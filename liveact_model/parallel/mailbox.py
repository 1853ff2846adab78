"""One-sided exchange: every rank pushes its pieces into the others' memory and signals; they read when they need them.

A mailbox has two boxes, used in turn by the layers of a forward. A rank pushes exchange e + 2 only after it has waited
for everybody's e + 1, and nobody sends e + 1 before it has read e: so two boxes suffice without acknowledgements.
Between two forwards every rank waits for all others' tokens, so a forward may begin with either box.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from math import prod

import torch
from torch import Tensor

from .wire import Wire, as_bytes

BOXES = 2
ALIGNED = 256  # bytes; what any load needs


class Mailbox(ABC):
    """Where the pieces of the other ranks arrive. A subclass is one kind of memory that peers can write to.

    order  the other ranks as their pieces lie in a box; every rank sends to its successor first
    """

    def __init__(self, wire: Wire, timeout_s: float, boxes: int = BOXES):
        self.wire, self.timeout_s, self.boxes = wire, timeout_s, boxes
        self.order = self._sources(wire.rank)
        self._rows: list[int] = []
        self._room = 1.0
        self._epoch, self._turn, self._capacity = 0, 0, 0
        self._parts: list[tuple[int, tuple[int, ...], torch.dtype]] = []  # start, shape of a row, dtype

    def arrange(self, rows: list[int], room: float = 1.0) -> None:
        """Rows of each rank's piece in the exchanges that follow; `room` times as many shall fit."""
        self._rows, self._room = rows, room

    def push(self, turn: int, tensors: tuple[Tensor, ...]) -> None:
        """Begin an exchange: send this rank's rows to every other rank. Called by all ranks alike; does not wait.

        turn  alternates odd and even from one exchange of a forward to the next: which box
        """
        self._epoch, self._turn = self._epoch + 1, turn % self.boxes
        self._parts, start = [], 0
        for t in tensors:
            self._parts.append((start, tuple(t.shape[1:]), t.dtype))
            start += -(-sum(self._rows) * prod(t.shape[1:]) * t.element_size() // ALIGNED) * ALIGNED
        if start > self._capacity:
            self._capacity = -(-int(start * self._room) // ALIGNED) * ALIGNED
            self._reserve(self._capacity)
        epoch, turn, parts = self._epoch, self._turn, self._parts
        sent = [as_bytes(t) for t in tensors]
        targets = [(rank, self._before(rank)) for rank in self._targets()]
        self._submit(lambda: self._send(epoch, turn, parts, sent, targets))

    def wait(self, source: int, what: str) -> None:
        """Until the piece of rank `source` is here. Raises PeerError naming it and `what` when it does not come."""
        self._await(source, self._epoch, self._turn, what)

    def arrived(self) -> list[Tensor]:
        """Per tensor of the exchange, the rows of the others in `order`; valid where `wait` has returned."""
        box, count = self._box(self.wire.rank, self._turn), sum(self._rows[s] for s in self.order)
        out = []
        for start, shape, dtype in self._parts:
            size = count * prod(shape) * dtype.itemsize
            out.append(box[start : start + size].view(dtype).view(count, *shape))
        return out

    def done(self) -> None:  # noqa: B027 - some kinds of memory have nothing to do
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

    def _send(self, epoch: int, turn: int, parts: list, sent: list[Tensor], targets: list[tuple[int, int]]) -> None:
        for target, before in targets:
            box = self._box(target, turn)
            for (start, shape, dtype), t in zip(parts, sent):
                offset = start + before * prod(shape) * dtype.itemsize
                self._copy(box[offset : offset + len(t)], t, target)
            self._signal(target, epoch, turn)

    # ---- the memory -------------------------------------------------------------------------------------------------

    @abstractmethod
    def _reserve(self, nbytes: int) -> None:
        """Make boxes of nbytes on every rank; all ranks come here at the same exchange."""

    @abstractmethod
    def _box(self, rank: int, turn: int) -> Tensor:
        """The box uint8 [capacity] of a rank."""

    @abstractmethod
    def _submit(self, send: Callable[[], None]) -> None:
        """Run `send` beside the computation, after what has been computed so far."""

    def _copy(self, box: Tensor, x: Tensor, target: int) -> None:
        box.copy_(x, non_blocking=True)

    @abstractmethod
    def _signal(self, target: int, epoch: int, turn: int) -> None:
        """Tell `target` that exchange `epoch` of this rank is in its box."""

    @abstractmethod
    def _await(self, source: int, epoch: int, turn: int, what: str) -> None:
        """Until the signal of `source` is exactly `epoch`; PeerError, naming it and `what`, when it does not come."""
