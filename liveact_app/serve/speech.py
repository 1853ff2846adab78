"""Speech on its way to a live session: bytes of any declared rate to 16 kHz, and a bounded queue before the model."""

from __future__ import annotations

import threading
from collections import deque
from typing import Any, NamedTuple

import numpy as np
import soxr

from liveact_app.media.audio import MODEL_RATE_HZ
from liveact_model.errors import InputError

MIN_RATE_HZ, MAX_RATE_HZ = 8_000, 96_000
LAG_S = 0.25
"""What a microphone may be ahead of its block: jitter of a network passes, delay does not pile up."""
QUEUE_S = 60.0
"""What a stored recording may be ahead: a sentence of a voice agent, not an hour."""
PIECE = 320
"""Samples from which on a piece of speech stands alone: 20 ms."""
BYTES = {"s16le": np.dtype("<i2"), "f32le": np.dtype("<f4")}


class Pcm:
    """Mono PCM as it comes -> float32 at 16 kHz; a resampler that streams, so that chunks of any size are one sound.

    rate    samples per second, 8,000 to 96,000
    coding  "s16le" or "f32le"
    """

    def __init__(self, rate: int = MODEL_RATE_HZ, coding: str = "s16le"):
        if not MIN_RATE_HZ <= rate <= MAX_RATE_HZ:
            raise InputError(f"rate: expected {MIN_RATE_HZ} to {MAX_RATE_HZ} samples per second, got {rate}")
        if coding not in BYTES:
            raise InputError(f"coding: expected {' or '.join(BYTES)}, got {coding!r}")
        self.rate, self._dtype = rate, BYTES[coding]
        self._stream = self._resampler()

    def _resampler(self) -> soxr.ResampleStream | None:
        if self.rate == MODEL_RATE_HZ:
            return None
        return soxr.ResampleStream(self.rate, MODEL_RATE_HZ, 1, dtype="float32", quality="HQ")

    def take(self, data: bytes) -> np.ndarray:
        """Samples [n] that `data` completes. Raises InputError for half a sample, NaN or infinity."""
        if len(data) % self._dtype.itemsize:
            raise InputError(
                f"audio: expected whole samples of {self._dtype.itemsize} bytes, got a message of {len(data)} bytes"
            )
        samples = np.frombuffer(data, self._dtype)
        samples = samples.astype(np.float32) / (32768 if self._dtype.kind == "i" else 1)
        if not np.isfinite(samples).all():
            raise InputError("audio: expected finite samples, got NaN or infinity")
        samples = np.clip(samples, -1, 1)
        return samples if self._stream is None else self._stream.resample_chunk(samples)

    def end(self) -> np.ndarray:
        """What the resampler still holds; the next sample begins another sound."""
        if self._stream is None:
            return np.zeros(0, np.float32)
        rest = self._stream.resample_chunk(np.zeros(0, np.float32), last=True)
        self._stream = self._resampler()
        return rest


class Part(NamedTuple):
    """A piece of speech: float32 [n] at 16 kHz, and when it came, or None where it waited for the one before.

    One without samples may be a mark: whoever put it there is told when the sound has come to it.
    """

    samples: np.ndarray
    came: float | None
    mark: Any = None


NOTHING = np.zeros(0, np.float32)


class Speech:
    """A bounded queue of samples, filled by a network and emptied block by block by a model.

    Of a live source (a microphone) the oldest samples make room: what would be heard late is not heard. A stored one
    (a file, synthesised speech) comes as fast as there is `room`, and what comes beyond it is refused. Both are
    counted in `dropped`.
    """

    def __init__(self, live: bool = True):
        self.live, self.dropped = live, 0
        self._lock = threading.Lock()
        self._parts: deque[Part] = deque()
        self._size, self._most = 0, int(QUEUE_S * MODEL_RATE_HZ)

    @property
    def queued(self) -> int:
        """Samples that wait."""
        return self._size

    @property
    def room(self) -> int:
        """Samples that a stored source may still push."""
        return self._most - self._size

    def push(self, samples: np.ndarray, now: float) -> int:
        """Append samples [n] that came at `now`; returns how many were dropped for it."""
        with self._lock:
            lost = 0
            if not self.live and len(samples) > self.room:
                lost, samples = len(samples) - self.room, samples[: self.room]
            if len(samples):
                self._append(Part(samples, now if self.live or not self._size else None))
                self._size += len(samples)
            lost += self._forget(self._size - self._most)
            self.dropped += lost
            return lost

    def _append(self, part: Part) -> None:
        """Samples one by one are joined, or a minute of them would take a hundred times its size."""
        last = self._parts[-1] if self._parts else None
        if last is not None and last.mark is None and max(len(last.samples), len(part.samples)) < PIECE:
            part = Part(np.concatenate([self._parts.pop().samples, part.samples]), last.came)
        self._parts.append(part)

    def mark(self, mark: Any) -> None:
        """A mark behind the last sample pushed."""
        with self._lock:
            self._parts.append(Part(NOTHING, None, mark))

    def take(self, want: int) -> list[Part]:
        """Up to `want` samples, oldest first, with the marks up to the last of them; a live source that is further
        ahead than its lag loses the surplus."""
        with self._lock:
            if self.live:
                self.dropped += self._forget(self._size - want - int(LAG_S * MODEL_RATE_HZ))
            taken: list[Part] = []
            while self._parts and (want or self._parts[0].mark is not None):
                part = self._parts.popleft()
                if len(part.samples) > want:
                    self._parts.appendleft(Part(part.samples[want:], None))
                    part = Part(part.samples[:want], part.came)
                want -= len(part.samples)
                self._size -= len(part.samples)
                taken.append(part)
            return taken

    def clear(self) -> int:
        """Drop all that waits, marks too; returns how many samples that was."""
        with self._lock:
            gone, self._size = self._size, 0
            self._parts.clear()
            return gone

    def _forget(self, count: int) -> int:
        left, marks = count, []
        while left > 0 and self._parts:
            part = self._parts.popleft()
            if part.mark is not None:
                marks.append(part)
            if len(part.samples) > left:
                self._parts.appendleft(Part(part.samples[left:], part.came))
            gone = min(left, len(part.samples))
            left, self._size = left - gone, self._size - gone
        self._parts.extendleft(reversed(marks))
        return max(0, count) - max(0, left)
