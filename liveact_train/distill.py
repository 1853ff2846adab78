"""Distil the denoiser to the three released denoise steps: a many-step teacher, a student that draws as it would.

    regression  the student learns, at the three timesteps, where the teacher's own many steps end that pass there
    matching    distribution matching (DMD): the student makes clips by its three steps, each step with the memory it
                will have; a critic learns the velocities of what the student makes, and the student follows the
                difference between the critic's and the teacher's, at every noise level; it may start regressed.

Under Neighbor Forcing a denoise step of a block needs nothing but that same step of earlier blocks, so a whole clip is
made in as many passes as there are steps.
"""

from __future__ import annotations

import copy
import functools
import math
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import vmap

from liveact_model.dit import DiT
from liveact_model.errors import InputError
from liveact_model.schedule import TIMESTEPS, coefficients, sigmas
from liveact_train.clips_at_once import AtOnce, Conditions, blocks_of
from liveact_train.dit import Latents, load_dit, save_dit
from liveact_train.forcing import SHIFT, latents_of, velocity_loss
from liveact_train.optimiser import optimiser_of
from liveact_train.runs import Run, write_whole

METHODS = ("regression", "matching")
TEACHER_SHIFT = 5.0
"""The teacher's noise levels are TEACHER_SHIFT u / (1 + (TEACHER_SHIFT - 1) u), u even from 1 to 0: with a multiple of
four steps the released timesteps are among them (u = 1, 3/4, 1/2)."""
ENDS = (0.1, 0.3, 0.6)
"""How often the student's clip is taken after its first, second, third denoise step; the last is what people see."""
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
    critic_updates: int = 2  # of the critic before each of the student's, for matching
    keep: float = 1.0  # weight of regression beside matching: without it what is rare (a blink) is lost
    made: str = ""  # folder of a run whose rollouts are used; empty: --out
    seed: int = 0
    threads: int = 1


def teacher_timesteps(steps: int) -> tuple[float, ...]:
    """Network inputs of the teacher's denoise steps, falling; the released three are among them."""
    u = [1.0 - i / steps for i in range(steps)]
    return tuple(1000.0 * TEACHER_SHIFT * x / (1.0 + (TEACHER_SHIFT - 1.0) * x) for x in u)


class Clips:
    """Passes of a denoiser over clips [B, Z, F, Y, X] that have one noise level, with guidance on the sound."""

    def __init__(self, dit: DiT, x: Conditions, guidance: float = 1.0):
        self.heard, self.guidance = AtOnce(dit, x), guidance
        self._silence = lambda: AtOnce(dit, x._replace(audio=torch.zeros_like(x.audio)))

    @functools.cached_property
    def unheard(self) -> AtOnce:
        """The same clips without their sound."""
        return self._silence()

    def velocity(self, latents: Tensor, t: Tensor, silent: bool = False) -> Tensor:
        """Velocities [B, Z, F, Y, X] in float32 at timesteps t [B]; at t = 1000 nothing is heard.

        silent: without sound where there would be some, as the model was trained on clips whose sound was taken away.
        """
        audible = bool((t < 1000).all())
        plain = self.unheard if silent else self.heard
        found = self._run(plain, latents, t, audible)
        if silent or not audible or self.guidance == 1.0:
            return found
        without = self._run(self.unheard, latents, t, True)
        return without + self.guidance * (found - without)

    def _run(self, clips: AtOnce, latents: Tensor, t: Tensor, audible: bool) -> Tensor:
        blocks = len(blocks_of(latents.shape[2], clips.dit.config))
        with torch.enable_grad():
            tokens = clips.run(latents, t[:, None].expand(-1, blocks), audible).tokens
        return vmap(latents_of, in_dims=(0, None))(tokens.float(), latents.shape[1:])

    def denoise(self, noise: list[Tensor], timesteps: tuple[float, ...], sampler: str, last: int = -1) -> list[Tensor]:
        """What each denoise step is given and, after them, what the last one leaves: one pass over the clip a step.

        noise    the initial latents [B, Z, F, Y, X] and, for "renoise", what follows each step but the last
        last     only the steps before this one are made; what it is given is then the last item
        """
        levels, latent, states = sigmas(timesteps), noise[0], [noise[0]]
        for i, t in enumerate(timesteps[:last] if last >= 0 else timesteps):
            velocity = self.velocity(latent, latent.new_full((len(latent),), t))
            keep, move, add = coefficients(sampler, levels[i], levels[i + 1])
            latent = keep * latent + move * velocity
            if add:
                latent = latent + add * noise[i + 1]
            states.append(latent)
        return states


def _whole_blocks(data: Latents, z: Tensor) -> Tensor:
    return z[:, :, : data.blocks[-1].stop]


# ---- regression ---------------------------------------------------------------------------------------------------


@torch.no_grad()
def teach(teacher: DiT, data: Latents, indices: list[int], c: DistillConfig, seed: int) -> Tensor:
    """The teacher's clips at the released timesteps and at the end: [B, 1 + 3, Z, F, Y, X]."""
    z, x = data.batch(indices)
    noise = torch.randn(_whole_blocks(data, z).shape, generator=torch.Generator().manual_seed(seed))
    timesteps = teacher_timesteps(c.teacher_steps)
    states = Clips(teacher, x, c.guidance).denoise([noise], timesteps, "euler")
    kept = [min(range(len(timesteps)), key=lambda i: abs(timesteps[i] - t)) for t in TIMESTEPS]
    return torch.stack([states[i] for i in (*kept, -1)], 1)


def rollouts(teacher: DiT, data: Latents, name: str, count: int, c: DistillConfig, seed: int) -> np.ndarray:
    """`teach` of the first `count` clips, float16 [N, 4, Z, F, Y, X]; made once, in files `name`-*.npy."""
    count, folder, parts = min(count, len(data)), Path(c.made or c.out) / "rollouts", []
    folder.mkdir(parents=True, exist_ok=True)
    for first in range(0, count, c.batch):
        path, last = folder / f"{name}-{first:05d}.npy", min(first + c.batch, count)
        if not path.exists():
            made = teach(teacher, data, list(range(first, last)), c, seed + first).half().numpy()
            write_whole(path, functools.partial(_save, made))
            print(f"distill: the teacher has made {last} of {count} {name} clips", flush=True)
        parts.append(np.load(path, mmap_mode="r"))
    return np.concatenate(parts)


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


# ---- distribution matching ----------------------------------------------------------------------------------------


class Pair(nn.Module):
    """A student and its critic, as what one run trains."""

    def __init__(self, student: DiT, critic: DiT):
        super().__init__()
        self.student, self.critic = student, critic


def student_clip(student: DiT, x: Conditions, noise: list[Tensor], last: int) -> Tensor:
    """What the student makes of a clip when it ends with denoise step `last`: x0 [B, Z, F, Y, X].

    noise: three of it, as Clips.denoise. Each step sees the memory that earlier blocks left behind at that step; the
    gradient leads through the last one.
    """
    with torch.no_grad():
        given = Clips(student, x).denoise(noise, TIMESTEPS, "renoise", last)[-1]
    t = TIMESTEPS[last]
    return given - t / 1000 * Clips(student, x).velocity(given, given.new_full((len(given),), t))


Velocity = Callable[[Tensor, Tensor], Tensor]
"""Velocities of noisy clips [B, Z, F, Y, X] at timesteps [B]."""


def matching_gradient(real: Velocity, fake: Velocity, x0: Tensor, t: Tensor, noise: Tensor) -> Tensor:
    """The direction, like x0 [B, ...], in which clips x0 are likelier among what is made than they should be.

    real, fake  what the teacher and the critic say of x0 with `noise` at timesteps t [B]: it is the difference of their
                clean clips, divided per clip by how far the teacher moves it, so that all noise levels count alike
                (Distribution Matching Distillation, arXiv 2311.18828, section 3.2)
    """
    with torch.no_grad():
        sigma = (t / 1000).view(-1, *[1] * (x0.dim() - 1))
        noisy = (1 - sigma) * x0 + sigma * noise
        clean, ours = (noisy - sigma * velocity(noisy, t) for velocity in (real, fake))
        scale = (x0 - clean).abs().flatten(1).mean(1).clamp_min(1e-3)
        return (ours - clean) / scale.view_as(sigma)


def _away(
    teacher: DiT, critic: DiT, x0: Tensor, x: Conditions, t: Tensor, noise: Tensor, c: DistillConfig, silent: bool
):
    """matching_gradient of two denoisers; silent: the student heard nothing, so neither do they."""
    with torch.no_grad():
        real, fake = Clips(teacher, x, c.guidance), Clips(critic, x)
        return matching_gradient(
            lambda noisy, t: real.velocity(noisy, t, silent),
            lambda noisy, t: fake.velocity(noisy, t, silent),
            x0,
            t,
            noise,
        )


def _match(c: DistillConfig, teacher: DiT, student: DiT, data: Latents, val: Latents) -> None:
    pair = Pair(student, copy.deepcopy(teacher).requires_grad_(True))
    lessons = Lessons(teacher, data, c) if c.keep else None
    run = _run_of(c, pair, share=1 + c.critic_updates)
    few = val.batch(list(range(min(WATCHED_CLIPS, len(val)))))
    run.measure = lambda: _watch(run.average, teacher, few, val, c)
    run.export = lambda: save_dit(run.average.student, Path(c.out) / "dit.safetensors")
    for rng in run:
        z, x = data.batch(rng.sample(range(len(data)), c.batch))
        noise = [torch.randn(_whole_blocks(data, z).shape) for _ in range(4)]
        last = rng.choices(range(len(ENDS)), ENDS)[0]
        silent = last == 0
        if (run.step + 1) % (1 + c.critic_updates):
            with torch.no_grad():
                x0 = student_clip(student, x, noise, last)
            heard = x._replace(audio=torch.zeros_like(x.audio)) if silent else x
            t = _drawn_levels(len(z))[:, None].expand(-1, len(data.blocks))
            run.update(velocity_loss(pair.critic, x0, heard, t, noise[3], True))
        else:
            x0 = student_clip(student, x, noise, last)
            t = _drawn_levels(len(z))
            away = _away(teacher, pair.critic, x0, x, t, noise[3], c, silent)
            loss = 0.5 * (x0 - (x0 - away).detach()).square().mean()
            run.update(loss if lessons is None else loss + c.keep * lessons.loss(student, rng, c.batch))


def _drawn_levels(clips: int) -> Tensor:
    """Timesteps [clips] in 20..980: at the ends the two scores are of no use."""
    u = torch.rand(clips)
    return (1000.0 * SHIFT * u / (1.0 + (SHIFT - 1.0) * u)).clamp(20.0, 980.0)


@torch.no_grad()
def _watch(
    pair: Pair, teacher: DiT, few: tuple[Tensor, Conditions], val: Latents, c: DistillConfig
) -> dict[str, float]:
    """On held-out clips: how much the critic and the teacher differ, and how much the student's clips move."""
    z, x = few
    z = _whole_blocks(val, z)
    draw = torch.Generator().manual_seed(5)
    noise = [torch.randn(z.shape, generator=draw) for _ in range(4)]
    x0 = student_clip(pair.student, x, noise, 2)
    t = torch.full((len(z),), 500.0)
    away = _away(teacher, pair.critic, x0, x, t, noise[3], c, False)
    return {"difference": away.abs().mean().item(), "movement": movement(x0) / movement(z)}


def movement(z: Tensor) -> float:
    """Mean change of latents [B, Z, F, Y, X] from one latent frame to the next."""
    return (z[:, :, 2:] - z[:, :, 1:-1]).abs().mean().item()


# ---- the stage ----------------------------------------------------------------------------------------------------


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
    if not math.isfinite(c.guidance) or c.guidance < 0:
        raise InputError(f"--guidance: expected a number from 0 on, got {c.guidance}")
    if not math.isfinite(c.keep) or c.keep < 0:
        raise InputError(f"--keep: expected a number from 0 on, got {c.keep}")
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
    for dit in (teacher, student):
        dit.dtype = torch.bfloat16
    (_regress if c.method == "regression" else _match)(c, teacher, student, data, val)
