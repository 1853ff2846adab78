"""The released checkpoint directory: the denoiser's shards, its encoders and VAE, and how they must fit together."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .audio.windows import LATTER_ROWS
from .avatar import AudioEncoder, Avatar
from .config import DiTConfig
from .errors import InputError
from .keymap import infer_config, load
from .model import DiT
from .schedule import TIMESTEPS
from .statedict import shape_of
from .weights import Tensors, dit_files

VAE_FILE = "Wan2.1_VAE.pth"
TEXT_FILE = "models_t5_umt5-xxl-enc-bf16.pth"
TOKENIZER_DIR, TOKENIZER_FILES = "google/umt5-xxl", ("tokenizer.json", "spiece.model")
IMAGE_FILE = "models_clip_open-clip-xlm-roberta-large-vit-huge-14.pth"
AUDIO_DIR = "chinese-wav2vec2-base"

DEFAULT_SIZE, DEFAULT_FPS = (416, 720), 20.0
TEXT_LEN = 512

STORED = {
    "dim": "dim", "ffn_dim": "ffn_dim", "num_layers": "num_layers", "in_dim": "in_dim", "out_dim": "out_dim",
    "freq_dim": "freq_dim", "intermediate_dim": "audio_hidden", "context_tokens": "audio_tokens",
    "output_dim": "audio_dim",
}  # fmt: skip
"""Sizes that config.json may state and the tensors show, with our names: a difference means that files are missing
or belong to another model. Without this a lost last shard would pass as a model with fewer layers."""

HIDDEN = ("num_heads", "text_len")
"""Sizes of config.json that no tensor shows."""

FIXED = {"model_type": "i2v", "audio_window": 5, "vae_scale": 4, "eps": 1e-6}
"""What config.json may state and this engine has built in."""


def load_released(
    folder: Path, config: dict[str, Any], precision: str, wav2vec_dir: str | Path | None,
    device: torch.device | None = None,
) -> Avatar:  # fmt: skip
    """Load a released directory; `config` is its config.json. Arguments and errors as in `weights.load_avatar`.

    The encoders keep the precision of their files, except that "float32" is float32 everywhere. What is dear comes
    last: the denoiser's values are read when everything else has been found to fit.
    """
    from .vae.wan import WanVAE

    where = folder / "config.json"
    _check_config(config, where)
    state = Tensors(dit_files(folder))
    audio, text, image = _encoders(folder, config.get("text_len", TEXT_LEN), wav2vec_dir)
    vae = WanVAE.from_released(folder / VAE_FILE, dtype=torch.float32 if precision == "float32" else torch.bfloat16)
    _check_audio(state, audio)
    found = {"audio_channels": audio.channels, "clip_tokens": image.clip_tokens}
    dit_config = _dit_config(state, config | found, where)
    for part, got, key, want in (
        (TEXT_FILE, f"text_dim {text.text_dim}", "text_embedding.0.weight", f"text_dim {dit_config.text_dim}"),
        (IMAGE_FILE, f"clip_dim {image.clip_dim}", "img_emb.proj.1.weight", f"clip_dim {dit_config.clip_dim}"),
        (VAE_FILE, f"z_dim {vae.z_dim}", "head.head.weight", f"z_dim {dit_config.out_dim}"),
    ):
        if got != want:
            raise InputError(f"model: expected {want} in {folder / part}, as the denoiser's {key} takes, found {got}")
    if precision == "float32":
        for part in (audio, text, image):
            part.float()
    with torch.device("meta"):
        dit = DiT(dit_config)
    load(dit, state, precision, "denoiser", device)
    name = folder.resolve().name
    return Avatar(name, dit, vae, text, image, audio, DEFAULT_SIZE, DEFAULT_FPS, TIMESTEPS)


def _encoders(folder: Path, text_len: int, wav2vec_dir: str | Path | None) -> tuple:
    from .audio.wav2vec2 import Wav2Vec2AudioEncoder
    from .image.clip import CLIPImageEncoder
    from .text.umt5 import UMT5TextEncoder

    speech = Path(wav2vec_dir) if wav2vec_dir else folder / AUDIO_DIR
    if not speech.is_dir():
        raise InputError(
            f"wav2vec_dir: expected the audio encoder's folder (config.json, preprocessor_config.json, weights) "
            f"{speech}, found none"
        )
    tokenizer = folder / TOKENIZER_DIR
    if tokenizer.is_dir() and not any((tokenizer / name).is_file() for name in TOKENIZER_FILES):
        raise InputError(f"tokenizer_dir: expected {' or '.join(TOKENIZER_FILES)} in {tokenizer}, found neither")
    audio = Wav2Vec2AudioEncoder.from_directory(speech)
    text = UMT5TextEncoder.from_released(folder / TEXT_FILE, tokenizer, text_len)
    return audio, text, CLIPImageEncoder.from_released(folder / IMAGE_FILE)


def _check_config(config: Mapping[str, Any], where: Path) -> None:
    for name in (*STORED, *HIDDEN):
        value = config.get(name, 1)
        if type(value) is not int or value < 1:
            raise InputError(f"model: expected {name} in {where} to be a whole number from 1 on, found {value!r}")
    for name, value in FIXED.items():
        if config.get(name, value) != value:
            raise InputError(f"model: expected {name} {value!r} in {where}, found {config[name]!r}")


def _check_audio(state: Mapping[str, Tensor], audio: AudioEncoder) -> None:
    """The denoiser fixes only blocks x channels; how that splits is the encoder's to say."""
    key = "audio_proj.proj1_vf.weight"
    width, each = shape_of(state, key, 2, "denoiser")[1], audio.blocks * audio.channels
    if width != LATTER_ROWS * each:
        raise InputError(
            f"wav2vec_dir: expected an audio encoder with blocks x channels = {width / LATTER_ROWS:g}, as the "
            f"denoiser's {key} takes, found {audio.blocks} x {audio.channels} = {each}"
        )


def _dit_config(state: Mapping[str, Tensor], values: dict[str, Any], where: Path) -> DiTConfig:
    inferred = infer_config(state, values, "denoiser")
    for theirs, ours in STORED.items():
        stated, found = values.get(theirs), getattr(inferred, ours)
        if stated not in (None, found):
            raise InputError(f"denoiser: expected {theirs} {stated} as in {where}, found {found} in the tensors")
    return inferred
