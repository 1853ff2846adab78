"""Embeddings of audio that is still arriving, at constant cost and memory per video frame.

Frames are computed in chunks. A chunk sees `context_s` of audio before it and `look_ahead_s` after it and nothing
else, so hour-long audio costs the same per video frame as a minute (one pass over everything is quadratic).
Against one pass over the whole recording three things differ:

- statistics: one pass normalises by those of the whole recording. A live stream cannot know them; it uses those of
  all audio up to the end of the chunk's look-ahead, which tend to the one-pass values. When the recording exists,
  `Wav2Vec2AudioEncoder.measure` gets its true statistics in a first cheap pass and `levels` removes this difference.
- context: attention and the positional convolution stop at the window's edges.
- timing: one pass spreads n/640 embeddings evenly over the audio, whose end is up to 640 samples further; here frame
  f is exactly at sample 640 f, as in one pass over a multiple of 640 samples.

With `levels` and a window that covers everything the result is the one-pass result up to rounding.
"""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor

from liveact_model.audio.levels import LevelMeter, Levels
from liveact_model.audio.tempo import EMBEDDINGS_PER_SECOND, TempoStream
from liveact_model.errors import InputError


class Network(Protocol):
    """What a stream asks of the encoder, which is `wav2vec2.Wav2Vec2AudioEncoder`."""

    sample_rate: int
    convolutions: Any

    def meter(self) -> LevelMeter:
        """A new meter of the statistics that it normalises by."""

    def embed_window(self, waveform: Tensor, frames: int, levels: Levels) -> Tensor:
        """Samples [n] -> [frames, blocks, channels]."""


class Wav2Vec2Stream:
    """Push audio, read embeddings [frames, blocks, channels], one per video frame.

    Results depend on the audio alone, not on how it was cut into pushes nor on when embeddings were asked for.

    Args:
        encoder: the network.
        fps: video frames per second; audio is stretched by fps/25 so that each has one embedding.
        levels: statistics of the whole recording if they are known, else running ones are used.
        context_s: seconds of (stretched) audio before a chunk that its frames can attend to.
        look_ahead_s: seconds of (stretched) audio after a chunk that must have arrived first.
        first_frames: video frames of the first chunk. The default is what the first block of a video hears: 21
            video frames and 2 more; `chunk_frames` is what every later block adds.
        chunk_frames: video frames of later chunks.

    Attributes:
        total: video frames of the whole audio, None until `close`.

    Raises:
        InputError: an argument is out of range, or the network's convolutions do not fit 640 samples per embedding.
    """

    def __init__(
        self,
        encoder: Network,
        fps: float,
        levels: Levels | None = None,
        *,
        context_s: float = 6.0,
        look_ahead_s: float = 0.4,
        first_frames: int = 23,
        chunk_frames: int = 32,
    ):
        if context_s < 0 or look_ahead_s < 0 or first_frames < 1 or chunk_frames < 1:
            raise InputError(
                "audio window: expected context_s, look_ahead_s >= 0 and first_frames, chunk_frames >= 1, "
                f"got {context_s}, {look_ahead_s}, {first_frames}, {chunk_frames}"
            )
        if not isinstance(levels, Levels | None):
            raise InputError(f"audio_levels: expected what measure_audio returned, got {type(levels).__name__}")
        self._hop = encoder.sample_rate // EMBEDDINGS_PER_SECOND
        _check_grid(encoder, self._hop)
        self._encoder, self._levels = encoder, levels
        self._context = round(context_s * EMBEDDINGS_PER_SECOND)
        self._look_ahead = round(look_ahead_s * EMBEDDINGS_PER_SECOND)
        self._first, self._chunk = first_frames, chunk_frames
        self._tempo, self._meter = TempoStream(fps, encoder.sample_rate), encoder.meter()
        self.total: int | None = None
        self._samples: list[Tensor] = []  # stretched audio from sample `_origin` on
        self._origin = self._arrived = self._metered = 0
        self._done = 0  # frames computed; chunks are computed in order
        self._kept: list[tuple[int, Tensor]] = []  # (first frame, embeddings) of computed chunks
        self._forgotten = 0

    def push(self, samples: Tensor) -> None:
        """Add mono float32 samples [n] at 16 kHz in original time, n of any size."""
        if self.total is not None:
            raise RuntimeError("push after close: the audio has ended")
        self._add(self._tempo.push(samples))

    def close(self) -> None:
        """No more audio follows; every embedding of the rest becomes available.

        Raises:
            InputError: all the audio together is shorter than one video frame.
        """
        if self.total is not None:
            return
        self._add(self._tempo.close())
        if self._arrived < self._hop:
            raise InputError(f"audio: expected at least one video frame of it, got {self._tempo.pushed} samples")
        self.total = self._arrived // self._hop

    @property
    def ready(self) -> int:
        """Number of video frames whose embedding is final, counted from video frame 0."""
        if self.total is not None:
            return self.total
        frames = self._arrived // self._hop - self._look_ahead
        return 0 if frames < self._first else frames - (frames - self._first) % self._chunk

    def embeddings(self, start: int, stop: int) -> Tensor:
        """Rows of video frames start .. stop-1, [stop-start, blocks, channels], indices clamped to [0, total-1].

        Chunks not computed yet are computed now.

        Raises:
            RuntimeError: the range is empty, or needs frames that are not ready or were forgotten.
        """
        last = max(0, stop - 1) if self.total is None else min(max(0, stop - 1), self.total - 1)
        first = min(max(0, start), last)
        if stop <= start or last >= self.ready:
            raise RuntimeError(f"audio embeddings {start}..{stop} asked for, but {self.ready} video frames are ready")
        if first < self._forgotten:
            raise RuntimeError(f"audio embeddings from {start} asked for, but those before {self._forgotten} are gone")
        while self._done <= last:
            self._advance()
        chunks = [(at, rows) for at, rows in self._kept if at + len(rows) > first and at <= last]
        rows = torch.cat([rows for _, rows in chunks])
        return rows[(torch.arange(start, stop).clamp(first, last) - chunks[0][0]).to(rows.device)]

    def forget(self, before: int) -> None:
        """Free what only video frames below `before` need; they cannot be asked for again."""
        self._forgotten = max(self._forgotten, before)
        self._kept = [(at, chunk) for at, chunk in self._kept if at + len(chunk) > self._forgotten]

    def _add(self, samples: Tensor) -> None:
        self._samples.append(samples)
        self._arrived += len(samples)

    def _advance(self) -> None:
        """Compute the next chunk [begin, end) from its window [low, high) of frames."""
        begin = self._done
        end = min(begin + (self._chunk if begin else self._first), self.ready)
        low, high = max(0, begin - self._context), end + self._look_ahead
        if self.total is not None:
            high = min(high, self.total)
        heard = high * self._hop
        if len(self._samples) > 1:
            self._samples = [torch.cat(self._samples)]
        audio = self._samples[0]
        if self._levels is None:
            # up to `heard` and not to what has arrived: the result must not depend on the size of pushes
            self._meter.update(audio[self._metered - self._origin : heard - self._origin])
            self._metered = max(self._metered, heard)
        if end > self._forgotten:
            window = audio[low * self._hop - self._origin : high * self._hop - self._origin]
            rows = self._encoder.embed_window(window, high - low, self._levels or self._meter.levels())
            self._kept.append((begin, rows[begin - low : end - low].clone()))
        self._done = end
        stale = (end - self._context) * self._hop - self._origin
        if stale > len(audio) // 2:  # not every time: cutting copies what is left, which may be a whole recording
            self._samples, self._origin = [audio[stale:].clone()], self._origin + stale


def _check_grid(encoder: Network, hop: int) -> None:
    """Frame f must sit at sample hop * f in every window: F frames have (F - 1) * k + 1 features for a whole k."""
    step, length = 1, hop
    for layer in encoder.convolutions:
        (kernel,), (stride,) = layer.conv.kernel_size, layer.conv.stride
        step, length = step * stride, (length - kernel) // stride + 1
    if hop % step or length != 1:
        raise InputError(
            f"audio encoder: expected convolutions with one feature in {hop} samples and steps that divide them, "
            f"got {length} and steps of {step}"
        )
