"""Make the decoder forgiving: fine-tune it on frozen latents with noise, as a diffusion model will hand them over.

Without this stage small latent errors show as 8x8 blocks.
"""

import random
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from liveact_model.vae.tiny import TinyVAE
from liveact_train.data.clips import open_array
from liveact_train.runs import Run
from liveact_train.vae import MOUTH, latent_step, load_vae, picture_loss, psnr, save_vae, sharpness, to_video

LEVELS = (0.0, 0.15, 0.3)  # latent noise the report measures at


@dataclass(frozen=True)
class DecoderConfig:
    """Fine-tune the decoder on noisy latents; the encoder and the latents stay as they are."""

    data: str = "data/tiny"  # folder written by the data stage
    latents: str = "data/tiny/latents"  # folder written by the latents stage
    vae: str = "data/tiny/vae/vae.safetensors"  # weights written by the vae stage
    out: str = "data/tiny/decoder"  # folder of the run; vae.safetensors in it are the final weights, bfloat16
    steps: int = 4000
    rate: float = 1e-3
    batch: int = 6
    window: int = 4  # latent frames per crop
    noise: float = 0.35  # largest standard deviation of the noise, in units of the latents'
    clean: float = 0.2  # share of crops without noise
    motion: float = 20.0  # as in the vae stage
    border: float = 6.0
    seed: int = 0
    threads: int = 1


def random_windows(
    z: np.ndarray, videos: np.ndarray, config: DecoderConfig, rng: random.Random
) -> tuple[Tensor, Tensor, int]:
    """Latents [B, z, n, h, w], their video frames [B, 3, m, H, W] and how many decoded frames to drop at the front.

    A fifth of the batches starts with the clip; the others leave out the first latent frame's video, whose past the
    decoder does not see here.
    """
    start = rng.randrange(1, z.shape[1] - config.window + 1) if rng.random() < 0.8 else 0
    clips = [rng.randrange(len(z)) for _ in range(config.batch)]
    latents = np.stack([z[clip, start : start + config.window] for clip in clips])
    first, last = (0, 4 * config.window - 3) if start == 0 else (4 * start + 1, 4 * (start + config.window) - 3)
    video = to_video(np.stack([videos[clip, first:last] for clip in clips]))
    return torch.from_numpy(latents).float().transpose(1, 2), video, 3 if start == 0 else 4


@torch.no_grad()
def robustness(vae: TinyVAE, latents: Tensor, video: Tensor) -> dict[str, float]:
    """Of decoding latents [B, z, n, h, w] with each level of noise: PSNR in dB, also of the mouth; border steps."""
    result, mouth = {}, (..., *MOUTH)
    for level in LEVELS:
        noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(1)) * level
        with torch.autocast("cpu", torch.bfloat16):
            decoded = vae.generate(vae.denormalise(latents + noise))[0][:, :, 3:].float().clamp(-1.0, 1.0)
        result[f"psnr_{level}"] = psnr(decoded, video)
        result[f"mouth_{level}"] = psnr(decoded[mouth], video[mouth])
        result[f"border_step_{level}"] = latent_step(decoded)
        result[f"sharpness_{level}"] = sharpness(decoded, video)
    return result


def tune_decoder(config: DecoderConfig) -> None:
    """Run the stage; the final VAE is written with every checkpoint."""
    torch.set_num_threads(config.threads)
    data, latents = Path(config.data), Path(config.latents)
    videos, held_out = (open_array("--data", data / name, "video") for name in ("train", "val"))
    z, held_out_z = (open_array("--latents", latents / name, "z") for name in ("train", "val"))
    held_out, held_out_z = to_video(held_out[:16]), torch.from_numpy(np.array(held_out_z[:16])).float().transpose(1, 2)
    vae = load_vae(config.vae)
    ours = ("dec_", "linear_out", "linear_before")
    trained = [value for name, value in vae.named_parameters() if name.startswith(ours)]
    optimizer = torch.optim.AdamW(trained, config.rate, betas=(0.9, 0.99), weight_decay=1e-4)
    run = Run("decoder", Path(config.out), config, vae, optimizer)
    run.measure = lambda: robustness(run.average, held_out_z, held_out)
    run.export = lambda: save_vae(run.average, str(Path(config.out) / "vae.safetensors"), torch.bfloat16)
    for rng in run:
        noisy, video, drop = random_windows(z, videos, config, rng)
        level = torch.rand(config.batch, 1, 1, 1, 1) * config.noise
        level = level * (torch.rand(level.shape) >= config.clean)
        noisy = noisy + level * torch.randn_like(noisy)
        with torch.autocast("cpu", torch.bfloat16):
            decoded = vae.generate(vae.denormalise(noisy))[0][:, :, drop:].float()
        run.update(picture_loss(decoded, video, drop, config.motion, config.border))
