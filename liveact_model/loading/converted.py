"""A directory whose denoiser is stored quantised: written once, resumable, and loaded without quantising again."""

from __future__ import annotations

import functools
import hashlib
import json
import math
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from ..avatar import Avatar
from ..checkpoint.files import Tensors
from ..checkpoint.footprint import gib
from ..checkpoint.jsonfile import read_json
from ..checkpoint.manifest import Manifest, hashed, read_manifest
from ..checkpoint.planfile import PlanFile
from ..checkpoint.schema import Denoiser, validated
from ..checkpoint.statedict import SMALL, name_of
from ..config import CONVERTED, STORED_PRECISIONS, DiTConfig
from ..dit import DiT, Linear, Precision
from ..errors import InputError
from ..needs import WEIGHTS
from ..schedule import TIMESTEPS
from .blueprint import Opened, Watch
from .keymap import Target, fill, stored_bytes, targets
from .placing import Placing
from .plans import file_of, of_file
from .released import AUDIO_DIR, DEFAULT_FPS, DEFAULT_SIZE, IMAGE_FILE, TEXT_FILE, TOKENIZER_DIR, VAE_FILE, parts

SHARD_BYTES = 1 << 30
Say = Callable[[str], None]
Stored = dict[str, tuple[torch.dtype, tuple[int, ...]]]
"""Type and shape of each key."""


PLAN = "plan"
"""In place of a format's name: the directory has a plan of its own."""


class Converted(BaseModel):
    """config.json of a converted directory."""

    model_config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)
    format: Literal["liveact-converted-1"] = Field(description=f"'{CONVERTED}'")
    precision: Literal["fp8", "fp8-128", "nvfp4", "mxfp4", "plan"] = Field(
        description=f"one of {', '.join(map(repr, (*STORED_PRECISIONS, PLAN)))}"
    )
    plan: PlanFile | None = Field(None, description="a precision plan")
    name: str = Field(min_length=1, max_length=200, description="a name of 1 to 200 characters")
    dit: Denoiser = Field(description="an object with the denoiser's sizes")

    def stated(self, where: Path) -> Precision:
        """What its weights are stored in. Raises InputError for a plan that is missing, or for another model."""
        if self.precision != PLAN:
            return Precision.made(self.precision)
        if self.plan is None:
            raise InputError(f"model: expected a plan in {where}, found none")
        plan = of_file(self.plan, str(where))
        plan.check_sizes(self.dit.config())
        return plan


def convert(
    folder: Path, out: Path, precision: str | Precision = "fp8", wav2vec_dir: str | None = None,
    say: Say = lambda text: None,
) -> None:  # fmt: skip
    """Write a released directory to `out` with the denoiser in a format or by a plan, one shard in memory at a time.

    A run that was killed goes on at the first file that is missing or differs from its hash. `say` is told each step.
    Raises InputError before anything is written: as `load_avatar`, or `out` holds something else.
    """
    if not isinstance(precision, Precision) and precision not in STORED_PRECISIONS:
        raise InputError(f"precision: expected one of {', '.join(STORED_PRECISIONS)} or a plan, got {precision!r}")
    plan, name_of_all = Precision.made(precision), precision if isinstance(precision, str) else PLAN
    if not folder.is_dir():
        raise InputError(f"model: expected a released checkpoint directory, got {str(folder)!r}")
    config = read_json(folder / "config.json")
    if str(config.get("format", "")).startswith("liveact-"):
        raise InputError(f"model: expected a released checkpoint directory, {str(folder)!r} is {config['format']}")
    state, _, dit_config = parts(folder, config, plan, wav2vec_dir)
    plan.check_sizes(dit_config)
    stored_bytes(dit_config, plan)  # a width that a format does not have is refused here
    speech = Path(wav2vec_dir) if wav2vec_dir else folder / AUDIO_DIR
    copies = {name: folder / name for name in (VAE_FILE, TEXT_FILE, IMAGE_FILE)}
    copies |= {f"{TOKENIZER_DIR}/{p.name}": p for p in sorted((folder / TOKENIZER_DIR).iterdir()) if _kept(p)}
    copies |= {f"{AUDIO_DIR}/{p.name}": p for p in sorted(speech.iterdir()) if _kept(p)}
    sources = [*copies.values(), folder / "config.json", *state.files]
    stats = {str(i): [p.stat().st_size, p.stat().st_mtime_ns] for i, p in enumerate(sources)}
    model = folder.resolve().name
    ours = {"format": CONVERTED, "precision": name_of_all, "name": model, "dit": dit_config.to_dict()}
    if name_of_all == PLAN:
        ours |= {"plan": file_of(plan, plan.model or model, dit_config).model_dump(exclude_none=True)}
    digest = hashlib.sha256(json.dumps(ours, sort_keys=True).encode()).hexdigest()[:16]
    label = name_of_all if name_of_all != PLAN else f"{PLAN} {digest}"  # another plan is another directory
    fresh = Manifest(format="liveact-manifest-1", complete=False, precision=label, source=stats, files={})
    manifest = _begun(out, fresh)
    shards = list(_shards(dit_config))
    with torch.device("meta"):
        dit = DiT(dit_config)
    for number, shard in enumerate(shards, 1):
        name = f"dit-{name_of_all}-{number:05d}-of-{len(shards):05d}.safetensors"
        if name not in manifest.files:
            say(f"shard {number} of {len(shards)}")
            _write(out, name, functools.partial(_save, dit, shard, state, plan), manifest)
    for name, source in copies.items():
        if name not in manifest.files:
            say(f"{name}, {gib(source.stat().st_size)}")
            _write(out, name, functools.partial(_same, source), manifest)
    text = json.dumps(ours, indent=1) + "\n"
    _write(out, "config.json", lambda path: path.write_text(text, encoding="utf-8"), manifest)
    manifest.complete = True
    manifest.write(out)


def _kept(path: Path) -> bool:
    """Whether a file belongs to an encoder; what version control and downloads leave begins with a dot."""
    return path.is_file() and not path.name.startswith(".")


def _begun(out: Path, fresh: Manifest) -> Manifest:
    """The manifest to go on with: a new one, or that of a killed run with the files that are still whole."""
    if not out.exists():
        if not out.parent.is_dir():
            raise InputError(f"out: the directory {str(out.parent)!r} does not exist")
        out.mkdir()
    if not out.is_dir():
        raise InputError(f"out: expected a new or empty directory, {str(out)!r} is a file")
    old = read_manifest(out)
    if old is None:
        if any(out.iterdir()):
            raise InputError(f"out: expected a new or empty directory, {str(out)!r} holds something else")
        fresh.write(out)
        return fresh
    if old.complete:
        raise InputError(f"out: expected a new or half-converted directory, {str(out)!r} is finished")
    if (old.source, old.precision) != (fresh.source, fresh.precision):
        raise InputError(f"out: expected a directory begun from this checkpoint, {str(out)!r} was not")
    old.files = {n: f for n, f in old.files.items() if (out / n).is_file() and hashed(out / n) == f}
    return old


def _write(out: Path, name: str, make: Callable[[Path], object], manifest: Manifest) -> None:
    path, part = out / name, out / f"{name}.part"
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        part.unlink(missing_ok=True)
        make(part)
        os.replace(part, path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    manifest.files[name] = hashed(path)
    manifest.write(out)


def _same(source: Path, path: Path) -> None:
    """The same file under another name where the file system can, else a copy."""
    try:
        os.link(source.resolve(), path)
    except OSError:
        shutil.copyfile(source, path)


def _shards(c: DiTConfig) -> Iterator[list[Target]]:
    """Targets in order, cut between blocks where a shard has SHARD_BYTES."""
    shard: list[Target] = []
    size, group = 0, ""
    for target in targets(c):
        here = ".".join(target.path.split(".")[:2])
        if size >= SHARD_BYTES and here != group:
            yield shard
            shard, size = [], 0
        shard.append(target)
        size, group = size + sum(map(math.prod, target.shapes)), here
    yield shard


def _stored(dit: DiT, wanted: list[Target]) -> Stored:
    """Keys of a quantised denoiser's parameters, with types and shapes."""
    out: Stored = {}
    for path, _, _ in wanted:
        parent, _, name = path.rpartition(".")
        module = dit.get_submodule(parent)
        codes = module.format.stored if isinstance(module, Linear) and name == "weight" else ()
        for key in codes or (name,):
            value = module[key] if isinstance(module, nn.ParameterDict) else getattr(module, key)
            out[f"{parent}.{key}" if parent else key] = value.dtype, tuple(value.shape)
    return out


def _save(dit: DiT, shard: list[Target], state: Tensors, plan: Precision, path: Path) -> None:
    from safetensors.torch import save_file

    for target in shard:
        fill(dit, target, state, plan, None)
    keys = _stored(dit, shard)
    found: dict[str, Tensor] = {}
    modules = dict.fromkeys(target.path.rpartition(".")[0] for target in shard)
    for parent in modules:
        for key, value in dit.get_submodule(parent).state_dict().items():
            name = f"{parent}.{key}"
            if name in keys:
                found[name] = value.detach()
    save_file({key: found[key].contiguous() for key in keys}, path)
    for parent in modules:  # their values are in the file
        dit.get_submodule(parent).to("meta")


def open_converted(
    folder: Path, config: dict[str, Any], wanted: str | Precision, wav2vec_dir: str | Path | None, device: torch.device,
    mean_memory: bool, block_offload: bool = False,
) -> Opened:  # fmt: skip
    """Open what `convert` wrote; on a CPU the codes stay in the mapped file. Errors as in `weights.load_avatar`."""
    from .released import blueprint_of, check_parts, encoders

    where = folder / "config.json"
    stated = validated(Converted, config, where)
    plan, c = stated.stated(where), stated.dit.config()
    if wanted != "auto" and not same(plan, Precision.made(wanted), c):
        what = "its own plan" if stated.precision == PLAN else stated.precision
        raise InputError(f"dtype: expected auto or {what}, as {str(folder)!r} holds, got {str(wanted)!r}")
    plan = plan if wanted == "auto" else Precision.made(wanted)
    manifest = read_manifest(folder)
    names = sorted(n for n in manifest.files if n.startswith("dit-")) if manifest else []
    if not names:
        raise InputError(f"model: expected a manifest.json with the denoiser's files in {str(folder)!r}, found none")
    state = Tensors([folder / name for name in names])
    with torch.device("meta"):
        dit = DiT(c.with_memory(mean_memory)).to_precision(plan)
    keys = _stored(dit, targets(c))
    for key, (dtype, shape) in keys.items():
        value = state.take(key) if key in state else None
        found = "none" if value is None else f"{name_of(value.dtype)} {list(value.shape)}"
        if value is None or (value.dtype, tuple(value.shape)) != (dtype, shape):
            raise InputError(f"denoiser: expected {key} {name_of(dtype)} {list(shape)} as in {where}, found {found}")
        small = dtype == torch.float32 and value.numel() <= SMALL
        if small and not bool(torch.isfinite(value).all()):
            raise InputError(f"denoiser: expected {key} to hold finite values, found NaN or infinity")
    if extra := next((key for key in state if key not in keys), None):
        raise InputError(f"denoiser: unexpected key {extra:.200}")
    models = encoders(folder, c.text_len, wav2vec_dir, plan)
    check_parts(folder, c, *models)
    audio, text, image, vae = models

    def read(watch: Watch) -> Avatar:
        _place(dit, state, keys, Placing(dit, device, block_offload), watch)
        return Avatar(stated.name, dit.eval(), vae, text, image, audio, DEFAULT_SIZE, DEFAULT_FPS, TIMESTEPS)

    return Opened(blueprint_of(stated.name, dit.config, plan, audio, text, image, vae), read, text)


def same(a: Precision, b: Precision, c: DiTConfig) -> bool:
    """Whether two plans have the same format for every linear layer."""
    with torch.device("meta"):
        paths = DiT(c).linears()
    return a.dtype == b.dtype and all(a.of(path) == b.of(path) for path in paths)


def _place(dit: DiT, state: Tensors, keys: Stored, placing: Placing, watch: Watch) -> None:
    """Put the stored values into a denoiser on the meta device."""
    counts = {key: math.prod(shape) * dtype.itemsize for key, (dtype, shape) in keys.items()}
    done, total = 0, sum(counts.values())
    for key in keys:
        watch(WEIGHTS["dit"], done, total)
        parent, _, name = key.rpartition(".")
        module, value = dit.get_submodule(parent), state.take(key).to(placing.of(key))
        if isinstance(module, Linear) and name in module.format.stored:
            setattr(module, name, value)
        elif isinstance(module, nn.ParameterDict):
            module[name] = nn.Parameter(value, requires_grad=False)
        else:
            setattr(module, name, nn.Parameter(value, requires_grad=False))
        done += counts[key]
    placing.of("")
    watch(WEIGHTS["dit"], total, total)
