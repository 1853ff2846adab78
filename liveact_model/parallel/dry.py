"""A dry group of ranks: the real forms and model on the meta device, every byte that would be sent counted."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod
from typing import Any

import torch
from torch import Tensor

from .mailbox import Mailbox
from .pieces import pieces
from .ranks import Ranks
from .wire import Wire


class DryWire(Wire):
    """A Wire without processes: results have shapes only. `sent` adds up the bytes that leave this rank."""

    device = torch.device("meta")

    def __init__(self, rank: int, size: int):
        self.rank, self.size, self.sent = rank, size, 0

    def gather(self, x: Tensor, rows: list[int]) -> list[Tensor]:
        """See Wire.gather."""
        self.sent += (self.size - 1) * max(rows) * prod(x.shape[1:]) * x.element_size()
        return [x.new_empty(n, *x.shape[1:]) for n in rows]

    def swap(self, parts: list[Tensor], shapes: Sequence[tuple[int, ...]]) -> list[Tensor]:
        """See Wire.swap."""
        self.sent += sum(p.nbytes for r, p in enumerate(parts) if r != self.rank)
        return [parts[0].new_empty(s) for s in shapes]

    def shift(self, tensors: tuple[Tensor, ...], rows: int) -> Callable[[], tuple[Tensor, ...]]:
        """See Wire.shift."""
        self.sent += sum(t.nbytes for t in tensors)
        return lambda: tuple(t.new_empty(rows, *t.shape[1:]) for t in tensors)

    def broadcast(self, value: Any, source: int = 0) -> Any:
        """See Wire.broadcast."""
        return value


class DryMailbox(Mailbox):
    """A Mailbox whose boxes have shapes only."""

    wire: DryWire

    def _reserve(self, nbytes: int) -> None:
        self._memory = torch.empty(nbytes, dtype=torch.uint8, device="meta")

    def _box(self, rank: int, turn: int) -> Tensor:
        return self._memory

    def _submit(self, send: Callable[[], None]) -> None:
        send()

    def _copy(self, box: Tensor, x: Tensor, target: int) -> None:
        assert box.shape == x.shape
        self.wire.sent += len(x)

    def _signal(self, target: int, epoch: int, turn: int) -> None:
        pass

    def _await(self, source: int, epoch: int, turn: int, what: str) -> None:
        pass


class DryRanks(Ranks):
    """The rank with the most tokens of `size`, inside the picture where there is a choice; it is given the inputs."""

    def __init__(self, size: int, tokens: int, form: str = "gather"):
        shares = [len(p) for p in pieces(tokens, size)]
        busiest = max(range(size), key=lambda r: (shares[r], 0 < r < size - 1))
        super().__init__(DryWire(busiest, size), form, lambda wire: DryMailbox(wire, 0.0))
        self.leads = True
