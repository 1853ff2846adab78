"""The released checkpoint directory: the denoiser's shards, its encoders and VAE, and how they must fit together."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..audio.windows import LATTER_ROWS
from ..avatar import AudioEncoder, Avatar
from ..checkpoint.files import Tensors, dit_files
from ..checkpoint.footprint import must_fit
from ..checkpoint.statedict import shape_of
from ..config import NAMED, WAV2VEC2_BASE, DiTConfig
from ..dit import DiT, Precision
from ..errors import InputError
from ..schedule import TIMESTEPS
from .blueprint import ENCODERS, Blueprint, Opened, Part, Watch, part_of
from .keymap import check, infer_config, load

DENOISER = "denoiser"
VAE_FILE = "Wan2.1_VAE.pth"
TEXT_FILE = "models_t5_umt5-xxl-enc-bf16.pth"
TOKENIZER_DIR = "google/umt5-xxl"
IMAGE_FILE = "models_clip_open-clip-xlm-roberta-large-vit-huge-14.pth"
AUDIO_DIR = "chinese-wav2vec2-base"

DEFAULT_SIZE, DEFAULT_FPS = (416, 720), 20.0

STORED = {
    "dim": "dim", "ffn_dim": "ffn_dim", "num_layers": "num_layers", "in_dim": "in_dim", "out_dim": "out_dim",
    "freq_dim": "freq_dim", "intermediate_dim": "audio_hidden", "context_tokens": "audio_tokens",
    "output_dim": "audio_dim",
}  # fmt: skip
"""Sizes that config.json may state and the tensors show, with our names: a difference means that files are missing
or belong to another model. Without this a lost last shard would pass as a model with fewer layers."""


def open_released(
    folder: Path, config: dict[str, Any], precision: Precision, wav2vec_dir: str | Path | None,
    device: torch.device | None = None, mean_memory: bool = False, block_offload: bool = False,
) -> Opened:  # fmt: skip
    """Open a released directory; `config` is its config.json. Arguments and errors as in `weights.load_avatar`.

    The encoders keep the precision of their files, except that "float32" is float32 everywhere. What is dear comes
    last: the denoiser's values are read when everything else has been found to fit.
    """
    state, (audio, text, image, vae), dit_config = parts(folder, config, precision, wav2vec_dir)
    with torch.device("meta"):
        dit = DiT(dit_config.with_memory(mean_memory))

    def read(watch: Watch) -> Avatar:
        if precision.dtype == torch.float32:
            wider = sum(p.numel() * 4 for part in (audio, text, image) for p in part.parameters() if p.itemsize < 4)
            must_fit(wider, f"model: the encoders of {str(folder)!r} in float32")
            for part in (audio, text, image):
                part.float()
        load(dit, state, precision, DENOISER, device, watch, checked=True, block_offload=block_offload)
        name = folder.resolve().name
        return Avatar(name, dit, vae, text, image, audio, DEFAULT_SIZE, DEFAULT_FPS, TIMESTEPS)

    return Opened(blueprint_of(folder.resolve().name, dit.config, precision, audio, text, image, vae), read, text)


def blueprint_of(
    name: str, c: DiTConfig, precision: Precision, audio: Any, text: Any, image: Any, vae: Any
) -> Blueprint:
    """Of a released or converted directory: an encoder whose values are cast leaves its file."""
    found = {n: part_of(part) for n, part in zip(ENCODERS, (text, image, audio))}
    wide = precision.dtype == torch.float32
    mapped = tuple(n for n, part in found.items() if not wide or part.dtype == torch.float32)
    if wide:
        found = {n: Part(part.sizes, torch.float32) for n, part in found.items()}
    return Blueprint(
        name, c, precision, vae.config, found["text"], found["image"], found["audio"], DEFAULT_SIZE, DEFAULT_FPS,
        TIMESTEPS, mapped,
    )  # fmt: skip


def parts(
    folder: Path, config: dict[str, Any], precision: Precision, wav2vec_dir: str | Path | None
) -> tuple[Tensors, tuple, DiTConfig]:
    """The denoiser's tensors, unread; (audio, text, image, vae); the denoiser's sizes: all found to fit."""
    from ..checkpoint.schema import Released, validated

    where = folder / "config.json"
    stated = validated(Released, config, where)
    state = Tensors(dit_files(folder))
    audio, text, image, vae = encoders(folder, stated.text_len, wav2vec_dir, precision)
    _check_audio(state, audio)
    found = {"audio_channels": audio.channels, "clip_tokens": image.clip_tokens}
    dit_config = _dit_config(state, stated.model_dump(exclude_none=True) | found, where)
    check(state, dit_config, DENOISER)
    check_parts(folder, dit_config, audio, text, image, vae)
    return state, (audio, text, image, vae), dit_config


def check_parts(folder: Path, c: DiTConfig, audio: Any, text: Any, image: Any, vae: Any) -> None:
    """Raise InputError unless the denoiser takes what the encoders and the VAE give."""
    for part, got, key, want in (
        (AUDIO_DIR, f"blocks x channels {audio.blocks} x {audio.channels}", "audio_proj.proj1_vf.weight",
         f"blocks x channels {c.audio_blocks} x {c.audio_channels}"),
        (TEXT_FILE, f"text_dim {text.text_dim}", "text_embedding.0.weight", f"text_dim {c.text_dim}"),
        (IMAGE_FILE, f"clip_dim {image.clip_dim}", "img_emb.proj.1.weight", f"clip_dim {c.clip_dim}"),
        (VAE_FILE, f"z_dim {vae.z_dim}", "head.head.weight", f"z_dim {c.out_dim}"),
    ):  # fmt: skip
        if got != want:
            raise InputError(f"model: expected {want} in {folder / part}, as the denoiser's {key} takes, found {got}")
    if (vae.spatial, vae.temporal) != (8, 4):
        scales = f"{vae.spatial} and {vae.temporal}"
        raise InputError(f"model: expected {folder / VAE_FILE} to scale space by 8 and time by 4, found {scales}")


def encoders(folder: Path, text_len: int, wav2vec_dir: str | Path | None, precision: Precision) -> tuple:
    """(audio, text, image, vae) of a released or converted directory."""
    from ..vae.wan import WanVAE

    audio, text, image = _encoders(folder, text_len, wav2vec_dir)
    vae = WanVAE.from_released(folder / VAE_FILE, dtype=precision.dtype)
    return audio, text, image, vae


def _encoders(folder: Path, text_len: int, wav2vec_dir: str | Path | None) -> tuple:
    from ..audio.wav2vec2 import Wav2Vec2AudioEncoder
    from ..image.clip import CLIPImageEncoder
    from ..text.umt5 import UMT5TextEncoder

    speech = Path(wav2vec_dir) if wav2vec_dir else folder / AUDIO_DIR
    if not speech.is_dir():
        raise InputError(
            f"wav2vec_dir: expected the audio encoder's folder (config.json, preprocessor_config.json, weights) "
            f"{speech}, found none"
        )
    audio = Wav2Vec2AudioEncoder.from_directory(speech)
    text = UMT5TextEncoder.from_released(folder / TEXT_FILE, folder / TOKENIZER_DIR, text_len)
    return audio, text, CLIPImageEncoder.from_released(folder / IMAGE_FILE)


def _check_audio(state: Mapping[str, Tensor], audio: AudioEncoder) -> None:
    """The denoiser fixes only blocks x channels; how that splits is the encoder's to say."""
    key = "audio_proj.proj1_vf.weight"
    width, each = shape_of(state, key, 2, DENOISER)[1], audio.blocks * audio.channels
    if width != LATTER_ROWS * each:
        raise InputError(
            f"wav2vec_dir: expected an audio encoder with blocks x channels = {width / LATTER_ROWS:g}, as the "
            f"denoiser's {key} takes, found {audio.blocks} x {audio.channels} = {each}"
        )


def _dit_config(state: Mapping[str, Tensor], values: dict[str, Any], where: Path) -> DiTConfig:
    try:
        inferred = infer_config(state, values, DENOISER)
    except InputError as error:
        raise error if str(error).startswith(DENOISER) else InputError(f"model: {where}: {error}") from error
    for theirs, ours in STORED.items():
        stated, found = values.get(theirs), getattr(inferred, ours)
        if stated not in (None, found):
            raise InputError(f"{DENOISER}: expected {theirs} {stated} as in {where}, found {found} in the tensors")
    return inferred


def named(name: str, precision: str | Precision) -> Blueprint:
    """The released model of a name in config.NAMED, with the sizes and types of its published files."""
    from ..image.clip import VIT_H
    from ..text.umt5 import XXL
    from ..vae.wan_coder import WanVAEConfig

    speech = {n: list(v) if isinstance(v, tuple) else v for n, v in WAV2VEC2_BASE.items()}
    plan, wide = Precision.made(precision), torch.float32
    text = plan.dtype
    parts = (Part(XXL, text), Part(VIT_H, wide), Part(speech, wide))
    mapped = tuple(n for n in ENCODERS if n != "text" or text != wide)
    return Blueprint(
        name, NAMED[name], plan, WanVAEConfig(), *parts, DEFAULT_SIZE, DEFAULT_FPS, TIMESTEPS, mapped
    )  # fmt: skip
