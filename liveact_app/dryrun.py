"""The real model and Session on the meta device: every op call of a block, without weights, data or a GPU."""

from __future__ import annotations

import torch
from torch import Tensor

from liveact_kernels.dispatch import Call, record
from liveact_model.avatar import Avatar
from liveact_model.config import NAMED, DiTConfig
from liveact_model.model import DiT
from liveact_model.parallel import ALONE, SeqParallel
from liveact_model.schedule import TIMESTEPS
from liveact_model.session import Session
from liveact_model.vae.wan import WanVAE

STEADY_BLOCK = 2  # the first block whose call sees a full window and whose end compresses one


class _Rows:
    """A text or image encoder that only has shapes; a prompt of full length is the dearest case."""

    def __init__(self, rows: int, dim: int):
        self.text_len = self.clip_tokens = rows
        self.text_dim = self.clip_dim = dim

    def encode(self, *_: object) -> Tensor:
        """[rows, dim] without data."""
        return torch.empty(self.text_len, self.text_dim, device="meta")


class _Silence:
    """An audio encoder and stream that only has shapes and never ends."""

    ready, total, sample_rate = 1 << 62, None, 16000

    def __init__(self, blocks: int, channels: int):
        self.blocks, self.channels = blocks, channels

    def stream(self, fps: float) -> _Silence:
        """Itself: there is no state."""
        return self

    def embeddings(self, start: int, stop: int) -> Tensor:
        """[stop - start, blocks, channels] without data."""
        return torch.empty(stop - start, self.blocks, self.channels, device="meta")

    def forget(self, before: int) -> None:
        """Nothing is held."""


def meta_avatar(config: DiTConfig, precision: str = "fp8") -> Avatar:
    """An avatar of an architecture without weights: FP8 linears and bf16 activations by default, the full Wan VAE."""
    with torch.device("meta"):
        dit = DiT(config).to_precision(precision)
        vae = WanVAE().to(torch.bfloat16)
    text, image = _Rows(config.text_len, config.text_dim), _Rows(config.clip_tokens, config.clip_dim)
    audio = _Silence(config.audio_blocks, config.audio_channels)
    return Avatar("meta", dit, vae, text, image, audio, (512, 512), 20.0, TIMESTEPS)


def record_block(
    model: str, size: tuple[int, int], precision: str = "fp8", block: int = STEADY_BLOCK,
    parallel: SeqParallel = ALONE,
) -> list[Call]:  # fmt: skip
    """Every op call of one block of `model` (a name in NAMED) at (width, height) pixels, in order.

    Counts what recurs per block: the audio projection, three denoise steps, the memory, the VAE decode.
    `parallel` is one rank of a group on paper (paper.PaperRanks): its share is counted.
    """
    avatar, picture = meta_avatar(NAMED[model], precision), torch.empty(3, size[1], size[0], device="meta")
    session = Session(avatar, picture, "", eight_bit_memory=precision == "fp8", parallel=parallel)
    for _ in range(block):
        session.next_block()
    with record() as calls:
        session.next_block()
    return list(calls)
