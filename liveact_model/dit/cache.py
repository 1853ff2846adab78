"""The memory window of one denoise step: what a block's queries see of the past, in constant space.

Slots (one latent frame each): 0, 1 reference; 2, 3 long-term; 4, 5 short-term; then the current block. Keys are
stored roped at their slot's position. Every denoise step has a window of its own (Neighbor Forcing).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from liveact_kernels import ops
from liveact_kernels.ops.kv_compress import FIRST, STEADY

from ..config import MEMORY_SLOTS, TAPS, WINDOW_SLOTS
from ..parallel import ALONE, SeqParallel
from .away import Away

Schedule = tuple[tuple[int, tuple[int, ...]], ...]


def schedules(memory_slots: int, block_latent_frames: int) -> tuple[Schedule, Schedule]:
    """What a window of other sizes keeps after its first block, and what the end of every later one folds and moves.

    Two reference and two long-term slots stay two; the rest of the memory is short-term, the newest latent frames. The
    two folds take the first and the last five of the slots between (6 and 8 give FIRST and STEADY; with a shorter
    block they overlap). The paper's ablation names the sizes and not the schedule; these cost what any such one costs.
    """
    kept, window = Slots.long_term.stop, memory_slots + block_latent_frames
    newest = window - (memory_slots - kept)
    folds = ((2, tuple(range(2, 2 + TAPS))), (3, tuple(range(newest - TAPS, newest))))
    moves = tuple((slot, (newest + slot - kept,)) for slot in range(kept, memory_slots))
    return tuple((slot, (slot,)) for slot in range(memory_slots)), folds + moves


class Slots:
    """The released window by name; one latent frame each."""

    reference = range(0, 2)  # the video's first two, for ever
    long_term = range(2, 4)  # five slots folded into each, again and again
    short_term = range(4, MEMORY_SLOTS)  # the last two before the current block
    current = range(MEMORY_SLOTS, WINDOW_SLOTS)


TWO_RANK_RELEASED: Schedule = ((2, (2, 6, 7, 8, 9)), (3, (3, 4, 5, 10, 11)), (4, (12,)), (5, (13,)))
"""What the released two-GPU run compresses, in global slots: each rank folds five of its own. For parity only."""


@dataclass
class LayerMemory:
    """Keys and values of a layer's six memory slots: [6 * tokens, H, D], with scales [6 * tokens, H] when 8-bit."""

    k: Tensor
    v: Tensor
    k_scale: Tensor | None = None
    v_scale: Tensor | None = None

    def tensors(self) -> list[Tensor]:
        """The tensors that exist."""
        return [t for t in (self.k, self.v, self.k_scale, self.v_scale) if t is not None]


class Codes(NamedTuple):
    """What `ops.qkv_norm_rope_8bit` gives: int8 queries and keys, e4m3 values [L, H, D], and scales [L, H] f32."""

    q: Tensor
    k: Tensor
    v: Tensor
    q_scale: Tensor
    k_scale: Tensor
    v_scale: Tensor


@dataclass
class Window:
    """Memory of every layer at one denoise step.

    tokens      tokens per latent frame
    rope        [14 * tokens, D/2, 2] f32, positions of the window's slots
    eight_bit   store the memory slots as int8 keys and e4m3 values with scales; else in the activations' dtype
    eight_bit_attention  with eight_bit: multiply codes once there is memory, see `coded`
    grouping    how a compression groups tokens, see ops.kv_compress
    schedule    which slots a block's end folds and moves; `first` that of the first block, which fills the memory
    parallel    which tokens this process has, and how it meets the others'
    away        what moves the memory, where it lives on the host between its uses
    """

    tokens: int
    rope: Tensor
    eight_bit: bool = False
    grouping: str = "raster"
    schedule: Schedule = STEADY
    parallel: SeqParallel = ALONE
    layers: dict[int, LayerMemory] = field(default_factory=dict)
    first: Schedule = FIRST
    eight_bit_attention: bool = False
    away: Away | None = None

    def coded(self, layer: int) -> bool:
        """Whether this layer's block comes as codes, to `attend_codes`.

        The first block does not: the released model attends to unquantised keys and values of the block itself, so
        that one would lose what nothing else has lost yet.
        """
        return self.eight_bit_attention and layer in self.layers

    def positions(self, frames: int, first: bool) -> Tensor:
        """Rope rows of a block of `frames` latent frames: slots 0.. for the first block, 6.. for all later.

        Of this process's tokens, like the rows of x.
        """
        start = 0 if first else len(self.first)
        return self.parallel.shard(self.rope[start * self.tokens : (start + frames) * self.tokens], frames)

    def attend(
        self, layer: int, frames: int, q: Tensor, k: Tensor, v: Tensor, taps: Tensor, taps_v: Tensor | None
    ) -> Tensor:
        """Attention of q over memory and (k, v), then the end-of-block update of this layer's memory.

        q, k, v [L, H, D] of `frames` latent frames; taps [S, H, D] f32. Returns [L, H, D]. The update follows at
        once because the current block's keys are a scratch that the next layer reuses: 6 slots persist, not 14.
        """
        mem = self._take(layer)
        old = {} if mem is None else {"k_mem": mem.k, "v_mem": mem.v, "k_scale": mem.k_scale, "v_scale": mem.v_scale}
        y, k, v = self.parallel.attend(layer, frames, q, k, v, old)
        taps, taps_v = self.parallel.own_heads(taps), None if taps_v is None else self.parallel.own_heads(taps_v)
        self._update(layer, mem, k, v, taps, taps_v)
        return y

    def attend_codes(
        self, layer: int, frames: int, new: Codes, taps: Tensor, taps_v: Tensor | None, out_dtype: torch.dtype
    ) -> tuple[Tensor, Tensor | None]:
        """`attend` on 8-bit codes of `frames` latent frames -> [L, H, D] in out_dtype, and its scales if that is e4m3.

        Scales are [L, H] f32, as `ops.quant` with H groups gives them.
        """
        mem = self._take(layer)
        assert mem is not None, "`coded` has seen it"
        k, v, k_scale, v_scale = (self.parallel.unshard(t, frames) for t in (new.k, new.v, new.k_scale, new.v_scale))
        v_new, k_new_scale, v_new_scale = ops.head_major(v=v, k_scale=k_scale, v_scale=v_scale)
        v_mem, k_mem_scale, v_mem_scale = ops.head_major(v=mem.v, k_scale=mem.k_scale, v_scale=mem.v_scale)
        out = ops.attention_8bit(
            q=new.q, q_scale=new.q_scale, out_dtype=out_dtype,
            k_new=k, k_new_scale=k_new_scale, v_new=v_new, v_new_scale=v_new_scale,
            k_mem=mem.k, k_mem_scale=k_mem_scale, v_mem=v_mem, v_mem_scale=v_mem_scale,
        )  # fmt: skip
        self._update(layer, mem, k, v, taps, taps_v, k_scale, v_scale)
        return out

    def _take(self, layer: int) -> LayerMemory | None:
        """The layer's memory for the attention and the update that follow; None in the first block."""
        if self.away is not None:
            self.away.take(layer)
        return self.layers.get(layer)

    def _update(self, layer, mem, k, v, taps, taps_v, k_scale=None, v_scale=None) -> None:
        if mem is None or torch.is_grad_enabled():  # training keeps the graph: no write in place
            made = self.closed(mem, k, v, taps, taps_v, k_scale, v_scale)
            if mem is None and self.away is not None:
                made = LayerMemory(*self.away.admit(layer, made.tensors(), self._kept))
            self.layers[layer] = made
        else:
            old = (mem.k, mem.v, mem.k_scale, mem.v_scale)
            out = tuple(None if t is None else t[self._kept :] for t in old)
            ops.kv_compress(**self._compression(mem, k, v, taps, taps_v, k_scale, v_scale), out=out)
        if self.away is not None:
            self.away.leave(layer)

    def closed(
        self, mem: LayerMemory | None, k: Tensor, v: Tensor, taps: Tensor, taps_v: Tensor | None,
        k_scale: Tensor | None = None, v_scale: Tensor | None = None,
    ) -> LayerMemory:  # fmt: skip
        """The memory that a block's end makes of `mem` (None: the first block's) and the block, in new tensors."""
        new = LayerMemory(*ops.kv_compress(**self._compression(mem, k, v, taps, taps_v, k_scale, v_scale)))
        if mem is None:
            return new
        return LayerMemory(*(torch.cat((o[: self._kept], n)) for o, n in zip(mem.tensors(), new.tensors())))

    @property
    def _kept(self) -> int:
        """Rows of the reference slots, which stay as they are."""
        return Slots.reference.stop * self.tokens

    def _compression(self, mem, k, v, taps, taps_v, k_scale, v_scale) -> dict:
        old = (None,) * 4 if mem is None else (mem.k, mem.v, mem.k_scale, mem.v_scale)
        k_dtype, v_dtype = (torch.int8, torch.float8_e4m3fn) if self.eight_bit else (k.dtype, v.dtype)
        return {
            "k_new": k, "v_new": v, "k_new_scale": k_scale, "v_new_scale": v_scale,
            "k_mem": old[0], "v_mem": old[1], "k_scale": old[2], "v_scale": old[3],
            "taps": taps, "taps_v": taps_v, "rope": self.rope[: k.shape[0] + (0 if mem is None else mem.k.shape[0])],
            "schedule": self.first if mem is None else self.schedule, "tokens": self.tokens,
            "grouping": self.grouping, "k_dtype": k_dtype, "v_dtype": v_dtype,
        }  # fmt: skip

    def nbytes(self) -> int:
        """Bytes held, constant from the second block on."""
        return sum(t.nbytes for m in self.layers.values() for t in m.tensors())
