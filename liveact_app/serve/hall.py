"""One loaded model and the live sessions on it: how many, whose turn, for how long, and what all of them have done."""

from __future__ import annotations

import secrets
import threading
from collections import Counter
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from liveact_app.serve.clock import Clock
from liveact_app.serve.figures import STAGES
from liveact_app.serve.live import Listener, Live
from liveact_app.serve.settings import Settings
from liveact_app.serve.turns import Turns
from liveact_model.errors import InputError
from liveact_model.session import Session

if TYPE_CHECKING:
    from liveact_app.serve.ranks import Group
    from liveact_model.avatar import Avatar

SECRET_BYTES = 16
WARM_BLOCKS = 3
WRITTEN_SIDE_PX = 2048


class Busy(Exception):
    """No session is free, or the server is about to stop: one sentence."""


@dataclass(frozen=True)
class Wish:
    """What a session shall be; `size` (W, H) and `fps` are None for the model's own."""

    prompt: str
    size: tuple[int, int] | None = None
    fps: float | None = None
    seed: int = 42
    scale: int = 1


class Hall:
    """Where sessions are held.

    avatar   the model; it is shared, block by block
    size     (W, H) that it was loaded for: no session is larger
    group    the processes that share the work: one session at a time then
    options  of every Session: audio_cfg, sampler, ...

    `name` begins every id that is given out here, so that a fleet finds whose it is.
    """

    def __init__(
        self, avatar: Avatar, size: tuple[int, int], settings: Settings, clock: Clock | None = None,
        group: Group | None = None, **options: Any,
    ):  # fmt: skip
        self.avatar, self.size, self.settings, self.options = avatar, size, settings, options
        self.clock, self.turns, self.draining = clock or Clock(), Turns(), False
        self.live: dict[str, Live] = {}
        self.ended: Counter[str] = Counter()
        self.refused, self.group, self.broken, self.name = 0, group, False, ""
        self._done: Counter[str] = Counter()
        self._lock = threading.Lock()
        self._pool = ThreadPoolExecutor(2 * settings.sessions, "live", self.enter_thread)

    def check(self, wish: Wish) -> tuple[tuple[int, int], float]:
        """Size and fps of a wish. Raises InputError."""
        size = wish.size or self.size
        most = self.size[0] * self.size[1]
        if any(side % 16 or side < 16 for side in size) or size[0] * size[1] > most:
            raise InputError(
                f"size: expected multiples of 16 and at most {most} pixels ({self.size[0]}x{self.size[1]}), got "
                f"{size[0]}x{size[1]}"
            )
        if max(size) * wish.scale > WRITTEN_SIDE_PX:
            raise InputError(f"scale: expected at most {WRITTEN_SIDE_PX} pixels a side, got {max(size) * wish.scale}")
        return size, float(self.avatar.default_fps if wish.fps is None else wish.fps)

    def room(self) -> None:
        """Raise Busy unless one more session can be opened."""
        sentence = ""
        if self.draining:
            sentence = "the server is about to stop and opens no more sessions"
        elif len(self.live) >= self.settings.sessions:
            count = self.settings.sessions
            sentence = f"all {count} sessions are taken, try again later" if count > 1 else (
                "the one session is taken, try again later")  # fmt: skip
        if sentence:
            self.refused += 1
            raise Busy(sentence)

    def open(self, picture: torch.Tensor, wish: Wish, listener: Listener) -> tuple[str, Live]:
        """Begin a session; returns its id, which nobody can guess, and itself.

        picture  float32 [3, H, W] in [-1, 1], as `fit_image` makes it
        Raises Busy, and InputError for a wish that cannot be.
        """
        _, fps = self.check(wish)

        def start() -> Session:
            return self._session(picture, wish.prompt, fps=fps, seed=wish.seed)

        number = self.number()
        with self._lock:
            self.room()
            live = Live(start, fps, _Leaving(self, number, listener), self.turns, self.clock,
                        self._pool)  # fmt: skip
            self.live[number] = live
            live.begin()
        return number, live

    def number(self) -> str:
        """A new id, which nobody can guess."""
        return self.name + secrets.token_urlsafe(SECRET_BYTES)

    def _session(self, picture: torch.Tensor, prompt: str, **more: Any) -> Session:
        options = self.options | more
        ranks = {} if self.group is None else {"parallel": self.group.open(**options)}
        return Session(self.avatar, picture, prompt, **options, **ranks)

    def enter_thread(self) -> None:
        """To be called first by a thread that runs the model: kernels start on the thread's own device."""
        index = self.avatar.anchor().device.index
        if index is not None:
            torch.accelerator.set_device_index(index)

    def left(self, number: str, code: str) -> None:
        """A session has ended: what it counted stays."""
        if self.group is not None and code == "failed":  # the others are in the middle of something, or gone
            self.broken = self.draining = True
        with self._lock:
            live = self.live.pop(number, None)
            if live is not None:
                self._done.update(_counted([live]))
                self.ended[code] += 1

    def totals(self) -> Counter[str]:
        """Sums over all sessions, those that have ended too; floats under the names of `Figures` and its stages."""
        with self._lock:
            return self._done + _counted(self.live.values())

    def sweep(self) -> None:
        """End the sessions that are idle or have lasted long enough; called every now and then."""
        now, s = self.clock.now(), self.settings
        for live in list(self.live.values()):
            if now - live.touched > s.idle_s:
                live.close(f"nothing came for {s.idle_s:g} s", "idle")
            elif now - live.opened > s.longest_s:
                live.close(f"a session lasts {s.longest_s:g} s at most", "long")

    def keep_alive(self) -> None:
        """Called every now and then, not on the event loop: it waits for its turn."""
        if self.group is not None and not self.live:
            with self.turns.take():
                if not self.live:
                    self.group.keep_alive()

    def drain(self) -> None:
        """Open no more sessions."""
        self.draining = True

    def close(self, reason: str = "the server stops") -> None:
        """End all sessions and wait until they are gone."""
        with self._lock:  # one that is being opened is among them
            self.drain()
            lives = list(self.live.values())
        for live in lives:
            live.close(reason, "drained")
        self._pool.shutdown()

    def warm(self) -> None:
        """Run a session that nobody sees, with a change of prompt: what compiles, compiles now."""
        w, h = self.size
        session = self._session(torch.zeros(3, h, w), "")
        for block in range(WARM_BLOCKS):
            while not session.ready():
                session.push_audio(torch.zeros(800))
            session.next_block()
            if not block:
                session.set_prompt("a happy person")
        session.close()


class _Leaving:
    """A listener that also tells the hall when its session has ended."""

    def __init__(self, hall: Hall, number: str, listener: Listener):
        self._hall, self._number, self._listener = hall, number, listener
        self.moment: Any = listener.moment
        self.event: Any = listener.event

    def ended(self, code: str, reason: str) -> None:
        self._hall.left(self._number, code)
        self._listener.ended(code, reason)


def _counted(lives: Iterable[Live]) -> Counter[str]:
    out: Counter[str] = Counter()
    names = ("video_frames", "late_video_frames", "blocks", "dropped_s", "gaps", "interrupts", "compilations")
    for live in lives:
        f = live.figures
        out.update({name: getattr(f, name) for name in names})
        out.update({name: f.stages[name] for name in STAGES})
    return out
