"""Memory-window offload: memory slots live on the host and visit the device, layer by layer of the step at work."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from liveact_kernels.copies import beside

from ..offload import Belt, alternate, cut, span


class Memories:
    """The memory of windows that are used one after the other, round and round: `layers` layers of each, in order.

    One layer at a time and not a step: the same bytes travel, and the device holds two layers' in place of two steps'.
    """

    def __init__(self, windows: int, layers: int, device: torch.device):
        groups = windows * layers
        following = [(i + 1) % groups for i in range(groups)]
        self.layers, self.belt = layers, Belt(alternate(groups), following, beside(device))
        self._rooms: list[Tensor] = []

    def of(self, window: int) -> Away:
        """The share of a window, by its place in the order of use."""
        return Away(self, window * self.layers)

    def admit(self, group: int, made: list[Tensor], kept: int) -> list[Tensor]:
        """`Away.admit` by group. Slots and host memory have the sizes of what comes first."""
        belt = self.belt
        if not self._rooms:
            self._rooms = [belt.copies.room(span(made)) for _ in range(max(belt.slots) + 1)]
        here = list(cut(self._rooms[belt.slots[group]], made))
        host = list(cut(belt.copies.host(span(made)), made))
        for place, value in zip(here, made):
            place.copy_(value)
        pairs = list(zip(here, host))
        belt.admit(group, pairs, [(a[kept:], b[kept:]) for a, b in pairs])
        return here


class Away(NamedTuple):
    """What a window whose memory lives on the host tells of its use."""

    memories: Memories
    first: int

    def take(self, layer: int) -> None:
        """The layer's memory is read and written from here on; it is there, or about to be made."""
        self.memories.belt.take(self.first + layer)

    def admit(self, layer: int, made: list[Tensor], kept: int) -> list[Tensor]:
        """A layer's first memory, where it will be from now on; its first `kept` rows never change."""
        return self.memories.admit(self.first + layer, made, kept)

    def leave(self, layer: int) -> None:
        """The block's use of the layer's memory is over."""
        self.memories.belt.leave(self.first + layer)
