"""Read speech of any common format in chunks on one time line, resampling that streams, and a scan of the whole."""

import math
import os
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import soxr

from liveact_app.media.decode import BROKEN, Decoder, Piece, _reason
from liveact_app.media.downmix import STEREO, to_mono, to_stereo
from liveact_app.media.files import require_file
from liveact_model.errors import InputError

MODEL_RATE_HZ = 16_000
CHUNK_SECONDS = 0.5
CHUNK_VALUES = 1 << 20  # numbers held at once, however many channels there are
MIN_SECONDS = 0.1
# Full scale is 1; anything this far above it is a float file written with integer values.
MAX_LEVEL = 100.0
MONO = ("FC",)

Chunks = Iterator[np.ndarray]


@dataclass(frozen=True)
class AudioInfo:
    """What a whole decode of an audio file found.

    Attributes:
        path: absolute path of the file.
        rate: samples per second per channel on the common time line: the highest in the file.
        channels: number of channels on it.
        samples: samples per channel, counted, not read from a header.
        layout: names of the channels, () where unknown; stereo where the file changes its channels.
        track, tracks: the audio track that was read, from 0, and how many there are.
        notes: a line for everything that is not as it should be.
    """

    path: str
    rate: int
    channels: int
    samples: int
    layout: tuple[str, ...] = ()
    track: int = 0
    tracks: int = 1
    notes: tuple[str, ...] = ()

    @property
    def seconds(self) -> float:
        """Duration in seconds."""
        return self.samples / self.rate


class AudioReader:
    """A scanned file decoded in chunks of float32 [n, channels] at one rate, within full scale; memory stays flat.

    Args:
        source: what `scan` found, or a path, which is then scanned.

    Attributes:
        rate, channels, layout: as in `AudioInfo`.
        samples: samples per channel returned so far; in the end fewer than scanned if the file has shrunk.

    Raises:
        InputError: no such file, not audio, or no decoder reads it (also while iterating).
    """

    def __init__(self, source: str | os.PathLike | AudioInfo, argument: str = "--audio", track: int | None = None):
        info = source if isinstance(source, AudioInfo) else _survey(source, argument, track)[0]
        self.path, self._argument, self.info = require_file(info.path, argument), argument, info
        self.rate, self.channels, self.layout = info.rate, info.channels, info.layout
        self.samples = 0
        self._chunks = self._read()

    def _read(self) -> Chunks:
        pieces = Decoder(self.path, self._argument, self.info.track)
        held, size = [], 0
        limit = max(1, min(int(self.rate * CHUNK_SECONDS), CHUNK_VALUES // self.channels))
        for chunk in _one_rate(pieces, self.rate, self.channels):
            held.append(chunk)
            size += len(chunk)
            if size >= limit:
                yield np.concatenate(held)
                held, size = [], 0
        if size:
            yield np.concatenate(held)

    def __iter__(self) -> Chunks:
        return self

    def __next__(self) -> np.ndarray:
        try:
            chunk = next(self._chunks)
        except (StopIteration, InputError):
            raise
        except BROKEN as error:
            raise InputError(
                f"{self._argument}: {self.path!r} is damaged and cannot be decoded ({_reason(error)})"
            ) from error
        self.samples += len(chunk)
        return np.clip(chunk, -1.0, 1.0)

    def close(self) -> None:
        """Close the file; further iteration is undefined."""
        self._chunks.close()

    def __enter__(self) -> "AudioReader":
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def scan(
    path: str | os.PathLike, argument: str = "--audio", track: int | None = None, longest_s: float = math.inf
) -> AudioInfo:
    """Decode the whole file once, keep nothing, and return its exact length.

    A broken sample at the end of an hour is so found before the first video frame is made, and the length does not
    depend on what a header claims. `track` chooses among several, from 0; None takes the one marked as default.

    Raises:
        InputError: no such file, no such track, no decoder reads it, less than half of it can be decoded, less than
            0.1 s or more than `longest_s` (where the decoding ends), or samples that are not finite or far above full
            scale.
    """
    info, decoder = _survey(path, argument, track, longest_s)
    if decoder.lost + decoder.cut > decoder.heard:
        whole = decoder.lost + decoder.cut + decoder.heard
        raise InputError(
            f"{argument}: expected a file of which at least half can be decoded, {info.path!r} gives "
            f"{decoder.heard:.2f} of {whole:.2f} s"
        )
    if info.samples < MIN_SECONDS * info.rate:
        raise InputError(
            f"{argument}: expected at least {MIN_SECONDS} s of audio, {info.path!r} has "
            f"{info.seconds:.3f} s ({info.samples} samples)"
        )
    return info


def _survey(
    path: str | os.PathLike, argument: str, track: int | None, longest_s: float = math.inf
) -> tuple[AudioInfo, Decoder]:
    decoder, path = Decoder(require_file(path, argument), argument, track), require_file(path, argument)
    forms: dict[tuple[int, int, tuple[str, ...]], int] = {}
    peak, over = 0.0, 0
    try:
        for piece in decoder:
            form = (piece.rate, piece.samples.shape[1], piece.layout)
            top = float(np.abs(piece.samples).max(initial=0.0))  # NaN and inf pass through abs and max
            _check_level(piece, top, decoder, argument)
            peak, over = max(peak, top), over + (int((np.abs(piece.samples) > 1).sum()) if top > 1 else 0)
            forms[form] = forms.get(form, 0) + len(piece.samples)
            if sum(samples / rate for (rate, *_), samples in forms.items()) > longest_s:
                raise InputError(f"{argument}: expected at most {longest_s:g} s of audio, {path!r} has more")
    except InputError:
        raise
    except BROKEN as error:
        raise InputError(f"{argument}: expected an audio file, no decoder reads {path!r} ({_reason(error)})") from error
    if not forms:
        forms[(MODEL_RATE_HZ, 1, MONO)] = 0
    rate = max(form[0] for form in forms)
    kinds = {form[1:] for form in forms}
    channels, layout = next(iter(kinds)) if len(kinds) == 1 else (2, STEREO)
    info = AudioInfo(path, rate, channels, sum(forms.values()), layout, decoder.track or 0, max(1, decoder.tracks))
    if len(forms) > 1:  # resampled lengths are known only afterwards
        with AudioReader(info, argument) as reader:
            samples = sum(map(len, reader))
    else:
        samples = info.samples
    notes = _notes(decoder, peak, over)
    return AudioInfo(path, rate, channels, samples, layout, info.track, info.tracks, notes), decoder


def _check_level(piece: Piece, top: float, decoder: Decoder, argument: str) -> None:
    if not math.isfinite(top):
        before = decoder.heard + decoder.holes + decoder.lost - len(piece.samples) / piece.rate
        at = before + int(np.argmax(~np.isfinite(piece.samples).all(axis=1))) / piece.rate
        raise InputError(f"{argument}: expected finite samples, {decoder.path!r} has NaN or infinity at {at:.3f} s")
    if top > MAX_LEVEL:
        raise InputError(f"{argument}: expected samples within full scale (1.0), {decoder.path!r} reaches {top:.4g}")


def _notes(decoder: Decoder, peak: float, over: int) -> tuple[str, ...]:
    whole, name = decoder.heard + decoder.holes + decoder.lost, repr(decoder.path)
    notes = []
    if decoder.lost:
        notes.append(f"{name} is damaged: {decoder.lost:.2f} of {whole:.2f} s cannot be decoded and are silent")
    if decoder.holes:
        notes.append(f"{name} leaves out {decoder.holes:.2f} of {whole:.2f} s, which are silent")
    if decoder.cut:
        notes.append(f"{name} is cut off: {decoder.cut:.2f} of {whole + decoder.cut:.2f} s are missing at its end")
    if decoder.junk > 1000:
        notes.append(f"{name} has {decoder.junk} bytes that are no sound, which were skipped")
    if over:
        notes.append(f"{name} has {over} samples over full scale (1.0, up to {peak:.3g}), which were limited")
    return tuple(notes)


def _one_rate(pieces: Iterator[Piece], rate: int, channels: int) -> Chunks:
    """Pieces of any rate and channels as [n, channels] chunks at `rate`, run by run."""
    stream, form = None, None

    def end() -> Chunks:
        if stream is not None and len(out := stream.resample_chunk(np.zeros((0, channels), np.float32), last=True)):
            yield out.reshape(-1, channels)

    for piece in pieces:
        samples = piece.samples if piece.samples.shape[1] == channels else to_stereo(piece.samples, piece.layout)
        if samples.shape[1] != channels:
            raise ValueError("its channels have changed since it was scanned")
        if piece.rate != form:
            yield from end()
            form = piece.rate
            same = form == rate
            stream = None if same else soxr.ResampleStream(form, rate, channels, dtype="float32", quality="HQ")
        if stream is None:
            yield samples
        elif len(out := stream.resample_chunk(samples)):
            yield out.reshape(-1, channels)
    yield from end()


def resample(chunks: Chunks, rate_in: int, rate_out: int, channels: int) -> Chunks:
    """Resample a stream of [n, channels] chunks; any chunking gives the same samples, equal rates pass through."""
    pieces = (Piece(chunk.reshape(-1, channels), rate_in, ()) for chunk in chunks)
    return _one_rate(pieces, rate_out, channels)


def model_audio(reader: AudioReader) -> Chunks:
    """What the model hears: a mono sum that cannot cancel, at 16 kHz and within full scale, float32 [n] chunks."""
    mono = to_mono(reader, reader.rate, reader.layout)
    return (np.clip(chunk[:, 0], -1.0, 1.0) for chunk in resample(mono, reader.rate, MODEL_RATE_HZ, 1))
