"""Encode all clips once, so that the diffusion model and the decoder train on latents.

With `--model`, a directory in the released layout, its own encoders and VAE do it, see `encoders`.

A folder of latents holds z.npy [N, 30, z, 8, 8] float16 (the clip), y.npy [N, 3, z, 8, 8] float16 (the conditioning:
the reference picture followed by grey video frames, whose latents are all the same from the third on), reference.npy
[N, 3, 64, 64] uint8 (video frame 0), and the mel, attributes, prompt_ids and prompts files of the clips, unchanged
(recorded clips have no attributes and prompt_ids).
Latent frames come first and channels second.
"""

import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from liveact_model.vae.tiny import TinyVAE
from liveact_train.data.clips import open_array
from liveact_train.encoders import encode_released
from liveact_train.vae import load_vae, to_video


@dataclass(frozen=True)
class LatentConfig:
    """Encode the clips with a trained VAE."""

    data: str = "data/tiny"  # folder written by the data stage
    vae: str = "data/tiny/vae/vae.safetensors"  # weights written by the vae stage
    model: str = ""  # a directory with Wan's VAE, umT5 and CLIP: they encode, and not --vae and what is built in
    wav2vec_dir: str = ""  # folder of wav2vec2, where it is not chinese-wav2vec2-base in --model
    device: str = "cpu"  # or that of a GPU, cuda: where --model computes
    out: str = "data/tiny/latents"  # folder to write; gets the sub-folders train and val
    batch: int = 8  # clips per step
    threads: int = 1


@torch.no_grad()
def encode_batch(vae: TinyVAE, video: Tensor) -> Tensor:
    """Video [B, 3, F, H, W] -> normalised latents [B, 1 + k, z, h, w]."""
    return vae.normalise(vae.posterior(video)[0]).transpose(1, 2)


def encode_conditions(vae: TinyVAE, pictures: Tensor) -> Tensor:
    """Pictures [B, 3, H, W] -> latents [B, 3, z, h, w] of each picture followed by grey (0.0) video frames.

    A latent frame sees itself and the one before, so the third is that of grey after grey, like all that would follow.
    """
    grey = torch.zeros(*pictures.shape[:2], 2 * vae.temporal, *pictures.shape[2:])
    return encode_batch(vae, torch.cat([pictures[:, :, None], grey], 2))


def encode_folder(vae: TinyVAE, source: Path, target: Path, batch: int) -> None:
    """Encode one folder of clips."""
    videos = open_array("--data", source, "video")
    target.mkdir(parents=True, exist_ok=True)
    drawn = [name for name in ("attributes.npy", "prompt_ids.npy") if (source / name).exists()]
    for name in ("mel.npy", "prompts.json", *drawn):
        shutil.copyfile(source / name, target / name)
    np.save(target / "reference.npy", videos[:, 0])
    z, y = [], []
    for start in range(0, len(videos), batch):
        video = to_video(videos[start : start + batch])
        z.append(encode_batch(vae, video).half().numpy())
        y.append(encode_conditions(vae, video[:, :, 0]).half().numpy())
        if start // batch % 50 == 0:
            print(f"latents {source.name}: {start} of {len(videos)} clips", flush=True)
    np.save(target / "z.npy", np.concatenate(z))
    np.save(target / "y.npy", np.concatenate(y))


def encode_clips(config: LatentConfig) -> None:
    """Run the stage over both sets."""
    torch.set_num_threads(config.threads)
    if config.model:
        encode_released(config.model, config.wav2vec_dir, Path(config.data), Path(config.out), config.device)
        return
    vae = load_vae(config.vae)
    for name in ("val", "train"):
        encode_folder(vae, Path(config.data) / name, Path(config.out) / name, config.batch)
