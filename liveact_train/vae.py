"""Train the tiny VAE: principal components first, then everything by gradient descent."""

import json
import random
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from liveact_model.vae.tiny import PACKED, TinyVAE

MOUTH = (slice(36, 54), slice(20, 44))  # rows and columns of the 64x64 picture that hold the mouth
EYES = (slice(18, 36), slice(14, 50))


@dataclass(frozen=True)
class VaeConfig:
    """Train encoder and decoder together."""

    data: str = "data/tiny"  # folder written by the data stage
    out: str = "data/tiny/vae.safetensors"  # weights to write; the constructor's arguments go beside it as .json
    minutes: float = 14.0  # wall time
    rate: float = 1.5e-3  # peak learning rate
    batch: int = 5  # crops per step
    frames: int = 9  # video frames per crop
    kl: float = 1e-4  # weight of the divergence from a unit Gaussian
    seed: int = 0
    threads: int = 1


class Clock:
    """Wall-time budget of a training loop: progress, learning rate and when to report."""

    def __init__(self, minutes: float, rate: float, warmup: int = 50, every: float = 1.0):
        self.minutes, self.rate, self.warmup, self.every = minutes, rate, warmup, every
        self.step, self._start, self._next = 0, time.monotonic(), every

    @property
    def elapsed(self) -> float:
        """Minutes since the start."""
        return (time.monotonic() - self._start) / 60.0

    @property
    def done(self) -> bool:
        """Whether the budget is spent."""
        return self.elapsed >= self.minutes

    def tick(self, optimizer: torch.optim.Optimizer) -> None:
        """Count a step and set its learning rate: linear warm-up, then linear decay to 2% at the end of the budget."""
        self.step += 1
        decay = max(0.02, 1.0 - self.elapsed / self.minutes)
        for group in optimizer.param_groups:
            group["lr"] = self.rate * min(1.0, self.step / self.warmup) * decay

    def due(self) -> bool:
        """True once per `every` minutes and at the end."""
        if self.elapsed < self._next and not self.done:
            return False
        self._next += self.every
        return True

    def __str__(self) -> str:
        return f"min {self.elapsed:.1f} cpu {time.process_time() / 60:.1f} step {self.step}"


def psnr(a: Tensor, b: Tensor) -> float:
    """Mean over the batch of the peak signal to noise ratio, dB, of pictures in [-1, 1]; both [B, ...]."""
    error = ((a - b) / 2.0).square().flatten(1).mean(1)
    return (-10.0 * torch.log10(error)).mean().item()


def face_weight(mouth: float = 3.0, eyes: float = 2.0) -> Tensor:
    """Weight of each pixel in the loss, [64, 64], mean 1: the features that move count more than the rest."""
    weight = torch.ones(64, 64)
    weight[EYES] = eyes
    weight[MOUTH] = mouth
    return weight / weight.mean()


def to_video(array: np.ndarray) -> Tensor:
    """uint8 [..., F, 3, H, W] -> float [..., 3, F, H, W] in [-1, 1]."""
    return (torch.from_numpy(np.array(array)).float() / 127.5 - 1.0).transpose(-3, -4)


def principal_components(vae: TinyVAE, video: Tensor) -> None:
    """Set the linear paths to the z_dim leading principal components of 4 x 8 x 8 cells of video [B, 3, F, H, W].

    The encoder gives each component unit variance; the decoder is its least-squares inverse.
    """
    packed = vae.pack(video)
    cells = packed.unfold(2, 2, 2).unfold(3, 2, 2).permute(0, 2, 3, 1, 4, 5).reshape(-1, PACKED * 4).double()
    mean = cells.mean(0)
    values, vectors = torch.linalg.eigh((cells - mean).T @ (cells - mean) / len(cells))
    basis, scale = vectors[:, -vae.z_dim :].flip(1), values[-vae.z_dim :].flip(0).sqrt()
    with torch.no_grad():
        vae.linear_in.weight.copy_((basis / scale).T.reshape(vae.z_dim, PACKED, 2, 2))
        vae.linear_in.bias.copy_(-(mean @ basis) / scale)
        vae.linear_out.weight.copy_((basis * scale).T.reshape(vae.z_dim, PACKED, 2, 2))
        vae.linear_out.bias.copy_(mean.view(PACKED, 4).mean(1))  # one value per channel is all a bias can hold


def new_vae(config: VaeConfig, videos: np.ndarray) -> TinyVAE:
    """A VAE whose linear paths are fitted to a sample of the clips."""
    vae = TinyVAE()
    step = max(1, len(videos) // 150)
    sample = np.concatenate([videos[::step, start : start + 9] for start in (0, 20, 44, 70)])
    principal_components(vae, to_video(sample))
    return vae.to(memory_format=torch.channels_last)


@torch.no_grad()
def reconstruction(vae: TinyVAE, video: Tensor) -> dict[str, float]:
    """PSNR in dB of encode-decode over video [B, 3, F, H, W], whole picture and mouth."""
    with torch.autocast("cpu", torch.bfloat16):
        mean, _ = vae.posterior(video)
        decoded = vae.generate(mean)[0][:, :, 3:].float().clamp(-1.0, 1.0)
    mouth = (..., *MOUTH)
    return {"psnr": round(psnr(decoded, video), 2), "mouth": round(psnr(decoded[mouth], video[mouth]), 2)}


def random_crops(videos: np.ndarray, count: int, frames: int, rng: random.Random) -> Tensor:
    """Random runs of video frames, half of them mirrored, a tenth of them frozen: [count, 3, frames, H, W]."""
    crops = []
    for _ in range(count):
        clip = videos[rng.randrange(len(videos))]
        start = rng.randrange(clip.shape[0] - frames + 1)
        crop = clip[start : start + frames]
        if rng.random() < 0.5:
            crop = crop[..., ::-1]
        crops.append(np.repeat(crop[:1], frames, 0) if rng.random() < 0.1 else crop)
    return to_video(np.stack(crops))


def train_vae(config: VaeConfig) -> None:
    """Run the stage: fit, report once a minute, measure the latents' mean and std, save."""
    torch.set_num_threads(config.threads)
    torch.manual_seed(config.seed)
    rng = random.Random(config.seed)
    videos = np.load(Path(config.data) / "train" / "video.npy", mmap_mode="r")
    held_out = to_video(np.load(Path(config.data) / "val" / "video.npy", mmap_mode="r")[:16])
    vae = new_vae(config, videos)
    size = sum(parameter.numel() for parameter in vae.parameters())
    print(f"vae has {size} parameters; components alone {reconstruction(vae, held_out)}", flush=True)
    optimizer = torch.optim.AdamW(vae.parameters(), config.rate, betas=(0.9, 0.99), weight_decay=1e-4)
    clock, weight = Clock(config.minutes, config.rate), face_weight()
    while not clock.done:
        clock.tick(optimizer)
        video = random_crops(videos, config.batch, config.frames, rng)
        with torch.autocast("cpu", torch.bfloat16):
            mean, log_var = vae.posterior(video)
            decoded = vae.generate(mean + torch.randn_like(mean) * (0.5 * log_var).exp())[0][:, :, 3:].float()
        error = decoded - video
        divergence = (mean.square() + log_var.exp() - 1.0 - log_var).mean()
        loss = ((error.abs() + 2.0 * error.square()) * weight).mean() + config.kl * divergence
        loss.backward()
        torch.nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if clock.due():
            print(f"vae {clock} loss {loss.item():.4f} {reconstruction(vae, held_out)}", flush=True)
    measure_latents(vae, videos)
    save_vae(vae, config.out)


@torch.no_grad()
def measure_latents(vae: TinyVAE, videos: np.ndarray, clips: int = 200) -> None:
    """Store mean and standard deviation per latent channel over some clips."""
    with torch.autocast("cpu", torch.bfloat16):
        raw = torch.cat([vae.posterior(to_video(videos[i : i + 8]))[0] for i in range(0, min(clips, len(videos)), 8)])
    vae.mean.copy_(raw.mean((0, 2, 3, 4)))
    vae.std.copy_(raw.std((0, 2, 3, 4)))


def save_vae(vae: TinyVAE, path: str, dtype: torch.dtype = torch.float32) -> None:
    """Write the weights in `dtype`, the latents' mean and std in float32, and the constructor's arguments as .json."""
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    state = {name: value.detach().to(dtype).contiguous() for name, value in vae.named_parameters()}
    save_file(state | {name: value.float() for name, value in vae.named_buffers()}, target)
    target.with_suffix(".json").write_text(json.dumps(vae.options, indent=1) + "\n")


def load_vae(path: str) -> TinyVAE:
    """Read what `save_vae` wrote, in float32."""
    target = Path(path)
    vae = TinyVAE(**json.loads(target.with_suffix(".json").read_text()))
    vae.load_state_dict({name: value.float() for name, value in load_file(target).items()})
    return vae.eval().to(memory_format=torch.channels_last)
