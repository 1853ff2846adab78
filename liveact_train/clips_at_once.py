"""All blocks of a clip in one pass: the denoiser's own layers, and a window that holds every block of every clip.

Apart from its window a block needs nothing of another one, so the blocks of B clips are one batch of each layer of
`DiT` under `torch.vmap`, and where a layer asks the window they all meet: each block's keys and values are folded into
the memory of the next, block by block (ConvKV, positions reset by the op itself), and each block's queries see that
memory, appended to their own keys and values. Of the block-wise causal mask over all keys that is what is not masked;
nothing that the mask hides is computed.

The first block has sizes of its own (it has no memory, and its first latent frame hears nothing): in every layer it
goes first. A layer is called once in a pass, outside of vmap, so that its weights can come and go and its activations
be made again (`layers`): under vmap torch cannot do the latter.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.func import vmap
from torch.utils._pytree import tree_map

from liveact_kernels import ops
from liveact_model.config import DiTConfig
from liveact_model.dit import DiT, KeysValues, LayerMemory, Prompt, Window
from liveact_model.schedule import coefficients, sigmas
from liveact_train.clip_window import ClipWindow, Memory
from liveact_train.layers import constant, parts_of


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


class Entered(NamedTuple):
    """What the ends make of blocks for the layers and the head; a batch of blocks in front of every shape."""

    x: Tensor  # [L, C] tokens
    e: Tensor  # [1, C] time, for the head
    e0: Tensor  # [6, C] time, for the layers
    text: Tensor  # [N, C] rows
    heard: Tensor | None  # [F, N, A] audio tokens


class Rollout(NamedTuple):
    """Clips that the model made, [B, Z, F, Y, X] each: latents, and what entered the last denoise step."""

    latents: Tensor
    entered: Tensor


class Pass(NamedTuple):
    """What one pass over clips gives."""

    tokens: Tensor  # [B, L, 4 * Z] velocities of all blocks
    seen: Memory  # what each later block saw, [B, n, P, H, D], if it was asked for


def _each(call: Callable[..., Any], *args: Any) -> Any:
    """vmap over the first dim of all tensors in `args`; those that are None stay None."""
    return vmap(call, in_dims=tuple(None if arg is None else 0 for arg in args))(*args)


class AtOnce:
    """The passes of one training step: weights are cast once.

    dit    float32 master weights; linear layers run in dit.dtype, gradients reach the masters
    x      conditions of the clips
    hidden memory slots that later blocks do not see, of `run`
    Made where no gradients are wanted, its weights are constants.
    """

    def __init__(self, dit: DiT, x: Conditions, hidden: tuple[int, ...] = ()):
        self.dit, self.parts, self.x = dit, parts_of(dit), Conditions(*(part.to(dit.dtype) for part in x))
        self.hidden = hidden
        self.weights = self.parts.cast(dit.dtype)

    def run(
        self, latents: Tensor, t: Tensor, audible: bool, given: Memory | None = None, remember: bool = False
    ) -> Pass:
        """All blocks at their noise levels.

        latents   [B, Z, F, Y, X] noisy latents
        t         [B, 1 + n] timestep of every block, 0..1000
        audible   whether the audio attention runs
        given     see ClipWindow, per layer
        remember  whether the memory that the blocks saw is in what comes back
        """
        return Pass(*self.parts(self.weights, self._run, latents.to(self.dit.dtype), t, audible, given, remember))

    def rollout(
        self, noise: Tensor, timesteps: tuple[float, ...], every_step: bool = True, clean: bool = False
    ) -> Rollout:
        """The model's own clips, block by block through `Window`, as a Session makes them.

        noise       [B, steps, Z, F, Y, X] float32: the initial latents, then what follows each denoise step
        every_step  each denoise step has a memory of its own; else all see what the last one left behind
        clean       all see what one more pass over the finished blocks, without noise, left behind, whatever every_step

        No gradient leads through it. The forward is that of training all the same (no memory is written in place, no
        fused attention, which vmap would run sample by sample).
        """
        constants = [constant(weights) for weights in self.weights]
        with torch.enable_grad():
            args = (noise, timesteps, every_step and not clean, clean, constants)
            return Rollout(*self.parts(constants, self._rollout, *args))

    # ---- the ends -------------------------------------------------------------------------------------------------

    def _enter(self, latent: Tensor, t: Tensor, y: Tensor, text: Tensor, audio: Tensor | None) -> Entered:
        """Blocks in front of the layers, a batch of them: see `DiT.forward`; t [blocks, 1]."""
        dit, window = self.dit, self._window(latent)

        def one(latent, t, y, text, audio):
            rows, self._pad = dit.text(text)
            x = (dit.enter(latent, y, window), *dit.time(t, dit.dtype), rows)
            return x if audio is None else (*x, dit.audio(audio))

        made = _each(one, latent, t, y, text, audio)
        return Entered(*made) if len(made) == 5 else Entered(*made, None)

    def _leave(self, x: Tensor, e: Tensor, window: Window) -> Tensor:
        """Velocity tokens of blocks."""
        dit, frames = self.dit, x.shape[1] // window.tokens
        return vmap(lambda x, e: dit.leave(x, dit.head.modulate(e), window, frames))(x, e)

    def _window(self, latent: Tensor) -> Window:
        """An empty one for latents [.., Y, X]."""
        return self.dit.window(latent.shape[-2] // 2, latent.shape[-1] // 2)

    # ---- one layer ------------------------------------------------------------------------------------------------

    def _block(self, i: int, window: Window, first: bool, x, e0, text, heard, image_k, image_v) -> Tensor:
        """One block of one clip through layer i, whose window knows this layer alone."""
        block, frames = self.dit.blocks[i], x.shape[0] // window.tokens
        prompt = Prompt([block.cross_attn.text(text)], [KeysValues(image_k, image_v)], self._pad)
        audio = None if heard is None else block.audio_attn.keys_values(heard)
        return block(x, block.modulate(e0), window.positions(frames, first), window, 0, prompt, audio, frames)

    def _alone(self, i: int, window: Window, entered: Entered, image: KeysValues, mem: tuple) -> tuple[Tensor, ...]:
        """Blocks that follow on what they are given: (x, keys and values that they leave behind)."""

        def one(x, e0, text, heard, image_k, image_v, k, v):
            own = replace(window, layers={} if k is None else {0: LayerMemory(k, v)})
            x = self._block(i, own, k is None, x, e0, text, heard, image_k, image_v)
            return x, own.layers[0].k, own.layers[0].v

        made = _each(one, entered.x, entered.e0, entered.text, entered.heard, *image, *mem)
        return tuple(t.contiguous() for t in made)

    def _image(self, i: int, rows: Tensor) -> KeysValues:
        """Keys and values of pictures in layer i."""
        return KeysValues(*vmap(self.dit.blocks[i].cross_attn.image)(rows))

    def _layer(self, i: int, window: Window, blocks: list[Entered], rows: Tensor, given, remember: bool):
        """All blocks of all clips through layer i: what it makes of their x, and what the later ones saw."""
        image = self._image(i, rows)
        first, *start = self._alone(i, window, blocks[0], image, (None, None))
        if len(blocks) == 1:
            return [first], None
        n = len(blocks[1].x) // len(first)
        clip, image = (
            ClipWindow(window, n, (start[0], start[1]), given, self.hidden),
            tree_map(lambda t: _repeat(t, n), image),
        )
        _, _, e0, text, heard = blocks[1]
        later = _each(partial(self._block, i, clip, False), blocks[1].x, e0, text, heard, *image)
        return [first, later], clip.seen if remember else None

    # ---- all layers -----------------------------------------------------------------------------------------------

    def _run(self, latents: Tensor, t: Tensor, audible: bool, given: Memory | None, remember: bool):
        c, x, (first, *later) = self.dit.config, self.x, blocks_of(latents.shape[2], self.dit.config)
        p, n, window = c.memory_slots, len(later), self._window(latents)
        audio = x.audio if audible else None
        heard = None if audio is None else audio[:, 1:p]
        blocks = [self._enter(latents[:, :, first], t[:, :1], x.y[:, :, :p], x.text[:, 0], heard)]
        if n:
            blocks.append(
                self._enter(
                    _cut(latents, 2, later), t[:, 1 : 1 + n].reshape(-1, 1), _repeat(x.y[:, :, p : c.window_slots], n),
                    x.text[:, 1 : 1 + n].flatten(0, 1), None if audio is None else _cut(audio, 1, later),
                )
            )  # fmt: skip
        rows, seen = vmap(self.dit.image)(x.image), []
        for i in range(c.num_layers):
            args = (i, window, blocks, rows, given and given[i], remember)
            made, saw = self.parts.layer(i, self.weights, self._layer, *args)
            blocks = [b._replace(x=x) for b, x in zip(blocks, made)]
            seen += [saw] if remember and n else []
        tokens = [self._leave(b.x, b.e, window) for b in blocks]
        if n:
            tokens[1] = tokens[1].unflatten(0, (-1, n)).flatten(1, 2)
        return torch.cat(tokens, 1), seen

    def _rollout(self, noise: Tensor, timesteps: tuple[float, ...], every_step: bool, clean: bool, weights: list):
        c, x, levels, made, ends = self.dit.config, self.x, sigmas(timesteps), [], []
        layers, window = range(c.num_layers), self._window(noise)

        def layer(i: int, call: Callable[..., Any], *args: Any) -> Any:
            return self.parts.layer(i, weights, lambda *given: constant(call(*given)), *args)

        rows = constant(vmap(self.dit.image)(x.image))
        image = [layer(i, self._image, i, rows) for i in layers]
        memories: list[Any] = [[(None, None)] * c.num_layers for _ in timesteps]

        def step(latent: Tensor, t: float, y: Tensor, text: Tensor, audio: Tensor | None, memory: list, keep: bool):
            """Velocity tokens of a block at a denoise step; `keep` what it leaves behind."""
            at = noise.new_full((len(noise), 1), t)
            entered = constant(self._enter(latent.to(self.dit.dtype), at, y, text, audio))
            for i in layers:
                out, *left = layer(i, self._alone, i, window, entered, image[i], memory[i])
                entered = entered._replace(x=out)
                if keep:
                    memory[i] = tuple(left)
            return constant(self._leave(entered.x, entered.e, window)).float()

        for b, frames in enumerate(blocks_of(noise.shape[3], c)):
            y = x.y[:, :, : c.memory_slots] if b == 0 else x.y[:, :, c.memory_slots : c.window_slots]
            audio, latent = x.audio[:, max(1, frames.start) : frames.stop], noise[:, 0, :, frames].contiguous()
            for s, t in enumerate(timesteps):
                last = s == len(timesteps) - 1
                if last:
                    ends.append(latent)
                memory, keep = memories[s if every_step else -1], (every_step or last) and not clean
                tokens = step(latent, t, y, x.text[:, b], audio if t < 1000 else None, memory, keep)
                update = coefficients("renoise", levels[s], levels[s + 1])._asdict()
                fresh = None if last else noise[:, s + 1, :, frames].contiguous()
                latent = _each(partial(_denoised, update), tokens, latent, fresh)
            made.append(latent)
            if clean:
                step(latent, 0.0, y, x.text[:, b], audio, memories[-1], True)
        return torch.cat(made, 2), torch.cat(ends, 2)


def _denoised(update: dict[str, float], tokens: Tensor, latent: Tensor, noise: Tensor | None) -> Tensor:
    return ops.denoise_update(tokens=tokens, latent=latent, noise=noise, **update)


def _cut(x: Tensor, dim: int, blocks: list[slice]) -> Tensor:
    """[B, ..., F, ...] -> [B * n, ..., frames of a block, ...]."""
    return torch.stack([x.narrow(dim, s.start, s.stop - s.start) for s in blocks], 1).flatten(0, 1)


def _repeat(x: Tensor, n: int) -> Tensor:
    """[B, ...] -> [B * n, ...]: for every block of a clip the same."""
    return x[:, None].expand(-1, n, *x.shape[1:]).flatten(0, 1)
