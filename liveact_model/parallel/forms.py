"""How the new keys and values of a block travel: the forms of one attention over all ranks' tokens.

Every form takes this rank's q, k, v [F*t, H, D] and gives (out, k, v) as `SeqParallel.attend`. `gather` is the plain
one that the others must equal.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from liveact_kernels import ops

from .mailbox import Mailbox
from .pieces import cut, join, pieces
from .wire import Wire

Memory = dict[str, Tensor | None]
Result = tuple[Tensor, Tensor, Tensor]
LAUNCHES = 2
"""Launches over remote keys at most: each one more starts earlier, and reads and writes the partial results again."""


class Ranks(Protocol):
    """What a form asks of the group, which is `ranks.Ranks`: who this is, whose tokens are whose, and ways to send."""

    size: int
    wire: Wire
    tokens: list[range]

    @property
    def rank(self) -> int:
        """The number of this process."""

    def unshard(self, x: Tensor, frames: int) -> Tensor:
        """All ranks' tokens of `frames` latent frames from this rank's."""

    def mailbox(self, frames: int) -> Mailbox:
        """Boxes that other ranks write into."""


def gather(r: Ranks, layer: int, frames: int, q: Tensor, k: Tensor, v: Tensor, memory: Memory) -> Result:
    """Gather all keys and values, then attend: nothing overlaps."""
    k, v = r.unshard(k, frames), r.unshard(v, frames)
    return ops.attention(q=q, k_new=k, v_new=v, **memory), k, v


def ring(r: Ranks, layer: int, frames: int, q: Tensor, k: Tensor, v: Tensor, memory: Memory) -> Result:
    """Pieces walk round the ranks; the queries meet one while the next is on its way."""
    held, state = (k, v), None
    met = {r.rank: held}
    for hop in range(1, r.size):
        source = (r.rank - hop) % r.size
        arriving = r.wire.shift(held, frames * len(r.tokens[source]))
        state = _meet(q, *held, memory if hop == 1 else {}, state)
        k_next, v_next = arriving()
        held = met[source] = (k_next, v_next)
    out, _ = _meet(q, *held, {}, state)
    k, v = (join([met[s][i] for s in range(r.size)], frames) for i in (0, 1))
    return out, k, v


def overlap(r: Ranks, layer: int, frames: int, q: Tensor, k: Tensor, v: Tensor, memory: Memory) -> Result:
    """Every rank pushes its piece into all the others' mailboxes and attends to what is local; then to what came."""
    box = r.mailbox(frames)
    box.push(layer, (k, v))
    state = _meet(q, k, v, memory, None)
    order, rows = box.order, [frames * len(r.tokens[s]) for s in box.order]
    batches = [b for b in pieces(len(order), LAUNCHES) if b]
    for batch in batches:
        for i in batch:
            box.wait(order[i], f"layer {layer}")
        start, count = sum(rows[: batch.start]), sum(rows[batch.start : batch.stop])
        k_here, v_here = (t[start : start + count] for t in box.arrived())
        state = _meet(q, k_here, v_here, {}, state)
    whole = []
    for own, arrived in zip((k, v), box.arrived()):
        parts = dict(zip(order, arrived.split(rows))) | {r.rank: own}
        whole.append(join([parts[s] for s in range(r.size)], frames))
    box.done()
    k, v = whole
    return state[0], k, v


def ulysses(r: Ranks, layer: int, frames: int, q: Tensor, k: Tensor, v: Tensor, memory: Memory) -> Result:
    """Swap tokens for heads: every rank attends with all the tokens of its heads, and keeps their memory alone."""
    heads = pieces(q.shape[1], r.size)
    rows = [frames * len(t) for t in r.tokens]

    def to_heads(x: Tensor) -> Tensor:
        shapes = [(n, len(heads[r.rank]), x.shape[2]) for n in rows]
        return join(r.wire.swap([x[:, h.start : h.stop] for h in heads], shapes), frames)

    def to_tokens(x: Tensor) -> Tensor:
        shapes = [(rows[r.rank], len(h), x.shape[2]) for h in heads]
        return torch.cat(r.wire.swap([cut(x, frames, t) for t in r.tokens], shapes), 1)

    q, k, v = to_heads(q), to_heads(k), to_heads(v)
    return to_tokens(ops.attention(q=q, k_new=k, v_new=v, **memory)), k, v


def _meet(q: Tensor, k: Tensor, v: Tensor, memory: Memory, state: tuple | None) -> tuple[Tensor, Tensor]:
    """Fold one segment of keys (and the memory before it) into the state (out, lse) of the queries."""
    out, lse = state or (None, None)
    return ops.attention_segment(q=q, k_new=k, v_new=v, out_old=out, lse_old=lse, **memory)


FORMS = {"gather": gather, "ring": ring, "overlap": overlap, "ulysses": ulysses}
"""By the name that the command line takes."""
