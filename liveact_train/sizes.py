"""The denoisers that can be trained, by name, and the sizes of their clips."""

from __future__ import annotations

from liveact_model.config import MASK_CHANNELS, NAMED, DiTConfig
from liveact_train.vae import VaeConfig


def tiny(z_dim: int, **window) -> DiTConfig:
    """The shipped size for latents of z_dim channels: 16 tokens per latent frame of 64x64 pixels; 5 million weights."""
    defaults = {"grouping": "temporal", "separate_v_taps": True}
    return DiTConfig(
        dim=192, num_heads=3, num_layers=6, ffn_dim=640, in_dim=2 * z_dim + MASK_CHANNELS, out_dim=z_dim, freq_dim=128,
        text_dim=64, text_len=8, clip_dim=4 * z_dim + 16, clip_tokens=16, audio_blocks=1, audio_channels=128,
        audio_hidden=192, audio_tokens=8, audio_dim=96, rope_theta=64.0, **(defaults | window),
    )  # fmt: skip


MODELS = {"tiny": tiny(VaeConfig.z_dim), **NAMED}
SIZES = {"tiny": (64, 64), "liveact-18b": (512, 512)}
"""Pixels (W, H) where nothing says otherwise."""
LATENT_FRAMES = 30
"""Of a clip: 117 video frames."""
