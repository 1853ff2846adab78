"""Train the tiny VAE: principal components first, then everything by gradient descent."""

import json
import random
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from liveact_model.errors import InputError
from liveact_model.vae.tiny import PACKED, TinyVAE
from liveact_train.data.clips import open_array
from liveact_train.runs import Run, write_whole

MOUTH = (slice(36, 54), slice(20, 44))  # rows and columns of the 64x64 picture that hold the mouth
EYES = (slice(18, 36), slice(14, 50))


@dataclass(frozen=True)
class VaeConfig:
    """Train encoder and decoder together; the same command continues a run that was cut off."""

    data: str = "data/tiny"  # folder written by the data stage
    out: str = "data/tiny/vae"  # folder of the run; vae.safetensors and .json in it are the averaged weights
    steps: int = 9000
    rate: float = 1.5e-3  # peak learning rate
    batch: int = 5  # crops per step
    frames: int = 13  # video frames per crop
    z_dim: int = 32  # channels of a latent frame
    kl: float = 1e-4  # weight of the divergence from a unit Gaussian
    start: str = ""  # weights to begin from, instead of principal components
    motion: float = 20.0  # weight of the squared error of the change from one video frame to the next
    border: float = 6.0  # weight of its absolute error where a latent frame begins
    seed: int = 0
    threads: int = 1


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
    torch.manual_seed(config.seed)
    vae = TinyVAE(config.z_dim, overlap=True)
    step = max(1, len(videos) // 150)
    sample = np.concatenate([videos[::step, start : start + 9] for start in (0, 20, 44, 70, 100)])
    principal_components(vae, to_video(sample))
    return vae.to(memory_format=torch.channels_last)


def picture_loss(decoded: Tensor, video: Tensor, drop: int, motion: float, border: float) -> Tensor:
    """Error of decoded video frames [B, 3, F, 64, 64] and of their changes; mouth and eyes count more.

    drop: how many of the first latent frame's four are not among them, which tells where borders are. An error that
    stays is seen less than one that comes and goes with every latent frame: that is the second term. Its square is what
    lets things move within a latent frame (the absolute error there is least for what stands still and jumps); the
    absolute error, which minds many small steps, is for the borders.
    """
    weight, error = face_weight(), decoded - video
    change = error[:, :, 1:] - error[:, :, :-1]
    at = ((torch.arange(change.shape[2]) + drop) % 4 == 3)[:, None, None]
    size = error.abs() + 2.0 * error.square()
    return (size * weight).mean() + ((motion * change.square() + border * at * change.abs()) * weight).mean()


def latent_step(video: Tensor) -> float:
    """Mean change of video [B, 3, 1 + 4k, H, W] where a latent frame begins, over that within one: 1 has no pulse."""
    change = (video[:, :, 1:] - video[:, :, :-1]).abs().mean((0, 1, 3, 4))[1:]  # the first frame is no ordinary one
    border = torch.arange(len(change)) % 4 == 3
    return (change[border].mean() / change[~border].mean()).item()


def sharpness(video: Tensor, truth: Tensor) -> float:
    """Mean difference of neighbouring pixels of video [..., H, W] over that of the truth."""

    def edges(x: Tensor) -> Tensor:
        return (x[..., 1:] - x[..., :-1]).abs().mean() + (x[..., 1:, :] - x[..., :-1, :]).abs().mean()

    return (edges(video) / edges(truth)).item()


@torch.no_grad()
def reconstruction(vae: TinyVAE, video: Tensor) -> dict[str, float]:
    """Encode-decode of video [B, 3, F, H, W]: PSNR in dB of the picture and of the mouth, border step, sharpness."""
    with torch.autocast("cpu", torch.bfloat16):
        mean, _ = vae.posterior(video)
        decoded = vae.generate(mean)[0][:, :, 3:].float().clamp(-1.0, 1.0)
    mouth = (..., *MOUTH)
    return {
        "psnr": psnr(decoded, video), "mouth": psnr(decoded[mouth], video[mouth]),
        "border_step": latent_step(decoded), "sharpness": sharpness(decoded, video),
    }  # fmt: skip


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
    """Run the stage: fit, train, and with every checkpoint write the averaged weights and the latents' mean and std."""
    torch.set_num_threads(config.threads)
    videos = open_array("--data", Path(config.data) / "train", "video")
    held_out = to_video(open_array("--data", Path(config.data) / "val", "video")[:16])
    vae = load_vae(config.start, train=True) if config.start else new_vae(config, videos)
    size = sum(parameter.numel() for parameter in vae.parameters())
    print(f"vae has {size} parameters; before the first step {reconstruction(vae, held_out)}", flush=True)
    optimizer = torch.optim.AdamW(vae.parameters(), config.rate, betas=(0.9, 0.99), weight_decay=1e-4)
    run = Run("vae", Path(config.out), config, vae, optimizer)
    run.measure = lambda: reconstruction(run.average, held_out)
    run.export = lambda: _export(run.average, videos, Path(config.out))
    for rng in run:
        video = random_crops(videos, config.batch, config.frames, rng)
        with torch.autocast("cpu", torch.bfloat16):
            mean, log_var = vae.posterior(video)
            decoded = vae.generate(mean + torch.randn_like(mean) * (0.5 * log_var).exp())[0][:, :, 3:].float()
        divergence = (mean.square() + log_var.exp() - 1.0 - log_var).mean()
        run.update(picture_loss(decoded, video, 3, config.motion, config.border) + config.kl * divergence)


def _export(vae: TinyVAE, videos: np.ndarray, folder: Path) -> None:
    measure_latents(vae, videos)
    save_vae(vae, str(folder / "vae.safetensors"))


@torch.no_grad()
def measure_latents(vae: TinyVAE, videos: np.ndarray, clips: int = 48) -> None:
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
    state |= {name: value.float().clone() for name, value in vae.named_buffers()}
    write_whole(target, lambda part: save_file(state, part))
    target.with_suffix(".json").write_text(json.dumps(vae.options, indent=1) + "\n")


def load_vae(path: str, train: bool = False) -> TinyVAE:
    """Read what `save_vae` wrote, in float32; to go on training it, or to use it."""
    target = Path(path)
    try:
        vae = TinyVAE(**json.loads(target.with_suffix(".json").read_text()))
        state = {name: value.float() for name, value in load_file(target).items()}
    except (OSError, ValueError, SafetensorError) as error:
        raise InputError(f"--vae: expected {path} and its .json to be a VAE's weights, found {error}") from None
    vae.load_state_dict(state)
    return vae.train(train).to(memory_format=torch.channels_last)
