"""Distil the denoiser to the three released denoise steps: a many-step teacher, a student that draws as it would.

regression  the student learns, at the three timesteps, where the teacher's own many steps end that pass there
matching    see `matching`; it may start regressed
"""

from __future__ import annotations

import copy
import functools
import json
import math
import random
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from liveact_model.dit import DiT
from liveact_model.errors import InputError
from liveact_model.schedule import TIMESTEPS
from liveact_train.clips_at_once import Conditions
from liveact_train.dit import Latents, hold_taps, load_dit, save_dit
from liveact_train.matching import ENDS, Matching, Pair
from liveact_train.optimiser import optimiser_of
from liveact_train.passes import Clips, Weaker, teacher_timesteps
from liveact_train.runs import Run, write_whole

METHODS = ("regression", "matching")
TAUGHT = (0.15, 0.35, 0.5)
"""How often regression is at each denoise step."""
WATCHED_CLIPS = 16


@dataclass(frozen=True)
class DistillConfig:
    """Distil a trained denoiser to three denoise steps; the same command continues a run that was cut off."""

    latents: str = "data/tiny/latents"  # folder written by the latents stage, with train/ and val/
    teacher: str = "data/tiny/dit/dit.safetensors"  # weights of the dit stage
    out: str = "data/tiny/distill"  # folder of the run; dit.safetensors in it are the averaged weights
    start: str = ""  # weights the student begins from, instead of the teacher's
    method: str = "regression"  # or matching
    steps: int = 1500
    rate: float = 5e-4  # peak learning rate
    optimiser: str = "muon"  # or adam: of the matrices between layers
    batch: int = 8
    rollouts: int = 768  # clips the teacher makes once, for regression
    teacher_steps: int = 24  # denoise steps of the teacher: a multiple of four
    guidance: float = 1.5  # of the teacher: velocity without sound + guidance * (with - without)
    weaker: str = ""  # weights of an earlier state of the teacher, for autoguidance of the clips it makes
    weaker_guidance: float = 2.5  # velocity of --weaker + this * (the teacher's - that)
    critic_updates: int = 2  # of the critic before each of the student's, for matching
    keep: float = 1.0  # weight of regression beside matching: without it what is rare (a blink) is lost
    made: str = ""  # folder of a run whose rollouts are used; empty: --out
    seed: int = 0
    threads: int = 1


def _whole_blocks(data: Latents, z: Tensor) -> Tensor:
    return z[:, :, : data.blocks[-1].stop]


@torch.no_grad()
def teach(
    teacher: DiT, data: Latents, indices: list[int], c: DistillConfig, seed: int, weaker: Weaker | None = None
) -> Tensor:
    """The teacher's clips at the released timesteps and at the end: [B, 1 + 3, Z, F, Y, X]."""
    z, x = data.batch(indices)
    noise = torch.randn(_whole_blocks(data, z).shape, generator=torch.Generator().manual_seed(seed))
    timesteps = teacher_timesteps(c.teacher_steps)
    states = Clips(teacher, x, c.guidance, weaker).denoise([noise], timesteps, "euler")
    kept = [min(range(len(timesteps)), key=lambda i: abs(timesteps[i] - t)) for t in TIMESTEPS]
    return torch.stack([states[i] for i in (*kept, -1)], 1)


def rollouts(teacher: DiT, data: Latents, name: str, count: int, c: DistillConfig, seed: int) -> np.ndarray:
    """`teach` of the first `count` clips, float16 [N, 4, Z, F, Y, X]; made once, in files `name`-*.npy."""
    weaker = _weaker(c, teacher)
    count, folder, parts = min(count, len(data)), Path(c.made or c.out) / "rollouts", []
    folder.mkdir(parents=True, exist_ok=True)
    made_by = json.dumps(
        [_fingerprint(teacher), c.teacher_steps, c.guidance, c.batch, c.seed]
        + ([_fingerprint(weaker.dit), weaker.guidance] if weaker else [])
    )
    about = folder / "about.json"
    if about.exists() and about.read_text() != made_by:
        flag = "--made" if c.made else "--out"
        settings = "this teacher, --teacher-steps, --guidance, --weaker, --batch, --seed"
        raise InputError(f"{flag}: expected clips made by {settings} in {folder}, found others")
    write_whole(about, lambda part: part.write_text(made_by))
    for first in range(0, count, c.batch):
        path, last = folder / f"{name}-{first:05d}.npy", min(first + c.batch, count)
        if not path.exists():
            made = teach(teacher, data, list(range(first, last)), c, seed + first, weaker).half().numpy()
            write_whole(path, functools.partial(_save, made))
            print(f"distill: the teacher has made {last} of {count} {name} clips", flush=True)
        parts.append(np.load(path, mmap_mode="r"))
    return np.concatenate(parts)


def _weaker(c: DistillConfig, teacher: DiT) -> Weaker | None:
    if not c.weaker:
        return None
    dit = load_dit(c.weaker, "--weaker").requires_grad_(False)
    if dit.config != teacher.config:
        raise InputError(
            f"--weaker: expected weights of {teacher.config}, as the teacher's, found some of {dit.config}"
        )
    dit.dtype = teacher.dtype
    return Weaker(dit, c.weaker_guidance)


def _fingerprint(dit: DiT) -> float:
    """A number that other weights would not have."""
    return sum(p.double().square().sum().item() for p in dit.parameters())


def _save(array: np.ndarray, path: Path) -> None:
    with open(path, "wb") as file:  # a name without .npy would get one
        np.save(file, array)


def regression_loss(student: DiT, states: Tensor, x: Conditions, step: int) -> Tensor:
    """Squared error of the student's velocity at denoise step `step` from one that leads to the teacher's end.

    states [B, 4, Z, F, Y, X] of `teach`.
    """
    at, sigma = states[:, step], TIMESTEPS[step] / 1000
    wanted = (at - states[:, -1]) / sigma
    found = Clips(student, x).velocity(at, at.new_full((len(at),), TIMESTEPS[step]))
    return (found - wanted).square().mean()


class Lessons:
    """The teacher's clips, as a loss of a student."""

    def __init__(self, teacher: DiT, data: Latents, c: DistillConfig):
        self.data, self.made = data, rollouts(teacher, data, "train", c.rollouts, c, c.seed)

    def loss(self, student: DiT, rng: random.Random, clips: int) -> Tensor:
        """regression_loss of some clips at one of the three denoise steps."""
        indices = rng.sample(range(len(self.made)), min(clips, len(self.made)))
        states, (_, x) = torch.from_numpy(self.made[indices]).float(), self.data.batch(indices)
        return regression_loss(student, states, x, rng.choices(range(3), TAUGHT)[0])


def _regress(c: DistillConfig, teacher: DiT, student: DiT, data: Latents, val: Latents) -> None:
    lessons, run = Lessons(teacher, data, c), _run_of(c, student)
    held_out = torch.from_numpy(rollouts(teacher, val, "val", WATCHED_CLIPS, c, c.seed + 100_000)).float()
    _, x = val.batch(list(range(len(held_out))))
    run.measure = lambda: {
        f"val_{t:.4g}": regression_loss(run.average, held_out, x, i).item() for i, t in enumerate(TIMESTEPS)
    }
    run.export = lambda: save_dit(run.average, Path(c.out) / "dit.safetensors")
    for rng in run:
        run.update(lessons.loss(student, rng, c.batch))
        hold_taps(student)


def _match(c: DistillConfig, teacher: DiT, student: DiT, data: Latents, val: Latents) -> None:
    pair = Pair(student, copy.deepcopy(teacher).requires_grad_(True))
    lessons, losses = Lessons(teacher, data, c) if c.keep else None, Matching(pair, teacher, c.guidance)
    run = _run_of(c, pair, share=1 + c.critic_updates)
    z, x = val.batch(list(range(min(WATCHED_CLIPS, len(val)))))
    held_out, watched = (_whole_blocks(val, z), x), Matching(run.average, teacher, c.guidance)
    run.measure = lambda: watched.watch(*held_out)
    run.export = lambda: save_dit(run.average.student, Path(c.out) / "dit.safetensors")
    for rng in run:
        z, x = data.batch(rng.sample(range(len(data)), c.batch))
        noise = [torch.randn(_whole_blocks(data, z).shape) for _ in range(4)]
        last = rng.choices(range(len(ENDS)), ENDS)[0]
        if (run.step + 1) % (1 + c.critic_updates):
            run.update(losses.critics(x, noise, last, len(data.blocks)))
        else:
            loss = losses.students(x, noise, last)
            run.update(loss if lessons is None else loss + c.keep * lessons.loss(student, rng, c.batch))
        hold_taps(pair)


def _run_of(c: DistillConfig, module: nn.Module, share: int = 1) -> Run:
    optimiser = optimiser_of(c.optimiser, module, c.rate)
    run = Run("distill", Path(c.out), c, module, optimiser, ema=1 - (1 - 0.995) / share)
    for part in run.average.modules():
        if isinstance(part, DiT):
            part.dtype = torch.bfloat16
    return run


def distill(c: DistillConfig) -> None:
    """The `distill` stage."""
    if c.method not in METHODS:
        raise InputError(f"--method: expected one of {', '.join(METHODS)}, got {c.method!r}")
    if c.teacher_steps < 4 or c.teacher_steps % 4:
        raise InputError(f"--teacher-steps: expected a multiple of four from 4 on, got {c.teacher_steps}")
    for flag, value in (("guidance", c.guidance), ("weaker-guidance", c.weaker_guidance), ("keep", c.keep)):
        if not math.isfinite(value) or value < 0:
            raise InputError(f"--{flag}: expected a number from 0 on, got {value}")
    if c.critic_updates < 1:
        raise InputError(f"--critic-updates: expected at least 1, got {c.critic_updates}")
    torch.set_num_threads(c.threads)
    torch.manual_seed(c.seed)
    teacher = load_dit(c.teacher, "--teacher").requires_grad_(False)
    student = load_dit(c.start, "--start") if c.start else copy.deepcopy(teacher).requires_grad_(True)
    if student.config != teacher.config:
        raise InputError(
            f"--start: expected weights of {teacher.config}, as the teacher's, found some of {student.config}"
        )
    window = {
        name: getattr(teacher.config, name) for name in ("memory_slots", "block_latent_frames", "memory", "grouping")
    }
    data, val = (Latents(Path(c.latents) / name, **window) for name in ("train", "val"))
    if data.config != teacher.config:
        raise InputError(
            f"--teacher: expected weights of {data.config}, as the latents want, found some of {teacher.config}"
        )
    if c.batch > len(data):
        raise InputError(f"--batch: expected at most the {len(data)} clips in {c.latents}, got {c.batch}")
    for dit in (teacher, student):
        dit.dtype = torch.bfloat16
    (_regress if c.method == "regression" else _match)(c, teacher, student, data, val)
