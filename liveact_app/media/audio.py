"""Read speech of any common format in chunks: two decoders behind one reader, resampling that streams, and a scan."""

import itertools
import math
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import av
import numpy as np
import soundfile
import soxr
from av.error import FFmpegError

from liveact_app.media.files import require_file
from liveact_model.errors import InputError

MODEL_RATE_HZ = 16_000
CHUNK_SECONDS = 0.5
MIN_SECONDS = 0.1
MIN_RATE_HZ, MAX_RATE_HZ = 4_000, 768_000
# Full scale is 1; anything this far above it is a float file written with integer values.
MAX_LEVEL = 100.0
# Demuxers of plain media files. Without the list FFmpeg also takes playlists, which name other files and addresses.
FORMATS = (
    "mov mp4 m4a 3gp 3g2 mj2 matroska webm ogg wav w64 flac mp3 aac ac3 eac3 amr amrnb amrwb avi mpegts mpeg asf aiff "
    "au caf flv ape wv tta opus loas dts"
)

Chunks = Iterator[np.ndarray]


@dataclass(frozen=True)
class AudioInfo:
    """What a whole decode of an audio file found.

    Attributes:
        path: absolute path of the file.
        rate: samples per second per channel.
        channels: number of channels in the file.
        samples: samples per channel, counted, not read from a header.
    """

    path: str
    rate: int
    channels: int
    samples: int

    @property
    def seconds(self) -> float:
        """Duration in seconds."""
        return self.samples / self.rate


class AudioReader:
    """A file decoded in chunks of float32 [n, channels] at its own rate; memory does not grow with its length.

    libsndfile reads wav, flac, ogg and the like; FFmpeg reads the rest (mp3, m4a, mp4, webm, ...).

    Attributes:
        rate: samples per second per channel.
        channels: number of channels.

    Raises:
        InputError: no such file, not audio, or no decoder reads it (also while iterating).
    """

    def __init__(self, path: str | os.PathLike, argument: str = "--audio"):
        self.path, self._argument = require_file(path, argument), argument
        self._chunks: Chunks = iter(())
        self._close: Callable[[], None] = lambda: None
        reasons = []
        for open_with in (self._open_soundfile, self._open_ffmpeg):
            try:
                self.rate, self.channels = open_with()
                break
            except (soundfile.SoundFileError, FFmpegError, TypeError, ValueError) as error:
                self._close()
                reasons.append(_reason(error))
        else:
            raise InputError(
                f"{argument}: expected an audio file, no decoder reads {self.path!r} ({'; '.join(reasons)})"
            )
        if not MIN_RATE_HZ <= self.rate <= MAX_RATE_HZ:
            self.close()
            raise InputError(
                f"{argument}: expected a sampling rate of {MIN_RATE_HZ} to {MAX_RATE_HZ} Hz, "
                f"{self.path!r} has {self.rate} Hz"
            )

    def _open_soundfile(self) -> tuple[int, int]:
        file = soundfile.SoundFile(self.path)
        self._close = file.close
        if file.subtype.startswith("MPEG"):
            # soundfile seeks after every read, which makes libsndfile's mp3 decoder click at each chunk boundary.
            raise ValueError("mp3 is left to FFmpeg")

        def chunks() -> Chunks:
            size = max(1, int(file.samplerate * CHUNK_SECONDS))
            while len(block := file.read(size, dtype="float32", always_2d=True)):
                yield block

        self._chunks = chunks()
        return file.samplerate, file.channels

    def _open_ffmpeg(self) -> tuple[int, int]:
        options = {"format_whitelist": FORMATS.replace(" ", ","), "protocol_whitelist": "file"}
        container = av.open(self.path, container_options=options)
        self._close = container.close
        if not container.streams.audio:
            raise ValueError("it has no audio stream")
        frames = container.decode(audio=0)
        # The rate of HE-AAC is known only from a decoded frame: the header states half of it.
        first = next(frames, None)
        if first is None:
            raise ValueError("its audio stream is empty")
        rate, layout = first.sample_rate, first.layout

        def chunks() -> Chunks:
            to_float = av.AudioResampler(format="fltp", layout=layout, rate=rate)
            pending, size = [], 0
            for frame in itertools.chain([first], frames):
                pending += [part.to_ndarray().T for part in to_float.resample(frame)]
                size += frame.samples
                if size >= rate * CHUNK_SECONDS:
                    yield np.concatenate(pending)
                    pending, size = [], 0
            if pending:
                yield np.concatenate(pending)

        self._chunks = chunks()
        return rate, layout.nb_channels

    def __iter__(self) -> Chunks:
        return self

    def __next__(self) -> np.ndarray:
        try:
            return next(self._chunks)
        except (soundfile.SoundFileError, FFmpegError, ValueError) as error:
            raise InputError(
                f"{self._argument}: {self.path!r} is damaged and cannot be decoded ({_reason(error)})"
            ) from error

    def close(self) -> None:
        """Close the file; further iteration is undefined."""
        self._close()

    def __enter__(self) -> "AudioReader":
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def _reason(error: Exception) -> str:
    """The decoder's words without the path, which the sentence around it already names."""
    text = getattr(error, "error_string", None) or getattr(error, "strerror", None) or str(error)
    return text.strip(" .") or type(error).__name__


def scan(path: str | os.PathLike, argument: str = "--audio") -> AudioInfo:
    """Decode the whole file once, keep nothing, and return its exact length.

    A broken sample at the end of an hour is so found before the first video frame is made, and the length does not
    depend on what a header claims.

    Raises:
        InputError: as `AudioReader`, or less than 0.1 s, or samples that are not finite or far above full scale.
    """
    with AudioReader(path, argument) as reader:
        samples = 0
        for chunk in reader:
            peak = float(np.abs(chunk).max(initial=0.0))  # NaN and inf pass through abs and max
            if not math.isfinite(peak):
                at = (samples + int(np.argmax(~np.isfinite(chunk).all(axis=1)))) / reader.rate
                raise InputError(
                    f"{argument}: expected finite samples, {reader.path!r} has NaN or infinity at {at:.3f} s"
                )
            if peak > MAX_LEVEL:
                raise InputError(
                    f"{argument}: expected samples within full scale (1.0), {reader.path!r} reaches {peak:.4g}"
                )
            samples += len(chunk)
        if samples < MIN_SECONDS * reader.rate:
            raise InputError(
                f"{argument}: expected at least {MIN_SECONDS} s of audio, {reader.path!r} has "
                f"{samples / reader.rate:.3f} s ({samples} samples)"
            )
        return AudioInfo(reader.path, reader.rate, reader.channels, samples)


def resample(chunks: Chunks, rate_in: int, rate_out: int, channels: int) -> Chunks:
    """Resample a stream of [n, channels] chunks; any chunking gives the same samples, equal rates pass through."""
    if rate_in == rate_out:
        yield from chunks
        return
    stream = soxr.ResampleStream(rate_in, rate_out, channels, dtype="float32", quality="HQ")
    for chunk in chunks:
        if len(out := stream.resample_chunk(chunk.reshape(-1, channels))):
            yield out.reshape(-1, channels)
    if len(out := stream.resample_chunk(np.zeros((0, channels), np.float32), last=True)):
        yield out.reshape(-1, channels)


def model_audio(reader: AudioReader) -> Chunks:
    """What the model hears: the mean of all channels at 16 kHz, float32 [n] chunks."""
    mono = (chunk.mean(axis=1, keepdims=True, dtype=np.float32) for chunk in reader)
    return (chunk[:, 0] for chunk in resample(mono, reader.rate, MODEL_RATE_HZ, 1))
