"""Copies between host and device beside the computing: streams of their own, marks to wait for, host memory they read.

Whoever copies says after which marks, and whoever computes waits for the mark of the copy: nothing synchronises. A
forgotten mark shows in tests/copy_emulator.py, which makes every copy as late as it may be.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import _disable_current_modes

Mark = Any
"""A moment of a stream: the device's own event; None is one that has passed."""
Pairs = Iterable[tuple[Tensor, Tensor]]
"""(to, from), contiguous and of equal type and shape, one on the host and one on the device."""

PORTABLE = 1  # locked for every device of this process, cudaHostRegisterPortable
ALIGNED = 256
"""Bytes to which whoever cuts memory into tensors rounds their offsets: kernels and tensor copies want 16 to 128."""


class Copies:
    """Copies that happen at once, where host and device are the same.

    kept   bytes of host memory given out
    moved  bytes that went to the device, and back, since the start
    """

    def __init__(self, device: torch.device):
        self.device, self.kept = device, 0
        self.moved = [0, 0]

    def host(self, count: int) -> Tensor:
        """Host memory of `count` bytes, uint8 [count], that copies can read and write without help of the processor.

        It lives as long as this object. Raises MemoryError where the driver refuses to lock so much of it.
        """
        self.kept += count
        return self._host(count)

    def room(self, count: int) -> Tensor:
        """Memory of the device for copies to fill, uint8 [count]."""
        return torch.empty(count, dtype=torch.uint8, device=self.device)

    def fill(self, to: Tensor, value: Tensor) -> None:
        """Put a value of any device into memory of `host` for good, before anything is copied from there."""
        to.copy_(value)

    def now(self) -> Mark:
        """What has been launched to compute so far."""

    def copy(self, pairs: Pairs, after: Iterable[Mark], back: bool = False) -> Mark:
        """Copy once every mark has passed; copies of one direction follow each other. Returns the mark of the end.

        back  from the device to the host, on a stream of its own: links carry both directions at once
        """
        for to, value in pairs:
            self.moved[back] += value.nbytes
            self._move(to, value)

    def wait(self, mark: Mark) -> None:
        """What is launched from here on computes after the mark."""

    def _host(self, count: int) -> Tensor:
        return torch.empty(count, dtype=torch.uint8)

    def _move(self, to: Tensor, value: Tensor) -> None:
        to.copy_(value)


class Unmoved(Copies):
    """For a model without values: nothing is copied, and host memory is told from the device's by its type."""

    def __init__(self, device: torch.device):
        super().__init__(device)
        self._fake = FakeTensorMode()

    def _host(self, count: int) -> Tensor:
        with _disable_current_modes(), self._fake:  # or whoever counts bytes would see what stands in for it
            return torch.empty(count, dtype=torch.uint8, device="cpu")

    def fill(self, to: Tensor, value: Tensor) -> None:
        """Nothing."""

    def _move(self, to: Tensor, value: Tensor) -> None:
        pass


class Streams(Copies):
    """Copies of a GPU: one stream each way, events as marks, page-locked host memory."""

    def __init__(self, device: torch.device):
        super().__init__(device)
        self._ways = (torch.cuda.Stream(device), torch.cuda.Stream(device))
        self._locked: list[Tensor] = []
        weakref.finalize(self, _unlock, self._locked, self._ways).atexit = False

    def _host(self, count: int) -> Tensor:
        """Locked by hand: torch's allocator of such memory rounds every piece up to a power of two."""
        made = torch.empty(count, dtype=torch.uint8)
        if count:
            code = torch.cuda.cudart().cudaHostRegister(made.data_ptr(), count, PORTABLE)
            if int(code):
                raise MemoryError(f"cannot lock {count} bytes of host memory for copies, code {int(code)}")
            self._locked.append(made)
        return made

    def room(self, count: int) -> Tensor:
        """As of Copies. It may have been another tensor's: no copy comes before what computes on that now, and once it
        is freed, copies on the way keep it from being given out again.
        """
        made, before = super().room(count), self.now()
        for way in self._ways:
            way.wait_event(before)
            made.record_stream(way)
        return made

    def now(self) -> Mark:
        """An event of the computing stream."""
        return torch.cuda.current_stream(self.device).record_event()

    def copy(self, pairs: Pairs, after: Iterable[Mark], back: bool = False) -> Mark:
        """As of Copies, on the stream of the direction."""
        way = self._ways[back]
        for mark in after:
            if mark is not None:
                way.wait_event(mark)
        with torch.cuda.stream(way):
            super().copy(pairs, after, back)
        return way.record_event()

    def wait(self, mark: Mark) -> None:
        """As of Copies."""
        if mark is not None:
            torch.cuda.current_stream(self.device).wait_event(mark)

    def _move(self, to: Tensor, value: Tensor) -> None:
        to.copy_(value, non_blocking=True)


def _unlock(locked: list[Tensor], ways: tuple) -> None:
    """Give page-locked memory back once no copy can be on its way."""
    for way in ways:
        way.synchronize()
    for memory in locked:
        torch.cuda.cudart().cudaHostUnregister(memory.data_ptr())


def beside(device: torch.device) -> Copies:
    """What copies between the host and this device beside its computing."""
    if device.type == "meta":
        return Unmoved(device)
    return Streams(device) if device.type == "cuda" else Copies(device)
