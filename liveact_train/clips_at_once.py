"""All blocks of a clip in one pass: the denoiser's own layers, and a window that holds every block of every clip.

Apart from its window a block needs nothing of another one, so the blocks of B clips are one batch of `DiT.forward`
under `torch.vmap`, and where a layer asks the window they all meet: each block's keys and values are folded into the
memory of the next, block by block (ConvKV, positions reset by the op itself), and each block's queries see that memory,
appended to their own keys and values. Of the block-wise causal mask over all keys that is what is not masked; nothing
that the mask hides is computed.

The first block has sizes of its own (it has no memory, and its first latent frame hears nothing); it goes first.
"""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch.utils._pytree import tree_map

from liveact_kernels import ops
from liveact_model.config import DiTConfig
from liveact_model.dit import DiT, KeysValues, LayerMemory, Linear, Window
from liveact_model.schedule import coefficients, sigmas
from liveact_train.shards import whole

Memory = list[tuple[Tensor, Tensor]]
"""Per layer the keys and values of memory slots: [B, P, H, D], or [B, blocks, P, H, D] of several blocks."""


def blocks_of(latent_frames: int, c: DiTConfig) -> list[slice]:
    """Latent frames of each block of a clip: first as many as the memory has slots; what fills no block is left out."""
    edges = [0, *range(c.memory_slots, latent_frames + 1, c.block_latent_frames)]
    return [slice(a, b) for a, b in itertools.pairwise(edges)]


class Conditions(NamedTuple):
    """What B clips of F latent frames in n blocks are made from.

    y      [B, 4 + Z, window slots, Y, X] mask and image latents
    text   [B, n, text_len, text_dim] prompt rows of each block, zero rows as padding
    image  [B, I, clip_dim]
    audio  [B, F, 8, audio_blocks, channels] embeddings (latent frame 0's row is not read)
    """

    y: Tensor
    text: Tensor
    image: Tensor
    audio: Tensor


class ClipWindow(Window):
    """The window of all later blocks of B clips, n blocks each, under vmap over B * n in the order (clip, block).

    start   memory that the first blocks left behind
    given   memory that the blocks see instead of what they themselves leave behind, [B, n, P, H, D]; None: their own
    hidden  memory slots that no block attends to, though they are folded on
    seen    per layer, the memory that each block was given
    """

    def __init__(
        self, like: Window, blocks: int, start: Memory, given: Memory | None = None, hidden: tuple[int, ...] = ()
    ):
        super().__init__(like.tokens, like.rope, grouping=like.grouping, schedule=like.schedule, first=like.first)
        self.blocks, self.start, self.given, self.hidden = blocks, start, given, hidden
        self.seen: Memory = []

    def attend(
        self, layer: int, frames: int, q: Tensor, k: Tensor, v: Tensor, taps: Tensor, taps_v: Tensor | None
    ) -> Tensor:
        """As Window.attend; the blocks of the batch meet here."""
        return _Meet.apply(q, k, v, taps, taps_v, self, layer)

    def together(self, layer: int, q: Tensor, k: Tensor, v: Tensor, taps: Tensor, taps_v: Tensor | None) -> Tensor:
        """Attention of all blocks: q, k, v [B * n, L, H, D] -> [B * n, L, H, D]."""
        q, k, v = (x.unflatten(0, (-1, self.blocks)) for x in (q, k, v))
        memory = self.given[layer] if self.given else self._memory(self.start[layer], k, v, taps, taps_v)
        self.seen.append(memory)
        rows = {"q": q, "k_new": k, "v_new": v}
        shown = torch.tensor([slot for slot in range(len(self.first)) if slot not in self.hidden], dtype=torch.long)
        if self.hidden:
            memory = tuple(m.unflatten(2, (-1, self.tokens))[:, :, shown].flatten(2, 3) for m in memory)
        if len(shown):
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
    def forward(q, k, v, taps, taps_v, window, layer):
        raise RuntimeError("ClipWindow: expected blocks under torch.vmap, got one block alone")

    @staticmethod
    def setup_context(ctx, inputs, output) -> None:
        """Nothing: there is no forward of its own."""

    @staticmethod
    def vmap(info, in_dims, q, k, v, taps, taps_v, window: ClipWindow, layer: int):
        """All blocks at once."""
        q, k, v = (x.movedim(dim, 0) for x, dim in zip((q, k, v), in_dims))
        return window.together(layer, q, k, v, taps, taps_v), 0


class Parts(nn.Module):
    """The denoiser under vmap, part by part; `functional_call` puts other weights in."""

    def __init__(self, dit: DiT):
        super().__init__()
        self.dit = dit

    def forward(self, part: str, *args: Any) -> Any:
        """Call `part` with one sample's arguments."""
        return getattr(self, part)(*args)

    def first(self, latent, t, y, text, image: list[KeysValues], audio) -> tuple[Tensor, Memory]:
        """The first block's velocity tokens and the memory it leaves behind."""
        window = self.dit.window(latent.shape[-2] // 2, latent.shape[-1] // 2)
        out = self._block(latent, t, y, text, image, audio, window, True)
        return out, [(m.k, m.v) for m in window.layers.values()]

    def later(self, latent, t, y, text, image: list[KeysValues], audio, window: ClipWindow) -> Tensor:
        """A later block's velocity tokens."""
        return self._block(latent, t, y, text, image, audio, window, False)

    def image(self, image: Tensor) -> list[KeysValues]:
        """Keys and values of a picture, once per clip."""
        return self.dit.image_kv(image)

    def rollout(
        self, noise, y, text, image: list[KeysValues], audio, timesteps: tuple[float, ...], every_step: bool,
        clean: bool,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        """See AtOnce.rollout."""
        c, levels, made, entered = self.dit.config, sigmas(timesteps), [], []
        empty = self.dit.window(noise.shape[-2] // 2, noise.shape[-1] // 2)
        windows = [replace(empty, layers={}) for _ in timesteps]
        for b, frames in enumerate(blocks_of(noise.shape[2], c)):
            cond = y[:, : c.memory_slots] if b == 0 else y[:, c.memory_slots : c.window_slots]
            heard, latent = audio[max(1, frames.start) : frames.stop], noise[0][:, frames].contiguous()
            for i, t in enumerate(timesteps):
                last = i == len(timesteps) - 1
                if last:
                    entered.append(latent)
                window = windows[i if every_step else -1]
                if clean or not (every_step or last):  # what this step leaves behind is not kept
                    window = replace(window, layers=dict(window.layers))
                at, hears = noise.new_full((1,), t), heard if t < 1000 else None
                tokens = self._block(latent.to(self.dit.dtype), at, cond, text[b], image, hears, window, b == 0)
                update = coefficients("renoise", levels[i], levels[i + 1])
                fresh = None if last else noise[i + 1][:, frames].contiguous()
                latent = ops.denoise_update(tokens=tokens.float(), latent=latent, noise=fresh, **update._asdict())
            made.append(latent)
            if clean:
                at = noise.new_zeros(1)
                self._block(latent.to(self.dit.dtype), at, cond, text[b], image, heard, windows[-1], b == 0)
        return torch.cat(made, 1), torch.cat(entered, 1)

    def _block(self, latent, t, y, text, image, audio, window, first) -> Tensor:
        dit = self.dit
        heard = None if audio is None else dit.hear(audio)
        return dit(latent, y, dit.at(t), dit.prompt(text, image), heard, window, first)


class Rollout(NamedTuple):
    """Clips that the model made, [B, Z, F, Y, X] each: latents, and what entered the last denoise step."""

    latents: Tensor
    entered: Tensor


class Pass(NamedTuple):
    """What one pass over clips gives."""

    tokens: Tensor  # [B, L, 4 * Z] velocities of all blocks
    start: Memory  # what the first blocks left behind
    seen: Memory  # what each later block saw, [B, n, P, H, D]


class AtOnce:
    """The passes of one training step: weights are cast once, a picture's keys are made once.

    dit    float32 master weights; linear layers run in dit.dtype, gradients reach the masters
    x      conditions of the clips
    hidden memory slots that later blocks do not see, of `run`
    """

    def __init__(self, dit: DiT, x: Conditions, hidden: tuple[int, ...] = ()):
        self.dit, self.parts, self.x = dit, Parts(dit), Conditions(*(part.to(dit.dtype) for part in x))
        self.hidden = hidden
        self.weights = {
            name: p.to(dit.dtype) if isinstance(self.parts.get_submodule(name.rpartition(".")[0]), Linear) else p
            for name, p in ((name, whole(p)) for name, p in self.parts.named_parameters())
        }
        self.image = self._call("image", self.x.image)

    def rollout(
        self, noise: Tensor, timesteps: tuple[float, ...], every_step: bool = True, clean: bool = False
    ) -> Rollout:
        """The model's own clips, block by block through `Window`, as a Session makes them.

        noise       [B, steps, Z, F, Y, X] float32: the initial latents, then what follows each denoise step
        every_step  each denoise step has a memory of its own; else all see what the last one left behind
        clean       all see what one more pass over the finished blocks, without noise, left behind, whatever every_step

        No gradient leads through it. The forward is that of training all the same (no memory is written in place, no
        fused attention, which vmap would run sample by sample), over weights that are constants.
        """
        x, image = self.x, tree_map(Tensor.detach, self.image)
        constant = {name: w.detach() for name, w in self.weights.items()}
        with torch.enable_grad():
            args = (noise, x.y, x.text, image, x.audio)
            fixed = (timesteps, every_step and not clean, clean)
            return Rollout(*self._call("rollout", *args, fixed=fixed, weights=constant))

    def _call(
        self, part: str, *args: Any, fixed: tuple[Any, ...] = (), weights: dict[str, Tensor] | None = None
    ) -> Any:
        """vmap over the first dim of every tensor of `args`; `fixed` follow as they are."""

        def one(*sample):
            return functional_call(self.parts, weights or self.weights, (part, *sample, *fixed))

        in_dims = tuple(None if arg is None else 0 for arg in args)
        return vmap(one, in_dims=in_dims)(*args)

    def run(self, latents: Tensor, t: Tensor, audible: bool, given: Memory | None = None) -> Pass:
        """All blocks at their noise levels.

        latents  [B, Z, F, Y, X] noisy latents
        t        [B, 1 + n] timestep of every block, 0..1000
        audible  whether the audio attention runs
        given    see ClipWindow
        """
        c, dtype = self.dit.config, self.dit.dtype
        latents, (first, *later) = latents.to(dtype), blocks_of(latents.shape[2], self.dit.config)
        hear = self.x.audio if audible else None
        y, p = self.x.y, c.memory_slots
        out, start = self._call(
            "first", latents[:, :, first], t[:, :1], y[:, :, :p], self.x.text[:, 0], self.image,
            None if hear is None else hear[:, 1:p],
        )  # fmt: skip
        if not later:
            return Pass(out, start, [])
        n, rows, columns = len(later), latents.shape[-2] // 2, latents.shape[-1] // 2
        window = ClipWindow(self.dit.window(rows, columns), n, start, given, self.hidden)

        def blocks(x: Tensor, dim: int) -> Tensor:
            """[B, ..., F, ...] -> [B * n, ..., frames of a block, ...]."""
            return torch.stack([x.narrow(dim, s.start, s.stop - s.start) for s in later], 1).flatten(0, 1)

        def each(x: Tensor) -> Tensor:
            return x[:, None].expand(-1, n, *x.shape[1:]).flatten(0, 1)

        rest = self._call(
            "later", blocks(latents, 2), t[:, 1 : 1 + n].reshape(-1, 1), each(y[:, :, p : c.window_slots]),
            self.x.text[:, 1 : 1 + n].flatten(0, 1), tree_map(each, self.image),
            None if hear is None else blocks(hear, 1), fixed=(window,),
        )  # fmt: skip
        return Pass(torch.cat((out, rest.unflatten(0, (-1, n)).flatten(1, 2)), 1), start, window.seen)
