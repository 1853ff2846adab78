"""Train the denoiser on cached latents: all blocks of a clip in one pass (`clips_at_once`), by any of the forcings."""

from __future__ import annotations

import copy
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from liveact_model.audio.windows import latent_indices
from liveact_model.config import MASK_CHANNELS, VIDEO_FRAMES_PER_LATENT, DiTConfig
from liveact_model.dit import DiT, Linear
from liveact_model.errors import InputError
from liveact_model.image.patches import PatchEncoder
from liveact_model.text.words import WordEncoder
from liveact_train.clips_at_once import Conditions, blocks_of
from liveact_train.data.clips import BLOCK_STARTS, open_array
from liveact_train.forcing import FORCINGS, draw_timesteps, velocity_loss
from liveact_train.layers import parts_of
from liveact_train.runs import Run, save_shares, seed_of
from liveact_train.shards import join

TINY_TIMESTEPS = (1000.0, 850.0, 550.0)
"""Network inputs of the shipped model's denoise steps. The released schedule ends at 833: a distilled model draws a
sharp picture there, one trained by plain regression draws the mean of all poses; at 550 it has settled on one."""

WATCHED = (1000.0, 937.5, 833.3, 500.0, 200.0)
"""Timesteps that a report measures the loss at."""


def tiny(z_dim: int, **window) -> DiTConfig:
    """The shipped size for latents of z_dim channels: 16 tokens per latent frame of 64x64 pixels; 5 million weights."""
    defaults = {"grouping": "temporal", "separate_v_taps": True}
    return DiTConfig(
        dim=192, num_heads=3, num_layers=6, ffn_dim=640, in_dim=2 * z_dim + MASK_CHANNELS, out_dim=z_dim, freq_dim=128,
        text_dim=64, text_len=8, clip_dim=4 * z_dim + 16, clip_tokens=16, audio_blocks=1, audio_channels=128,
        audio_hidden=192, audio_tokens=8, audio_dim=96, rope_theta=64.0, **(defaults | window),
    )  # fmt: skip


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


class Latents:
    """Cached latents of a folder written by the latents stage, as training batches for a denoiser of a config."""

    def __init__(self, folder: Path, **window):
        self.arrays = {n: open_array("--latents", folder, n) for n in ("z", "y", "mel")}
        z = self.arrays["z"]
        self.config = tiny(z.shape[2], **window)
        words, self.patches = WordEncoder(), PatchEncoder(z.shape[2])
        self.blocks = blocks_of(z.shape[1], self.config)
        spoken = [_in_force(block) for block in self.blocks]
        self.text = []
        for prompts in json.loads((folder / "prompts.json").read_text()):
            rows = [words.encode(prompts[i]) for i in spoken]
            self.text.append(torch.stack([F.pad(r, (0, 0, 0, words.text_len - len(r))) for r in rows]))
        self.rows = latent_indices(0, z.shape[1], self.arrays["mel"].shape[1])

    def __len__(self) -> int:
        return len(self.arrays["z"])

    def batch(self, indices: list[int]) -> tuple[Tensor, Conditions]:
        """Latents [B, Z, F, Y, X] of some clips, and their conditions; float32."""
        z, y, mel = (torch.from_numpy(np.stack([a[i] for i in indices])).float() for a in self.arrays.values())
        y = torch.cat([y, y[:, -1:].expand(-1, self.config.window_slots - y.shape[1], -1, -1, -1)], 1).transpose(1, 2)
        mask = y.new_zeros(len(indices), MASK_CHANNELS, *y.shape[2:])
        mask[:, :, 0] = 1
        image = torch.stack([self.patches.encode(None, latent[:, 0]) for latent in y])
        audio = mel[:, self.rows][:, :, :, None]
        text = torch.stack([self.text[i] for i in indices])
        return z.transpose(1, 2).contiguous(), Conditions(torch.cat((mask, y), 1), text, image, audio)


def _in_force(block: slice) -> int:
    """Which of a clip's prompts is in force in the middle of a block of latent frames."""
    middle = VIDEO_FRAMES_PER_LATENT * (block.start + block.stop) // 2
    return sum(start <= middle for start in BLOCK_STARTS) - 1


@dataclass(frozen=True)
class DiTConfigStage:
    """Train the denoiser on cached latents; the same command continues a run that was cut off."""

    latents: str = "data/tiny/latents"  # folder written by the latents stage, with train/ and val/
    out: str = "data/tiny/dit"  # folder of the run; dit.safetensors in it are the averaged weights
    start: str = ""  # weights to begin from
    steps: int = 12000
    rate: float = 1.3e-3  # peak learning rate
    batch: int = 8
    forcing: str = "neighbor"  # or diffusion, teacher, self
    timesteps: str = "all"  # "sampler": only those of the three denoise steps
    memory_slots: int = 6  # latent frames: of the memory, and of the first block
    block_latent_frames: int = 8  # of every later block
    memory: str = "conv"  # or mean
    grouping: str = "temporal"  # or raster
    drop_audio: float = 0.1  # share of clips whose audio is taken away
    checkpoint_activations: bool = False  # keep what layers take in, and make the rest again in the backward pass
    seed: int = 0
    threads: int = 1


def train_dit(c: DiTConfigStage) -> None:
    """The `dit` stage."""
    if c.forcing not in FORCINGS:
        raise InputError(f"--forcing: expected one of {', '.join(FORCINGS)}, got {c.forcing!r}")
    if c.timesteps not in ("all", "sampler"):
        raise InputError(f"--timesteps: expected all or sampler, got {c.timesteps!r}")
    shards = join()
    own = shards.share("--batch", c.batch)
    torch.set_num_threads(c.threads)
    torch.manual_seed(c.seed)
    window = {name: getattr(c, name) for name in ("memory_slots", "block_latent_frames", "memory", "grouping")}
    data, val = (Latents(Path(c.latents) / name, **window) for name in ("train", "val"))
    dit = load_dit(c.start) if c.start else initialise(DiT(data.config))
    if dit.config != data.config:
        raise InputError(f"--start: expected weights of {data.config}, found some of {dit.config}")
    dit.dtype = torch.bfloat16  # of activations; the weights stay float32 and are cast as they are used
    average = copy.deepcopy(dit).requires_grad_(False)
    for model in (dit, average):
        shards.cut(parts_of(model), dit.dtype)
    parts_of(dit).recompute = c.checkpoint_activations
    optimiser = torch.optim.AdamW(dit.parameters(), c.rate, betas=(0.9, 0.98), weight_decay=0.01)
    run = Run("dit", Path(c.out), c, dit, optimiser, ema=0.998, shards=shards, average=average)
    held_out = val.batch(list(range(min(16, len(val)))))
    run.measure = lambda: validate(run.average, *held_out)
    run.export = lambda: save_dit(run.average, Path(c.out) / "dit.safetensors", shards.leads)
    only = TINY_TIMESTEPS if c.timesteps == "sampler" else ()
    for rng in run:
        z, x = data.batch(rng.sample(range(len(data)), c.batch))
        t, audible = draw_timesteps(c.batch, len(data.blocks), c.forcing, only)
        keep = (torch.rand(c.batch) >= c.drop_audio).view(-1, 1, 1, 1, 1)
        noise, x = torch.randn(z.shape), x._replace(audio=x.audio * keep)
        if shards.size > 1:  # what is drawn from here on, for a rollout, is this share's own
            torch.manual_seed(seed_of(c.seed, run.step, "share", shards.index))
        z, t, noise, x = z[own], t[own], noise[own], Conditions(*(part[own] for part in x))
        run.update(velocity_loss(dit, z, x, t, noise, audible, c.forcing, TINY_TIMESTEPS))


def validate(dit: DiT, z: Tensor, x: Conditions) -> dict[str, float]:
    """Loss at each of WATCHED on fixed noise, all blocks at one noise level, of weights that are constants."""
    noise = torch.randn(z.shape, generator=torch.Generator().manual_seed(5))
    shape = (len(z), len(blocks_of(z.shape[2], dit.config)))
    return {f"val_{t:g}": velocity_loss(dit, z, x, torch.full(shape, t), noise, t < 1000).item() for t in WATCHED}


def save_dit(dit: DiT, path: Path, leads: bool = True) -> None:
    """Write the weights in float32, with the config beside them in the file; of shares the leading process writes."""
    save_shares(path, dit.state_dict(), {"config": json.dumps(dit.config.to_dict())}, leads)


def load_dit(path: str) -> DiT:
    """Read what `save_dit` wrote."""
    try:
        with safe_open(path, framework="pt") as file:
            dit = DiT(DiTConfig.from_dict(json.loads(file.metadata()["config"])))
            dit.load_state_dict({key: file.get_tensor(key) for key in file.keys()})  # noqa: SIM118 - no mapping
    except (SafetensorError, OSError, TypeError, KeyError) as error:
        raise InputError(f"weights: expected {path} to be one that the dit stage wrote, found {error}") from None
    return dit
