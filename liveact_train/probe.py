"""A small network that reads a face's attributes back from a picture: the ruler for generated video."""

import random
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

from liveact_model.errors import InputError
from liveact_train.data.clips import open_array
from liveact_train.data.faces import POSE
from liveact_train.runs import Run, save_shares


@dataclass(frozen=True)
class ProbeConfig:
    """Train the attribute probe on rendered frames."""

    data: str = "data/tiny"  # folder written by the data stage
    out: str = "data/tiny/probe"  # folder of the run; probe.safetensors in it are the averaged weights
    steps: int = 1500
    rate: float = 1e-3
    batch: int = 96
    seed: int = 0
    threads: int = 1


class Probe(nn.Module):
    """Pictures [B, 3, 64, 64] in [-1, 1] -> the attributes named in `faces.POSE`, [B, 15], in their own units."""

    def __init__(self):
        super().__init__()
        widths = (3, 24, 48, 64, 96)
        layers = []
        for before, after in pairwise(widths):
            layers += [nn.Conv2d(before, after, 3, 2, 1), nn.GroupNorm(4, after), nn.SiLU()]
        self.body = nn.Sequential(*layers, nn.Flatten(), nn.Linear(96 * 16, 96), nn.SiLU(), nn.Linear(96, len(POSE)))
        self.register_buffer("mean", torch.zeros(len(POSE)))
        self.register_buffer("std", torch.ones(len(POSE)))

    def forward(self, pictures: Tensor) -> Tensor:
        """Attributes [B, 15]; training divides errors by `std`, which keeps the small ones from being lost."""
        return self.body(pictures) * self.std + self.mean


def correlations(probe: Probe, pictures: Tensor, attributes: Tensor) -> dict[str, float]:
    """Pearson correlation per attribute between readings of pictures [B, 3, 64, 64] and the truth [B, 15]."""
    with torch.no_grad():
        read = torch.cat([probe(part) for part in pictures.split(256)])
    pairs = ((name, torch.stack([read[:, i], attributes[:, i]])) for i, name in enumerate(POSE))
    return {name: round(float(torch.corrcoef(pair)[0, 1]), 3) for name, pair in pairs}


def spoil(pictures: Tensor, rng: random.Random) -> Tensor:
    """Blur half of the time and add noise, since generated frames are softer than rendered ones."""
    if rng.random() < 0.5:
        side = rng.choice([24, 32, 48])
        small = F.interpolate(pictures, size=(side, side), mode="bilinear", antialias=True)
        pictures = F.interpolate(small, size=pictures.shape[-2:], mode="bilinear")
    return pictures + torch.randn_like(pictures) * rng.uniform(0.0, 0.08)


def _frames(videos: np.ndarray, clips: np.ndarray, frames: np.ndarray) -> Tensor:
    return torch.from_numpy(videos[clips, frames]).float() / 127.5 - 1.0


def train_probe(config: ProbeConfig) -> None:
    """Run the stage and report the correlations on the validation clips."""
    torch.set_num_threads(config.threads)
    torch.manual_seed(config.seed)
    folder, out = Path(config.data), Path(config.out)
    videos, held_out = (open_array("--data", folder / name, "video") for name in ("train", "val"))
    attributes = np.array(open_array("--data", folder / "train", "attributes"))
    probe = Probe().to(memory_format=torch.channels_last)
    flat = torch.from_numpy(attributes).flatten(0, 1)
    probe.mean.copy_(flat.mean(0))
    probe.std.copy_(flat.std(0))
    optimizer = torch.optim.AdamW(probe.parameters(), config.rate)
    run = Run("probe", out, config, probe, optimizer, ema=0.99)
    run.export = lambda: save_shares(out / "probe.safetensors", run.average.state_dict(), {})
    for rng in run:
        clips = torch.randint(len(videos), (config.batch,)).numpy()
        frames = torch.randint(videos.shape[1], (config.batch,)).numpy()
        pictures = spoil(_frames(videos, clips, frames), rng).contiguous(memory_format=torch.channels_last)
        error = (probe(pictures) - torch.from_numpy(attributes[clips, frames])) / probe.std
        run.update(error.square().mean())
    probe = run.average
    clips, frames = np.divmod(np.arange(0, held_out.shape[0] * held_out.shape[1], 3), held_out.shape[1])
    truth = torch.from_numpy(np.load(folder / "val" / "attributes.npy")[clips, frames])
    print(f"probe held-out correlation {correlations(probe, _frames(held_out, clips, frames), truth)}", flush=True)


def load_probe(path: str) -> Probe:
    """Read what `train_probe` wrote; InputError if it is nothing of the kind."""
    probe = Probe()
    try:
        probe.load_state_dict(load_file(path))
    except (OSError, SafetensorError, RuntimeError) as error:
        found = str(error).splitlines()[0]
        raise InputError(f"--probe: expected {path} to be what the probe stage wrote, found {found}") from None
    return probe.eval()
