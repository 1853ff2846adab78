"""The denoiser: latents, time, prompt, image and audio in; velocity tokens out."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

from liveact_kernels import ops
from liveact_kernels.contract import scope

from ..config import PATCH, DiTConfig
from .attention import KeysValues
from .block import Block, Modulation, Prompt
from .cache import Window, schedules
from .embed import AudioProjection, Head, ImageEmbedding, TextEmbedding, TimeEmbedding, patchify
from .plan import Precision
from .precision import Linear
from .rope import rope_table
from .streamed import AUDIO, IMAGE, STEP, TEXT, Streamed


class Time(NamedTuple):
    """A timestep's modulation of every layer and of the head: constants of the checkpoint."""

    layers: list[Modulation]
    head: tuple[Tensor, Tensor]


class DiT(nn.Module):
    """Audio-driven diffusion transformer (Wan2.1 image-to-video with audio cross attention); one sample, no batch.

    Source: the released SoulX-LiveAct denoiser. Its parameters carry its own names here only where layers map one
    to one; `weights.py` holds the key map. `streamed` is what moves the blocks' weights, where they are offloaded.
    """

    def __init__(self, config: DiTConfig):
        super().__init__()
        c = self.config = config
        self.dtype = torch.float32  # of activations
        self.patch = Linear(c.in_dim * PATCH * PATCH, c.dim)
        self.time, self.text, self.image = TimeEmbedding(c), TextEmbedding(c), ImageEmbedding(c)
        self.audio = AudioProjection(c)
        self.blocks = cast(Sequence[Block], nn.ModuleList(Block(c) for _ in range(c.num_layers)))
        self.head = Head(c)
        self.streamed: Streamed | None = None

    def linears(self) -> dict[str, Linear]:
        """The linear layers by path."""
        return {path: module for path, module in self.named_modules() if isinstance(module, Linear)}

    def to_precision(self, precision: str | Precision) -> DiT:
        """Set the linear layers' formats in place: a name of formats.FORMATS for all, or a plan.

        Norms, modulations and memory taps stay float32: the ops read them so. Raises InputError for a plan that is not
        for this model.
        """
        plan, linears = Precision.made(precision), self.linears()
        plan.check_sizes(self.config)
        plan.check_paths(linears)
        self.dtype = plan.dtype
        for path, linear in linears.items():
            linear.to_precision(plan.of(path))
        return self

    def walk(self, part: str) -> Iterable[Block]:
        """The blocks in order, each with its weights of a part (`streamed`) where it computes."""
        return self.blocks if self.streamed is None else self.streamed.walk(part)

    # ---- constants of a checkpoint, a prompt, a block -----------------------------------------------------------

    def at(self, t: float | Tensor) -> Time:
        """Modulations of timestep t in [0, 1000]; computed once per checkpoint and timestep."""
        if not isinstance(t, Tensor):
            t = torch.tensor([t], dtype=torch.float32, device=self.head.modulation.device)
        e, e0 = self.time(t, self.dtype)
        return Time([b.modulate(e0) for b in self.blocks], self.head.modulate(e))

    def image_kv(self, image: Tensor) -> list[KeysValues]:
        """Image rows [I, clip_dim] -> keys and values of every layer, constant per video."""
        rows = self.image(image.to(self.dtype))
        return [b.cross_attn.image(rows) for b in self.walk(IMAGE)]

    @scope("prompt")
    def prompt(self, text: Tensor, image: list[KeysValues]) -> Prompt:
        """Text rows [N, text_dim], N <= text_len, beside an image's keys and values: constant per prompt."""
        rows, pad = self.text(text.to(self.dtype))
        return Prompt([b.cross_attn.text(rows) for b in self.walk(TEXT)], image, pad)

    def warm_prompts(self, prompt: Prompt, tokens: int) -> None:
        """Go once through all that a later prompt of any length runs, for a block of `tokens`: it compiles now."""
        c, like = self.config, prompt.text[0].k
        q = like.new_zeros(tokens, *like.shape[1:])
        for rows in self.text.sizes():
            fresh = self.prompt(like.new_zeros(rows - 1, c.text_dim), prompt.image)
            (k, v), image = fresh.text[0], prompt.image[0]
            ops.cross_attention(q=q, k_text=k, v_text=v, k_image=image.k, v_image=image.v, pad=fresh.pad)

    @scope("audio")
    def hear(self, rows: Tensor) -> list[KeysValues]:
        """Audio embeddings [F, 8, blocks, channels] of a block's last F latent frames -> keys and values per layer."""
        tokens = self.audio(rows.to(self.dtype))
        return [b.audio_attn.keys_values(tokens) for b in self.walk(AUDIO)]

    def window(self, rows: int, columns: int, **options) -> Window:
        """An empty memory window for latents of 2*rows x 2*columns; options as in cache.Window."""
        c = self.config
        rope = rope_table(c.head_dim, c.window_slots, rows, columns, c.rope_theta).to(self.head.modulation.device)
        first, steady = schedules(c.memory_slots, c.block_latent_frames)
        return Window(rows * columns, rope, grouping=c.grouping, first=first, schedule=steady, **options)

    # ---- one denoise step ---------------------------------------------------------------------------------------

    def forward(
        self, latent: Tensor, y: Tensor, time: Time, prompt: Prompt, audio: list[KeysValues] | None, window: Window,
        first: bool,
    ) -> Tensor:  # fmt: skip
        """Velocity tokens [L, 4 * out_dim] of one block at one denoise step; the window takes the block in.

        latent  [out_dim, F, Y, X] noisy latents in the activation dtype; F latent frames
        y       [4 + out_dim, F, Y, X] mask and image latents of these latent frames
        time    at(t);  prompt, audio as above, audio None skips the audio attention
        first   whether this is the first block of the video (its slots are 0.., later ones are 6..)
        """
        frames = latent.shape[1]
        x, rope = self.enter(latent, y, window), window.positions(frames, first)
        for i, block in enumerate(self.walk(STEP)):
            with scope(f"layer[{i}]"):
                heard = None if audio is None else audio[i]
                x = block(x, time.layers[i], rope, window, i, prompt, heard, frames)
        return self.leave(x, time.head, window, frames)

    def enter(self, latent: Tensor, y: Tensor, window: Window) -> Tensor:
        """What `forward` hands the first layer: [L, C], of this process's tokens."""
        x = window.parallel.shard(patchify(torch.cat((latent, y))), latent.shape[1])
        return self.patch(self.patch.accept(x))

    def leave(self, x: Tensor, head: tuple[Tensor, Tensor], window: Window, frames: int) -> Tensor:
        """What `forward` makes of the last layer's result [L, C] of `frames` latent frames."""
        return window.parallel.unshard(self.head(x, *head), frames)
