"""A running avatar: push audio, set prompts, take blocks of video frames. Memory stays flat however long it runs."""

from __future__ import annotations

import itertools
from typing import Any

import torch
from torch import Tensor

from liveact_kernels.dispatch import scope
from liveact_kernels.graphs import Graphs, compilations, supported

from .audio.windows import latent_rows
from .avatar import Avatar, conditioning
from .cache import Window
from .config import PATCH
from .errors import InputError
from .schedule import SAMPLERS, blocks_for, coefficients, noise, sigmas
from .steps import Steps, capture

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
    graphs        capture the denoise steps at the start and replay them: nothing compiles while the avatar runs and
                  launches cost nothing. None: wherever the device can; False: kernel by kernel, for profilers

    Raises InputError for an unusable size, fps, sampler or guidance.
    """

    def __init__(
        self, avatar: Avatar, image: Tensor, prompt: str, *, fps: float | None = None, seed: int = 42,
        sampler: str = "renoise", audio_cfg: float = 1.0, eight_bit_memory: bool = False,
        audio_levels: Any | None = None, graphs: bool | None = None,
    ):  # fmt: skip
        fps = avatar.default_fps if fps is None else fps
        _check(image, fps, sampler, audio_cfg)
        self.avatar, self.seed, self.sampler, self.audio_cfg = avatar, seed, sampler, audio_cfg
        self.fps, self.blocks_made = fps, 0
        self._audio = avatar.audio.stream(fps, *(() if audio_levels is None else (audio_levels,)))
        self._graphs: Graphs | None = None
        self._compiled = 0
        self._start(image, prompt, eight_bit_memory)
        device = avatar.anchor().device
        if supported(device) if graphs is None else graphs:
            if not supported(device):
                raise InputError(f"graphs: expected a device that captures calls, got {device.type}")
            self.capture()

    @torch.no_grad()
    def _start(self, image: Tensor, prompt: str, eight_bit_memory: bool) -> None:
        dit, anchor = self.avatar.dit, self.avatar.anchor()
        image = image.to(anchor.device)
        y = conditioning(self.avatar.vae, image, dit.config.window_slots)
        y = y.to(dit.dtype)
        times = [dit.at(t) for t in self.avatar.timesteps]
        rows = self.avatar.image.encode(image, y[-self.avatar.vae.z_dim :, 0])
        self._prompt_text = prompt
        self._prompt = dit.prompt(self._encode(prompt), dit.image_kv(rows))
        self._decoder = self.avatar.vae.stream()
        grid = (y.shape[-2] // PATCH, y.shape[-1] // PATCH)

        def windows() -> list[Window]:
            return [dit.window(*grid, eight_bit=eight_bit_memory) for _ in times]

        self._windows = windows()
        null = windows() if self.audio_cfg > 1 else None
        self._all_windows = [*self._windows, *(null or [])]
        levels = sigmas(self.avatar.timesteps)
        updates = [coefficients(self.sampler, a, b) for a, b in itertools.pairwise(levels)]

        def steps(y: Tensor, first: bool) -> Steps:
            hearing = y.shape[1] - first  # the very first latent frame of a video has no audio of its own
            shared = (self._windows, self._prompt, first, hearing, null, self.audio_cfg)
            return Steps(dit, y.contiguous(), times, updates, *shared)

        n = dit.config.memory_slots
        self._first, self._later = steps(y[:, :n], True), steps(y[:, n:], False)

    @torch.no_grad()
    def capture(self) -> None:
        """Capture the denoise steps; before the first block only. Raises RuntimeError later, or from the device."""
        if self.blocks_made:
            raise RuntimeError("capture: the Session has already made a block")
        self.avatar.dit.warm_prompts(self._prompt, self._later.tokens)
        self._graphs = capture(self._first, self._later, self._all_windows)
        self._compiled = compilations()

    def captured(self) -> int:
        """Graphs that this Session replays; 0 where it runs kernel by kernel."""
        return 0 if self._graphs is None else self._graphs.captured

    def live_compilations(self) -> int:
        """Kernels compiled since the capture: 0, or something was late."""
        return 0 if self._graphs is None else compilations() - self._compiled

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
            same_shapes = self._prompt.take(self.avatar.dit.prompt(self._encode(prompt), self._prompt.image))
            if self._graphs is not None and not same_shapes:
                self._later.capture(self._graphs) if self.blocks_made else self.capture()
            self._prompt_text = prompt

    # ---- progress ---------------------------------------------------------------------------------------------------

    @property
    def video_frames_made(self) -> int:
        """Video frames returned so far."""
        c = self.avatar.dit.config
        later = c.block_video_frames * (self.blocks_made - 1)
        return 0 if self.blocks_made == 0 else c.first_block_video_frames + later

    @property
    def done(self) -> bool:
        """Whether the audio is closed and every bit of it has its video frames."""
        total, c = self._audio.total, self.avatar.dit.config
        blocks = (c.first_block_video_frames, c.block_video_frames)
        return total is not None and self.blocks_made >= blocks_for(total, *blocks)

    def ready(self) -> bool:
        """Whether enough audio is there for the next block (its video frames and two more), or it is closed."""
        c = self.avatar.dit.config
        block = c.block_video_frames if self.blocks_made else c.first_block_video_frames
        need = self.video_frames_made + block + LOOK_AHEAD_VIDEO_FRAMES
        return self._audio.total is not None or self._audio.ready >= need

    def memory_bytes(self) -> int:
        """Bytes of the memory windows: constant from the first block on."""
        return sum(w.nbytes() for w in self._all_windows)

    # ---- generation -------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def next_latents(self) -> Tensor:
        """Denoise the next block: [z, 6 or 8, h, w] in the activation dtype. Raises RuntimeError without audio."""
        if not self.ready():
            raise RuntimeError(f"block {self.blocks_made} needs more audio: push it, or close_audio()")
        block, first = self.blocks_made, self.blocks_made == 0
        steps = self._first if first else self._later
        shape = tuple(steps.latent.shape)
        latent = steps.run(self._hear(first), lambda step: noise(shape, self.seed, block, step))
        self.blocks_made += 1
        return latent

    def next_block(self) -> Tensor:
        """The next block's video frames: uint8 [21 or 32, H, W, 3] where the model lives."""
        with scope(f"block[{self.blocks_made}]"):
            latents = self.next_latents()
            with scope("vae"), torch.no_grad():
                frames = self._decoder.decode(latents)
                return ((frames.float() + 1) * 127.5).round_().clamp_(0, 255).byte().permute(1, 2, 3, 0).contiguous()

    def _hear(self, first: bool) -> Tensor:
        """Audio rows of this block; the very first latent frame of a video has none."""
        c = self.avatar.dit.config
        start = 1 if first else c.memory_slots + c.block_latent_frames * (self.blocks_made - 1)
        count = c.memory_slots - 1 if first else c.block_latent_frames
        total = self._audio.total
        rows = latent_rows(self._audio.embeddings, start, count, total)[1]
        next_read = 4 * (start + count) - 5
        self._audio.forget(next_read if total is None else min(next_read, total - 1))
        return rows


def _check(image: Tensor, fps: float, sampler: str, audio_cfg: float) -> None:
    if image.ndim != 3 or image.shape[0] != 3 or any(n % 16 or n < 16 for n in image.shape[1:]):
        raise InputError(f"image: expected [3, H, W] with H and W multiples of 16, got {tuple(image.shape)}")
    if not 1 <= fps <= 60:
        raise InputError(f"fps: expected 1 to 60, got {fps}")
    if sampler not in SAMPLERS:
        raise InputError(f"sampler: expected one of {', '.join(SAMPLERS)}, got {sampler!r}")
    if not 1 <= audio_cfg <= 10:
        raise InputError(f"audio_cfg: expected 1 to 10, got {audio_cfg}")
