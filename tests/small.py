"""A denoiser and an avatar small enough for tests, with random weights."""

import torch

from liveact_model.audio.mel import MelEncoder
from liveact_model.avatar import Avatar
from liveact_model.config import DiTConfig
from liveact_model.dit import DiT
from liveact_model.image.patches import PatchEncoder
from liveact_model.schedule import TIMESTEPS
from liveact_model.session import Session
from liveact_model.text.words import WordEncoder
from liveact_model.vae.tiny import TinyVAE

Z = 4
CONFIG = DiTConfig(
    dim=32, num_heads=2, num_layers=2, ffn_dim=48, in_dim=2 * Z + 4, out_dim=Z, freq_dim=16, text_dim=64, text_len=8,
    clip_dim=4 * Z + 16, clip_tokens=4, audio_blocks=1, audio_channels=128, audio_hidden=16, audio_tokens=2,
    audio_dim=8,
)  # fmt: skip
SIZE = (32, 32)


def dit(config: DiTConfig = CONFIG, seed: int = 0) -> DiT:
    """Random weights of ordinary size, frozen."""
    g = torch.Generator().manual_seed(seed)
    model = DiT(config)
    for name, p in model.named_parameters():
        scale = p.shape[-1] ** -0.5 if p.ndim > 1 else 0.1
        p.data = torch.randn(p.shape, generator=g) * scale
        if "norm" in name and name.endswith(("weight", "norm_q", "norm_k", "norm_k_img")):
            p.data += 1
        if ".taps" in name:
            p.data = p.data * 0.3 + 0.2
    return model.requires_grad_(False).eval()


def avatar(config: DiTConfig = CONFIG, seed: int = 0) -> Avatar:
    """A whole avatar of 32x32 pixels."""
    torch.manual_seed(seed)
    vae = TinyVAE(z_dim=Z, encoder_channels=(8, 8), decoder_channels=(8, 8)).requires_grad_(False).eval()
    encoders = (WordEncoder(), PatchEncoder(Z, 4, 4), MelEncoder())
    return Avatar("small", dit(config, seed), vae, *encoders, SIZE, 20.0, TIMESTEPS)


def speech(seconds: float, seed: int = 1) -> torch.Tensor:
    """Noise bursts at 16 kHz."""
    g = torch.Generator().manual_seed(seed)
    n = int(seconds * 16000)
    return torch.randn(n, generator=g) * (torch.sin(torch.arange(n) / 900) > 0) * 0.2


def picture(seed: int = 2) -> torch.Tensor:
    """[3, 32, 32] in [-1, 1]."""
    return torch.rand(3, SIZE[1], SIZE[0], generator=torch.Generator().manual_seed(seed)) * 2 - 1


LEVELS, MEAN_LEVELS = 2, 0.02
"""How far two float32 runs of a session may lie apart, in levels of 255: on a rounding boundary one is one apart."""

LATENTS = 2e-4
"""The same for latents, relative L2: float32 against float64 ops gives 2e-7, one key too few 4e-3."""


def session(avatar: Avatar, blocks: int, picture_: torch.Tensor | None = None, **options) -> Session:
    """A session that has heard enough for some blocks."""
    made = Session(avatar, picture() if picture_ is None else picture_, "happy", **options)
    made.push_audio(speech(2 * blocks))
    return made


def video(avatar: Avatar, blocks: int = 3, **options) -> torch.Tensor:
    """Video frames of the first blocks of a session, on the host."""
    made = session(avatar, blocks, **options)
    return torch.cat([made.next_block().cpu() for _ in range(blocks)])


def latents(avatar: Avatar, blocks: int = 4, **options) -> torch.Tensor:
    """Latents of the first blocks of a session, on the host: what the decoder's clamp would hide."""
    made = session(avatar, blocks, **options)
    return torch.cat([made.next_latents().cpu().flatten() for _ in range(blocks)])


def difference(a: torch.Tensor, b: torch.Tensor) -> tuple[float, float]:
    """(worst, mean) distance of two videos in levels."""
    apart = (a.float() - b.float()).abs()
    return apart.max().item(), apart.mean().item()


def relative(a: torch.Tensor, b: torch.Tensor) -> float:
    """||a - b|| / ||b||."""
    return ((a.double() - b.double()).norm() / b.double().norm()).item()
