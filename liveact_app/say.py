"""How far a generation is: a bar on a terminal, a plain line every few seconds elsewhere."""

import sys
import time
import warnings
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from liveact_app.launch import talks
from liveact_model.errors import CheckpointWarning

LOG_EVERY_S = 5.0
# The rate shown is that of the last few blocks: the first one also pays for warming up.
RATE_BLOCKS = 8

Update = Callable[[int], None]


def note(text: str) -> None:
    """Print one line about what is being done; standard output stays free for results.

    Under torchrun one process speaks for all.
    """
    if talks():
        print(f"liveact: {text}", file=sys.stderr, flush=True)


@contextmanager
def told() -> Iterator[None]:
    """Say what is passed over in a checkpoint as a note; other warnings go their way."""
    with warnings.catch_warnings():
        show = warnings.showwarning

        def say(message: Warning | str, category: type[Warning], *where: Any, **more: Any) -> None:
            if issubclass(category, CheckpointWarning):
                note(str(message))
            else:
                show(message, category, *where, **more)

        warnings.simplefilter("always", CheckpointWarning)
        warnings.showwarning = say
        yield


class Meter:
    """Rate and remaining time from the number of video frames made.

    Args:
        total: video frames to make.
        fps: video frames per second of the finished video.
        clock: seconds, monotonic.
    """

    def __init__(self, total: int, fps: float, clock: Callable[[], float] = time.monotonic):
        self.total, self._fps, self._clock = total, fps, clock
        self.start = clock()
        self.done = 0
        self._marks = deque([(self.start, 0)], maxlen=RATE_BLOCKS + 1)

    def update(self, done: int) -> None:
        """Record that `done` video frames exist."""
        self.done = done
        self._marks.append((self._clock(), done))

    @property
    def elapsed(self) -> float:
        """Seconds since the start."""
        return self._clock() - self.start

    @property
    def rate(self) -> float:
        """Video frames made per second over the last blocks; 0 before the first."""
        (t0, n0), (t1, n1) = self._marks[0], self._marks[-1]
        return (n1 - n0) / (t1 - t0) if t1 > t0 else 0.0

    def text(self, rate: str = "{:.1f} video frames/s", factor: str = "real-time factor {:.2f}") -> str:
        """Rate, real-time factor, elapsed and remaining time as one line; the first two in the given wording."""
        elapsed = f"{_clock_text(self.elapsed)} elapsed"
        if not self.rate:
            return elapsed
        left = f"{_clock_text((self.total - self.done) / self.rate)} left"
        return ", ".join((rate.format(self.rate), factor.format(self._fps / self.rate), elapsed, left))


def _clock_text(seconds: float) -> str:
    minutes, s = divmod(round(seconds), 60)
    h, m = divmod(minutes, 60)
    return f"{h}:{m:02}:{s:02}" if h else f"{m}:{s:02}"


@contextmanager
def show_progress(total: int, fps: float) -> Iterator[Update]:
    """Show progress on standard error; the value is a function to call with the number of video frames made.

    Args:
        total: video frames to make.
        fps: video frames per second of the finished video, for the real-time factor (seconds of work per second of
            video; below 1 keeps up with playback).
    """
    from rich.console import Console

    console = Console(stderr=True)
    show = _bar(console, Meter(total, fps)) if console.is_terminal and not console.is_dumb_terminal else None
    with show or _lines(Meter(total, fps)) as update:
        yield update


@contextmanager
def _bar(console: object, meter: Meter) -> Iterator[Update]:
    from rich.progress import BarColumn, Progress, ProgressColumn, TextColumn
    from rich.table import Column
    from rich.text import Text

    class Figures(ProgressColumn):
        def render(self, task: object) -> Text:
            # Short, so that 80 columns hold it all: what the rate counts stands right before it.
            return Text(meter.text("{:.1f}/s", "RTF {:.2f}"))

    counts = TextColumn("{task.completed:.0f}/{task.total:.0f} video frames")
    columns = (BarColumn(None, table_column=Column(ratio=1)), counts, Figures(table_column=Column(no_wrap=True)))
    with Progress(*columns, console=console, refresh_per_second=4, expand=True) as progress:  # type: ignore[arg-type]
        task = progress.add_task("", total=meter.total)

        def update(done: int) -> None:
            meter.update(done)
            progress.update(task, completed=done)

        yield update


@contextmanager
def _lines(meter: Meter) -> Iterator[Update]:
    last = meter.start

    def update(done: int) -> None:
        nonlocal last
        meter.update(done)
        if meter.start + meter.elapsed - last >= LOG_EVERY_S:
            last = meter.start + meter.elapsed
            note(f"{done}/{meter.total} video frames, {meter.text()}")

    yield update


class Loading:
    """Seconds of each component while a model is loaded; `watch` is told what `load_avatar(watch=)` tells.

    What passes before the first component is spent on opening and checking files.
    """

    FILES = "files"

    def __init__(self, show: Callable[[str, int, int], None], clock: Callable[[], float] = time.monotonic):
        self.seconds: dict[str, float] = {}
        self._show, self._clock, self._last, self._name = show, clock, clock(), self.FILES

    def watch(self, name: str, done: int, total: int) -> None:
        """Hear that `done` of `total` bytes of a component are in place."""
        now = self._clock()
        self.seconds[self._name] = self.seconds.get(self._name, 0.0) + now - self._last
        self._name, self._last = name, now
        self._show(name, done, total)


@contextmanager
def show_loading() -> Iterator[Loading]:
    """Show on standard error how far a model is loaded: a bar on a terminal, a line every few seconds elsewhere."""
    from rich.console import Console

    console = Console(stderr=True)
    with _loading_bar(console) if console.is_terminal and not console.is_dumb_terminal else _loading_lines() as show:
        yield Loading(show)


@contextmanager
def _loading_bar(console: object) -> Iterator[Callable[[str, int, int], None]]:
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

    columns = (TextColumn("{task.description:14}"), BarColumn(None), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, console=console, refresh_per_second=4, expand=True) as progress:  # type: ignore[arg-type]
        tasks: dict[str, object] = {}

        def show(name: str, done: int, total: int) -> None:
            if name not in tasks:
                tasks[name] = progress.add_task(name, total=total)
            progress.update(tasks[name], completed=done)  # type: ignore[arg-type]

        yield show


@contextmanager
def _loading_lines() -> Iterator[Callable[[str, int, int], None]]:
    last = time.monotonic()

    def show(name: str, done: int, total: int) -> None:
        nonlocal last
        if time.monotonic() - last >= LOG_EVERY_S:
            last = time.monotonic()
            note(f"{name}: {done / 1e9:.2f} of {total / 1e9:.2f} GB")

    yield show
