"""The real model and Session on the meta device: every op call of a block, without weights, data or a GPU."""

from __future__ import annotations

import importlib.util

import torch

from liveact_kernels.contract import Call, record
from liveact_kernels.cost.outside import Outside, download
from liveact_model.avatar import Avatar
from liveact_model.config import NAMED, STORED_PRECISIONS, DiTConfig
from liveact_model.dit import DiT
from liveact_model.dry import Rows, Silence
from liveact_model.errors import InputError
from liveact_model.parallel import ALONE, SeqParallel
from liveact_model.schedule import TIMESTEPS
from liveact_model.session import Session
from liveact_model.vae.wan import WanVAE

STEADY_BLOCK = 2  # the first block whose call sees a full window and whose end compresses one


def audio_network(config: DiTConfig):
    """The wav2vec2 network an architecture listens with, on the meta device; None where transformers is missing."""
    if importlib.util.find_spec("transformers") is None:
        return None
    from liveact_model.audio.wav2vec2 import Wav2Vec2AudioEncoder
    from liveact_model.audio.wav2vec2_weights import build

    settings = {"hidden_size": config.audio_channels, "num_hidden_layers": config.audio_blocks}
    return Wav2Vec2AudioEncoder(build(settings).state_dict(), settings)


def meta_avatar(config: DiTConfig, precision: str = "fp8") -> Avatar:
    """An avatar of an architecture without weights: FP8 linears and bf16 activations by default, the full Wan VAE."""
    with torch.device("meta"):
        dit = DiT(config).to_precision(precision)
        vae = WanVAE().to(torch.bfloat16)
    text, image = Rows(config.text_len, config.text_dim), Rows(config.clip_tokens, config.clip_dim)
    audio = Silence(config.audio_blocks, config.audio_channels, audio_network(config))
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
    session = Session(avatar, picture, "", eight_bit_attention=precision in STORED_PRECISIONS, parallel=parallel)
    for _ in range(block):
        session.next_block()
    with record() as calls, Outside(calls):
        video = session.next_block()
    return [*calls, download(video)]
