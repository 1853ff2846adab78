"""A session's sound and pictures as two tracks of WebRTC, sent at the times that its clock has them."""

from __future__ import annotations

import asyncio
from fractions import Fraction
from typing import Any

import av
import numpy as np
from aiortc import MediaStreamTrack
from aiortc.mediastreams import MediaStreamError

from liveact_app.media.audio import MODEL_RATE_HZ
from liveact_app.serve.live import Moment

PACKET_SAMPLES = MODEL_RATE_HZ // 50
"""20 ms; aiortc gives all packets of one audio frame the same time, so a frame must make one."""
WAITING_S = 0.5
"""What a slow connection may be behind; the oldest go, since RTP's timestamps say where the others belong."""


class _Track(MediaStreamTrack):
    def __init__(self, most: int) -> None:
        super().__init__()
        self._waiting: asyncio.Queue[tuple[float, Any]] = asyncio.Queue(max(2, most))

    def _put(self, due: float, frame: Any) -> None:
        if self._waiting.full():
            self._waiting.get_nowait()
        self._waiting.put_nowait((due, frame))

    async def recv(self) -> Any:
        """The next frame, not before it is due."""
        if self.readyState != "live":
            raise MediaStreamError
        due, frame = await self._waiting.get()
        await asyncio.sleep(due - asyncio.get_running_loop().time())
        return frame


class Pictures(_Track):
    """Video frames as they come."""

    kind = "video"

    def __init__(self, fps: Fraction):
        super().__init__(round(WAITING_S * fps))
        self._fps = fps

    def put(self, index: int, frame: av.VideoFrame) -> None:
        """The picture of a moment that begins now."""
        frame.pts, frame.time_base = index, 1 / self._fps
        self._put(0.0, frame)


class Sound(_Track):
    """The same moments' sound in packets, each at its place between two video frames.

    rate  of the session's clock
    """

    kind = "audio"

    def __init__(self, fps: Fraction, rate: float = 1.0):
        super().__init__(round(WAITING_S * MODEL_RATE_HZ / PACKET_SAMPLES))
        self._fps, self._rate, self._at = fps, rate, 0
        self._held = np.zeros(0, np.float32)

    def put(self, moment: Moment, now: float) -> None:
        """The sound of a moment, which begins `now`, on the event loop's clock."""
        begin = int(moment.index * MODEL_RATE_HZ / self._fps)
        if self._at + len(self._held) != begin:  # nobody was connected to hear what came before
            self._at, self._held = begin, self._held[:0]
        self._held = np.concatenate([self._held, moment.heard[: moment.samples]])
        while len(self._held) >= PACKET_SAMPLES:
            part, self._held = self._held[:PACKET_SAMPLES], self._held[PACKET_SAMPLES:]
            samples = np.clip(np.round(part * 32768), -32768, 32767).astype(np.int16)
            frame = av.AudioFrame.from_ndarray(samples[None], format="s16", layout="mono")
            frame.sample_rate, frame.pts, frame.time_base = MODEL_RATE_HZ, self._at, Fraction(1, MODEL_RATE_HZ)
            self._put(now + max(0, self._at - begin) / MODEL_RATE_HZ / self._rate, frame)
            self._at += PACKET_SAMPLES
