"""Distribution matching (DMD): a student that makes clips as likely as its teacher would, at every noise level.

The student makes clips by its three steps, each step with the memory it will have; a critic learns the velocities of
what the student makes, and the student follows the difference between the critic's and the teacher's.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from liveact_model.dit import DiT
from liveact_model.schedule import TIMESTEPS
from liveact_train.clips_at_once import Conditions
from liveact_train.forcing import SHIFT, velocity_loss
from liveact_train.passes import Clips

ENDS = (0.1, 0.3, 0.6)
"""How often the student's clip is taken after its first, second, third denoise step; the last is what people see."""


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


class Matching:
    """Losses of a pair on clips that the student makes; the teacher's `guidance` is on the sound."""

    def __init__(self, pair: Pair, teacher: DiT, guidance: float):
        self.pair, self.teacher, self.guidance = pair, teacher, guidance

    def critics(self, x: Conditions, noise: list[Tensor], last: int, blocks: int) -> Tensor:
        """The critic's loss; noise: four of it, the last one for the critic; blocks: of a clip."""
        with torch.no_grad():
            x0 = student_clip(self.pair.student, x, noise, last)
        heard = x._replace(audio=torch.zeros_like(x.audio)) if last == 0 else x
        t = drawn_levels(len(x0))[:, None].expand(-1, blocks)
        return velocity_loss(self.pair.critic, x0, heard, t, noise[3], True)

    def students(self, x: Conditions, noise: list[Tensor], last: int) -> Tensor:
        """A loss whose gradient is matching_gradient."""
        x0 = student_clip(self.pair.student, x, noise, last)
        away = self.away(x0, x, drawn_levels(len(x0)), noise[3], last == 0)
        return 0.5 * (x0 - (x0 - away).detach()).square().mean()

    @torch.no_grad()
    def away(self, x0: Tensor, x: Conditions, t: Tensor, noise: Tensor, silent: bool) -> Tensor:
        """matching_gradient of the two; silent: the student heard nothing, so neither do they."""
        real, fake = Clips(self.teacher, x, self.guidance), Clips(self.pair.critic, x)
        return matching_gradient(
            lambda noisy, t: real.velocity(noisy, t, silent), lambda noisy, t: fake.velocity(noisy, t, silent),
            x0, t, noise,
        )  # fmt: skip

    @torch.no_grad()
    def watch(self, z: Tensor, x: Conditions) -> dict[str, float]:
        """On held-out clips: how much the critic and the teacher differ, and how much the student's clips move."""
        draw = torch.Generator().manual_seed(5)
        noise = [torch.randn(z.shape, generator=draw) for _ in range(4)]
        x0 = student_clip(self.pair.student, x, noise, 2)
        away = self.away(x0, x, torch.full((len(z),), 500.0), noise[3], False)
        return {"difference": away.abs().mean().item(), "movement": movement(x0) / movement(z)}


def drawn_levels(clips: int) -> Tensor:
    """Timesteps [clips] in 20..980: at the ends the two scores are of no use."""
    u = torch.rand(clips)
    return (1000.0 * SHIFT * u / (1.0 + (SHIFT - 1.0) * u)).clamp(20.0, 980.0)


def movement(z: Tensor) -> float:
    """Mean change of latents [B, Z, F, Y, X] from one latent frame to the next."""
    return (z[:, :, 2:] - z[:, :, 1:-1]).abs().mean().item()
