"""Decode a file of sound piece by piece: every link, any change of rate or channels, holes and damage as silence."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import av
import numpy as np
from av.error import FFmpegError

from liveact_app.media.links import link_bounds
from liveact_model.errors import InputError

MIN_RATE_HZ, MAX_RATE_HZ = 4_000, 768_000
MAX_CHANNELS = 64
# Demuxers of plain media files. Without the list FFmpeg also takes playlists, which name other files and addresses.
FORMATS = (
    "mov mp4 m4a 3gp 3g2 mj2 matroska webm ogg wav w64 flac mp3 aac ac3 eac3 amr amrnb amrwb avi mpegts mpeg asf aiff "
    "au caf flv ape wv tta opus loas dts"
)
# Formats whose time stamps come from the file; those of the others only count what the demuxer found.
TIMED = {"mov", "matroska", "webm", "ogg", "flac", "flv", "asf", "mpegts", "mpeg", "avi"}
STATED = {"mov", "matroska", "flac"}  # formats whose header states the length of a whole file
# Ogg Vorbis time stamps wander by 10 ms and Matroska's are rounded; a lost packet is 20 ms or more.
HOLE_SECONDS, RESTART_SECONDS = 0.03, 3600.0
MAX_USELESS_BYTES = 16 << 20  # without one sample: the rest will not be better
SILENCE_SECONDS = 0.5  # silence is handed out in pieces of this length
BROKEN = (FFmpegError, ValueError, OSError)


@dataclass(frozen=True)
class Piece:
    """Samples float32 [n, channels] at `rate` Hz; `layout` names the channels as FFmpeg does, () where unknown."""

    samples: np.ndarray
    rate: int
    layout: tuple[str, ...]


@dataclass
class Decoder:
    """The sound of a file, once, as an iterator of `Piece`.

    Attributes (complete after iteration, in seconds): `heard` what was decoded; `holes` silence for time that the file
    itself leaves out; `lost` silence for what could not be decoded; `cut` what a cut file lacks at its end. `junk`
    counts the bytes that are no sound at its end. `track` of `tracks` was read, `marked` says if as the default.

    Raises InputError: no such track, a rate or channel count out of range; ValueError: nothing reads it.
    """

    path: str
    argument: str = "--audio"
    track: int | None = None
    tracks: int = 0
    marked: bool = False
    heard: float = 0.0
    holes: float = 0.0
    lost: float = 0.0
    cut: float = 0.0
    junk: int = 0
    _last: Piece | None = field(default=None, repr=False)

    def __iter__(self) -> Iterator[Piece]:
        bounds = link_bounds(self.path)
        self.junk += bounds[0][0]
        for begin, end in bounds:
            before = self.heard
            try:
                yield from self._link(begin, end, len(bounds) > 1 or begin > 0)
            except InputError:
                raise
            except BROKEN as error:
                if self._last is None:
                    raise ValueError(_reason(error)) from error
                if self.heard == before:
                    self.junk += end - begin

    def _link(self, begin: int, end: int, part: bool) -> Iterator[Piece]:
        url = f"subfile,,start,{begin},end,{end},,:{self.path}" if part else self.path
        options = {"format_whitelist": FORMATS.replace(" ", ","), "protocol_whitelist": "file,subfile"}
        with av.open(url, options=options, metadata_errors="replace") as container:
            stream = self._choose(container)
            names = set(container.format.name.split(","))
            before, clock = self.heard + self.holes + self.lost, _Clock(bool(names & TIMED))
            sound = _Floats(self.path, self.argument)
            try:
                for packet in container.demux(stream):
                    yield from self._packet(packet, clock, sound, "flac" in names)
            finally:
                self.junk += clock.bad
                if container.duration and names & STATED:
                    missing = container.duration / 1e6 - (self.heard + self.holes + self.lost - before)
                    self.cut += missing if missing > 0.1 else 0.0

    def _packet(self, packet: Any, clock: "_Clock", sound: "_Floats", exact: bool) -> Iterator[Piece]:
        try:
            frames = packet.decode()
        except FFmpegError:
            clock.spoil(packet.size)
            if self._last is None and clock.bad > MAX_USELESS_BYTES:
                raise ValueError(f"nothing in its first {clock.bad >> 20} MiB can be decoded") from None
            return
        for frame in frames:
            damaged = bool(clock.bad) or exact
            if (gap := clock.gap(frame)) > 0:
                if damaged:
                    self.lost += gap
                else:
                    self.holes += gap
                yield from _silence(gap, sound.last or sound(frame))
            piece = sound(frame)
            seconds = len(piece.samples) / piece.rate
            self.heard, self._last = self.heard + seconds, piece
            clock.took(seconds, packet.size)
            yield piece

    def _choose(self, container: Any) -> Any:
        streams = [s for s in container.streams.audio if s.codec_context is not None]
        if not streams:
            raise ValueError("it has no audio stream")
        marked = [i for i, s in enumerate(streams) if int(getattr(s, "disposition", 0)) & 1]
        if self.tracks == 0:
            self.tracks = len(streams)
            if self.track is None:
                self.marked, self.track = bool(marked), marked[0] if marked else 0
            elif self.track >= len(streams):
                raise InputError(
                    f"--audio-track: expected a track that {self.path!r} has (it has {len(streams)}, counted from 0), "
                    f"got {self.track}"
                )
        stream = streams[min(self.track, len(streams) - 1)]
        context = stream.codec_context
        channels = context.layout.nb_channels
        if not channels and context.name.startswith("pcm_"):  # more than FFmpeg takes
            channels = None
        _check(self.path, self.argument, context.sample_rate, channels)
        return stream


class _Clock:
    """Finds silence that is missing: from time stamps, or where a format has none from the bytes that were no use."""

    def __init__(self, timed: bool):
        self._timed, self._origin, self._done = timed, None, 0.0
        self.bad, self._good = 0, 0  # bytes

    def spoil(self, size: int) -> None:
        self.bad += size

    def took(self, seconds: float, size: int) -> None:
        self._done, self._good = self._done + seconds, self._good + size

    def gap(self, frame: Any) -> float:
        """Seconds of silence that belong before a frame."""
        bad, self.bad = self.bad, 0
        if not self._timed:
            gap = bad * self._done / self._good if self._good else 0.0
        elif frame.pts is None:
            return 0.0
        else:
            at = float(frame.pts * frame.time_base)
            if self._origin is None or not -1 < at - self._origin - self._done < RESTART_SECONDS:
                self._origin = at - self._done
            gap = at - self._origin - self._done
            gap = gap if gap > HOLE_SECONDS else 0.0
        self._done += gap
        return gap


class _Floats:
    """Frames of any sample format as `Piece`."""

    def __init__(self, path: str, argument: str):
        self._path, self._argument = path, argument
        self._form, self._convert, self._layout = None, None, ()
        self.last: Piece | None = None

    def __call__(self, frame: Any) -> Piece:
        count, form = frame.layout.nb_channels, (frame.sample_rate, frame.layout.name, frame.format.name)
        if form != self._form:
            _check(self._path, self._argument, frame.sample_rate, count)
            names = tuple(channel.name for channel in frame.layout.channels)
            self._layout = () if "NONE" in names or len(names) != count else names
            # packed: PyAV's planes of 8 channels and more are not all there
            self._convert = av.AudioResampler(format="flt", layout=frame.layout, rate=frame.sample_rate)
            self._form = form
        parts = [part.to_ndarray().reshape(-1, count) for part in self._convert.resample(frame)]
        samples = np.concatenate(parts) if parts else np.zeros((0, count), np.float32)
        self.last = Piece(samples, frame.sample_rate, self._layout)
        return self.last


def _check(path: str, argument: str, rate: int, channels: int | None) -> None:
    if rate and not MIN_RATE_HZ <= rate <= MAX_RATE_HZ:
        raise InputError(
            f"{argument}: expected a sampling rate of {MIN_RATE_HZ} to {MAX_RATE_HZ} Hz, {path!r} has {rate} Hz"
        )
    if channels is None or channels > MAX_CHANNELS:
        raise InputError(f"{argument}: expected at most {MAX_CHANNELS} channels, {path!r} has {channels or 'far more'}")


def _silence(seconds: float, like: Piece) -> Iterator[Piece]:
    left = round(seconds * like.rate)
    while left > 0:
        count = min(left, int(SILENCE_SECONDS * like.rate))
        yield Piece(np.zeros((count, like.samples.shape[1]), np.float32), like.rate, like.layout)
        left -= count


def _reason(error: Exception) -> str:
    """The decoder's words without the path, which the sentence around it already names."""
    text = getattr(error, "strerror", None) or str(error)
    return text.strip(" .") or type(error).__name__
