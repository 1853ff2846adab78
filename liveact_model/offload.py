"""A double buffer between host and device: what lives on the host visits the device in turn, always one ahead."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate

from torch import Tensor

from liveact_kernels.copies import ALIGNED, Copies, Mark

Pair = tuple[Tensor, Tensor]
"""(on the device, on the host): contiguous, of equal type and shape."""


def alternate(count: int) -> list[int]:
    """Slots of `count` groups that are visited round and round, so that no group follows itself or one in its slot.

    Two in turn; where the number is odd its last group has a third one, else it would stand in the first one's way.
    """
    slots = [group % 2 for group in range(count)]
    if count > 1 and count % 2:
        slots[-1] = 2
    return slots


def _bytes(t: Tensor) -> int:
    return math.ceil(t.nbytes / ALIGNED) * ALIGNED


def span(like: Iterable[Tensor]) -> int:
    """Bytes of the memory that `cut` cuts into such tensors."""
    return sum(map(_bytes, like))


def cut(memory: Tensor, like: Sequence[Tensor]) -> Iterator[Tensor]:
    """Tensors of the types and shapes of `like`, one after the other in memory uint8 [n]."""
    starts = accumulate(map(_bytes, like), initial=0)
    for start, t in zip(starts, like):
        yield memory[start : start + t.nbytes].view(t.dtype).view(t.shape)


class Belt:
    """Groups of tensors that live on the host and are on the device while they are used, in slots at fixed addresses.

    slots   the slot of each group; its device tensors are views of that slot's memory
    after   the group that follows each: it is fetched while this one is used
    copies  how bytes travel

    A group is used between `take` and `leave`; all of a belt's groups are brought back, or none. Taking one that did
    not follow is right, too, only later: it is fetched while the device waits. Callers take and leave on one stream of
    computing.
    """

    def __init__(self, slots: Sequence[int], after: Sequence[int], copies: Copies):
        self.slots, self.after, self.copies = slots, after, copies
        self._pairs: dict[int, list[Pair]] = {}
        self._changing: dict[int, list[Pair]] = {}
        self._due: dict[int, list[Pair]] = {}  # what has never been on the host
        count = max(slots) + 1
        self._holds: list[int | None] = [None] * count
        self._arrived: list[Mark] = [None] * count  # what fills the slot
        self._free: list[Mark] = [None] * count  # the end of what reads it: computing, or the way back

    def __contains__(self, group: int) -> bool:
        return group in self._pairs

    @property
    def host_bytes(self) -> int:
        """Bytes on the host."""
        return self.copies.kept

    def admit(self, group: int, pairs: list[Pair], changing: list[Pair] | None = None) -> None:
        """Let a group in whose values are on the host, or with `changing` in its slot while it is taken.

        changing  what to bring back whenever the group is left; when it is left for the first time, all is
        """
        self._pairs[group] = pairs
        if changing is not None:
            self._changing[group], self._due[group] = changing, pairs

    def take(self, group: int) -> None:
        """From here on the device computes on the group's tensors, or writes a new one's into its slot."""
        slot = self.slots[group]
        if group in self:
            self._fetch(group)
        else:
            self._holds[slot] = group
        self.copies.wait(self._arrived[slot])
        self.copies.wait(self._free[slot])  # of a way back, where the group is new or has stayed since
        following = self.after[group]
        if following in self and self.slots[following] != slot:
            self._fetch(following)

    def leave(self, group: int) -> None:
        """The device has been told all that it computes on the group."""
        done = self.copies.now()
        if changed := self._due.pop(group, None) or self._changing.get(group):
            done = self.copies.copy([(host, here) for here, host in changed], (done,), back=True)
        self._free[self.slots[group]] = done

    def _fetch(self, group: int) -> None:
        slot = self.slots[group]
        if self._holds[slot] != group:
            # its own way back came before that of what is in the slot, and those follow each other
            self._arrived[slot] = self.copies.copy(self._pairs[group], (self._free[slot],))
            self._holds[slot] = group
