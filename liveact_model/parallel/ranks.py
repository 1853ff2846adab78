"""A group of processes that make one video together, each on its own device (or sharing one)."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from liveact_model.config import BLOCK_LATENT_FRAMES
from liveact_model.errors import InputError

from . import SeqParallel
from .forms import FORMS
from .mailbox import Mailbox
from .mailboxes import open_mailbox
from .meeting import JOIN_WITHIN_S, Address, meet
from .pieces import cut, join, pieces
from .watch import DEAD_AFTER_S, Watch
from .wire import Wire

COLLECTIVE_TIMEOUT = timedelta(minutes=30)  # a live rank may wait long for a leading one that reads an hour of audio
SIGNAL_TIMEOUT_S = 60.0


class Ranks(SeqParallel):
    """This rank's share. Every rank holds all weights and, except with "ulysses", the whole memory window.

    wire      collectives
    form      how new keys and values travel, a name of FORMS
    mail      makes the mailboxes of the form "overlap"
    """

    captures = False  # not until a run on devices has shown it

    def __init__(self, wire: Wire, form: str = "gather", mail: Callable[[Wire], Mailbox] | None = None):
        if form not in FORMS:
            raise InputError(f"parallel form: expected one of {', '.join(FORMS)}, got {form!r}")
        self.wire, self.form = wire, form
        self.whole_memory = form != "ulysses"
        self.rank, self.size, self.leads = wire.rank, wire.size, wire.rank == 0
        self.tokens: list[range] = []  # each rank's piece of a latent frame; set by the first shard
        self._mail = mail or (lambda w: open_mailbox(w, SIGNAL_TIMEOUT_S))
        self._mailbox: Mailbox | None = None
        self._closed = False

    # ---- tokens -----------------------------------------------------------------------------------------------------

    def shard(self, x: Tensor, frames: int) -> Tensor:
        """See SeqParallel.shard."""
        tokens = x.shape[0] // frames
        if tokens < self.size:
            raise InputError(f"size: expected a token (16x16 pixels) for each of {self.size} ranks, got {tokens}")
        self.tokens = pieces(tokens, self.size)
        return cut(x, frames, self.tokens[self.rank])

    def unshard(self, x: Tensor, frames: int) -> Tensor:
        """See SeqParallel.unshard."""
        return join(self.wire.gather(x, [frames * len(t) for t in self.tokens]), frames)

    def own_heads(self, x: Tensor) -> Tensor:
        """See SeqParallel.own_heads."""
        if self.form != "ulysses":
            return x
        if x.shape[1] < self.size:
            raise InputError(f"parallel form: expected at least {self.size} heads for ulysses, got {x.shape[1]}")
        mine = pieces(x.shape[1], self.size)[self.rank]
        return x[:, mine.start : mine.stop].contiguous()

    def attend(self, layer, frames, q, k, v, memory):
        """See SeqParallel.attend."""
        return FORMS[self.form](self, layer, frames, q, k, v, memory)

    def mailbox(self, frames: int) -> Mailbox:
        """The mailbox of the form "overlap" for pieces of `frames` latent frames; it has room for a whole block."""
        if self._mailbox is None:
            self._mailbox = self._mail(self.wire)
        self._mailbox.arrange([frames * len(t) for t in self.tokens], BLOCK_LATENT_FRAMES / frames)
        return self._mailbox

    # ---- everything else --------------------------------------------------------------------------------------------

    def share(self, make):
        """See SeqParallel.share."""
        return self.wire.broadcast(make() if self.leads else None)

    def spread(self, jobs):
        """See SeqParallel.spread: job i is done by rank i modulo the ranks."""
        mine = [job() if i % self.size == self.rank else None for i, job in enumerate(jobs)]
        return [self.wire.broadcast(done, i % self.size) for i, done in enumerate(mine)]

    def decoder(self, vae: Any) -> Any:
        """See SeqParallel.decoder: split by rows where the VAE can, else the leading rank's alone."""
        if hasattr(vae, "stream_rows"):
            return vae.stream_rows(self)
        return vae.stream() if self.leads else _Elsewhere()

    def piece(self, count: int) -> range:
        """See SeqParallel.piece."""
        return pieces(count, self.size)[self.rank]

    def collect(self, x: Tensor, dim: int, count: int, each: int) -> Tensor | None:
        """See SeqParallel.collect."""
        parts = self.wire.gather(x.movedim(dim, 0), [len(p) * each for p in pieces(count, self.size)])
        return torch.cat([p.movedim(0, dim) for p in parts], dim) if self.leads else None

    def on_end(self, action: Callable[[], None]) -> None:
        """See SeqParallel.on_end."""
        self.wire.watch.cleanup.append(action)

    def close(self, code: int = 0, reason: str = "") -> None:
        """See SeqParallel.close; a second call does nothing."""
        if self._closed:
            return
        self._closed = True
        if not code:
            self.wire.barrier()
        self.wire.watch.close(code, reason)
        if not code:  # after a failure, waiting for peers that are gone would hang
            dist.destroy_process_group()


class _Elsewhere:
    """The decoder of a rank that does not decode."""

    def decode(self, latents: Tensor) -> None:
        """Nothing: the leading rank has the video."""


def connect(
    device: torch.device | str, form: str = "gather", *, store: dist.TCPStore, rank: int, size: int,
    at: Address | None = None, join_within_s: float = JOIN_WITHIN_S, dead_after_s: float = DEAD_AFTER_S,
    mail: Callable[[Wire], Mailbox] | None = None, shared_device: bool = False,
) -> Ranks:  # fmt: skip
    """Join the group behind `store` (a TCPStore, see `meeting.open_store`).

    device         of this rank
    at             where the store listens; by default all ranks are on this machine
    join_within_s  how long to wait for the others
    dead_after_s   silence after which a rank counts as dead
    mail           see Ranks
    shared_device  several ranks live on one device: collectives then go through the host
    Raises PeerError when the others do not come.
    """
    device = torch.device(device)
    if device.index is not None:
        torch.accelerator.set_device_index(device.index)  # kernels launch on the current device
    at = at or Address(store.host, store.port, near=True)
    links = meet(dist.PrefixStore("liveact", store), rank, size, at, join_within_s)
    watch = Watch(links, rank, size, dead_after_s)
    watch.start()
    own = "gloo" if shared_device else dist.get_default_backend_for_device(device)
    backend = own if own == "gloo" else f"cpu:gloo,{device.type}:{own}"  # objects and orders travel through the host
    try:
        dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=COLLECTIVE_TIMEOUT)
    except RuntimeError as error:
        raise watch.blame(error) from error
    world = dist.group.WORLD
    assert world is not None, "init_process_group has just made it"
    wire = Wire(world, device, watch, staged=shared_device)
    wire.barrier()
    return Ranks(wire, form, mail)
