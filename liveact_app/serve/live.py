"""A live session: the CLI's Session paced by a clock, on two threads of its own, with no web framework in sight.

Time is that of the video frames that leave. A block is begun as late as it can be, with the speech that has come by
then; silence stands where there is none, so the avatar stays alive. Sound and picture of a block leave together, so they
cannot drift, whatever the model takes.
"""

from __future__ import annotations

import contextlib
import logging
import math
import threading
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Protocol

import numpy as np
import torch

from liveact_app.media.audio import MODEL_RATE_HZ
from liveact_app.media.video import frame_rate
from liveact_app.serve.clock import Clock
from liveact_app.serve.figures import Figures
from liveact_app.serve.handover import Handover
from liveact_app.serve.speech import Speech
from liveact_app.serve.turns import Turns
from liveact_model.errors import InputError

log = logging.getLogger("liveact.live")
MARGIN_S, HEADROOM, REMEMBERED = 0.03, 1.25, 8
Event = dict[str, Any]
ENDS = ("closed", "idle", "long", "drained", "input", "failed")
"""Why a session ends: somebody closed it, nobody spoke to it, it was long enough, the server stops, bad input, a bug."""


@dataclass(frozen=True, eq=False)
class Moment:
    """A video frame at its time.

    index    of the video frame, from 0; it stands at index / fps seconds
    pixels   uint8 [H, W, 3]
    samples  of sound that belong to it
    heard    float32 [n >= samples] at 16 kHz: its sound, and what is known of the sound after it, for encoders that
               look ahead
    marks    of `Live.mark` that lie in its sound or at its end
    """

    index: int
    pixels: np.ndarray
    samples: int
    heard: np.ndarray
    marks: tuple[Any, ...] = ()


class Listener(Protocol):
    """Who hears of a session. Called from the session's own threads, `moment` when it is due, `ended` once, last."""

    def moment(self, moment: Moment) -> None:
        """A video frame is due."""

    def event(self, event: Event) -> None:
        """Something happened: a dict that JSON takes, with its `type`."""

    def ended(self, code: str, reason: str) -> None:
        """It is over: a word of ENDS, and one sentence."""


@dataclass(frozen=True, eq=False)
class _Block:
    number: int
    frames: np.ndarray
    sound: np.ndarray  # from its first video frame's first sample on
    came: list[tuple[int, float]]  # (sample, when it came)
    marks: list[tuple[int, Any]]  # (sample, what `mark` was given)
    seconds: float  # of the clock per video frame, with the wait for the model


class Live:
    """One running session.

    start     makes its Session; called on its thread, in a turn of its own
    fps       video frames per second
    listener  is told everything

    Pushing, prompts and interrupts come from any thread and return at once; they count at the next block.
    """

    def __init__(self, start: Callable[[], Any], fps: float, listener: Listener, turns: Turns, clock: Clock):
        self.fps, self.clock, self.speech, self.figures = frame_rate(fps), clock, Speech(), Figures()
        self.opened = self.touched = clock.now()
        self._start, self._listener, self._turns = start, listener, turns
        self._samples_per_frame = Fraction(MODEL_RATE_HZ) / self.fps
        self._stop, self._lock, self._end = threading.Event(), threading.Lock(), ("", "")
        self._prompt: tuple[str, int] | None = None
        self._cut: int | None = None  # samples that an interrupt has dropped, until the block after it tells
        self._blocks: Handover[_Block] = Handover()
        self._zero: float | None = None  # the clock at video frame 0
        self._given, self._ahead, self._made = 0, 0, 0
        self._speaking, self._tail = False, np.zeros(0, np.float32)
        self._came: list[tuple[int, float]] = []
        self._marks: list[tuple[int, Any]] = []
        self._took: list[float] = []
        self._maker = threading.Thread(target=self._guard, args=(self._make,), name="live-make", daemon=True)
        self._shower = threading.Thread(target=self._show, name="live-show", daemon=True)

    # ---- from outside -----------------------------------------------------------------------------------------------

    def begin(self) -> None:
        """Start the threads."""
        self._maker.start()
        self._shower.start()

    def push(self, samples: np.ndarray) -> int:
        """Speech [n], float32 at 16 kHz; returns how many samples were dropped."""
        self.touched = self.clock.now()
        return 0 if self._stop.is_set() else self.speech.push(samples, self.touched)

    def mark(self, mark: Any) -> None:
        """Put a mark behind the speech so far: the Moment whose sound comes to it has it. An interrupt drops it."""
        self.speech.mark(mark)

    def prompt(self, text: str, number: int = 0) -> None:
        """Another prompt from the next block on; an event tells when `number` is there."""
        self.touched = self.clock.now()
        with self._lock:
            self._prompt = text, number

    def interrupt(self) -> None:
        """Drop the speech that waits; what the model has heard is shown to the end of its block."""
        self.touched = self.clock.now()
        with self._lock:
            self._cut = (self._cut or 0) + self.speech.clear()

    def close(self, reason: str, code: str = "closed") -> None:
        """End it; returns at once. The first reason counts."""
        with self._lock:
            self._end = self._end if self._end[0] else (code, reason)
        self._stop.set()
        self._blocks.close()

    def join(self, seconds: float | None = None) -> bool:
        """Wait until it is over and all has been told; returns whether it is."""
        if self._shower.ident is not None:
            self._shower.join(seconds)
        return not self._shower.is_alive()

    @property
    def over(self) -> bool:
        """Whether it ends or has ended."""
        return self._stop.is_set()

    # ---- making -----------------------------------------------------------------------------------------------------

    def _guard(self, work: Callable[[], None]) -> None:
        """Run a thread's work; what goes wrong there ends the session with a sentence."""
        try:
            work()
        except InputError as error:
            self.close(str(error), "input")
        except Exception as error:
            log.exception("a live session failed")
            self.close(f"the session failed ({type(error).__name__})", "failed")

    def _make(self) -> None:
        session = None
        try:
            with self._turns.take(self.opened):
                if not self._stop.is_set():
                    session = self._start()
            while session is not None and not self._stop.is_set():
                block = self._block(session)
                if self._zero is None:
                    self._zero = self.clock.now()
                self._blocks.put(block)
                self.clock.wait(self._due(self._made) - self._lead(session), self._stop)
        finally:
            if session is not None:
                session.close()

    def _block(self, session: Any) -> _Block:
        """The next block, with the speech and the prompt of this moment."""
        figures, clock, asked = self.figures, self.clock, self.clock.now()
        due = asked if self._zero is None else self._due(self._made)
        with contextlib.ExitStack() as turn:
            with figures.stage("wait", clock):
                turn.enter_context(self._turns.take(due))
            with figures.stage("audio", clock):
                self._boundary(session)
                self._feed(session)
            with figures.stage("generate", clock):
                frames = session.next_block().cpu().numpy()
        first = self._sample(self._made)
        self._made += len(frames)
        sound, came, marks = self._tail, self._came, self._marks
        self._tail, self._came, self._marks = sound[self._sample(self._made) - first :], [], []
        seconds = (clock.now() - asked) / len(frames)
        self._took = [*self._took[1 - REMEMBERED :], seconds]
        figures.blocks, figures.compilations = session.blocks_made, session.live_compilations()
        return _Block(session.blocks_made - 1, frames, sound, came, marks, seconds)

    def _lead(self, session: Any) -> float:
        """How long before it is due the next block is begun: what blocks took of late, and some more."""
        frames = session.avatar.dit.config.block_video_frames
        return min(frames / float(self.fps), HEADROOM * frames * max(self._took) + MARGIN_S * self.clock.rate)

    def _boundary(self, session: Any) -> None:
        """What was asked for since the last block."""
        with self._lock:
            (prompt, self._prompt), (cut, self._cut) = (self._prompt, None), (self._cut, None)
        here = {"block": session.blocks_made, "at": round(self._made / float(self.fps), 3)}
        if cut is not None:
            self.figures.interrupts += 1
            self._speaking = False
            self._listener.event({"type": "interrupted", **here, "dropped_ms": round(1e3 * cut / MODEL_RATE_HZ)})
        if prompt is not None:
            try:
                session.set_prompt(prompt[0])
                self._listener.event({"type": "prompt", "number": prompt[1], **here})
            except InputError as error:
                self._listener.event({"type": "error", "error": str(error)})

    def _feed(self, session: Any) -> None:
        """As much sound as the block needs, counted from what the blocks before have needed."""
        c = session.avatar.dit.config
        block = c.block_video_frames if session.blocks_made else c.first_block_video_frames
        end = self._sample(self._made + block)
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
                self._came.append((start, part.came))
            if part.mark is not None:
                self._marks.append((start, part.mark))
            start += len(part.samples)
        # A pause of one block at most is a gap in speech that still goes on.
        self.figures.gaps += bool(self._speaking and have and len(silence) and self.speech.live)
        order = [*speech, silence] if self._speaking else [silence, *speech]
        self._speaking = bool(have) and (not len(silence) or not self._speaking)
        heard = np.concatenate(order)
        session.push_audio(torch.from_numpy(heard))
        self._tail = np.concatenate([self._tail, heard])
        self._given += want

    def _sample(self, video_frame: int) -> int:
        return math.floor(video_frame * self._samples_per_frame)

    # ---- showing ----------------------------------------------------------------------------------------------------

    def _due(self, video_frame: int) -> float:
        return (self._zero or 0.0) + video_frame / float(self.fps)

    def _show(self) -> None:
        self._guard(self._show_blocks)
        self._maker.join()  # the Session is gone, too
        self._listener.ended(self._end[0] or "closed", self._end[1] or "closed")

    def _show_blocks(self) -> None:
        first, came, marks = 0, [], []
        while (block := self._blocks.get()) is not None:
            came, marks = came + block.came, marks + block.marks  # some are of sound that the next block shows
            for index, pixels in enumerate(block.frames, first):
                if self._in_time(index):
                    return
                begin, end = self._sample(index), self._sample(index + 1)
                heard = block.sound[begin - self._sample(first) :]
                reached = tuple(mark for sample, mark in marks if sample <= end)
                marks = marks[len(reached) :]
                with self.figures.stage("encode", self.clock):
                    self._listener.moment(Moment(index, pixels, end - begin, heard, reached))
                self._left(index, end, came)
            first += len(block.frames)
            self._listener.event(self._told(block))

    def _left(self, index: int, end: int, came: list[tuple[int, float]]) -> None:
        """A video frame whose sound ends before sample `end` has left."""
        figures, now = self.figures, self.clock.now()
        figures.video_frames = index + 1
        if figures.first_frame_s is None:
            figures.first_frame_s = now - self.opened
            self._listener.event({"type": "first_frame", "latency_ms": self._ms(figures.first_frame_s)})
        while came and came[0][0] < end:
            figures.speech_latency_s = now - came.pop(0)[1]

    def _in_time(self, index: int) -> bool:
        """Wait until the video frame is due; returns whether the session was stopped.

        One that is late moves all that follow: sound and picture wait together, and nothing piles up.
        """
        late = self.clock.now() - self._due(index)
        if late * float(self.fps) > 1:
            self.figures.late_video_frames += int(late * float(self.fps))
            self._zero = (self._zero or 0.0) + late
        return self.clock.wait(self._due(index), self._stop)

    def _ms(self, seconds: float | None) -> int | None:
        return None if seconds is None else round(1e3 * seconds)

    def _told(self, block: _Block) -> Event:
        """The event of a block that has been shown."""
        f, rate = self.figures, MODEL_RATE_HZ
        f.dropped_s = self.speech.dropped / rate
        each = {name: round(1e3 * s / max(1, self._made), 3) for name, s in f.stages.items()}
        return {
            "type": "block", "block": block.number, "video_frames": len(block.frames),
            "at": round(f.video_frames / float(self.fps), 3), "budget_ms": round(1e3 / float(self.fps), 3),
            "ms_per_video_frame": round(1e3 * block.seconds / self.clock.rate, 3), "stages_ms": each,
            "late_video_frames": f.late_video_frames, "dropped_ms": self._ms(f.dropped_s), "gaps": f.gaps,
            "latency_ms": self._ms(f.speech_latency_s), "queued_ms": self._ms(self.speech.queued / rate),
            "room_ms": self._ms(self.speech.room / rate), "compilations": f.compilations,
        }  # fmt: skip
