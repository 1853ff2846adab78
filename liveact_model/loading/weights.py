"""Loading avatars: the checkpoint that ships with the package, one trained here, or the released directory."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from liveact_kernels.cost.memory import nbytes

from ..avatar import AudioEncoder, Avatar, Encoded, ImageEncoder, TextEncoder
from ..checkpoint.files import Tensors
from ..checkpoint.jsonfile import read_json
from ..checkpoint.statedict import assign, check_keys
from ..config import CONVERTED, PRECISIONS, DiTConfig
from ..dit import DiT, Precision
from ..errors import InputError
from ..inputs import shown, switch
from ..needs import WEIGHTS as NAMES
from ..needs import weights
from ..schedule import TIMESTEPS
from .blueprint import Blueprint, Opened, Watch
from .keymap import check, export, load

ASSETS = Path(__file__).parents[1] / "assets"
AVATARS = ("tiny",)
"""Models that ship with the package."""

FORMAT = "liveact-1"
"""Marks a config.json of ours: {"format", "name", "size", "fps", "timesteps", "dit": {..}, "vae": {..}}; "most_lost"
may stand beside, see Avatar."""


def load_avatar(
    name_or_dir: str, dtype: str | Precision = "auto", wav2vec_dir: str | None = None,
    device: str | torch.device = "cpu", mean_memory: bool = False, text_on_host: bool = False,
    block_offload: bool = False, *, prompts: Iterable[str] | None = None,
    before: Callable[[Blueprint], None] = lambda blueprint: None, watch: Watch = lambda name, done, total: None,
) -> Avatar:  # fmt: skip
    """Load a model by name or directory.

    dtype  "float32", "bfloat16", "fp8" (e4m3 weights, bf16 activations), "nvfp4" (4-bit weights, likewise) or another
           of config.PRECISIONS, or a plan (`read_plan`); "auto" is float32 on a CPU for the small models, bf16 for the
           released one
    wav2vec_dir  folder of the wav2vec2 encoder for a released checkpoint; default: `chinese-wav2vec2-base` in it
    mean_memory  fold old slots by their mean whatever the checkpoint says
    text_on_host the text encoder stays on the CPU; a Session moves its rows
    block_offload  weights of the denoiser's blocks live on the host and visit the device while they are used
    prompts      all that there will be: they are encoded first, and the text encoder is freed before anything else is
                   read, if it has weights; any other prompt is then an InputError
    before       called when the files have been found to fit together and nothing dear has been read: it may refuse
    watch        hears how far the loading is
    Raises InputError for an unknown name, or a missing, truncated or mis-shaped file (naming the first wrong key).
    """
    opened = open_avatar(name_or_dir, dtype, wav2vec_dir, device, mean_memory, text_on_host, block_offload)
    before(opened.blueprint)
    return opened.load(watch, prompts)


def _encoded(opened: Opened, prompts: Iterable[str], place: torch.device, watch: Watch) -> Encoded | None:
    """The prompts as `place` encodes them, with the encoder's memory given back; None where it has no weights."""
    text, part = opened.text, opened.blueprint.text
    if part is None:
        return None
    total = nbytes(text.parameters())
    watch(NAMES["text"], 0, total)
    texts = tuple(prompts)
    made = Encoded(text.to(place, part.dtype) if texts else text, texts)  # of several processes one encodes
    text.to("meta")
    watch(NAMES["text"], total, total)
    return made


def open_avatar(
    name_or_dir: str, dtype: str | Precision = "auto", wav2vec_dir: str | None = None,
    device: str | torch.device = "cpu", mean_memory: bool = False, text_on_host: bool = False,
    block_offload: bool = False,
) -> Opened:  # fmt: skip
    """The first half of `load_avatar`, with its arguments and errors: everything but reading what is dear."""
    if not isinstance(dtype, Precision) and dtype not in PRECISIONS:
        raise InputError(f"dtype: expected one of {', '.join(PRECISIONS)} or a plan, got {shown(dtype)}")
    try:
        place = torch.device(device)
    except (RuntimeError, TypeError) as error:
        raise InputError(f"device: expected a device that torch knows, got {shown(device)}") from error
    if not isinstance(wav2vec_dir, str | Path | None):
        raise InputError(f"wav2vec_dir: expected a folder's name or None, got {shown(wav2vec_dir)}")
    mean_memory, text_on_host = switch(mean_memory, "mean_memory"), switch(text_on_host, "text_on_host")
    how = (place, mean_memory, switch(block_offload, "block_offload"))
    known = isinstance(name_or_dir, str | Path)
    folder = ASSETS / name_or_dir if known and str(name_or_dir) in AVATARS else name_or_dir
    if not known or not os.path.isdir(folder):
        names = ", ".join(AVATARS)
        raise InputError(f"model: expected one of {names}, or a checkpoint directory, got {shown(name_or_dir)}")
    folder = Path(folder)
    from ..checkpoint.manifest import require_complete

    require_complete(folder)
    config = read_json(folder / "config.json")
    with torch.no_grad():
        if config.get("format") == FORMAT:
            plan = Precision.made("float32" if dtype == "auto" else dtype)
            opened = _open_ours(folder, config, plan, *how)
        elif config.get("format") == CONVERTED:
            from .converted import open_converted

            opened = open_converted(folder, config, dtype, wav2vec_dir, *how)
        else:
            from .released import open_released

            plan = Precision.made("bfloat16" if dtype == "auto" else dtype)
            opened = open_released(folder, config, plan, wav2vec_dir, *how)
    Precision.made(opened.blueprint.precision).check_sizes(opened.blueprint.dit)

    @torch.no_grad()
    def load(watch: Watch, prompts: Iterable[str] | None = None) -> Avatar:
        where = torch.device("cpu") if text_on_host else place
        encoded = None if prompts is None else _encoded(opened, prompts, where, watch)
        avatar = opened.load(watch)
        avatar.text = encoded or avatar.text
        return moved(avatar, place, text_on_host, watch)

    return Opened(opened.blueprint, load)


def moved(avatar: Avatar, place: torch.device, text_on_host: bool, watch: Watch) -> Avatar:
    """The avatar on `place`, part by part; a part that is there already, or has no weights, is not heard of."""
    counts = weights(avatar)
    for part, name in NAMES.items():
        module = getattr(avatar, part)
        stays = not isinstance(module, nn.Module) or (part == "text" and text_on_host)
        if stays or all(p.device == place for p in module.parameters()):
            continue
        watch(name, 0, counts[name])
        module.to(place)
        watch(name, counts[name], counts[name])
    return avatar.to(place, text_on_host)


def _open_ours(
    folder: Path, config: dict[str, Any], precision: Precision, device: torch.device, mean_memory: bool,
    block_offload: bool,
) -> Opened:
    from ..audio.mel import MelEncoder
    from ..checkpoint.schema import Ours, validated
    from ..image.patches import PatchEncoder
    from ..text.words import WordEncoder
    from ..vae.tiny import TinyVAE

    where = folder / "config.json"
    stated = validated(Ours, config, where)
    dit_config, (width, height), options = stated.dit.config(), stated.size, stated.vae.model_dump()
    encoders = (WordEncoder(), PatchEncoder(stated.vae.z_dim, height // 8, width // 8), MelEncoder())
    _check_encoders(dit_config, *encoders, where)
    files = [folder / "dit.safetensors", folder / "vae.safetensors"]
    state, vae_state = Tensors(files[:1]), Tensors(files[1:])
    check(state, dit_config, str(files[0]))
    with torch.device("meta"):
        dit, vae = DiT(dit_config.with_memory(mean_memory)), TinyVAE(**options)
    wanted = {key: value.shape for key, value in vae.state_dict().items()}
    check_keys(vae_state, wanted, str(files[1]))
    rest = ((width, height), stated.fps, tuple(stated.timesteps))

    def read(watch: Watch) -> Avatar:
        load(dit, state, precision, str(files[0]), device, watch, checked=True, block_offload=block_offload)
        assign(vae, {key: vae_state[key].float() for key in wanted})
        return Avatar(stated.name, dit, vae, *encoders, *rest, stated.most_lost)

    return Opened(Blueprint(stated.name, dit.config, precision, options, None, None, None, *rest), read)


def _check_encoders(c: DiTConfig, text: TextEncoder, image: ImageEncoder, audio: AudioEncoder, where: Path) -> None:
    """The denoiser must take what the built-in encoders give."""
    if c.text_len < text.text_len:
        raise InputError(f"model: expected dit.text_len in {where} to be {text.text_len} or more, found {c.text_len}")
    for key, want in (
        ("text_dim", text.text_dim), ("clip_dim", image.clip_dim),
        ("audio_blocks", audio.blocks), ("audio_channels", audio.channels),
    ):  # fmt: skip
        if (found := getattr(c, key)) != want:
            raise InputError(f"model: expected dit.{key} in {where} to be {want}, as its encoder gives, found {found}")


def save_ours(
    folder: Path, name: str, dit: DiT, vae_args: dict[str, Any], size: tuple[int, int], fps: float,
    timesteps: tuple[float, ...] = TIMESTEPS, most_lost: float | None = None,
) -> None:  # fmt: skip
    """Write config.json and dit.safetensors (released keys, bf16) beside a vae.safetensors already in `folder`."""
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    save_file({k: v.bfloat16() for k, v in export(dit).items()}, folder / "dit.safetensors")
    config = {
        "format": FORMAT, "name": name, "size": list(size), "fps": fps, "timesteps": list(timesteps),
        "dit": dit.config.to_dict(), "vae": vae_args,
    } | ({} if most_lost is None else {"most_lost": most_lost})  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")
