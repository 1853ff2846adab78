"""Passes of a denoiser over whole clips at one noise level, and clips that it makes so.

Under Neighbor Forcing a denoise step of a block needs nothing but that same step of earlier blocks, so a whole clip is
made in as many passes as there are steps.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import torch
from torch import Tensor
from torch.func import vmap

from liveact_model.dit import DiT
from liveact_model.schedule import coefficients, sigmas
from liveact_train.clips_at_once import AtOnce, Conditions, blocks_of
from liveact_train.forcing import latents_of

TEACHER_SHIFT = 5.0
"""The teacher's noise levels are TEACHER_SHIFT u / (1 + (TEACHER_SHIFT - 1) u), u even from 1 to 0: with a multiple of
four steps the released timesteps are among them (u = 1, 3/4, 1/2)."""


def teacher_timesteps(steps: int) -> tuple[float, ...]:
    """Network inputs of the teacher's denoise steps, falling; the released three are among them."""
    u = [1.0 - i / steps for i in range(steps)]
    return tuple(1000.0 * TEACHER_SHIFT * x / (1.0 + (TEACHER_SHIFT - 1.0) * x) for x in u)


class Weaker(NamedTuple):
    """A denoiser that has learnt less, and how far beyond the better one to go: 1 is the better one itself."""

    dit: DiT
    guidance: float


class Clips:
    """Passes of a denoiser over clips [B, Z, F, Y, X] that have one noise level, with guidance.

    guidance  on the sound: without it + guidance * (with it - without)
    weaker    what both draw too little of (sway, blinks), the weaker one draws even less of: following their difference
              beyond the better one brings it back (autoguidance, arXiv 2406.02507)
    """

    def __init__(self, dit: DiT, x: Conditions, guidance: float = 1.0, weaker: Weaker | None = None):
        self.heard, self.guidance = AtOnce(dit, x), guidance
        self.weaker = weaker and (AtOnce(weaker.dit, x), weaker.guidance)
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
        found = velocity = self._run(plain, latents, t, audible)
        if audible and not silent and self.guidance != 1.0:
            velocity = velocity + (self.guidance - 1.0) * (found - self._run(self.unheard, latents, t, True))
        if self.weaker and not silent:
            weaker, beyond = self.weaker
            velocity = velocity + (beyond - 1.0) * (found - self._run(weaker, latents, t, audible))
        return velocity

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
