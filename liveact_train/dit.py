"""Neighbor Forcing: train the denoiser block by block at one noise level, through its own memory window.

Every sample gets one timestep for all its blocks, and each block sees what earlier blocks put into the window at that
same timestep: exactly what generation does, memory compression included. The forward is the Session's own
(`model.DiT` and `cache.Window`); a batch is that forward under `torch.vmap`.
"""

from __future__ import annotations

import copy
import itertools
import json
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call, vmap

from liveact_model.audio.windows import latent_indices
from liveact_model.config import BLOCK_LATENT_FRAMES, FIRST_BLOCK_LATENT_FRAMES, MASK_CHANNELS, DiTConfig
from liveact_model.dit import DiT, Linear
from liveact_model.image.patches import PatchEncoder
from liveact_model.text.words import WordEncoder

TINY = DiTConfig(
    dim=192, num_heads=3, num_layers=6, ffn_dim=640, in_dim=52, out_dim=24, freq_dim=128, text_dim=64, text_len=8,
    clip_dim=112, clip_tokens=16, audio_blocks=1, audio_channels=128, audio_hidden=192, audio_tokens=8, audio_dim=96,
    rope_theta=64.0, grouping="temporal", separate_v_taps=True,
)  # fmt: skip
"""The shipped size: 64x64 pixels are 16 tokens per latent frame; 5 million parameters."""

TINY_TIMESTEPS = (1000.0, 850.0, 550.0)
"""Network inputs of the tiny model's denoise steps. The released schedule ends at 833: a distilled model draws a sharp
picture there, one trained by plain regression draws the mean of all poses; at 550 it has settled on one."""

TIMESTEP_SHARE = (0.1, 0.35, 0.55)
"""How often each denoise step is trained; the last one decides the picture."""


@dataclass
class DiTTraining:
    """One run. `minutes` is the length of the learning-rate schedule, which ends at `learning_rate / 30`."""

    minutes: float
    batch: int = 8
    learning_rate: float = 1.3e-3
    warm_up: int = 100
    ema: float = 0.998
    drop_audio: float = 0.1
    seed: int = 0
    threads: int = 1
    log_every_s: float = 60.0
    save_every_s: float = 300.0


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


def blocks_of(latent_frames: int) -> list[slice]:
    """Latent frames of each block of a clip: 6, then 8 at a time."""
    edges = [0, *range(FIRST_BLOCK_LATENT_FRAMES, latent_frames + 1, BLOCK_LATENT_FRAMES)]
    return [slice(a, b) for a, b in itertools.pairwise(edges)]


def tokens_of(latent: Tensor) -> Tensor:
    """[Z, F, Y, X] -> the head's tokens [F*Y*X/4, 4*Z], channel fastest."""
    z, f, y, x = latent.shape
    return latent.reshape(z, f, y // 2, 2, x // 2, 2).permute(1, 2, 4, 3, 5, 0).reshape(f * y * x // 4, 4 * z)


class Clip(nn.Module):
    """A whole clip at one timestep: velocities of all its blocks, through one window."""

    def __init__(self, dit: DiT, audible: bool):
        super().__init__()
        self.dit, self.audible = dit, audible

    def forward(self, noisy: Tensor, t: Tensor, y: Tensor, text: Tensor, image: Tensor, audio: Tensor) -> Tensor:
        """Tokens [L, 4 * Z] of all latent frames.

        noisy [Z, F, Y, X]; t [1]; y [4 + Z, 14, Y, X]; text [blocks, text_len, text_dim], zero rows as padding;
        image [I, clip_dim]; audio [F, 8, blocks, channels] (latent frame 0's row is not read).
        """
        dit = self.dit
        time_, image_kv = dit.at(t), dit.image_kv(image)
        window = dit.window(noisy.shape[-2] // 2, noisy.shape[-1] // 2)
        out = []
        for i, frames in enumerate(blocks_of(noisy.shape[1])):
            prompt = dit.prompt(text[i], image_kv)
            heard = dit.hear(audio[max(1, frames.start) : frames.stop]) if self.audible else None
            cond = y[:, :FIRST_BLOCK_LATENT_FRAMES] if i == 0 else y[:, FIRST_BLOCK_LATENT_FRAMES:]
            out.append(dit(noisy[:, frames].contiguous(), cond, time_, prompt, heard, window, i == 0))
        return torch.cat(out)


def velocity_loss(dit: DiT, batch: dict[str, Tensor], t: Tensor, noise: Tensor, audible: bool) -> Tensor:
    """Mean squared error of the velocity noise - x0 at timesteps t [B] (0..1000), in bf16 activations.

    The float32 master weights are cast inside, so gradients reach them.
    """
    sigma = (t / 1000).view(-1, 1, 1, 1, 1)
    noisy = ((1 - sigma) * batch["z"] + sigma * noise).bfloat16()
    clip = Clip(dit, audible)
    half = {n: p.bfloat16() if isinstance(_owner(clip, n), Linear) else p for n, p in clip.named_parameters()}

    def one(*args):
        return functional_call(clip, half, args)

    args = (noisy, t.view(-1, 1), *(batch[n].bfloat16() for n in ("y", "text", "image", "audio")))
    target = vmap(tokens_of)(noise - batch["z"])
    return (vmap(one)(*args).float() - target).square().mean()


def _owner(root: nn.Module, path: str) -> nn.Module:
    return root.get_submodule(path.rpartition(".")[0])


def draw_timesteps(n: int, generator: torch.Generator) -> tuple[Tensor, bool]:
    """[n] timesteps for a batch and whether it hears: the first denoise step does not, so it has its own batches."""
    if torch.rand((), generator=generator) < TIMESTEP_SHARE[0]:
        return torch.full((n,), TINY_TIMESTEPS[0]), False
    later = torch.rand(n, generator=generator) < TIMESTEP_SHARE[1] / sum(TIMESTEP_SHARE[1:])
    return torch.where(later, TINY_TIMESTEPS[1], TINY_TIMESTEPS[2]), True


@torch.no_grad()
def validate(dit: DiT, batch: dict[str, Tensor]) -> list[float]:
    """Loss at each of the model's timesteps on fixed noise."""
    noise = torch.randn(batch["z"].shape, generator=torch.Generator().manual_seed(5))
    losses = []
    for i, t in enumerate(TINY_TIMESTEPS):
        with torch.enable_grad():  # the training forward: the window keeps what it needs
            loss = velocity_loss(dit, batch, torch.full((len(noise),), t), noise, i > 0)
        losses.append(round(loss.item(), 4))
    return losses


def train(data, held_out: dict[str, Tensor], out: Path, c: DiTTraining, start: DiT | None = None) -> DiT:
    """Train and return the averaged weights; `data.batch(indices)` gives what `velocity_loss` reads.

    Progress is one log line a minute; `out` (.pt) is rewritten every few minutes: a cut-off run keeps something.
    """
    torch.set_num_threads(c.threads)
    torch.manual_seed(c.seed)
    g = torch.Generator().manual_seed(c.seed)
    dit = initialise(DiT(TINY)) if start is None else start
    dit.dtype = torch.bfloat16
    average = copy.deepcopy(dit)
    optimiser = torch.optim.AdamW(dit.parameters(), c.learning_rate, betas=(0.9, 0.98), weight_decay=0.01)
    began, step, running, said, saved = time.monotonic(), 0, None, 0.0, 0.0
    order: list[int] = []
    while (elapsed := time.monotonic() - began) < 60 * c.minutes:
        if len(order) < c.batch:
            order = torch.randperm(len(data), generator=g).tolist()
        indices, order = order[: c.batch], order[c.batch :]
        _set_rate(optimiser, c, step, elapsed / (60 * c.minutes))
        loss = _step(dit, optimiser, data.batch(indices), g, c)
        step += 1
        with torch.no_grad():
            weight = 1 - min(c.ema, step / (step + 20))
            torch._foreach_lerp_(list(average.parameters()), list(dit.parameters()), weight)
        running = loss if running is None else 0.98 * running + 0.02 * loss
        if elapsed - said > c.log_every_s:
            said = elapsed
            val = validate(average, held_out)
            print(f"dit min {elapsed / 60:.1f} step {step} loss {running:.4f} val {val}", flush=True)
        if elapsed - saved > c.save_every_s:
            saved = elapsed
            torch.save(average.state_dict(), out)
    torch.save(average.state_dict(), out)
    return average


def _step(dit: DiT, optimiser, batch: dict[str, Tensor], g: torch.Generator, c: DiTTraining) -> float:
    t, audible = draw_timesteps(c.batch, g)
    keep = torch.rand(c.batch, generator=g) >= c.drop_audio
    batch["audio"] = batch["audio"] * keep.view(-1, 1, 1, 1, 1)
    loss = velocity_loss(dit, batch, t, torch.randn(batch["z"].shape, generator=g), audible)
    loss.backward()
    nn.utils.clip_grad_norm_(dit.parameters(), 1.0)
    optimiser.step()
    optimiser.zero_grad(set_to_none=True)
    return loss.item()


def _set_rate(optimiser, c: DiTTraining, step: int, done: float) -> None:
    rate = c.learning_rate * min(1.0, (step + 1) / c.warm_up) * max(1 / 30, 1 - max(0.0, done - 0.3) / 0.7)
    for group in optimiser.param_groups:
        group["lr"] = rate


class Latents:
    """Cached latents of a folder written by the latents stage, as training batches."""

    def __init__(self, folder: Path):
        self.arrays = {n: np.load(folder / f"{n}.npy", mmap_mode="r") for n in ("z", "y", "mel")}
        words, self.patches = WordEncoder(), PatchEncoder(self.arrays["z"].shape[2])
        self.text = []
        for prompts in json.loads((folder / "prompts.json").read_text()):
            rows = [words.encode(p) for p in prompts]
            self.text.append(torch.stack([F.pad(r, (0, 0, 0, words.text_len - len(r))) for r in rows]))
        self.rows = latent_indices(0, self.arrays["z"].shape[1], self.arrays["mel"].shape[1])

    def __len__(self) -> int:
        return len(self.arrays["z"])

    def batch(self, indices: list[int]) -> dict[str, Tensor]:
        """float32 tensors of some clips: z, y, text, image and audio, as `Clip.forward` takes them."""
        z, y, mel = (torch.from_numpy(np.stack([a[i] for i in indices])).float() for a in self.arrays.values())
        y = y.transpose(1, 2)
        mask = y.new_zeros(len(indices), MASK_CHANNELS, *y.shape[2:])
        mask[:, :, 0] = 1
        image = torch.stack([self.patches.encode(None, latent[:, 0]) for latent in y])
        audio = mel[:, self.rows][:, :, :, None]
        text = torch.stack([self.text[i] for i in indices])
        cond = torch.cat((mask, y), 1)
        return {"z": z.transpose(1, 2).contiguous(), "y": cond, "text": text, "image": image, "audio": audio}


@dataclass(frozen=True)
class DiTConfigStage:
    """Train the denoiser on cached latents (Neighbor Forcing)."""

    latents: str = "data/tiny/latents"  # folder written by the latents stage, with train/ and val/
    out: str = "data/tiny/dit.pt"  # averaged weights, rewritten every few minutes
    start: str = ""  # weights to continue from
    minutes: float = 50.0  # wall time
    rate: float = 1.3e-3  # peak learning rate
    batch: int = 8
    seed: int = 0
    threads: int = 1


def train_dit(c: DiTConfigStage) -> None:
    """The `dit` stage."""
    data, val = Latents(Path(c.latents) / "train"), Latents(Path(c.latents) / "val")
    dit = None
    if c.start:
        dit = DiT(TINY)
        dit.load_state_dict(torch.load(c.start, weights_only=True))
    run = DiTTraining(c.minutes, batch=c.batch, learning_rate=c.rate, seed=c.seed, threads=c.threads)
    train(data, val.batch(list(range(16))), Path(c.out), run, dit)
