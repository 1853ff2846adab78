"""A running avatar: push audio, set prompts, take blocks of video frames. Memory stays flat however long it runs."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from liveact_kernels.contract import scope
from liveact_kernels.graphs import Graphs, compilations, supported

from .audio.windows import latent_rows
from .avatar import Avatar, VideoDecoder, conditioning
from .config import BLOCK_LATENT_FRAMES, PATCH
from .dit import Memories, Window
from .errors import InputError
from .inputs import audio_samples, number, picture, prompt_text, shown, switch, whole
from .parallel import ALONE, SeqParallel
from .schedule import SAMPLERS, blocks_for, coefficients, noise, sigmas
from .steps import Steps, capture

if TYPE_CHECKING:
    import numpy as np

LOOK_AHEAD_VIDEO_FRAMES = 2  # audio embeddings past its last video frame that a block reads
BLOCK, PROMPT, CLOSE = "block", "prompt", "close"  # what the leading process of a group tells the others to do


class Session:
    """One avatar speaking.

    avatar      a loaded model
    image       [3, H, W], float in [-1, 1] (inputs.PICTURE_PEAK is the margin), tensor or NumPy array; H and W
                  multiples of 16 set the video's size
    prompt      text; may change at any block
    fps         video frames per second; audio is 16 kHz mono in real time whatever it is
    seed        noise depends on (seed, block, step) alone; sums depend on torch's number of threads, a little
    sampler     "renoise" (released) or "euler"
    audio_cfg   > 1 strengthens the audio at denoise steps 1 and 2, for two more forwards per block and as much memory
    eight_bit_memory  store memory slots as int8 keys and e4m3 values: half the bytes of bf16
    eight_bit_attention  from the second block on, multiply such codes at the 8-bit rate of the tensor cores; implies
                  eight_bit_memory
    decode_latent_frames  latent frames that the VAE decodes at a time, 1 to 8: with fewer its working memory is smaller
                  and its launches are more; the video is the same
    audio_levels  `avatar.measure_audio(recording, fps)` where all the audio exists beforehand, else None
    memory_offload  memory slots live on the host and visit the device layer by layer, one ahead of the computing
    graphs        capture the denoise steps at the start and replay them: nothing compiles while the avatar runs and
                  launches cost nothing. None: wherever the device can and nothing is offloaded; False: kernel by
                  kernel, for profilers
    parallel      the processes that share the work. Only the leading one is given an image, prompts and audio, and
                  returns video frames; the others give None and "", the same options otherwise, and call `follow`

    Raises InputError for an argument that cannot be used, naming it and what came. What is asked for at the wrong
    moment (a block without audio, past the end or after `close`) is a RuntimeError that says so.
    """

    def __init__(
        self, avatar: Avatar, image: Tensor | None, prompt: str, *, fps: float | None = None, seed: int = 42,
        sampler: str = "renoise", audio_cfg: float = 1.0, eight_bit_memory: bool = False,
        eight_bit_attention: bool = False, decode_latent_frames: int = BLOCK_LATENT_FRAMES,
        audio_levels: Any | None = None, memory_offload: bool = False, graphs: bool | None = None,
        parallel: SeqParallel = ALONE,
    ):  # fmt: skip
        if not isinstance(avatar, Avatar):
            raise InputError(f"avatar: expected a model as load_avatar returns it, got {shown(avatar)}")
        if sampler not in SAMPLERS:
            raise InputError(f"sampler: expected one of {', '.join(SAMPLERS)}, got {shown(sampler)}")
        self.avatar, self.parallel, self.sampler, self.seed = avatar, parallel, sampler, whole(seed, "seed")
        self.fps = number(avatar.default_fps if fps is None else fps, "fps", 1, 60)
        self.audio_cfg = number(audio_cfg, "audio_cfg", 1, 10)
        eight_bit_memory = switch(eight_bit_memory, "eight_bit_memory")
        eight_bit_attention = switch(eight_bit_attention, "eight_bit_attention")
        self.decode_latent_frames = whole(decode_latent_frames, "decode_latent_frames", 1, BLOCK_LATENT_FRAMES)
        self.blocks_made, self._closed = 0, False
        prompt = prompt_text(prompt)
        if parallel.leads:
            image = picture(image)
            self._audio = self._listen(audio_levels)
        self._graphs: Graphs | None = None
        self._compiled = 0
        if eight_bit_attention and not parallel.whole_memory:
            raise InputError("eight_bit_attention: expected a process that keeps every head's memory, not ulysses")
        bits = {"eight_bit": eight_bit_memory or eight_bit_attention, "eight_bit_attention": eight_bit_attention}
        self._memories: Memories | None = None
        memory_offload, device = switch(memory_offload, "memory_offload"), avatar.anchor().device
        self._offloads = memory_offload or avatar.dit.streamed is not None
        if graphs and self._offloads:
            raise InputError("graphs: expected None or False where weights or memory are offloaded, got True")
        self._start(image, prompt, bits, memory_offload)
        if supported(device) and parallel.captures and not self._offloads if graphs is None else graphs:
            if not supported(device):
                raise InputError(f"graphs: expected a device that captures calls, got {device.type}")
            self.capture()

    @scope("session.start")
    @torch.no_grad()
    def _start(self, image: Tensor | None, prompt: str, bits: dict[str, bool], memory_offload: bool) -> None:
        dit, vae, share = self.avatar.dit, self.avatar.vae, self.parallel.share
        image = None if image is None else image.to(self.avatar.anchor().device)

        def given() -> Tensor:
            assert image is not None, "the leading process has it, and only that one is asked"
            return image

        y = share(lambda: conditioning(vae, given(), dit.config.window_slots)).to(dit.dtype)
        times = [dit.at(t) for t in self.avatar.timesteps]
        rows = share(lambda: self.avatar.image.encode(given(), y[-vae.z_dim :, 0]))
        self._prompt_text = prompt
        self._prompt = dit.prompt(share(lambda: self._encode(prompt)), dit.image_kv(rows))
        self._decoder = self.parallel.decoder(vae)
        grid = (y.shape[-2] // PATCH, y.shape[-1] // PATCH)

        def windows() -> list[Window]:
            return [dit.window(*grid, **bits, parallel=self.parallel) for _ in times]

        self._windows = windows()
        null = windows() if self.audio_cfg > 1 else None
        self._all_windows = [*self._windows, *(null or [])]
        if memory_offload:
            self._send_away(null)
        levels = sigmas(self.avatar.timesteps)
        updates = [coefficients(self.sampler, a, b) for a, b in itertools.pairwise(levels)]

        def steps(y: Tensor, first: bool) -> Steps:
            hearing = y.shape[1] - first  # the very first latent frame of a video has no audio of its own
            shared = (self._windows, self._prompt, first, hearing, null, self.audio_cfg)
            return Steps(dit, y.contiguous(), times, updates, *shared)

        n = dit.config.memory_slots
        self._first: Steps | None = steps(y[:, :n], True)
        self._later = steps(y[:, n:], False)

    def _send_away(self, null: list[Window] | None) -> None:
        """Keep the windows' memory on the host; in the order of a block, where step 0 has no forward without audio."""
        order = [w for i, own in enumerate(self._windows) for w in (own, *(null[i : i + 1] if null and i else ()))]
        config = self.avatar.dit.config
        self._memories = Memories(len(order), config.num_layers, self.avatar.anchor().device)
        for place, window in enumerate(order):
            window.away = self._memories.of(place)

    @torch.no_grad()
    def capture(self) -> None:
        """Capture the denoise steps; before the first block only. Raises RuntimeError later, or from the device."""
        if self._offloads:
            raise RuntimeError("capture: copies beside the denoise steps cannot be captured")
        if self._first is None:
            raise RuntimeError("capture: the Session has already made a block")
        self.avatar.dit.warm_prompts(self._prompt, self._later.tokens)
        decoder = self.parallel.decoder(self.avatar.vae)  # thrown away: what the first two blocks decode compiles now
        for steps in (self._first, self._later):
            self._decode(decoder, steps.latent)
        self._graphs = capture(self._first, self._later, self._all_windows)
        self._compiled = compilations()

    def captured(self) -> int:
        """Graphs that this Session replays; 0 where it runs kernel by kernel."""
        return 0 if self._graphs is None else self._graphs.captured

    def live_compilations(self) -> int:
        """Kernels compiled since the capture: 0, or something was late."""
        return 0 if self._graphs is None else compilations() - self._compiled

    def _listen(self, levels: Any | None) -> Any:
        """The audio stream, with the statistics of the whole recording where they are known and of use."""
        encoder: Any = self.avatar.audio  # with `measure` or without, see AudioEncoder
        if levels is None:
            return encoder.stream(self.fps)
        measured = getattr(encoder, "measured", None)  # the type of what `measure` finds
        if measured is None or type(levels) is not measured:
            what = "what measure_audio returns, or None" if measured else "None, since this model measures nothing"
            raise InputError(f"audio_levels: expected {what}, got {shown(levels)}")
        return encoder.stream(self.fps, levels)

    def _encode(self, prompt: str) -> Tensor:
        return self.avatar.text.encode(prompt).to(self.avatar.anchor().device)

    # ---- inputs ---------------------------------------------------------------------------------------------------

    def push_audio(self, samples: Tensor | np.ndarray) -> None:
        """Append mono samples [n] at 16 kHz, in any chunks: float in [-1, 1] or int16.

        inputs.AUDIO_PEAK is the margin above 1. Raises InputError for anything else, RuntimeError after `close_audio`
        or `close`.
        """
        self._must_be_open("push_audio")
        if self._audio.total is not None:
            raise RuntimeError("push_audio: the audio is closed")
        self._audio.push(audio_samples(samples))

    def close_audio(self) -> None:
        """No more audio will come: the last embedding repeats to the end of the last block."""
        self._audio.close()

    @torch.no_grad()
    def set_prompt(self, prompt: str) -> None:
        """Use another prompt from the next block on; memory is kept. Raises InputError unless it is text."""
        self._must_be_open("set_prompt")
        if prompt_text(prompt) != self._prompt_text:
            rows = self._encode(prompt)
            self._tell(PROMPT)
            self._take_prompt(rows)
            self._prompt_text = prompt

    def _take_prompt(self, rows: Tensor | None) -> None:
        rows = self.parallel.share(lambda: rows)
        assert rows is not None, "the leading process has them"
        same_shapes = self._prompt.take(self.avatar.dit.prompt(rows, self._prompt.image))
        if self._graphs is not None and not same_shapes:
            self._later.capture(self._graphs) if self.blocks_made else self.capture()

    # ---- several processes ------------------------------------------------------------------------------------------

    def _tell(self, order: str) -> None:
        """Let the others of a group do what this process is about to do."""
        if self.parallel.leads:
            self.parallel.share(lambda: order)

    @torch.no_grad()
    def follow(self) -> None:
        """Do what the leading process's Session does, until that is closed: all that the other processes call."""
        while (order := self.parallel.share(str)) != CLOSE:
            self._take_prompt(None) if order == PROMPT else self.next_block()
        self._closed = True

    def close(self) -> None:
        """Let the other processes of a group go; this Session makes no more blocks. A second call does nothing."""
        if not self._closed:
            self._closed = True
            self._tell(CLOSE)

    def _must_be_open(self, asked: str) -> None:
        if self._closed:
            raise RuntimeError(f"{asked}: the Session is closed")

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
        """Whether `next_block` can make one: the audio for it is there (its video frames and two more), or closed.

        False once `done` and after `close`: there are no more blocks.
        """
        if self._closed or self._audio.total is not None:
            return not (self._closed or self.done)
        c = self.avatar.dit.config
        block = c.block_video_frames if self.blocks_made else c.first_block_video_frames
        need = self.video_frames_made + block + LOOK_AHEAD_VIDEO_FRAMES
        return self._audio.ready >= need

    def memory_bytes(self) -> int:
        """Bytes of the memory windows: constant from the first block on."""
        return sum(w.nbytes() for w in self._all_windows)

    # ---- generation -------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def next_latents(self) -> Tensor:
        """Denoise the next block: [z, 6 or 8, h, w] in the activation dtype.

        Raises RuntimeError without audio, past the end of closed audio (`done`) and after `close`.
        """
        self._must_be_open("next_block")
        if self.parallel.leads and not self.ready():
            if self.done:
                raise RuntimeError(f"next_block: {self.blocks_made} blocks cover all of the audio, which is closed")
            raise RuntimeError(f"block {self.blocks_made} needs more audio: push it, or close_audio()")
        self._tell(BLOCK)
        block, first = self.blocks_made, self.blocks_made == 0
        steps = self._first or self._later
        shape = tuple(steps.latent.shape)
        rows = self.parallel.share(lambda: self._hear(first))
        latent = steps.run(rows, lambda step: noise(shape, self.seed, block, step))
        self.blocks_made, self._first = self.blocks_made + 1, None
        return latent

    def next_block(self) -> Tensor | None:
        """The next block's video frames: uint8 [21 or 32, H, W, 3] where the model lives; None unless it leads.

        Raises RuntimeError as `next_latents`.
        """
        with scope("session"), scope(f"block[{self.blocks_made}]"), torch.no_grad():
            latents = self.next_latents()
            return self._decode(self._decoder, latents)

    def _decode(self, decoder: VideoDecoder, latents: Tensor) -> Tensor | None:
        made = []
        for piece in latents.split(self.decode_latent_frames, 1):
            with scope("vae"):
                frames = decoder.decode(piece)
            if frames is not None:
                with scope("uint8"):
                    pixels = ((frames.float() + 1) * 127.5).round_().clamp_(0, 255).byte()
                    made.append(pixels.permute(1, 2, 3, 0).contiguous())
        return made[0] if len(made) == 1 else torch.cat(made) if made else None

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
