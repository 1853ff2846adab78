"""A loaded model: the denoiser with its encoders and its VAE, behind interfaces that any of them can fill."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .config import MASK_CHANNELS, VIDEO_FRAMES_PER_LATENT, WINDOW_SLOTS
from .dit import DiT
from .errors import InputError
from .inputs import audio_samples, number, shown

LEAST_DETAIL = 1e-3  # of a picture of one colour, in which there is nothing to lose


class TextEncoder(Protocol):
    """Prompt -> rows [L, text_dim], 1 <= L <= text_len."""

    text_dim: int
    text_len: int

    def encode(self, prompt: str) -> Tensor:
        """Rows of one prompt."""


class Encoded:
    """Prompts that were encoded beforehand, in place of their encoder: rows on the host, float32, 8 MiB at the most."""

    def __init__(self, encoder: TextEncoder, prompts: Iterable[str]):
        self.text_dim, self.text_len = encoder.text_dim, encoder.text_len
        self._rows = {prompt: encoder.encode(prompt).to("cpu") for prompt in dict.fromkeys(prompts)}

    def encode(self, prompt: str) -> Tensor:
        """Rows of one of them. Raises InputError for any other."""
        if prompt not in self._rows:
            few = f"expected one of the {len(self._rows)} that were encoded before the text encoder was freed"
            raise InputError(f"prompt: {few}, got {shown(prompt)}")
        return self._rows[prompt]


class ImageEncoder(Protocol):
    """Image [3, H, W] in [-1, 1] and its first conditioning latent frame [z, h, w] -> rows [I, clip_dim]."""

    clip_dim: int

    def encode(self, image: Tensor, latent: Tensor) -> Tensor:
        """Rows of one image."""


class AudioStream(Protocol):
    """Audio of one Session, pushed as it comes and forgotten as it is used; indices are video frames from 0."""

    @property
    def ready(self) -> int:
        """Number of video frames whose embedding is final."""

    @property
    def total(self) -> int | None:
        """Number of video frames of the whole audio; None until `close`."""

    def push(self, samples: Tensor) -> None:
        """Append mono samples [n]."""

    def close(self) -> None:
        """No more audio."""

    def embeddings(self, start: int, stop: int) -> Tensor:
        """Rows of video frames start .. stop-1, [n, blocks, channels]."""

    def forget(self, before: int) -> None:
        """Free what only earlier video frames need."""


class AudioEncoder(Protocol):
    """Mono float32 at sample_rate -> embeddings [blocks, channels] per video frame.

    An encoder that normalises by statistics of the whole audio also has `measure(pieces, fps)` and `measured`, the type
    of what that returns, and takes such a value as a second argument of `stream`; see `Avatar.measure_audio`.
    """

    blocks: int
    channels: int
    sample_rate: int

    def stream(self, fps: float) -> AudioStream:
        """A stream of its own for one Session."""


class VideoDecoder(Protocol):
    """Latents [z, n, h, w] -> video frames [3, m, H, W] in [-1, 1]; keeps what the next call needs."""

    def decode(self, latents: Tensor) -> Tensor:
        """The next video frames."""


class VideoVAE(Protocol):
    """Causal video autoencoder: 1 + 4k video frames <-> 1 + k latent frames, 8x smaller in height and width."""

    z_dim: int

    def encode(self, video: Tensor) -> Tensor:
        """Video [3, 1+4k, H, W] in [-1, 1] -> normalised latents [z, 1+k, H/8, W/8]."""

    def stream(self) -> VideoDecoder:
        """A decoder of its own for one Session."""


@dataclass
class Avatar:
    """Everything a Session needs. `timesteps` are the network inputs of the denoise steps.

    `most_lost` is the largest `lost_detail` of a picture that the model knows; None where it takes any.
    """

    name: str
    dit: DiT
    vae: VideoVAE
    text: TextEncoder
    image: ImageEncoder
    audio: AudioEncoder
    default_size: tuple[int, int]
    default_fps: float
    timesteps: tuple[float, ...]
    most_lost: float | None = None

    def anchor(self) -> Tensor:
        """A tensor that lives where the model lives: new tensors follow its device."""
        return self.dit.head.modulation

    def to(self, device: torch.device | str, text_stays: bool = False) -> Avatar:
        """Move every part that has weights, in place; data that a Session is given follows them when it is used.

        text_stays  all but the text encoder, whose rows a Session moves
        """
        for part in (self.dit, self.vae, self.image, self.audio, *([] if text_stays else [self.text])):
            if isinstance(part, nn.Module):
                part.to(device)
        return self

    def measure_audio(self, pieces: Iterable[Tensor], fps: float) -> Any | None:
        """What `Session(audio_levels=...)` takes for a recording that exists: its statistics, in one cheap pass.

        pieces  mono samples [n] at 16 kHz in real time, as `Session.push_audio` takes them, in order, of any sizes
        fps     of the Session
        None (and nothing is read) where the audio encoder needs no statistics. A live stream has none to give: its
        levels run along with it, so the same speech sounds slightly different to the network at its start.
        Raises InputError as `push_audio`.
        """
        measure = getattr(self.audio, "measure", None)
        return None if measure is None else measure(map(audio_samples, pieces), number(fps, "fps", 1, 60))


def conditioning(vae: VideoVAE, image: Tensor, slots: int = WINDOW_SLOTS) -> Tensor:
    """Image [3, H, W] in [-1, 1] -> y [4 + z, slots, h, w]: mask and image latents of a whole window.

    The image is the first of 53 video frames, the others are mid grey; the mask is 1 at latent frame 0 alone. The
    first block uses y[:, :6], every later one y[:, 6:].  Source: the released image-to-video conditioning.
    """
    video_frames = (slots - 1) * VIDEO_FRAMES_PER_LATENT + 1
    video = image.new_zeros(3, video_frames, *image.shape[1:])
    video[:, 0] = image
    latent = vae.encode(video)
    mask = latent.new_zeros(MASK_CHANNELS, *latent.shape[1:])
    mask[:, 0] = 1
    return torch.cat((mask, latent))


@torch.no_grad()
def lost_detail(vae: VideoVAE, image: Tensor) -> float:
    """The share of a picture's detail that the VAE does not give back: 0 all of it comes back, 1 and above none.

    image [3, H, W] in [-1, 1]. Detail is what differs from the mean of the 5x5 pixels around, as a root mean square
    over the picture; colours and slow gradients come back from any VAE and say nothing.
    """
    back = vae.stream().decode(vae.encode(image[:, None]))[:, 0].to(image)
    wanted, got = (x - F.avg_pool2d(x[None], 5, 1, 2, count_include_pad=False)[0] for x in (image, back))
    return ((got - wanted).square().mean().sqrt() / wanted.square().mean().sqrt().clamp_min(LEAST_DETAIL)).item()
