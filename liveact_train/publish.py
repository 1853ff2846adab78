"""A directory in the released layout with what the dit stage has made of a large model: `liveact generate` loads it."""

from __future__ import annotations

import functools
import json
import os
import shutil
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from liveact_model.checkpoint.jsonfile import read_json
from liveact_model.errors import InputError
from liveact_model.loading import Target, released_of, targets
from liveact_train.runs import Later, write_tensors, write_whole
from liveact_train.start import own_file

STEM = "diffusion_pytorch_model"


@dataclass(frozen=True)
class PublishConfig:
    """Write a large model's trained weights in bf16 beside the encoders and the VAE of a released directory."""

    dit: str = "data/large/dit/dit.safetensors"  # averaged weights of the dit stage
    model: str = "LiveAct"  # the released directory whose encoders, VAE and config.json are taken
    out: str = "data/large/model"  # directory to write, new or empty


def publish(c: PublishConfig) -> None:
    """The `publish` stage. Files of the released directory are linked where the disk can, else copied."""
    config, values = own_file(Path(c.dit), "--dit")
    source, out = Path(c.model), Path(c.out)
    if not source.is_dir():
        raise InputError(f"--model: expected a released model's directory, got {c.model!r}")
    if (config.memory_slots, config.block_latent_frames) != (6, 8):
        sizes = f"{config.memory_slots} and {config.block_latent_frames}"
        raise InputError(f"--dit: expected a memory of 6 and blocks of 8 latent frames, as released, got {sizes}")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"--out: expected a new or empty directory, {c.out!r} holds something")
    stated = read_json(source / "config.json")
    stated |= {name: getattr(config, name) for name in ("memory", "grouping", "separate_v_taps")}
    out.mkdir(parents=True, exist_ok=True)
    read = functools.lru_cache(maxsize=4)(values)  # the tensors of one parameter are asked for one by one

    def piece(target: Target, i: int) -> Tensor:
        return released_of(target, read(target.path))[i]

    parts = {
        key: Later(torch.bfloat16, shape, partial(piece, target, i))
        for target in targets(config)
        for i, (key, shape) in enumerate(zip(target.keys, target.shapes))
    }
    write_whole(out / f"{STEM}.safetensors", lambda part: write_tensors(part, parts, {"format": "pt"}))
    for file in sorted(source.rglob("*")):
        if file.is_file() and not file.name.startswith((STEM, ".")) and file != source / "config.json":
            to = out / file.relative_to(source)
            to.parent.mkdir(parents=True, exist_ok=True)
            try:
                os.link(file.resolve(), to)
            except OSError:
                shutil.copyfile(file, to)
    (out / "config.json").write_text(json.dumps(stated, indent=1) + "\n", encoding="utf-8")
    print(f"publish {out}: {(out / f'{STEM}.safetensors').stat().st_size / 1e9:.1f} GB of weights")
