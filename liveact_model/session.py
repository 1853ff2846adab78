"""A running avatar: push audio, set prompts, take blocks of video frames. Memory stays flat however long it runs."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from liveact_kernels import ops
from liveact_kernels.dispatch import scope

from .attention import KeysValues
from .audio.windows import latent_rows
from .avatar import Avatar, conditioning
from .cache import Window
from .config import (
    BLOCK_LATENT_FRAMES,
    BLOCK_VIDEO_FRAMES,
    FIRST_BLOCK_LATENT_FRAMES,
    FIRST_BLOCK_VIDEO_FRAMES,
    PATCH,
)
from .errors import InputError
from .schedule import SAMPLERS, blocks_for, coefficients, noise, sigmas

LOOK_AHEAD_VIDEO_FRAMES = 2  # audio embeddings past its last video frame that a block reads


class Session:
    """One avatar speaking.

    avatar      a loaded model
    image       [3, H, W] in [-1, 1]; H and W multiples of 16 set the video's size
    prompt      text; may change at any block
    fps         video frames per second; audio is 16 kHz mono in real time whatever it is
    seed        noise depends on (seed, block, step) alone
    sampler     "renoise" (released) or "euler"
    audio_cfg   > 1 strengthens the audio at denoise steps 1 and 2, for two more forwards per block and as much memory
    eight_bit_memory  store memory slots as int8 keys and e4m3 values: half the bytes of bf16
    audio_levels  `avatar.measure_audio(recording, fps)` where all the audio exists beforehand, else None

    Raises InputError for an unusable size, fps, sampler or guidance.
    """

    def __init__(
        self, avatar: Avatar, image: Tensor, prompt: str, *, fps: float | None = None, seed: int = 42,
        sampler: str = "renoise", audio_cfg: float = 1.0, eight_bit_memory: bool = False,
        audio_levels: Any | None = None,
    ):  # fmt: skip
        fps = avatar.default_fps if fps is None else fps
        _check(image, fps, sampler, audio_cfg)
        self.avatar, self.seed, self.sampler, self.audio_cfg = avatar, seed, sampler, audio_cfg
        self.fps, self.blocks_made = fps, 0
        self._audio = avatar.audio.stream(fps, *(() if audio_levels is None else (audio_levels,)))
        self._start(image, prompt, eight_bit_memory)

    @scope("session.start")
    @torch.no_grad()
    def _start(self, image: Tensor, prompt: str, eight_bit_memory: bool) -> None:
        dit, anchor = self.avatar.dit, self.avatar.anchor()
        image = image.to(anchor.device)
        y = conditioning(self.avatar.vae, image)
        self._y = y.to(dit.dtype)
        self._times = [dit.at(t) for t in self.avatar.timesteps]
        rows = self.avatar.image.encode(image, y[-self.avatar.vae.z_dim :, 0])
        self._prompt_text = prompt
        self._prompt = dit.prompt(self._encode(prompt), dit.image_kv(rows))
        self._decoder = self.avatar.vae.stream()
        grid = (y.shape[-2] // PATCH, y.shape[-1] // PATCH)

        def windows() -> list[Window]:
            return [dit.window(*grid, eight_bit=eight_bit_memory) for _ in self._times]

        self._windows = windows()
        self._null_windows = windows() if self.audio_cfg > 1 else None

    def _encode(self, prompt: str) -> Tensor:
        return self.avatar.text.encode(prompt).to(self.avatar.anchor().device)

    # ---- inputs ---------------------------------------------------------------------------------------------------

    def push_audio(self, samples: Tensor) -> None:
        """Append mono float32 samples [n] at 16 kHz, in any chunks. Raises InputError if they are not finite."""
        if samples.ndim != 1 or not torch.isfinite(samples).all():
            raise InputError(f"audio: expected finite mono samples [n], got shape {tuple(samples.shape)}")
        self._audio.push(samples)

    def close_audio(self) -> None:
        """No more audio will come: the last embedding repeats to the end of the last block."""
        self._audio.close()

    @torch.no_grad()
    def set_prompt(self, prompt: str) -> None:
        """Use another prompt from the next block on; memory is kept."""
        if prompt != self._prompt_text:
            self._prompt = self.avatar.dit.prompt(self._encode(prompt), self._prompt.image)
            self._prompt_text = prompt

    # ---- progress ---------------------------------------------------------------------------------------------------

    @property
    def video_frames_made(self) -> int:
        """Video frames returned so far."""
        later = BLOCK_VIDEO_FRAMES * (self.blocks_made - 1)
        return 0 if self.blocks_made == 0 else FIRST_BLOCK_VIDEO_FRAMES + later

    @property
    def done(self) -> bool:
        """Whether the audio is closed and every bit of it has its video frames."""
        total = self._audio.total
        return total is not None and self.blocks_made >= blocks_for(total)

    def ready(self) -> bool:
        """Whether enough audio is there for the next block (its video frames and two more), or it is closed."""
        block = BLOCK_VIDEO_FRAMES if self.blocks_made else FIRST_BLOCK_VIDEO_FRAMES
        need = self.video_frames_made + block + LOOK_AHEAD_VIDEO_FRAMES
        return self._audio.total is not None or self._audio.ready >= need

    def memory_bytes(self) -> int:
        """Bytes of the memory windows: constant from the first block on."""
        return sum(w.nbytes() for w in [*self._windows, *(self._null_windows or [])])

    # ---- generation -------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def next_latents(self) -> Tensor:
        """Denoise the next block: [z, 6 or 8, h, w] in the activation dtype. Raises RuntimeError without audio."""
        if not self.ready():
            raise RuntimeError(f"block {self.blocks_made} needs more audio: push it, or close_audio()")
        dit, block, first = self.avatar.dit, self.blocks_made, self.blocks_made == 0
        y = self._y[:, :FIRST_BLOCK_LATENT_FRAMES] if first else self._y[:, FIRST_BLOCK_LATENT_FRAMES:]
        z = self.avatar.vae.z_dim
        shape = (z, *y.shape[1:])
        levels = sigmas(self.avatar.timesteps)
        heard, rows = self._hear(first)
        null = None if self._null_windows is None else dit.hear(torch.zeros_like(rows))
        latent = self._noise(shape, block, 0)
        for step, time in enumerate(self._times):
            with scope(f"step[{step}]"):
                audio = heard if step > 0 else None  # the released schedule hears nothing at the first step
                tokens = dit(latent, y, time, self._prompt, audio, self._windows[step], first)
                if null is not None and step > 0:
                    without = dit(latent, y, time, self._prompt, null, self._null_windows[step], first)
                    tokens = without + self.audio_cfg * (tokens - without)
                c = coefficients(self.sampler, levels[step], levels[step + 1])
                eps = self._noise(shape, block, step + 1) if c.c_noise else None
                latent = ops.denoise_update(tokens=tokens, latent=latent, noise=eps, **c._asdict())
        self.blocks_made += 1
        return latent

    def next_block(self) -> Tensor:
        """The next block's video frames: uint8 [21 or 32, H, W, 3] where the model lives."""
        with scope("session"), scope(f"block[{self.blocks_made}]"), torch.no_grad():
            latents = self.next_latents()
            with scope("vae"):
                frames = self._decoder.decode(latents)
            with scope("uint8"):
                return ((frames.float() + 1) * 127.5).round_().clamp_(0, 255).byte().permute(1, 2, 3, 0).contiguous()

    def _noise(self, shape: tuple[int, ...], block: int, step: int) -> Tensor:
        return noise(shape, self.seed, block, step).to(self._y)

    def _hear(self, first: bool) -> tuple[list[KeysValues], Tensor]:
        """Keys and values of this block's audio, and its rows; the very first latent frame of a video has none."""
        start = 1 if first else FIRST_BLOCK_LATENT_FRAMES + BLOCK_LATENT_FRAMES * (self.blocks_made - 1)
        count = FIRST_BLOCK_LATENT_FRAMES - 1 if first else BLOCK_LATENT_FRAMES
        total = self._audio.total
        rows = latent_rows(self._audio.embeddings, start, count, total)[1].to(self._y)
        next_read = 4 * (start + count) - 5
        self._audio.forget(next_read if total is None else min(next_read, total - 1))
        return self.avatar.dit.hear(rows), rows


def _check(image: Tensor, fps: float, sampler: str, audio_cfg: float) -> None:
    if image.ndim != 3 or image.shape[0] != 3 or any(n % 16 or n < 16 for n in image.shape[1:]):
        raise InputError(f"image: expected [3, H, W] with H and W multiples of 16, got {tuple(image.shape)}")
    if not 1 <= fps <= 60:
        raise InputError(f"fps: expected 1 to 60, got {fps}")
    if sampler not in SAMPLERS:
        raise InputError(f"sampler: expected one of {', '.join(SAMPLERS)}, got {sampler!r}")
    if not 1 <= audio_cfg <= 10:
        raise InputError(f"audio_cfg: expected 1 to 10, got {audio_cfg}")
