"""One recorded video as training wants it: pictures at the model's rate, cropped to a square, and sound at 16 kHz.

Training reads for itself, and not as the app does: for the app a hole or damage in a user's file is silence and a note,
here it would be taught, so a file that is not whole is refused; and here pictures and sound must share one clock.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.error import FFmpegError
from av.video.reformatter import Interpolation

from liveact_model.errors import InputError
from liveact_train.data.speech import SAMPLE_RATE

SUFFIXES = (".mkv", ".mov", ".mp4", ".webm")
OPTIONS = {"format_whitelist": "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm", "protocol_whitelist": "file"}
"""Plain files only: FFmpeg also takes playlists, which name other files and addresses."""
SLOWEST = 0.99
"""A rate below this share of the model's would show pictures twice, and stutter would be learnt."""
CUT_SECONDS = 0.5  # what may be missing of the length that the header states
STILL_SECONDS = 0.5  # longest time between two pictures: a longer one is damage, or a freeze that would be learnt
GAP_SECONDS = 0.05  # time stamps of sound are rounded; a longer hole is silence that the recorder left out


@dataclass
class Recording:
    """The pictures uint8 [3, size, size] of a file at `fps`, once, as an iterator; `samples` is complete after it.

    Picture k is the one whose time stamp is nearest to k / fps after the first one's, so any rate from `fps` on, even
    or not, is taken, and no picture is off by more than half of a recorded one's time. It is scaled until its shorter
    side has `size` pixels; the middle of the longer one is kept. samples: float32 mono [n] at 16 kHz, sample 0 at the
    time of picture 0.

    Raises InputError while iterating: no video, no sound or only silence, fewer pictures a second than `fps`, damage.
    """

    path: Path
    size: int
    fps: float
    samples: np.ndarray = field(default_factory=lambda: np.zeros(0, np.float32), repr=False)

    def __iter__(self) -> Iterator[np.ndarray]:
        sound = _Sound()
        try:
            with av.open(str(self.path), options=OPTIONS, metadata_errors="replace") as file:
                if not file.streams.video:
                    raise InputError(f"--videos: expected pictures in every video, {str(self.path)!r} has none")
                if not file.streams.audio:
                    raise InputError(f"--videos: expected sound in every video, {str(self.path)!r} has none")
                yield from self._pictures(file, sound)
        except InputError:
            raise
        except (FFmpegError, ValueError, OSError) as error:
            reason = (getattr(error, "strerror", None) or str(error)).strip(" .") or type(error).__name__
            raise self._broken(reason) from None

    def _pictures(self, file: Any, sound: _Sound) -> Iterator[np.ndarray]:
        shown, first, last, count, given = None, math.nan, -math.inf, 0, 0
        for packet in file.demux(file.streams.video[0], file.streams.audio[0]):
            for frame in packet.decode():
                if frame.pts is None or getattr(frame, "is_corrupt", False):
                    raise self._broken("a part of it cannot be decoded" if frame.pts is not None else "no time stamps")
                at = float(frame.pts * frame.time_base)
                if packet.stream.type == "audio":
                    sound.take(at, frame)
                    continue
                if shown is None:
                    first = at
                elif at <= last:
                    raise self._broken("time stamps that go back")
                elif at - last > STILL_SECONDS:
                    raise self._broken(f"no picture from {last - first:.2f} to {at - first:.2f} s")
                while shown is not None and first + given / self.fps < (last + at) / 2:
                    yield self._picture(shown)
                    given += 1
                shown, last, count = frame, at, count + 1
        self._check(file, first, last, count, sound.end)
        while first + given / self.fps <= last:
            yield self._picture(shown)
            given += 1
        self.samples = sound.since(first)
        if not self.samples.any():
            raise InputError(f"--videos: expected sound in every video, that of {str(self.path)!r} is silence")

    def _check(self, file: Any, first: float, last: float, count: int, end: float) -> None:
        if not count:
            raise self._broken("no picture in it can be decoded")
        if file.duration:
            missing = ((file.start_time or 0) + file.duration) / 1e6 - max(last + 1 / self.fps, end)
            if missing > CUT_SECONDS:
                raise self._broken(f"its last {missing:.1f} s are missing")
        rate = (count - 1) / (last - first) if count > 1 else self.fps
        if rate < SLOWEST * self.fps:
            least = f"expected at least {self.fps:g} video frames per second, the model's rate"
            raise InputError(f"--videos: {least}, {str(self.path)!r} has {rate:.3g}")

    def _picture(self, frame: Any) -> np.ndarray:
        scale = self.size / min(frame.width, frame.height)
        width, height = (max(self.size, round(scale * side)) for side in (frame.width, frame.height))
        small = frame.reformat(width, height, format="rgb24", interpolation=Interpolation.AREA).to_ndarray()
        x, y = (width - self.size) // 2, (height - self.size) // 2
        square = small[y : y + self.size, x : x + self.size]
        return upright(square, getattr(frame, "rotation", 0)).transpose(2, 0, 1)

    def _broken(self, reason: str) -> InputError:
        return InputError(f"--videos: expected videos that can be decoded whole, {str(self.path)!r} is not ({reason})")


def upright(picture: np.ndarray, degrees: int) -> np.ndarray:
    """A square picture [S, S, 3] as a player shows it: turned by the file's quarter turns, counterclockwise."""
    return np.rot90(picture, round(degrees / 90))


class _Sound:
    """Mono sound at 16 kHz from frames with time stamps; what lies between two stretches of them is silence."""

    def __init__(self) -> None:
        self._stretches: list[tuple[float, list[np.ndarray]]] = []
        self._convert: Any = None
        self._form: tuple[Any, ...] = ()
        self.end = -math.inf  # seconds

    def take(self, at: float, frame: Any) -> None:
        form = (frame.sample_rate, frame.layout.name, frame.format.name)
        if abs(at - self.end) > GAP_SECONDS or form != self._form:
            self._flush()
            self._convert, self._form = av.AudioResampler(format="flt", layout="mono", rate=SAMPLE_RATE), form
            self._stretches.append((at, []))
            self.end = at
        self.end += frame.samples / frame.sample_rate
        self._keep(frame)

    def since(self, first: float) -> np.ndarray:
        """Samples [n] from time `first` on."""
        self._flush()
        pieces = [(round((at - first) * SAMPLE_RATE), np.concatenate(parts)) for at, parts in self._stretches if parts]
        out = np.zeros(max([0, *(start + len(piece) for start, piece in pieces)]), np.float32)
        for start, piece in pieces:
            begin = max(0, -start)
            out[start + begin : start + len(piece)] = piece[begin:]
        return out

    def _keep(self, frame: Any) -> None:
        self._stretches[-1][1].extend(part.to_ndarray().reshape(-1) for part in self._convert.resample(frame))

    def _flush(self) -> None:
        if self._convert is not None:
            self._keep(None)
            self._convert = None
