"""Collectives over a process group, on tensors of any dtype and pieces of any sizes."""

from __future__ import annotations

import contextlib
import pickle
from collections.abc import Callable, Iterator
from math import prod
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from liveact_model.errors import PeerError

from .watch import Watch

_gather_into = getattr(dist, "all_gather_single", dist.all_gather_into_tensor)  # its name from torch 2.13 on


def as_bytes(x: Tensor) -> Tensor:
    """The bytes of x [n]: process groups refuse 8-bit floats, and some integers."""
    return x.contiguous().view(-1).view(torch.uint8)


class Wire:
    """The process group of a run; every method is called by all ranks in the same order.

    watch  names the rank that died when a collective fails
    """

    def __init__(self, group: dist.ProcessGroup, device: torch.device, watch: Watch):
        self.group, self.device, self.watch = group, device, watch
        self.rank, self.size = group.rank(), group.size()

    @contextlib.contextmanager
    def guarded(self) -> Iterator[None]:
        """Turn what a failing collective raises into a PeerError that says which rank is to blame."""
        self.watch.check()
        try:
            yield
        except PeerError:
            raise
        except RuntimeError as error:
            raise self.watch.blame(error) from error

    def gather(self, x: Tensor, rows: list[int]) -> list[Tensor]:
        """Pieces [rows[r], ...] of all ranks; x is this rank's. Shorter ones travel padded to the longest."""
        each = prod(x.shape[1:]) * x.element_size()
        sent = as_bytes(x)
        if len(sent) < max(rows) * each:
            sent = torch.cat((sent, sent.new_zeros(max(rows) * each - len(sent))))
        out = sent.new_empty(self.size, len(sent))
        with self.guarded():
            _gather_into(out.view(-1), sent, self.group)
        return [o[: n * each].view(x.dtype).view(n, *x.shape[1:]) for o, n in zip(out, rows)]

    def swap(self, parts: list[Tensor], shapes: list[tuple[int, ...]]) -> list[Tensor]:
        """Send parts[r] to rank r and receive what each rank had for this one, of the given shapes."""
        dtype = parts[0].dtype
        sent = torch.cat([as_bytes(p) for p in parts])
        sizes = [prod(s) * dtype.itemsize for s in shapes]
        out = sent.new_empty(sum(sizes))
        with self.guarded():
            dist.all_to_all_single(out, sent, sizes, [p.nbytes for p in parts], self.group)
        return [o.view(dtype).view(s) for o, s in zip(out.split(sizes), shapes)]

    def shift(self, tensors: tuple[Tensor, ...], rows: int) -> Callable[[], tuple[Tensor, ...]]:
        """Send tensors to the next rank, and take as many with `rows` rows from the one before; -> wait for them."""
        taken = tuple(t.new_empty(rows, *t.shape[1:]) for t in tensors)
        after, before = (self.rank + 1) % self.size, (self.rank - 1) % self.size
        with self.guarded():
            works = dist.batch_isend_irecv(
                [dist.P2POp(dist.isend, as_bytes(t), group=self.group, group_peer=after) for t in tensors]
                + [dist.P2POp(dist.irecv, as_bytes(t), group=self.group, group_peer=before) for t in taken]
            )

        def wait() -> tuple[Tensor, ...]:
            with self.guarded():
                for work in works:
                    work.wait()
            return taken

        return wait

    def broadcast(self, value: Any, source: int = 0) -> Any:
        """`value` of rank `source`: a tensor, or anything that pickles."""
        box = [None]
        if self.rank == source:
            plain = not isinstance(value, Tensor)
            box = [pickle.dumps((plain, value if plain else (tuple(value.shape), value.dtype)))]
        with self.guarded():
            dist.broadcast_object_list(box, group=self.group, group_src=source)
        plain, what = pickle.loads(box[0])
        if plain:
            return what
        shape, dtype = what
        value = value.contiguous() if self.rank == source else torch.empty(shape, dtype=dtype, device=self.device)
        with self.guarded():
            dist.broadcast(as_bytes(value), group=self.group, group_src=source)
        return value

    def barrier(self) -> None:
        """Wait until every rank is here."""
        with self.guarded():
            dist.barrier(self.group)
