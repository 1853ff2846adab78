"""Collectives over a process group, on tensors of any dtype and pieces of any sizes."""

from __future__ import annotations

import contextlib
import pickle
from collections.abc import Callable, Iterator, Sequence
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

    watch   names the rank that died when a collective fails
    staged  ranks share a device that the group cannot send from: everything goes through the host
    """

    def __init__(self, group: dist.ProcessGroup, device: torch.device, watch: Watch, staged: bool = False):
        self.group, self.device, self.watch, self._staged = group, device, watch, staged
        self.rank, self.size = group.rank(), group.size()

    def _outgoing(self, x: Tensor) -> Tensor:
        return as_bytes(x).cpu() if self._staged else as_bytes(x)

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
        sent = self._outgoing(x)
        if len(sent) < max(rows) * each:
            sent = torch.cat((sent, sent.new_zeros(max(rows) * each - len(sent))))
        out = sent.new_empty(self.size, len(sent))
        with self.guarded():
            _gather_into(out.view(-1), sent, self.group)
        parts = out.to(x.device).unbind()
        return [o[: n * each].view(x.dtype).view(n, *x.shape[1:]) for o, n in zip(parts, rows)]

    def swap(self, parts: list[Tensor], shapes: Sequence[tuple[int, ...]]) -> list[Tensor]:
        """Send parts[r] to rank r and receive what each rank had for this one, of the given shapes."""
        dtype = parts[0].dtype
        sent = torch.cat([self._outgoing(p) for p in parts])
        sizes = [prod(s) * dtype.itemsize for s in shapes]
        out = sent.new_empty(sum(sizes))
        with self.guarded():
            dist.all_to_all_single(out, sent, sizes, [p.nbytes for p in parts], self.group)
        return [o.view(dtype).view(s) for o, s in zip(out.to(parts[0].device).split(sizes), shapes)]

    def shift(self, tensors: tuple[Tensor, ...], rows: int) -> Callable[[], tuple[Tensor, ...]]:
        """Send tensors to the next rank, and take as many with `rows` rows from the one before; -> wait for them."""
        sent = [self._outgoing(t) for t in tensors]
        taken = [o.new_empty(rows * prod(t.shape[1:]) * t.element_size()) for o, t in zip(sent, tensors)]
        after, before = (self.rank + 1) % self.size, (self.rank - 1) % self.size
        with self.guarded():
            works = dist.batch_isend_irecv(
                [dist.P2POp(dist.isend, t, group=self.group, group_peer=after) for t in sent]
                + [dist.P2POp(dist.irecv, t, group=self.group, group_peer=before) for t in taken]
            )

        def wait() -> tuple[Tensor, ...]:
            with self.guarded():
                for work in works:
                    work.wait()
            pairs = zip(taken, tensors)
            return tuple(o.to(t.device).view(t.dtype).view(rows, *t.shape[1:]) for o, t in pairs)

        return wait

    def broadcast(self, value: Any, source: int = 0) -> Any:
        """`value` of rank `source`: a tensor, or anything that pickles."""
        box: list[Any] = [None]
        if self.rank == source:
            plain = not isinstance(value, Tensor)
            box = [pickle.dumps((plain, value if plain else (tuple(value.shape), value.dtype)))]
        with self.guarded():
            dist.broadcast_object_list(box, group=self.group, group_src=source)
        plain, what = pickle.loads(box[0])
        if plain:
            return what
        shape, dtype = what
        value = value if self.rank == source else torch.empty(shape, dtype=dtype, device=self.device)
        flat = self._outgoing(value)
        with self.guarded():
            dist.broadcast(flat, group=self.group, group_src=source)
        return flat.to(value.device).view(dtype).view(shape)

    def barrier(self) -> None:
        """Wait until every rank is here."""
        with self.guarded():
            dist.barrier(self.group)
