"""The window in which all later blocks of a batch of clips meet, each in front of its own past (`clips_at_once`)."""

from __future__ import annotations

import torch
from torch import Tensor

from liveact_kernels import ops
from liveact_model.dit import LayerMemory, Window

Memory = list[tuple[Tensor, Tensor]]
"""Per layer the keys and values of memory slots: [B, P, H, D], or [B, blocks, P, H, D] of several blocks."""


class ClipWindow(Window):
    """The window of all later blocks of B clips, n blocks each, under vmap over B * n in the order (clip, block).

    It is made for one call of one layer.

    start   memory that the first blocks left behind in this layer
    given   memory that the blocks see instead of what they themselves leave behind, [B, n, P, H, D]; None: their own
    hidden  memory slots that no block attends to, though they are folded on
    seen    the memory that each block was given
    """

    def __init__(
        self, like: Window, blocks: int, start: tuple[Tensor, Tensor], given: tuple[Tensor, Tensor] | None = None,
        hidden: tuple[int, ...] = (),
    ):  # fmt: skip
        super().__init__(like.tokens, like.rope, grouping=like.grouping, schedule=like.schedule, first=like.first)
        self.blocks, self.start, self.given, self.hidden = blocks, start, given, hidden
        self.seen: tuple[Tensor, Tensor] | None = None

    def attend(
        self, layer: int, frames: int, q: Tensor, k: Tensor, v: Tensor, taps: Tensor, taps_v: Tensor | None
    ) -> Tensor:
        """As Window.attend; the blocks of the batch meet here."""
        return _Meet.apply(q, k, v, taps, taps_v, self)

    def together(self, q: Tensor, k: Tensor, v: Tensor, taps: Tensor, taps_v: Tensor | None) -> Tensor:
        """Attention of all blocks: q, k, v [B * n, L, H, D] -> [B * n, L, H, D]."""
        q, k, v = (x.unflatten(0, (-1, self.blocks)) for x in (q, k, v))
        memory = self.seen = self.given or self._memory(self.start, k, v, taps, taps_v)
        rows = {"q": q, "k_new": k, "v_new": v}
        if self.hidden:
            shown = [slot for slot in range(len(self.first)) if slot not in self.hidden]
            memory = tuple(m.unflatten(2, (-1, self.tokens))[:, :, shown].flatten(2, 3) for m in memory)
        if memory[0].shape[2]:
            rows |= {"k_mem": memory[0], "v_mem": memory[1]}
        out = ops.attention(**{name: _heads(x.flatten(0, 1)) for name, x in rows.items()})
        return _unheads(out, q.shape[0] * q.shape[1])

    def _memory(self, start, k, v, taps, taps_v) -> tuple[Tensor, Tensor]:
        """What each of n blocks sees of the past: what the block before it saw, and that block, folded."""
        seen, clips = [start], len(k)
        taps, taps_v = (None if t is None else t.repeat(1, clips, 1) for t in (taps, taps_v))
        for i in range(self.blocks - 1):
            before = LayerMemory(*map(_heads, seen[-1]))
            after = self.closed(before, _heads(k[:, i]), _heads(v[:, i]), taps, taps_v)
            seen.append((_unheads(after.k, clips), _unheads(after.v, clips)))
        ks, vs = zip(*seen)
        return torch.stack(ks, 1), torch.stack(vs, 1)


def _heads(x: Tensor) -> Tensor:
    """[B, L, H, D] -> [L, B * H, D]: an op takes one sample's heads and treats each alone."""
    return x.transpose(0, 1).flatten(1, 2)


def _unheads(x: Tensor, batch: int) -> Tensor:
    return x.unflatten(1, (batch, -1)).transpose(0, 1)


class _Meet(torch.autograd.Function):
    """Where the members of a vmapped batch become one tensor; its gradient is that of what is done with it."""

    @staticmethod
    def forward(q, k, v, taps, taps_v, window):
        raise RuntimeError("ClipWindow: expected blocks under torch.vmap, got one block alone")

    @staticmethod
    def setup_context(ctx, inputs, output) -> None:
        """Nothing: there is no forward of its own."""

    @staticmethod
    def vmap(info, in_dims, q, k, v, taps, taps_v, window: ClipWindow):
        """All blocks at once."""
        q, k, v = (x.movedim(dim, 0) for x, dim in zip((q, k, v), in_dims))
        return window.together(q, k, v, taps, taps_v), 0
