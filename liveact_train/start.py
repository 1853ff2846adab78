"""The values that a denoiser begins its training with: drawn, read from a run, or from released directories.

A released directory has the denoiser's tensors under the names of Wan2.1 (image to video) in
diffusion_pytorch_model*.safetensors: Wan2.1's own has no audio and no memory, LiveAct's has both. What it lacks as a
whole is drawn: the audio projection and the audio attention, whose result begins at nothing, and taps, which begin
as the mean. What it lacks in part is refused.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from liveact_model.checkpoint.files import Tensors, dit_files
from liveact_model.checkpoint.statedict import check_tensor
from liveact_model.config import TAPS, DiTConfig
from liveact_model.dit import DiT, Linear
from liveact_model.errors import InputError
from liveact_model.loading import Target, check, targets, value_of
from liveact_train.layers import parts_of
from liveact_train.runs import seed_of
from liveact_train.shards import Shards, like, local

AUDIO = "audio"
Values = Callable[[str], Tensor]
"""The value of a parameter by its path, whole, on the CPU."""


class Start(NamedTuple):
    """First values, and a line about each place that they come from."""

    values: Values
    said: list[str]


def initialise(dit: DiT) -> DiT:
    """Random weights for training: residual branches open, the head silent, every tap 1/5."""
    for name, module in dit.named_modules():
        if isinstance(module, Linear):
            nn.init.normal_(module.weight, std=module.K**-0.5)
            nn.init.zeros_(module.bias)
        for leaf, p in module.named_parameters(recurse=False):
            if "norm" in f"{name}.{leaf}" and not isinstance(module, Linear):
                nn.init.zeros_(p) if leaf == "bias" else nn.init.ones_(p)
            elif leaf.startswith("taps"):
                nn.init.constant_(p, 1 / p.shape[0])
            elif leaf == "modulation":
                nn.init.normal_(p, std=p.shape[-1] ** -0.5)
    nn.init.zeros_(dit.head.head.weight)
    nn.init.zeros_(dit.time.proj.weight)
    with torch.no_grad():  # gates (rows 2 and 5 of six) start at one
        dit.time.proj.bias.view(6, -1)[[2, 5]] = 1
    return dit


def first_values(model: str, config: DiTConfig, start: str, audio: str, seed: int) -> Start:
    """Where a model's first values come from: `start` and, for its audio, `audio`; see DiTConfigStage.

    Nothing large is read yet. Raises InputError naming the option, what was expected and what was found.
    """
    if not start:
        if model != "tiny":
            where = "with Wan2.1's or LiveAct's diffusion_pytorch_model*.safetensors"
            raise InputError(f"--start: expected a directory {where} for {model}, got none")
        drawn = initialise(DiT(config)).state_dict()
        return Start(drawn.__getitem__, [f"{sum(t.numel() for t in drawn.values()):,} values drawn"])
    if Path(start).is_dir():
        return _released(config, Path(start), audio, seed)
    if audio:
        raise InputError(f"--start-audio: expected it beside a directory in --start, got it beside {start!r}")
    return _own(config, Path(start))


@torch.no_grad()
def made(config: DiTConfig, shards: Shards, values: Values) -> tuple[DiT, DiT]:
    """A denoiser of first values and its average, as this process holds them; one value at a time is whole.

    The weights are float32 and cast as they are used; activations are bf16.
    """
    pair = []
    for _ in range(2):
        with torch.device("meta"):
            dit = DiT(config)
        dit.dtype = torch.bfloat16
        shards.cut(parts_of(dit.requires_grad_(not pair)), dit.dtype)
        for module in dit.modules():
            for name, p in [*module.named_parameters(recurse=False)]:
                there = torch.empty_like(p, device=shards.device)
                module.register_parameter(name, nn.Parameter(there, p.requires_grad))
        pair.append(dit)
    for (path, p), average in zip(pair[0].named_parameters(), pair[1].parameters()):
        local(p).copy_(local(like(p, values(path).float())))
        local(average).copy_(local(p))
    return pair[0], pair[1]


def own_file(path: Path, flag: str) -> tuple[DiTConfig, Values]:
    """Sizes and values in a file that the dit stage wrote; `flag` is what an InputError names."""
    try:
        file = safe_open(str(path), framework="pt")
        return DiTConfig.from_dict(json.loads(file.metadata()["config"])), file.get_tensor
    except (SafetensorError, OSError, TypeError, KeyError) as error:
        raise InputError(f"{flag}: expected {path} to be one that the dit stage wrote, found {error}") from None


def _own(config: DiTConfig, path: Path) -> Start:
    found, values = own_file(path, "--start")
    if found != config:
        raise InputError(f"--start: expected weights of {config}, found some of {found}")
    return Start(values, [f"all values from {path}"])


def _released(config: DiTConfig, folder: Path, audio: str, seed: int) -> Start:
    """From released directories."""
    wanted = {target.path: target for target in targets(config)}
    state = _state(folder, "--start")
    lacking = _lacking(state, wanted.values())
    drawn = {path for path in wanted if _group(path) in lacking}
    check(state, config, "--start", drawn)
    sources: dict[str, Mapping[str, Tensor]] = dict.fromkeys(wanted.keys() - drawn, state)
    if audio:
        other, heard = _state(Path(audio), "--start-audio"), {path for path in wanted if _group(path) == AUDIO}
        for target in (wanted[path] for path in wanted if path in heard):
            for key, shape in zip(target.keys, target.shapes):
                check_tensor(other, key, shape, "--start-audio")
        sources |= dict.fromkeys(heard, other)
        drawn -= heard
    with torch.device("meta"):
        shapes = {path: p.shape for path, p in DiT(config).named_parameters()}

    def value(path: str) -> Tensor:
        if path in sources:
            return value_of(wanted[path], sources[path], config)
        return _drawn(path, shapes[path], seed)

    def line(paths: Iterable[str], rest: str) -> list[str]:
        found = list(paths)
        return [f"{sum(shapes[path].numel() for path in found):,} values{rest}"] if found else []

    said = line((p for p in sources if sources[p] is state), f" from {folder}")
    said += line((p for p in sources if sources[p] is not state), f" of the audio from {audio}")
    said += line((p for p in drawn if _group(p) == AUDIO), " of the audio drawn; what it adds begins at nothing")
    return Start(value, said + line((p for p in drawn if _group(p) != AUDIO), ", the memory's taps, begin as the mean"))


def _state(folder: Path, flag: str) -> Tensors:
    try:
        return Tensors(dit_files(folder), flag)
    except InputError as error:  # which names the argument of `load_avatar`
        raise InputError(str(error).replace("model:", f"{flag}:", 1)) from None


def _group(path: str) -> str | None:
    """What a parameter belongs to of which a directory may have nothing."""
    if path.startswith("audio.") or ".audio_attn." in path:
        return AUDIO
    name = path.rpartition(".")[2]
    return name if name.startswith("taps") else None


def _lacking(state: Mapping[str, Tensor], wanted: Iterable[Target]) -> set[str]:
    """Groups of which the state has no key at all."""
    here: dict[str, bool] = {}
    for target in wanted:
        if group := _group(target.path):
            here[group] = here.get(group, False) or any(key in state for key in target.keys)
    return {group for group, found in here.items() if not found}


def _drawn(path: str, shape: torch.Size, seed: int) -> Tensor:
    """The first value of a parameter that is nowhere to be read, the same in every process."""
    *_, parent, leaf = path.split(".")
    if leaf.startswith("taps"):
        return torch.full(shape, 1 / TAPS)
    if leaf == "bias" or parent == "proj":
        return torch.zeros(shape)
    if parent == "norm":
        return torch.ones(shape)
    draw = torch.Generator().manual_seed(seed_of(seed, path))
    return torch.randn(shape, generator=draw) * shape[-1] ** -0.5
