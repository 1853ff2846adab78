"""How loud speech is, and the gain that brings it to the level the tiny model was trained at.

Loudness is that of mel frames (the power of all bands together, in dB); only frames near the loudest ones count, so
pauses do not (the gating idea of ITU-R BS.1770). A recording is measured as a whole. A live stream has a running level:
it follows speech within two seconds and holds where nothing changes much, because that is silence or a steady noise.
"""

from __future__ import annotations

from collections import deque

import torch
from torch import Tensor

TARGET_DB = 27.0  # gated loudness of synthetic speech as in training: that of examples/speech.wav
FLOOR_DB = -55.0  # below it nothing is speech: digital silence, the last bit of 16
GATE_DB = 15.0  # speech-active frames are within this of the loudest ones
MAX_GAIN_DB = 50.0
STEP_DB = 0.5  # of the histogram of a recording
WINDOW_S, ACTIVE, SPREAD_DB = 1.5, 0.2, 12.0  # of the running level: memory, share of active frames, depth of pauses
FAR_DB, NEAR_DB, FAST_S, SLOW_S = 6.0, 1.0, 0.15, 8.0


def loudness_db(power: Tensor) -> Tensor:
    """Mel power [n, bands] -> dB [n]."""
    # Rounded, because the last bits of a vectorised logarithm depend on how many frames come at once.
    return (torch.log10(power.double().sum(1) + 1e-12) * 640).round().float() / 64


def gain_db(level: float) -> float:
    """What is added to speech of that level."""
    return max(-MAX_GAIN_DB, min(MAX_GAIN_DB, TARGET_DB - level))


class RecordingLevel:
    """Gated loudness of a whole recording in constant memory: a histogram of its frames."""

    def __init__(self) -> None:
        self._counts = torch.zeros(400, dtype=torch.float64)
        self._powers = torch.zeros(400, dtype=torch.float64)

    def update(self, loudness: Tensor) -> None:
        """Add frames, dB [n]."""
        loud = loudness[loudness > FLOOR_DB].double()
        bins = ((loud - FLOOR_DB) / STEP_DB).long().clamp(0, 399)
        self._counts += torch.bincount(bins, minlength=400)
        self._powers += torch.bincount(bins, 10 ** (loud / 10), minlength=400)

    def gain_db(self) -> float:
        """0 where nothing was loud enough to be speech."""
        total = self._counts.sum()
        if not total:
            return 0.0
        at = torch.arange(400)
        top = int((self._counts.cumsum(0) < 0.95 * total).sum())  # a click is not the loudest speech
        active = at >= top - GATE_DB / STEP_DB
        return gain_db(float(10 * torch.log10(self._powers[active].sum() / self._counts[active].sum())))


class RunningLevel:
    """The gain of a live stream, one step per video frame; it depends on the frames before alone."""

    def __init__(self, fps: float, per_video_frame: int):
        self._room = max(8, round(WINDOW_S * fps * per_video_frame))
        self._frames: deque[float] = deque(maxlen=self._room)
        self._step = 1 / fps
        self._gain, self._fast, self._heard = 0.0, False, False

    def __call__(self, loudness: Tensor) -> float:
        """Take the mel frames of one video frame, dB [4], and return its gain in dB."""
        self._frames.extend(loudness.tolist())
        if (wanted := self._wanted()) is not None:
            away = abs(wanted - self._gain)
            self._fast = away > (NEAR_DB if self._fast else FAR_DB)
            rate = min(1.0, self._step / (FAST_S if self._fast else SLOW_S))
            self._gain += rate * (wanted - self._gain)
        return self._gain

    def _wanted(self) -> float | None:
        """None where the last second and a half is no speech: too quiet, too even, or a moment of sound."""
        order = sorted(self._frames)
        top, low = order[int(0.95 * (len(order) - 1))], order[int(0.05 * len(order))]
        active = [x for x in order if x >= top - GATE_DB]
        if top < FLOOR_DB or top - low < SPREAD_DB or len(active) < ACTIVE * self._room:
            return None
        return gain_db(float(10 * torch.tensor([10 ** (x / 10) for x in active]).mean().log10()))
