"""A live session on an event loop: what a voice agent says goes in, video frames with the sound in sync come out."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from liveact_app.serve.hall import Hall, Wish
from liveact_app.serve.live import Live, Moment
from liveact_app.serve.maker import Event
from liveact_app.serve.picture import Pictures
from liveact_app.serve.speech import Pcm
from liveact_model.errors import InputError

AHEAD = 4
"""Video frames that may wait to be fetched; the session then waits, so that nothing piles up."""


@dataclass(frozen=True, eq=False)
class Shown:
    """A video frame at its time, and the speech in it.

    seconds  since the first video frame
    pixels   uint8 [H, W, 3]
    sound    16-bit mono at 16 kHz, as long as the video frame; b"" where the agent has nothing to say
    ended    what `finish` was given, of each utterance whose last sample this is
    """

    seconds: float
    pixels: np.ndarray
    sound: bytes
    ended: tuple[Any, ...]


@dataclass(frozen=True)
class _Mark:
    """Where an utterance begins, or ends."""

    utterance: int
    ends: bool
    given: Any = None


class Talk:
    """One session of a hall, fed with utterances and iterated over for what it shows, on one event loop.

    hall     one loaded model, and the bounds of its sessions
    picture  float32 [3, H, W] in [-1, 1], as `fit_image` and `load_image` make it, of the hall's size or the wish's
    wish     prompt, size, fps, seed, scale

    The avatar is alive from `open` on: idle video frames come without sound. Speech is queued up to a minute;
    more of it waits. `open` raises Busy when no session is free and InputError for a wish that cannot be.
    """

    def __init__(self, hall: Hall, picture: torch.Tensor, wish: Wish):
        size, self.fps = hall.check(wish)
        self._hall, self._picture, self._wish, self._pictures = hall, picture, wish, Pictures(size, wish.scale)
        self.size = self._pictures.size
        self.live: Live | None = None
        self.reason = ""
        """Why it is over, once it is."""
        self._begun, self._dropped, self._heard = 0, 0, 0  # utterances: the newest, the last one dropped, and shown
        self._pcm: Pcm | None = None  # of the utterance that goes on
        self._speaks = False  # whether video frames that are fetched now have speech

    def open(self) -> None:
        """Begin the session; on the event loop."""
        self._loop, self._room = asyncio.get_running_loop(), threading.Semaphore(AHEAD)
        self._shown: asyncio.Queue[Moment | None] = asyncio.Queue()
        self._moved = asyncio.Event()
        _, self.live = self._hall.open(self._picture, self._wish, self)
        self.live.speech.live = False

    async def say(self, pcm: bytes, rate: int, channels: int = 1) -> None:
        """More of an utterance: 16-bit samples, channels interleaved. Waits while the queue is full."""
        if self._pcm is None:
            self._begun += 1
            self._mark(_Mark(self._begun, ends=False))
        if self._pcm is None or self._pcm.rate != rate:
            rest, self._pcm = self._pcm, Pcm(rate)
            if rest is not None:
                await self._push(rest.end())
        if channels > 1:
            if len(pcm) % (2 * channels):
                raise InputError(f"audio: expected whole samples of {channels} channels, got {len(pcm)} bytes")
            pcm = np.frombuffer(pcm, "<i2").reshape(-1, channels).mean(1).astype("<i2").tobytes()
        await self._push(self._pcm.take(pcm))

    async def finish(self, given: Any = None) -> bool:
        """The utterance is whole: the last of its video frames will have `given`. False where none has begun."""
        pcm, self._pcm = self._pcm, None
        if pcm is None:
            return False
        utterance = self._begun
        await self._push(pcm.end())
        if utterance > self._dropped:
            self._mark(_Mark(utterance, ends=True, given=given))
        return True

    def interrupt(self) -> None:
        """Drop all that has been said and not been heard. No sound from now on; the mouth stops at its block's end."""
        self._dropped, self._pcm, self._speaks = self._begun, None, False
        if self.live is not None:
            self.live.interrupt()
        self._wake()

    def prompt(self, text: str) -> None:
        """Another prompt from the next block on."""
        if self.live is not None:
            self.live.prompt(text)

    async def heard(self) -> None:
        """Wait until all that has been said was fetched, or dropped, or the session is over."""
        await self.finish()
        while max(self._heard, self._dropped) < self._begun and not self._over:
            await self._moved.wait()

    async def close(self, reason: str = "its agent has left") -> None:
        """End the session and wait until it is gone."""
        if self.live is not None:
            self.live.close(reason)
            await asyncio.to_thread(self.live.join)

    async def __aiter__(self) -> AsyncIterator[Shown]:
        """All that it shows, at its time, until it is over."""
        while (moment := await self._shown.get()) is not None:
            self._room.release()
            ended, speaks = [], self._speaks
            for mark in moment.marks:
                if mark.utterance > self._dropped:
                    self._speaks = not mark.ends
                    speaks = True
                    ended += [mark] if mark.ends else []
            sound = _sixteen_bits(moment.heard[: moment.samples]) if speaks else b""
            pixels = self._pictures.frame(moment.pixels).to_ndarray() if self._wish.scale > 1 else moment.pixels
            yield Shown(moment.index / self.fps, pixels, sound, tuple(mark.given for mark in ended))
            self._heard = max([self._heard, *(mark.utterance for mark in ended)])
            self._wake()

    @property
    def _over(self) -> bool:
        return self.live is None or self.live.over

    def _mark(self, mark: _Mark) -> None:
        if self.live is not None:
            self.live.mark(mark)

    async def _push(self, samples: np.ndarray) -> None:
        """Push as there is room; what an interrupt finds on its way goes with the rest."""
        utterance = self._begun
        while len(samples) and not self._over and utterance > self._dropped:
            assert self.live is not None
            now = samples[: self.live.speech.room]
            samples = samples[len(now) :]
            self.live.push(now)
            if len(samples):
                await self._moved.wait()

    def _wake(self) -> None:
        """Let those who wait look again."""
        moved, self._moved = self._moved, asyncio.Event()
        moved.set()

    # ---- a Listener, on the session's threads ---------------------------------------------------------------------

    def moment(self, moment: Moment) -> None:
        """As `Listener`; waits for whoever fetches."""
        while not self._room.acquire(timeout=0.1):
            if self._loop.is_closed() and self.live is not None:  # a program that ends without saying so
                self.live.close("its event loop is closed")
            if self._over:
                return
        self._tell(self._shown.put_nowait, moment)

    def event(self, event: Event) -> None:
        """As `Listener`."""

    def ended(self, code: str, reason: str) -> None:
        """As `Listener`."""
        self.reason = reason
        self._tell(self._shown.put_nowait, None)
        self._tell(self._wake)

    def _tell(self, call: Any, *args: Any) -> None:
        with contextlib.suppress(RuntimeError):  # the loop has been closed: nobody fetches
            self._loop.call_soon_threadsafe(call, *args)


def _sixteen_bits(sound: np.ndarray) -> bytes:
    return np.clip(np.round(sound * 32768), -32768, 32767).astype("<i2").tobytes()
