"""Encode blocks of frames and the original sound into one file while they are made."""

import contextlib
import itertools
import os
from collections.abc import Iterator
from fractions import Fraction

import av
import numpy as np
from av.error import FFmpegError
from av.video.reformatter import Colorspace, Interpolation, VideoReformatter

from liveact_app.media.audio import AudioReader, resample
from liveact_app.media.downmix import to_stereo

CONTAINERS = {".mp4": "mp4", ".mkv": "matroska", ".mov": "mov"}
MAX_WRITTEN_SIDE_PX = 8192  # H.264 level 6.2
# Constant quality; slower presets double the work next to a model that may run on the same cores, for few bytes.
X264 = {"crf": "18", "preset": "veryfast"}
AAC_BITS_PER_SECOND = 96_000  # per channel
AAC_FALLBACK_RATE_HZ = 48_000
# Layouts that a decoder of AAC gives back by name; side and back channels have the same places.
AAC_LAYOUTS = {
    ("FC",): "mono", ("FL", "FR"): "stereo", ("FL", "FR", "FC"): "3.0", ("FL", "FR", "FC", "BC"): "4.0",
    ("FL", "FR", "FC", "BL", "BR"): "5.0", ("FL", "FR", "FC", "SL", "SR"): "5.0",
    ("FL", "FR", "FC", "LFE", "BL", "BR"): "5.1", ("FL", "FR", "FC", "LFE", "SL", "SR"): "5.1",
    ("FL", "FR", "FC", "LFE", "BL", "BR", "SL", "SR"): "7.1", ("FL", "FR", "BL", "BR"): "quad",
}  # fmt: skip
UNNAMED = {1: "mono", 2: "stereo", 3: "3.0", 4: "quad", 5: "5.0", 6: "5.1", 8: "7.1"}
BT709, MPEG_RANGE = 1, 1


def frame_rate(fps: float) -> Fraction:
    """Frames per second as the small fraction a container can store exactly (29.97 -> 2997/100)."""
    return Fraction(fps).limit_denominator(1001)


class VideoWriter:
    """H.264 video and AAC sound, interleaved, cut to equal length on close; memory does not grow with the length.

    Sound keeps its channels where AAC has their layout (up to 7.1), else it becomes stereo by the standard
    coefficients; sampling rates AAC does not know become 48 kHz.

    Args:
        path: file to write; it is overwritten.
        container: a value of CONTAINERS.
        size: (W, H) of the frames handed in, pixels, both even.
        fps: video frames per second.
        audio: reader at the start of the original sound, consumed as the video advances.
        scale: whole-number enlargement of the written video (Lanczos).

    Attributes:
        frames: video frames written so far.
    """

    def __init__(
        self, path: str, container: str, size: tuple[int, int], fps: float, audio: AudioReader, scale: int = 1
    ):
        # The index goes to the front so that a browser can start before it has the whole file; matroska needs none.
        options = {} if container == "matroska" else {"movflags": "+faststart"}
        self._file = av.open(path, "w", format=container, container_options=options)
        self.frames, self._rate = 0, frame_rate(fps)
        self._size = (size[0] * scale, size[1] * scale)
        self._filter = Interpolation.LANCZOS if scale > 1 else Interpolation.BICUBIC
        self._converter = VideoReformatter()
        self._video = self._file.add_stream("libx264", rate=self._rate, options=X264)
        self._video.width, self._video.height = self._size
        self._video.pix_fmt = "yuv420p"
        context = self._video.codec_context
        context.thread_count = max(1, (os.cpu_count() or 2) // 2)  # the other half is making the next block
        # Without tags players guess the matrix from the picture size and the colours shift.
        context.colorspace = context.color_primaries = context.color_trc = BT709
        context.color_range = MPEG_RANGE
        self._sound = _Sound(self._file, audio)

    def write(self, frames: np.ndarray) -> None:
        """Append video frames uint8 [F, H, W, 3] and the sound that belongs to them."""
        for pixels in frames:
            # One pass for size and colour: a quarter of the time of Pillow's Lanczos, and 55 dB from it.
            # The converter is kept: a new one per picture would spend five times as long on its filter tables.
            frame = self._converter.reformat(
                av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24"),
                *self._size, format="yuv420p", dst_colorspace=Colorspace.ITU709, interpolation=self._filter,
            )  # fmt: skip
            frame.pts, frame.time_base = self.frames, 1 / self._rate
            self._file.mux(self._video.encode(frame))
            self.frames += 1
        self._sound.write_until(self.frames / self._rate)

    def close(self) -> None:
        """Flush both encoders and finish the container; the sound ends with the last video frame at the latest."""
        try:
            self._file.mux(self._video.encode(None))
            self._sound.close()
        finally:
            self._file.close()

    def abandon(self) -> None:
        """Close the file without caring whether it can be played."""
        # Writing the trailer may fail for the reason that made the run fail; the file is thrown away in any case.
        with contextlib.suppress(FFmpegError):
            self._file.close()


class _Sound:
    """The AAC stream of a VideoWriter: pulls from the reader just what the video has reached."""

    def __init__(self, file: "av.container.OutputContainer", audio: AudioReader):
        layout = AAC_LAYOUTS.get(audio.layout) if audio.layout else UNNAMED.get(audio.channels)
        self._channels, self._layout = (audio.channels, layout) if layout else (2, "stereo")
        self.rate = audio.rate if audio.rate in av.codec.Codec("aac", "w").audio_rates else AAC_FALLBACK_RATE_HZ
        self._file, self._stream = file, file.add_stream("aac", rate=self.rate, layout=self._layout)
        # The format allows 6 bits a sample and channel; two thirds of it is plenty at low rates.
        self._stream.bit_rate = self._channels * min(AAC_BITS_PER_SECOND, 4 * self.rate)
        # packed: PyAV does not fill planes of 8 channels
        self._planes = av.AudioResampler(format="fltp", layout=self._layout, rate=self.rate)
        kept = audio if layout else (to_stereo(chunk, audio.layout) for chunk in audio)
        self._chunks = resample(kept, audio.rate, self.rate, self._channels)
        self._held = np.zeros((0, self._channels), np.float32)
        self._samples = 0

    def write_until(self, seconds: Fraction) -> None:
        want = int(seconds * self.rate) - self._samples
        for part in self._take(want):
            packed = np.ascontiguousarray(part).reshape(1, -1)
            frame = av.AudioFrame.from_ndarray(packed, format="flt", layout=self._layout)
            frame.sample_rate, frame.pts, frame.time_base = self.rate, self._samples, Fraction(1, self.rate)
            self._samples += len(part)
            for planes in self._planes.resample(frame):
                self._file.mux(self._stream.encode(planes))

    def _take(self, want: int) -> Iterator[np.ndarray]:
        for chunk in itertools.chain([self._held], self._chunks):
            part, self._held = chunk[:want], chunk[want:]
            want -= len(part)
            if len(part):
                yield part
            if want <= 0:
                return

    def close(self) -> None:
        self._file.mux(self._stream.encode(None))
