"""Watch a video: its pictures one by one in constant memory, their times, and where its sound begins."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import av
import numpy as np
from av.video.reformatter import Interpolation, VideoReformatter

from liveact_app.media.decode import BROKEN, FORMATS, _reason
from liveact_app.media.files import require_file
from liveact_model.errors import InputError

ATTACHED = 0x400  # disposition of a cover picture, which is no video
MAX_PIXELS = 1 << 25
OPTIONS = {"format_whitelist": FORMATS.replace(" ", ","), "protocol_whitelist": "file"}


@dataclass(frozen=True)
class Shot:
    """One video frame: `at` seconds after the first, `pixels` uint8 [H, W, 3] in RGB."""

    at: float
    pixels: np.ndarray


@dataclass(frozen=True)
class VideoFile:
    """What is known of a video before it is decoded.

    Attributes:
        path: absolute path.
        size: (W, H) in pixels.
        fps: video frames per second, on the average.
        frames: video frames, by the packets that the file holds; what is decoded may differ by a few.
        sound_after: seconds from the first video frame to the first sound; None without sound.
    """

    path: str
    size: tuple[int, int]
    fps: float
    frames: int
    sound_after: float | None

    @property
    def seconds(self) -> float:
        """Length of the pictures."""
        return self.frames / self.fps


def is_video(path: str | os.PathLike, argument: str) -> bool:
    """Whether a file holds moving pictures (a picture does not). Raises InputError for no file at all."""
    path = require_file(path, argument)
    try:
        with av.open(path, options=OPTIONS, metadata_errors="replace") as container:
            return bool(_pictures(container))
    except BROKEN:
        return False


def look(path: str | os.PathLike, argument: str = "VIDEO") -> VideoFile:
    """Read the packets of a video, not its pictures.

    Raises:
        InputError: no such file, no video, nothing in it, or pictures of over 33 megapixels.
    """
    path = require_file(path, argument)
    try:
        with av.open(path, options=OPTIONS, metadata_errors="replace") as container:
            streams = _pictures(container)
            if not streams:
                raise InputError(f"{argument}: expected a video, {path!r} has no moving pictures")
            stream = streams[0]
            size = (stream.codec_context.width, stream.codec_context.height)
            rate, base = stream.average_rate, float(stream.time_base)
            sound = next((s for s in container.streams.audio if s.codec_context is not None), None)
            starts = [float(s.start_time * s.time_base) for s in (stream, sound) if s and s.start_time is not None]
            times = [p.pts for p in container.demux(stream) if p.size and p.pts is not None]
    except InputError:
        raise
    except BROKEN as error:
        raise InputError(f"{argument}: expected a video, no decoder reads {path!r} ({_reason(error)})") from error
    if not times or not all(size):
        raise InputError(f"{argument}: expected a video, {path!r} has no video frame in it")
    if size[0] * size[1] > MAX_PIXELS:
        raise InputError(f"{argument}: expected at most {MAX_PIXELS >> 20} megapixels, {path!r} is {size[0]}x{size[1]}")
    span = (max(times) - min(times)) * base
    fps = (len(times) - 1) / span if span > 0 else float(rate or 25)
    after = None if sound is None else starts[1] - starts[0] if len(starts) == 2 else 0.0
    return VideoFile(path, size, fps, len(times), after)


def watch(video: VideoFile, argument: str = "VIDEO") -> Iterator[Shot]:
    """Decode a video's pictures in order, in true colours, all of its first size.

    Raises:
        InputError: while iterating, where the file is damaged; the sentence says at which second.
    """
    at, first, convert = 0.0, None, VideoReformatter()
    try:
        with av.open(video.path, options=OPTIONS, metadata_errors="replace") as container:
            for number, frame in enumerate(container.decode(_pictures(container)[0])):
                time = number / video.fps if frame.time is None else frame.time
                first = time if first is None else first
                at = time - first
                # The default matrix is that of standard definition, whatever the file says.
                rgb = convert.reformat(frame, *video.size, format="rgb24", src_colorspace=frame.colorspace,
                                       interpolation=Interpolation.BICUBIC)  # fmt: skip
                yield Shot(at, rgb.to_ndarray())
    except BROKEN as error:
        raise InputError(
            f"{argument}: {video.path!r} is damaged at {at:.2f} s and cannot be decoded ({_reason(error)})"
        ) from error


def _pictures(container: Any) -> list[Any]:
    """Streams of moving pictures."""
    streams = [s for s in container.streams.video if s.codec_context is not None]
    return [s for s in streams if not int(getattr(s, "disposition", 0)) & ATTACHED]
