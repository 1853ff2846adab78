"""Timesteps and sampler updates as pure functions."""

from __future__ import annotations

import hashlib
from typing import NamedTuple

import torch
from torch import Tensor

from .config import BLOCK_VIDEO_FRAMES, FIRST_BLOCK_VIDEO_FRAMES

TIMESTEPS = (1000.0, 937.5, 833.33333333)
"""Network inputs of the three denoise steps; sigma = t / 1000, and the last step ends at sigma 0."""

SAMPLERS = ("renoise", "euler")


class Coefficients(NamedTuple):
    """latent' = latent * c_latent + velocity * c_velocity + noise * c_noise."""

    c_latent: float
    c_velocity: float
    c_noise: float


def sigmas(timesteps: tuple[float, ...] = TIMESTEPS) -> tuple[float, ...]:
    """Noise levels before each step, and 0 after the last."""
    return (*(t / 1000.0 for t in timesteps), 0.0)


def coefficients(sampler: str, sigma: float, sigma_next: float) -> Coefficients:
    """The linear update of one step; the network predicts v = noise - x0.

    "renoise" (released): x0 = latent - sigma v, latent' = (1 - sigma') x0 + sigma' fresh noise.
    "euler": latent' = latent - (sigma - sigma') v.
    Raises ValueError for another name.
    """
    if sampler == "renoise":
        keep = 1.0 - sigma_next
        return Coefficients(keep, -keep * sigma, sigma_next)
    if sampler == "euler":
        return Coefficients(1.0, sigma_next - sigma, 0.0)
    raise ValueError(f"sampler: expected one of {', '.join(SAMPLERS)}, got {sampler!r}")


def noise(shape: tuple[int, ...], seed: int, block: int, step: int) -> Tensor:
    """Standard normal float32 noise that depends on (seed, block, step) alone: not on device, chunking or ranks.

    step 0 is the block's initial latent; step i > 0 is what follows denoise step i - 1.
    """
    digest = hashlib.blake2b(f"{seed}/{block}/{step}".encode(), digest_size=7).digest()
    return torch.randn(shape, generator=torch.Generator().manual_seed(int.from_bytes(digest, "little")))


def blocks_for(video_frames: int, first: int = FIRST_BLOCK_VIDEO_FRAMES, later: int = BLOCK_VIDEO_FRAMES) -> int:
    """Blocks that cover a number of video frames: `first` in the first, `later` in each later one; at least 1."""
    return 1 + max(0, -(-(video_frames - first) // later))


def released_blocks(audio_seconds: float, fps: float) -> int:
    """Blocks that the released loop runs for an audio: it may stop short of the audio's last third of a second."""
    return int(audio_seconds / (BLOCK_VIDEO_FRAMES / fps)) + 1
