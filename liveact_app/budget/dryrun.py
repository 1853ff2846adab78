"""The real model and Session on the meta device: every op call of a block, without weights, data or a GPU."""

from __future__ import annotations

import importlib.util

import torch
from torch import Tensor

from liveact_kernels.contract import Call, record
from liveact_kernels.cost.outside import Outside, download
from liveact_model.avatar import Avatar
from liveact_model.config import NAMED, DiTConfig
from liveact_model.dit import DiT
from liveact_model.errors import InputError
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
    """An audio encoder and stream that never ends; the steady blocks' windows run through `network` if there is one."""

    ready, total, sample_rate = 1 << 62, None, 16000

    def __init__(self, blocks: int, channels: int, network=None):
        self.blocks, self.channels, self._network = blocks, channels, network

    def stream(self, fps: float) -> _Silence:
        """Itself: there is no state."""
        return self

    def embeddings(self, start: int, stop: int) -> Tensor:
        """[stop - start, blocks, channels] without data; the network sees what a steady block's chunk sees."""
        if self._network is not None:
            hear(self._network, window_video_frames())
        return torch.empty(stop - start, self.blocks, self.channels, device="meta")

    def forget(self, before: int) -> None:
        """Nothing is held."""


def audio_network(config: DiTConfig):
    """The wav2vec2 network an architecture listens with, on the meta device; None where transformers is missing."""
    if importlib.util.find_spec("transformers") is None:
        return None
    from liveact_model.audio.wav2vec2 import Wav2Vec2AudioEncoder
    from liveact_model.audio.wav2vec2_weights import build

    settings = {"hidden_size": config.audio_channels, "num_hidden_layers": config.audio_blocks}
    return Wav2Vec2AudioEncoder(build(settings).state_dict(), settings)


def window_video_frames() -> int:
    """Video frames of audio that the network sees for one steady block: context, the block, look-ahead."""
    import inspect

    from liveact_model.audio.stream import EMBEDDINGS_PER_SECOND, Wav2Vec2Stream

    d = {n: p.default for n, p in inspect.signature(Wav2Vec2Stream).parameters.items()}
    return d["chunk_frames"] + round((d["context_s"] + d["look_ahead_s"]) * EMBEDDINGS_PER_SECOND)


def hear(network, video_frames: int) -> None:
    """Run the audio network over a window of audio without data."""
    from liveact_model.audio.levels import Levels
    from liveact_model.audio.stream import EMBEDDINGS_PER_SECOND

    channels = network.convolutions[0].conv.out_channels
    levels = Levels(0.0, 1.0, *(torch.empty(channels, device="meta") for _ in range(2)))
    samples = video_frames * network.sample_rate // EMBEDDINGS_PER_SECOND
    network.embed_window(torch.empty(samples, device="meta"), video_frames, levels)


def meta_avatar(config: DiTConfig, precision: str = "fp8") -> Avatar:
    """An avatar of an architecture without weights: FP8 linears and bf16 activations by default, the full Wan VAE."""
    with torch.device("meta"):
        dit = DiT(config).to_precision(precision)
        vae = WanVAE().to(torch.bfloat16)
    text, image = _Rows(config.text_len, config.text_dim), _Rows(config.clip_tokens, config.clip_dim)
    audio = _Silence(config.audio_blocks, config.audio_channels, audio_network(config))
    return Avatar("meta", dit, vae, text, image, audio, (512, 512), 20.0, TIMESTEPS)


def record_block(
    model: str, size: tuple[int, int], precision: str = "fp8", block: int = STEADY_BLOCK,
    parallel: SeqParallel = ALONE,
) -> list[Call]:  # fmt: skip
    """Every call of one block of `model` (a name in NAMED) at (width, height) pixels, in order.

    Counts what recurs per block: audio features, three denoise steps, the memory, the VAE decode, the conversion to
    uint8 and the copy to the host; ops as themselves, plain torch calls as `outside.Plain`. (Without transformers
    the audio network is not there to be counted.)  `parallel` is a rank of a dry group (dryranks.DryRanks): its share
    is counted.  Raises InputError for an unknown model.
    """
    if model not in NAMED:
        raise InputError(f"--model: expected one of {', '.join(NAMED)}, got {model!r}")
    avatar, picture = meta_avatar(NAMED[model], precision), torch.empty(3, size[1], size[0], device="meta")
    session = Session(avatar, picture, "", eight_bit_attention=precision == "fp8", parallel=parallel)
    for _ in range(block):
        session.next_block()
    with record() as calls, Outside(calls):
        video = session.next_block()
    return [*calls, download(video)]
