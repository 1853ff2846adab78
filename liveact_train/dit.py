"""Train the denoiser on cached latents: all blocks of a clip in one pass (`clips_at_once`), by any of the forcings."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from liveact_kernels.contract import with_gradients
from liveact_model.dit import DiT
from liveact_model.errors import InputError
from liveact_model.schedule import TIMESTEPS
from liveact_train.batches import Latents
from liveact_train.clips_at_once import Conditions, blocks_of
from liveact_train.dry import dry_run
from liveact_train.emphasis import emphasis
from liveact_train.forcing import FORCINGS, draw_timesteps, velocity_loss
from liveact_train.layers import parts_of
from liveact_train.optimiser import optimiser_of
from liveact_train.runs import Run, save_shares, seed_of
from liveact_train.shards import join
from liveact_train.sizes import MODELS
from liveact_train.start import first_values, made, own_file

TINY_TIMESTEPS = (1000.0, 850.0, 550.0)
"""Denoise steps of a small model that is not distilled, for comparing recipes. The released schedule ends at 833: a
distilled model draws a sharp picture there, another one the mean of all poses; at 550 it has settled on one."""

HELD = 0.7
"""What a slot that is folded again and again settles at is at most 1 / (1 - HELD) times what enters it."""

WATCHED = (1000.0, 937.5, 833.3, 500.0, 200.0)
"""Timesteps that a report measures the loss at."""
WATCHED_CLIPS = {"tiny": 16}
"""How many held-out clips; of other models one."""


@dataclass(frozen=True)
class DiTConfigStage:
    """Train the denoiser on cached latents; the same command continues a run that was cut off."""

    latents: str = "data/tiny/latents"  # folder written by the latents stage, with train/ and val/
    out: str = "data/tiny/dit"  # folder of the run; dit.safetensors in it are the averaged weights
    model: str = "tiny"  # or liveact-18b
    start: str = ""  # weights to begin from: a file of this stage, or a directory with Wan2.1's or LiveAct's
    start_audio: str = ""  # a directory with LiveAct's weights, whose audio is taken in the place of --start's
    steps: int = 12000
    rate: float = 1.3e-3  # peak learning rate
    optimiser: str = "muon"  # or adam: of the matrices between layers
    batch: int = 8
    forcing: str = "neighbor"  # or diffusion, teacher, self
    timesteps: str = "all"  # "sampler": only those of the three denoise steps
    memory_slots: int = 6  # latent frames: of the memory, and of the first block
    block_latent_frames: int = 8  # of every later block
    memory: str = "conv"  # or mean
    grouping: str = "temporal"  # or raster
    vae: str = ""  # weights of the vae stage: errors then count by what its decoder makes of them, eyes more
    pose_weight: float = 0.0  # how much more errors of pose and lids count, as --data tells them; 80, say
    data: str = "data/tiny"  # folder written by the data stage, for --pose-weight
    drop_audio: float = 0.1  # share of clips whose audio is taken away
    checkpoint_activations: bool = False  # keep what layers take in, and make the rest again in the backward pass
    device: str = "cpu"  # or that of a GPU, cuda: under torchrun one for each process
    dry_run: int = 0  # on so many processes that are not there: what would be read, trained and held; nothing is
    seed: int = 0
    threads: int = 1


def train_dit(c: DiTConfigStage) -> None:
    """The `dit` stage."""
    if c.forcing not in FORCINGS:
        raise InputError(f"--forcing: expected one of {', '.join(FORCINGS)}, got {c.forcing!r}")
    if c.timesteps not in ("all", "sampler"):
        raise InputError(f"--timesteps: expected all or sampler, got {c.timesteps!r}")
    if c.model not in MODELS:
        raise InputError(f"--model: expected one of {', '.join(MODELS)}, got {c.model!r}")
    if c.dry_run:
        dry_run(c, window(c))
        return
    if (c.vae or c.pose_weight) and c.model != "tiny":
        raise InputError("--vae and --pose-weight: expected --model tiny, whose pictures they know, got " + c.model)
    if not math.isfinite(c.pose_weight) or c.pose_weight < 0:
        raise InputError(f"--pose-weight: expected a number from 0 on, got {c.pose_weight}")
    shards = join(c.device)
    own = shards.share("--batch", c.batch)
    torch.set_num_threads(c.threads)
    torch.manual_seed(c.seed)
    data, val = (Latents(Path(c.latents) / name, c.model, **window(c)) for name in ("train", "val"))
    if c.batch > len(data):
        raise InputError(f"--batch: expected at most the {len(data)} clips in {c.latents}, got {c.batch}")
    counted = emphasis(c.latents, c.vae, c.data, c.pose_weight)
    start = first_values(c.model, data.config, c.start, c.start_audio, c.seed)
    if shards.leads and c.model != "tiny":
        print(*(f"dit: {line}" for line in start.said), sep="\n", flush=True)
    dit, average = made(data.config, shards, start.values)
    parts_of(dit).recompute = c.checkpoint_activations
    optimiser = optimiser_of(c.optimiser, dit, c.rate)
    run = Run("dit", Path(c.out), c, dit, optimiser, ema=0.998, shards=shards, average=average)
    held_out = _at(shards.device, *val.batch(list(range(min(WATCHED_CLIPS.get(c.model, 1), len(val))))))
    run.measure = lambda: validate(run.average, *held_out)
    run.export = lambda: save_dit(run.average, Path(c.out) / "dit.safetensors", shards.leads)
    timesteps = TINY_TIMESTEPS if c.model == "tiny" else TIMESTEPS
    only = timesteps if c.timesteps == "sampler" else ()
    with with_gradients():
        for rng in run:
            z, x = data.batch(rng.sample(range(len(data)), c.batch)[own])
            t, audible = draw_timesteps(c.batch, len(data.blocks), c.forcing, only)
            keep = (torch.rand(c.batch) >= c.drop_audio).view(-1, 1, 1, 1, 1)[own]
            noise, x = torch.randn(c.batch, *z.shape[1:])[own], x._replace(audio=x.audio * keep)
            if shards.size > 1:  # what is drawn from here on, for a rollout, is this share's own
                torch.manual_seed(seed_of(c.seed, run.step, "share", shards.index))
            z, x = _at(shards.device, z, x)
            t, noise = t[own].to(shards.device), noise.to(shards.device)
            run.update(velocity_loss(dit, z, x, t, noise, audible, c.forcing, timesteps, counted))
            hold_taps(dit)


def hold_taps(module: nn.Module) -> None:
    """Bring taps of memory back to at most HELD in magnitude.

    A long-term slot is folded into itself at the end of every block, by the first tap: one above 1 makes it grow
    without end. Clips of four blocks do not show it, an hour does.
    """
    with torch.no_grad():
        for name, value in module.named_parameters():
            if name.endswith((".taps", ".taps_v")):
                value.clamp_(-HELD, HELD)


def window(c: DiTConfigStage) -> dict[str, Any]:
    """What the options say of the window, by the names of a DiTConfig."""
    return {name: getattr(c, name) for name in ("memory_slots", "block_latent_frames", "memory", "grouping")}


def _at(device: torch.device, z: Tensor, x: Conditions) -> tuple[Tensor, Conditions]:
    return z.to(device), Conditions(*(part.to(device) for part in x))


def validate(dit: DiT, z: Tensor, x: Conditions) -> dict[str, float]:
    """Loss at each of WATCHED on fixed noise, all blocks at one noise level, of weights that are constants."""
    noise = torch.randn(z.shape, generator=torch.Generator().manual_seed(5)).to(z.device)
    shape = (len(z), len(blocks_of(z.shape[2], dit.config)))
    return {f"val_{t:g}": velocity_loss(dit, z, x, noise.new_full(shape, t), noise, t < 1000).item() for t in WATCHED}


def save_dit(dit: DiT, path: Path, leads: bool = True) -> None:
    """Write the weights in float32, with the config beside them in the file; of shares the leading process writes."""
    save_shares(path, dit.state_dict(), {"config": json.dumps(dit.config.to_dict())}, leads)


def load_dit(path: str, flag: str = "weights") -> DiT:
    """Read what `save_dit` wrote; `flag` is what an InputError names."""
    config, values = own_file(Path(path), flag)
    dit = DiT(config)
    dit.load_state_dict({key: values(key) for key in dit.state_dict()})
    return dit
