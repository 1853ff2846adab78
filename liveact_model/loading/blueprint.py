"""A model without its values: what its sizes and types say, enough to build it on the meta device and count bytes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..avatar import Avatar
from ..config import DiTConfig
from ..dit import DiT, Precision, Streamed
from ..dry import Rows, Silence

ENCODERS = ("text", "image", "audio")
"""Parts that stay in their files where the model lives on the host."""


class Part(NamedTuple):
    """An encoder's sizes (UMT5Shape, CLIPShape, or wav2vec2's settings) and the type of its values."""

    sizes: Any
    dtype: torch.dtype


@dataclass(frozen=True)
class Blueprint:
    """Sizes and types of every part of a model; an encoder that is None is built in and has no weights.

    precision  of the denoiser's linear layers: a format's name or a plan
    vae        WanVAEConfig, or TinyVAE's arguments
    mapped     parts of the Avatar whose values stay in their files while they are on the host
    """

    name: str
    dit: DiTConfig
    precision: str | Precision
    vae: Any
    text: Part | None
    image: Part | None
    audio: Part | None
    size: tuple[int, int]
    fps: float
    timesteps: tuple[float, ...]
    mapped: tuple[str, ...] = ()

    def avatar(self, block_offload: bool = False) -> Avatar:
        """The model on the meta device; its prompt has full length and its audio never ends."""
        with torch.device("meta"):
            dit = DiT(self.dit).to_precision(self.precision).requires_grad_(False).eval()
            vae = self._vae()
        if block_offload:
            dit.streamed = Streamed.of(dit.blocks, torch.device("meta"))
        parts = (self._text(), self._image(), self._audio())
        return Avatar(self.name, dit, vae, *parts, self.size, self.fps, self.timesteps)

    def _vae(self) -> Any:
        from ..vae.tiny import TinyVAE
        from ..vae.wan import WanVAE

        if isinstance(self.vae, dict):
            return TinyVAE(**self.vae).requires_grad_(False).eval()
        return WanVAE(self.vae).to(Precision.made(self.precision).dtype).requires_grad_(False).eval()

    def _text(self) -> Any:
        if self.text is None:
            return Rows(self.dit.text_len, self.dit.text_dim)
        from ..text.umt5 import UMT5TextEncoder

        class Longest(UMT5TextEncoder):
            def encode(self, prompt: str) -> Tensor:
                return self.encode_ids(torch.zeros(self.text_len, dtype=torch.int64))

        sizes, dtype = self.text
        return Longest(_empty(sizes.released_keys(), dtype), None, self.dit.text_len, sizes)

    def _image(self) -> Any:
        if self.image is None:
            from ..image.patches import PatchEncoder

            return PatchEncoder(self.dit.out_dim)
        from ..image.clip import CLIPImageEncoder

        sizes, dtype = self.image
        return CLIPImageEncoder(_empty(sizes.released_keys(), dtype), sizes.heads, sizes.eps).to("meta")

    def _audio(self) -> Any:
        c, network = self.dit, None
        if self.audio is not None:
            from ..audio.wav2vec2 import Wav2Vec2AudioEncoder
            from ..audio.wav2vec2_weights import build

            state = {name: t.to(self.audio.dtype) for name, t in build(self.audio.sizes).state_dict().items()}
            network = Wav2Vec2AudioEncoder(state, self.audio.sizes)
        return Silence(c.audio_blocks, c.audio_channels, network)


Watch = Callable[[str, int, int], None]
"""Hears a component's name, its bytes that are in place, and all its bytes: at 0, at the end, maybe between."""


class Opened(NamedTuple):
    """A model whose files have been found to fit together, and what reads the values and puts them in place.

    load  also takes the prompts of `load_avatar` where that calls it
    text  the text encoder, which the model that is loaded has, too
    """

    blueprint: Blueprint
    load: Callable[..., Avatar]
    text: Any = None


def _empty(shapes: dict[str, tuple[int, ...]], dtype: torch.dtype) -> dict[str, Tensor]:
    return {key: torch.empty(shape, dtype=dtype, device="meta") for key, shape in shapes.items()}


def part_of(encoder: Any) -> Part:
    """Sizes of a released encoder, and the type of its values."""
    sizes = encoder.settings if hasattr(encoder, "settings") else encoder.shape
    return Part(sizes, next(encoder.parameters()).dtype)
