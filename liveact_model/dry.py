"""Encoders that only have shapes: a Session of a model on the meta device runs on them without values."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor


class Rows:
    """A text or image encoder that only has shapes; a prompt of full length is the dearest case."""

    def __init__(self, rows: int, dim: int):
        self.text_len = self.clip_tokens = rows
        self.text_dim = self.clip_dim = dim

    def encode(self, *_: object) -> Tensor:
        """[rows, dim] without data."""
        return torch.empty(self.text_len, self.text_dim, device="meta")


class Silence:
    """An audio encoder and stream that never ends; the steady blocks' windows run through `network` if there is one."""

    ready, total, sample_rate = 1 << 62, None, 16000

    def __init__(self, blocks: int, channels: int, network: Any = None):
        self.blocks, self.channels, self.network = blocks, channels, network

    def stream(self, fps: float) -> Silence:
        """Itself: there is no state."""
        return self

    def embeddings(self, start: int, stop: int) -> Tensor:
        """[stop - start, blocks, channels] without data; the network sees what a steady block's chunk sees."""
        if self.network is not None:
            hear(self.network, window_video_frames())
        return torch.empty(stop - start, self.blocks, self.channels, device="meta")

    def forget(self, before: int) -> None:
        """Nothing is held."""


def window_video_frames() -> int:
    """Video frames of audio that the network sees for one steady block: context, the block, look-ahead."""
    from .audio.stream import EMBEDDINGS_PER_SECOND, Wav2Vec2Stream

    d = {n: p.default for n, p in inspect.signature(Wav2Vec2Stream).parameters.items()}
    return d["chunk_frames"] + round((d["context_s"] + d["look_ahead_s"]) * EMBEDDINGS_PER_SECOND)


def hear(network: Any, video_frames: int) -> None:
    """Run the audio network over a window of audio without data."""
    from .audio.levels import Levels
    from .audio.stream import EMBEDDINGS_PER_SECOND

    channels = network.convolutions[0].conv.out_channels
    levels = Levels(0.0, 1.0, *(torch.empty(channels, device="meta") for _ in range(2)))
    samples = video_frames * network.sample_rate // EMBEDDINGS_PER_SECOND
    network.embed_window(torch.empty(samples, device="meta"), video_frames, levels)
