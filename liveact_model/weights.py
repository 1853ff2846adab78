"""Loading avatars: the checkpoint that ships with the package, one trained here, or the released directory."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .avatar import Avatar
from .config import DiTConfig
from .errors import InputError
from .inputs import shown
from .keymap import export, load
from .model import DiT
from .schedule import TIMESTEPS
from .statedict import read_json

ASSETS = Path(__file__).parent / "assets"
AVATARS = ("tiny",)
"""Models that ship with the package."""

FORMAT = "liveact-1"
"""Marks a config.json of ours: {"format", "name", "size", "fps", "timesteps", "dit": {..}, "vae": {..}}."""

PRECISIONS = ("auto", "float32", "bfloat16", "fp8")


def load_avatar(
    name_or_dir: str, dtype: str = "auto", wav2vec_dir: str | None = None, device: str | torch.device = "cpu"
) -> Avatar:
    """Load a model by name or directory.

    dtype  "float32", "bfloat16", "fp8" (e4m3 weights, bf16 activations); "auto" is float32 on a CPU for the small
           models, bf16 for the released one
    wav2vec_dir  folder of the wav2vec2 encoder for a released checkpoint; default: `chinese-wav2vec2-base` in it
    Raises InputError for an unknown name, or a missing, truncated or mis-shaped file (naming the first wrong key).
    """
    if dtype not in PRECISIONS:
        raise InputError(f"dtype: expected one of {', '.join(PRECISIONS)}, got {dtype!r}")
    try:
        place = torch.device(device)
    except (RuntimeError, TypeError) as error:
        raise InputError(f"device: expected a device that torch knows, got {shown(device)}") from error
    if not isinstance(wav2vec_dir, str | Path | None):
        raise InputError(f"wav2vec_dir: expected a folder's name or None, got {shown(wav2vec_dir)}")
    known = isinstance(name_or_dir, str | Path)
    folder = ASSETS / name_or_dir if known and str(name_or_dir) in AVATARS else name_or_dir
    if not known or not os.path.isdir(folder):
        names = ", ".join(AVATARS)
        raise InputError(f"model: expected one of {names}, or a checkpoint directory, got {shown(name_or_dir)}")
    folder = Path(folder)
    config = read_json(folder / "config.json")
    with torch.no_grad():
        if config.get("format") == FORMAT:
            avatar = _load_ours(folder, config, "float32" if dtype == "auto" else dtype, place)
        else:
            from .released import load_released

            avatar = load_released(folder, config, "bfloat16" if dtype == "auto" else dtype, wav2vec_dir, place)
        return avatar.to(place)


def _load_ours(folder: Path, config: dict[str, Any], precision: str, device: torch.device) -> Avatar:
    from .audio.mel import MelEncoder
    from .image.patches import PatchEncoder
    from .text.words import WordEncoder
    from .vae.tiny import TinyVAE

    try:
        dit_config, vae_args = DiTConfig.from_dict(config["dit"]), config["vae"]
        size, fps = tuple(config["size"]), float(config["fps"])
        timesteps = tuple(float(t) for t in config["timesteps"])
        name = str(config["name"])
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"model: {folder / 'config.json'} lacks or garbles {error}") from error
    with torch.device("meta"):
        dit = DiT(dit_config)
    load(dit, Tensors([folder / "dit.safetensors"]), precision, "dit.safetensors", device)
    vae = TinyVAE(**vae_args)
    _fill(vae, Tensors([folder / "vae.safetensors"]), "vae.safetensors")
    z, latent = vae.z_dim, (size[1] // 8, size[0] // 8)
    encoders = (WordEncoder(), PatchEncoder(z, *latent), MelEncoder())
    return Avatar(name, dit, vae, *encoders, size, fps, timesteps)


def _fill(module: torch.nn.Module, state: Mapping[str, Tensor], what: str) -> None:
    wanted = module.state_dict()
    for key, value in wanted.items():
        if key not in state:
            raise InputError(f"{what}: expected key {key} {list(value.shape)}, found none")
        if state[key].shape != value.shape:
            raise InputError(f"{what}: expected {key} of shape {list(value.shape)}, found {list(state[key].shape)}")
    module.load_state_dict({k: state[k].float() for k in wanted})
    module.requires_grad_(False).eval()


def dit_files(folder: Path) -> list[Path]:
    """The denoiser's safetensors: the shards of an index, else all shards of a numbered set, else every matching file.

    Raises InputError naming the first file that is missing.
    """
    stem = "diffusion_pytorch_model"
    index = folder / f"{stem}.safetensors.index.json"
    if index.is_file():
        shards = read_json(index).get("weight_map")
        if not isinstance(shards, dict) or not shards or not all(isinstance(s, str) for s in shards.values()):
            raise InputError(f"model: expected weight_map in {index} to name a file for every key, got {shards!r:.80}")
        found = [folder / s for s in dict.fromkeys(shards.values())]
    else:
        found = sorted(folder.glob(f"{stem}*.safetensors"))
        if not found:
            raise InputError(f"model: expected {stem}*.safetensors in {str(folder)!r}, found none")
        if count := max(int(m[1]) if (m := re.search(r"-of-([0-9]{5})$", path.stem)) else 0 for path in found):
            found = [folder / f"{stem}-{i:05d}-of-{count:05d}.safetensors" for i in range(1, count + 1)]
    for path in found:
        if not path.is_file():
            raise InputError(f"model: expected the denoiser's file {path}, found none")
    return found


class Tensors(Mapping[str, Tensor]):
    """Tensors of several safetensors files, each read when asked for; shapes cost nothing (they stay on disk)."""

    def __init__(self, files: list[Path]):
        from safetensors import SafetensorError, safe_open  # a model of random weights needs no files

        self._files = {}
        for path in files:
            try:
                handle = safe_open(str(path), framework="pt")
                self._files.update(dict.fromkeys(handle.keys(), handle))
            except (OSError, SafetensorError) as error:
                raise InputError(f"model: expected a complete safetensors file {path}, got: {error}") from error

    def __getitem__(self, key: str) -> Tensor:
        return self._files[key].get_tensor(key)

    def __contains__(self, key: object) -> bool:
        return key in self._files

    def __iter__(self) -> Iterator[str]:
        return iter(self._files)

    def __len__(self) -> int:
        return len(self._files)


def save_ours(
    folder: Path, name: str, dit: DiT, vae_args: dict[str, Any], size: tuple[int, int], fps: float,
    timesteps: tuple[float, ...] = TIMESTEPS,
) -> None:  # fmt: skip
    """Write config.json and dit.safetensors (released keys, bf16) beside a vae.safetensors already in `folder`."""
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    save_file({k: v.bfloat16() for k, v in export(dit).items()}, folder / "dit.safetensors")
    config = {
        "format": FORMAT, "name": name, "size": list(size), "fps": fps, "timesteps": list(timesteps),
        "dit": dit.config.to_dict(), "vae": vae_args,
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")
