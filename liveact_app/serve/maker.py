"""The making side of a live session: when a block is begun, what it hears, what was asked for since the last one."""

from __future__ import annotations

import contextlib
import math
import threading
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
import torch

from liveact_app.media.audio import MODEL_RATE_HZ
from liveact_app.serve.clock import Clock
from liveact_app.serve.figures import Figures
from liveact_app.serve.speech import Speech
from liveact_app.serve.turns import Turns
from liveact_model.errors import InputError

MARGIN_S, HEADROOM, REMEMBERED = 0.03, 1.25, 8
Event = dict[str, Any]


@dataclass(frozen=True, eq=False)
class Block:
    """What was made in one go.

    number   of the block, from 0
    frames   uint8 [F, H, W, 3]
    sound    float32 [n] at 16 kHz, from its first video frame on and a little further than its last
    marks    (sample since the start, when it came) of speech whose latency counts
    seconds  of the clock per video frame, with the wait for the model
    """

    number: int
    frames: np.ndarray
    sound: np.ndarray
    marks: list[tuple[int, float]]
    seconds: float


class Maker:
    """Makes the blocks of one session; `prompt` and `interrupt` come from any thread, the rest from one.

    fps    video frames per second
    tell   is told what became of prompts and interrupts

    Attributes:
        made: video frames so far.
    """

    def __init__(self, fps: Fraction, turns: Turns, clock: Clock, figures: Figures, tell: Callable[[Event], None]):
        self.speech, self.made = Speech(), 0
        self._fps, self._turns, self._clock, self._figures, self._tell = fps, turns, clock, figures, tell
        self._samples_per_frame = Fraction(MODEL_RATE_HZ) / fps
        self._lock = threading.Lock()
        self._prompt: tuple[str, int] | None = None
        self._cut: int | None = None  # samples that an interrupt has dropped, until the block after it tells
        self._given, self._ahead = 0, 0
        self._speaking, self._tail = False, np.zeros(0, np.float32)
        self._marks: list[tuple[int, float]] = []
        self._took: list[float] = []

    def prompt(self, text: str, number: int) -> None:
        """Another prompt from the next block on."""
        with self._lock:
            self._prompt = text, number

    def interrupt(self) -> None:
        """Drop the speech that waits."""
        with self._lock:
            self._cut = (self._cut or 0) + self.speech.clear()

    def sample(self, video_frame: int) -> int:
        """Where a video frame's sound begins, in samples since the start."""
        return math.floor(video_frame * self._samples_per_frame)

    def block(self, session: Any, due: float) -> Block:
        """The next block, with the speech and the prompt of the moment in which the model is free for it."""
        figures, clock, asked = self._figures, self._clock, self._clock.now()
        with contextlib.ExitStack() as turn:
            with figures.stage("wait", clock):
                turn.enter_context(self._turns.take(due))
            with figures.stage("audio", clock):
                self._boundary(session)
                self._feed(session)
            with figures.stage("generate", clock):
                frames = session.next_block().cpu().numpy()
        first = self.sample(self.made)
        self.made += len(frames)
        sound, marks = self._tail, self._marks
        self._tail, self._marks = sound[self.sample(self.made) - first :], []
        seconds = (clock.now() - asked) / len(frames)
        self._took = [*self._took[1 - REMEMBERED :], seconds]
        figures.blocks, figures.compilations = session.blocks_made, session.live_compilations()
        return Block(session.blocks_made - 1, frames, sound, marks, seconds)

    def lead(self, session: Any) -> float:
        """How long before it is due the next block is begun: what blocks took of late, and some more."""
        frames = session.avatar.dit.config.block_video_frames
        return min(frames / float(self._fps), HEADROOM * frames * max(self._took) + MARGIN_S * self._clock.rate)

    def _boundary(self, session: Any) -> None:
        """What was asked for since the last block."""
        with self._lock:
            (prompt, self._prompt), (cut, self._cut) = (self._prompt, None), (self._cut, None)
        here = {"block": session.blocks_made, "at": round(self.made / float(self._fps), 3)}
        if cut is not None:
            self._figures.interrupts += 1
            self._speaking = False
            self._tell({"type": "interrupted", **here, "dropped_ms": round(1e3 * cut / MODEL_RATE_HZ)})
        if prompt is not None:
            try:
                session.set_prompt(prompt[0])
                self._tell({"type": "prompt", "number": prompt[1], **here})
            except InputError as error:
                self._tell({"type": "error", "error": str(error)})

    def _feed(self, session: Any) -> None:
        """As much sound as the block needs, counted from what the blocks before have needed."""
        c = session.avatar.dit.config
        block = c.block_video_frames if session.blocks_made else c.first_block_video_frames
        end = self.sample(self.made + block)
        self._give(session, max(0, end + self._ahead - self._given))
        while not session.ready():
            self._give(session, math.ceil(self._samples_per_frame))
        self._ahead = self._given - end

    def _give(self, session: Any, want: int) -> None:
        """Hand `want` samples to the Session: speech, and silence where there is none.

        Speech that begins is put at the end of a block, because more of it is on its way; speech that has run dry is
        followed by the silence.
        """
        parts = self.speech.take(want)
        have = sum(len(part.samples) for part in parts)
        silence, speech = np.zeros(want - have, np.float32), [part.samples for part in parts]
        start = self._given + (0 if self._speaking else len(silence))
        for part in parts:
            if part.came is not None:
                self._marks.append((start, part.came))
            start += len(part.samples)
        # A pause of one block at most is a gap in speech that still goes on.
        self._figures.gaps += bool(self._speaking and have and len(silence) and self.speech.live)
        order = [*speech, silence] if self._speaking else [silence, *speech]
        self._speaking = bool(have) and (not len(silence) or not self._speaking)
        heard = np.concatenate(order)
        session.push_audio(torch.from_numpy(heard))
        self._tail = np.concatenate([self._tail, heard])
        self._given += want
