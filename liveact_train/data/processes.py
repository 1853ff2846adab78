"""What a face does by itself: blinks, saccades, sway and breathing, each a random process with rates of its own.

The rates are stated here once; tests compare them with clips that were drawn. Time is in video frames.
"""

import math
import random
from dataclasses import dataclass

import torch
from torch import Tensor

FPS = 20.0


@dataclass(frozen=True)
class Blinks:
    """Eyelids close and open: `rest` seconds at least between two starts, then a chance that never grows.

    Starts are a renewal process, so their mean distance is 60 / per_minute seconds.
    """

    per_minute: float = 18.0
    rest: float = 0.8
    shape: tuple[float, ...] = (0.5, 1.0, 1.0, 0.5)  # closing per video frame

    def draw(self, frames: int, rng: random.Random) -> Tensor:
        """Closing [frames], 0 open to 1 closed."""
        out, wait = torch.zeros(frames + len(self.shape)), 60.0 / self.per_minute - self.rest
        at = (self.rest * rng.random() + rng.expovariate(1.0 / wait)) * FPS
        while at < frames:
            out[int(at) : int(at) + len(self.shape)] = torch.tensor(self.shape)
            at += (self.rest + rng.expovariate(1.0 / wait)) * FPS
        return out[:frames]


@dataclass(frozen=True)
class Saccades:
    """The gaze jumps within one video frame and rests; half of the jumps go back to the middle."""

    per_minute: float = 40.0
    rest: float = 0.3  # seconds at least between two jumps
    spread: tuple[float, float] = (0.045, 0.02)  # standard deviation of a jump's goal, x and y, picture units
    centre: float = 0.5

    def draw(self, frames: int, rng: random.Random) -> Tensor:
        """Gaze [frames, 2], picture units."""
        out, goal, wait = torch.zeros(frames, 2), (0.0, 0.0), 60.0 / self.per_minute - self.rest
        at = rng.expovariate(1.0 / wait) * FPS
        begun = 0
        while begun < frames:
            stop = min(frames, int(at))
            out[begun:stop] = torch.tensor(goal)
            begun = max(begun, stop)
            central = goal != (0.0, 0.0) and rng.random() < self.centre
            goal = (0.0, 0.0) if central else tuple(max(-2 * s, min(2 * s, rng.gauss(0.0, s))) for s in self.spread)
            at += (self.rest + rng.expovariate(1.0 / wait)) * FPS
        return out


@dataclass(frozen=True)
class Sway:
    """Smooth stationary noise: a critically damped spring driven by white noise.

    Its standard deviation is `sd` and its autocorrelation after t seconds is (1 + t / memory) exp(-t / memory).
    """

    sd: float
    memory: float = 0.5  # seconds

    def draw(self, frames: int, rng: random.Random) -> Tensor:
        """Values [frames]."""
        decay = 1.0 / (self.memory * FPS)
        reach = math.ceil(12.0 / decay)
        time = torch.arange(reach, dtype=torch.float64)
        kernel = time * torch.exp(-decay * time)
        noise = torch.randn(1, 1, frames + reach - 1, generator=torch.Generator().manual_seed(rng.getrandbits(62)))
        kernel = (kernel / kernel.norm()).float()
        return self.sd * torch.nn.functional.conv1d(noise, kernel[None, None])[0, 0]


@dataclass(frozen=True)
class Breathing:
    """A sine whose rate each clip draws evenly from a range."""

    per_minute: tuple[float, float] = (12.0, 20.0)
    amplitude: float = 0.5

    def draw(self, frames: int, rng: random.Random) -> Tensor:
        """Lift of the shoulders [frames], -amplitude to amplitude."""
        hz, phase = rng.uniform(*self.per_minute) / 60.0, rng.random()
        return self.amplitude * torch.sin(2.0 * math.pi * (hz * torch.arange(frames) / FPS + phase))


BLINKS, SACCADES, BREATHING = Blinks(), Saccades(), Breathing()
SWAY = {"dx": Sway(0.020), "dy": Sway(0.012), "roll": Sway(0.030), "yaw": Sway(0.025), "pitch": Sway(0.015)}
