"""A live session: the CLI's Session paced by a clock, on two threads of its own, with no web framework in sight.

Time is that of the video frames that leave. A block is begun as late as it can be, with the speech that has come by
then (`maker.py`); silence stands where there is none, so the avatar stays alive. Sound and picture of a block leave
together, so they cannot drift, whatever the model takes.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from concurrent.futures import Executor, Future, wait
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from liveact_app.limits import lack
from liveact_app.media.audio import MODEL_RATE_HZ
from liveact_app.media.video import frame_rate
from liveact_app.serve.clock import Clock
from liveact_app.serve.figures import Figures
from liveact_app.serve.handover import Handover
from liveact_app.serve.maker import Block, Event, Maker
from liveact_app.serve.turns import Turns
from liveact_model.errors import InputError

log = logging.getLogger("liveact.live")
ENDS = ("closed", "idle", "long", "drained", "input", "failed")
"""Why a session ends: it was closed, nobody spoke to it, it was long enough, the server stops, bad input, a bug."""


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


class Live:
    """One running session.

    start     makes its Session; called on its thread, in a turn of its own
    fps       video frames per second
    listener  is told everything
    pool      gives two threads; a server's are used again, so that memory of one session serves the next

    Pushing, prompts and interrupts come from any thread and return at once; they count at the next block.
    """

    def __init__(
        self, start: Callable[[], Any], fps: float, listener: Listener, turns: Turns, clock: Clock, pool: Executor
    ):
        self.fps, self.clock, self.figures = frame_rate(fps), clock, Figures()
        self.maker = Maker(self.fps, turns, clock, self.figures, listener.event)
        self.speech = self.maker.speech
        self.opened = self.touched = clock.now()
        self._start, self._listener, self._turns, self._pool = start, listener, turns, pool
        self._stop, self._lock, self._end = threading.Event(), threading.Lock(), ("", "")
        self._blocks: Handover[Block] = Handover()
        self._zero: float | None = None  # the clock at video frame 0
        self._gone = threading.Event()  # the Session
        self._shown: Future[None] | None = None

    # ---- from outside -----------------------------------------------------------------------------------------------

    def begin(self) -> None:
        """Start."""
        self._pool.submit(self._guard, self._make)
        self._shown = self._pool.submit(self._show)

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
        self.maker.prompt(text, number)

    def interrupt(self) -> None:
        """Drop the speech that waits; what the model has heard is shown to the end of its block."""
        self.touched = self.clock.now()
        self.maker.interrupt()

    def close(self, reason: str, code: str = "closed") -> None:
        """End it; returns at once. The first reason counts."""
        with self._lock:
            self._end = self._end if self._end[0] else (code, reason)
        self._stop.set()
        self._blocks.close()

    def join(self, seconds: float | None = None) -> bool:
        """Wait until it is over and all has been told; returns whether it is."""
        return self._shown is None or not wait([self._shown], seconds).not_done

    @property
    def over(self) -> bool:
        """Whether it ends or has ended."""
        return self._stop.is_set()

    # ---- its threads -------------------------------------------------------------------------------------------------

    def _guard(self, work: Callable[[], None]) -> None:
        """Run a thread's work; what goes wrong there ends the session with a sentence."""
        try:
            work()
        except InputError as error:
            self.close(str(error), "input")
        except Exception as error:
            log.exception("a live session failed")
            self.close(f"the session failed ({lack(error) or type(error).__name__})", "failed")

    def _make(self) -> None:
        session = None
        try:
            with self._turns.take(self.opened):
                if not self._stop.is_set():
                    session = self._start()
            while session is not None and not self._stop.is_set():
                due = self.opened if self._zero is None else self._due(self.maker.made)
                block = self.maker.block(session, due)
                if self._zero is None:
                    self._zero = self.clock.now()
                self._blocks.put(block)
                self.clock.wait(self._due(self.maker.made) - self.maker.lead(session), self._stop)
        finally:
            try:
                if session is not None:
                    session.close()
            finally:  # whatever happens there, its end is told
                self._gone.set()

    def _due(self, video_frame: int) -> float:
        return (self._zero or 0.0) + video_frame / float(self.fps)

    def _show(self) -> None:
        self._guard(self._show_blocks)
        self._gone.wait()
        self._listener.ended(self._end[0] or "closed", self._end[1] or "closed")

    def _show_blocks(self) -> None:
        first, marks, placed = 0, [], []
        while (block := self._blocks.get()) is not None:
            marks += block.marks  # some are of sound that the next block shows
            placed += block.placed
            for index, pixels in enumerate(block.frames, first):
                if self._in_time(index):
                    return
                begin, end = self.maker.sample(index), self.maker.sample(index + 1)
                heard = block.sound[begin - self.maker.sample(first) :]
                reached = tuple(mark for sample, mark in placed if sample <= end)
                placed = placed[len(reached) :]
                with self.figures.stage("encode", self.clock):
                    self._listener.moment(Moment(index, pixels, end - begin, heard, reached))
                self._left(index, end, marks)
            first += len(block.frames)
            self._listener.event(self._told(block))

    def _left(self, index: int, end: int, marks: list[tuple[int, float]]) -> None:
        """A video frame whose sound ends before sample `end` has left."""
        figures, now = self.figures, self.clock.now()
        figures.video_frames = index + 1
        if figures.first_frame_s is None:
            figures.first_frame_s = now - self.opened
            self._listener.event({"type": "first_frame", "latency_ms": self._ms(figures.first_frame_s)})
        while marks and marks[0][0] < end:
            figures.speech_latency_s = now - marks.pop(0)[1]

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

    def _told(self, block: Block) -> Event:
        """The event of a block that has been shown."""
        f, rate = self.figures, MODEL_RATE_HZ
        f.dropped_s = self.speech.dropped / rate
        each = {name: round(1e3 * s / max(1, self.maker.made), 3) for name, s in f.stages.items()}
        return {
            "type": "block", "block": block.number, "video_frames": len(block.frames),
            "at": round(f.video_frames / float(self.fps), 3), "budget_ms": round(1e3 / float(self.fps), 3),
            "ms_per_video_frame": round(1e3 * block.seconds / self.clock.rate, 3), "stages_ms": each,
            "late_video_frames": f.late_video_frames, "dropped_ms": self._ms(f.dropped_s), "gaps": f.gaps,
            "latency_ms": self._ms(f.speech_latency_s), "queued_ms": self._ms(self.speech.queued / rate),
            "room_ms": self._ms(self.speech.room / rate), "compilations": f.compilations,
        }  # fmt: skip
