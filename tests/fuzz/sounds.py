"""Recordings: formats, rates, channels, values, damaged files, headers that lie, and things that are no files."""

from __future__ import annotations

import os
import struct
from fractions import Fraction

import av
import numpy as np
import soundfile

from .case import Case, Draw, Place
from .common import damage, generate, good_picture, good_sound, odd_path

RATES = (1, 100, 3999, 4000, 8000, 11025, 16000, 22050, 44100, 48000, 96000, 192000, 768000, 10**6)
CODECS = (
    ("mp3", "libmp3lame"), ("mp4", "aac"), ("adts", "aac"), ("ogg", "libopus"), ("ogg", "libvorbis"),
    ("webm", "libopus"),
    ("matroska", "flac"), ("matroska", "pcm_s16le"), ("ac3", "ac3"), ("mov", "alac"), ("avi", "pcm_s16le"),
    ("flac", "flac"),
    ("mpegts", "aac"), ("mpegts", "mp2"), ("tta", "tta"), ("wv", "wavpack"), ("asf", "wmav2"), ("aiff", "pcm_s16be"),
)  # fmt: skip


def make(draw: Draw, place: Place) -> Case:
    path, about = draw.choice((_plain, _plain, _coded, _coded, _damaged, _damaged, _damaged, _wave, _wave, _path))(
        draw, place
    )
    return Case(generate(place, audio=path), f"sound: {about}")


def _samples(draw: Draw, rate: int, channels: int, seconds: float) -> tuple[np.ndarray, str]:
    n = int(rate * seconds)
    rng = np.random.default_rng(draw.randrange(2**32))
    x = (0.2 * rng.standard_normal((n, channels))).astype(np.float32)
    kind = draw.choice(("noise",) * 4 + ("silence", "loud", "nan", "inf", "huge", "tiny", "dc"))
    if n:
        at = draw.randrange(n)
        match kind:
            case "silence":
                x[:] = 0
            case "loud":
                x[:] = np.sign(x)
            case "nan" | "inf":
                x[at] = np.nan if kind == "nan" else np.inf
            case "huge":
                x *= draw.choice((100, 32768, 1e30))
            case "tiny":
                x *= 1e-42
            case "dc":
                x[:] = 1
    return x, kind


def _written(path: os.PathLike, x: np.ndarray, rate: int, subtype: str, form: str) -> bool:
    """Whether libsndfile wrote it; in a process of its own, since some formats crash it (Vorbis of 1,024 channels)."""
    if child := os.fork():
        return os.waitpid(child, 0)[1] == 0
    try:
        soundfile.write(path, x, rate, subtype=subtype, format=form)
    except (soundfile.SoundFileError, TypeError, ValueError):
        os._exit(1)
    os._exit(0)


def _plain(draw: Draw, place: Place) -> tuple[str, str]:
    """What libsndfile writes."""
    while True:
        form = draw.choice(
            ("WAV", "WAVEX", "FLAC", "OGG", "AIFF", "AU", "CAF", "W64", "RF64", "MP3", "MAT5", "VOC", "XI", "NIST")
        )
        subtype = draw.choice(list(soundfile.available_subtypes(form)))
        rate, channels = draw.choice(RATES), draw.choice((1, 1, 2, 3, 6, 8, 24, 200, 1024))
        seconds = draw.choice((0, 0.01, 0.099, 0.1, 0.15, 0.2, 0.3))
        if rate * channels * seconds > 5e6:
            continue
        x, kind = _samples(draw, rate, channels, seconds)
        path = place.inputs / draw.choice(("t.wav", "t.mp3", "t", "t.png"))
        if not _written(path, x, rate, subtype, form):
            continue
        return f"../in/{path.name}", f"{form} {subtype} {rate} Hz {channels} channels {seconds} s {kind}"


def _coded(draw: Draw, place: Place) -> tuple[str, str]:
    """What FFmpeg writes, with a picture stream or a second recording beside it at times."""
    path = place.inputs / "t.bin"
    while True:
        (container, codec), rate = draw.choice(CODECS), draw.choice((8000, 16000, 22050, 44100, 48000))
        layout, video = (
            draw.choice(("mono", "stereo", "5.1")),
            container in ("mp4", "mov", "matroska", "avi") and draw.random() < 0.4,
        )
        seconds = draw.choice((0.02, 0.1, 0.2, 0.3))
        try:
            with av.open(str(path), "w", format=container) as file:
                picture = file.add_stream("mpeg4", rate=10) if video else None
                stream = file.add_stream(codec, rate=rate, layout=layout)
                if picture:
                    picture.width = picture.height = 32
                    picture.pix_fmt = "yuv420p"
                    file.mux(
                        picture.encode(av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8), format="rgb24"))
                    )
                x, kind = _samples(draw, rate, stream.layout.nb_channels, seconds)
                frame = av.AudioFrame.from_ndarray(
                    np.ascontiguousarray(np.nan_to_num(x.clip(-1, 1)).T), format="fltp", layout=layout
                )
                frame.sample_rate, frame.pts, frame.time_base = rate, 0, Fraction(1, rate)
                resampler = av.AudioResampler(
                    format=stream.format, layout=layout, rate=rate, frame_size=stream.frame_size or None
                )
                for part in [*resampler.resample(frame), *resampler.resample(None)]:
                    file.mux(stream.encode(part))
                file.mux(stream.encode(None))
                if picture:
                    file.mux(picture.encode(None))
        except (av.error.FFmpegError, ValueError, TypeError, LookupError):
            continue
        if draw.random() < 0.15:
            path.write_bytes(path.read_bytes() * 2)
            kind += ", the file twice"
        return (
            "../in/t.bin",
            f"{container} {codec} {rate} Hz {layout} {seconds} s {kind}{' with video' if video else ''}",
        )


def _damaged(draw: Draw, place: Place) -> tuple[str, str]:
    path, about = draw.choice((_plain, _coded, _coded))(draw, place)
    file = place.run / path
    file.write_bytes(damage(draw, file.read_bytes()))
    return path, f"damaged {about}"


def _wave(draw: Draw, place: Place) -> tuple[str, str]:
    """A WAV whose header says something else than its data; data are holes of a sparse file where they are many."""
    form, channels, rate, bits = draw.choice((1, 1, 1, 3, 6, 7, 0x11, 0x55, 0xFFFE, 0xFFFF)), 1, 16000, 16
    odd = draw.choice(("channels", "channels", "rate", "bits", "align", "size", "size", "chunk", "nothing"))
    if odd == "channels":
        channels = draw.choice((0, 2, 255, 1024, 1024, 65535))
    elif odd == "rate":
        rate = draw.choice((0, 1, 4000, 768000, 2**31 - 1, 2**32 - 1))
    elif odd == "bits":
        bits = draw.choice((0, 1, 7, 8, 12, 24, 32, 64, 65535))
    align = channels * bits // 8 if odd != "align" else draw.choice((0, 1, 3, 65535))
    fmt = struct.pack("<HHIIHH", form, channels, rate, min(rate * align, 2**32 - 1), align % 65536, bits)
    if form == 0xFFFE:
        fmt += (
            struct.pack("<HHI", 22, bits, draw.choice((0, 3, 2**32 - 1)))
            + draw.choice((b"\1\0", b"\3\0", b"\xff\xff"))
            + draw.randbytes(14)
        )
    extra = b""
    if odd == "chunk":
        extra = (
            draw.choice((b"LIST", b"fact", b"bext", b"id3 ", b"\0\0\0\0"))
            + struct.pack("<I", draw.choice((0, 3, 2**31, 2**32 - 1)))
            + b"abc"
        )
    have = min(200_000_000, max(1, align) * min(rate, 10**6) * 3 // 10)
    size = have if odd != "size" else draw.choice((0, 1, 2**31, 2**32 - 1, have + 2, have - 1))
    path = place.inputs / "t.wav"
    body = b"WAVEfmt " + struct.pack("<I", len(fmt)) + fmt + extra + b"data" + struct.pack("<I", size)
    path.write_bytes(b"RIFF" + struct.pack("<I", min(2**32 - 1, len(body) + have)) + body)
    os.truncate(path, path.stat().st_size + have)
    return (
        "../in/t.wav",
        f"WAV {odd}: form {form:#x} {channels} channels {rate} Hz {bits} bits align {align} data {size} of {have}",
    )


def _path(draw: Draw, place: Place) -> tuple[str, str]:
    good = good_sound(place)
    if draw.random() < 0.4:
        text = draw.choice((
            b"#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n", b"ffconcat version 1.0\nfile talk.wav\n",
            b"v=0\no=- 0 0 IN IP4 127.0.0.1\nm=audio 5004 RTP/AVP 0\n",
            b"<asx><entry><ref href='http://127.0.0.1:9/'/></entry></asx>", b"hello" * 99,
            b"ID3\x04\0\0\x7f\x7f\x7f\x7f", b"OggS" + bytes(60),
            b"fLaC\0\0\0\x22" + bytes(34), b"RIFF\0\0\0\0WAVE", b"\xff\xfb\x90\0" * 50, bytes(5000),
            b"\0\0\0\x18ftypM4A " + bytes(60), b"\x1aE\xdf\xa3" + bytes(40),
        ))  # fmt: skip
        (place.inputs / "t.bin").write_bytes(text)
        return "../in/t.bin", f"only {text[:20]!r}"
    if draw.random() < 0.1:
        return good_picture(place), "a picture"
    return odd_path(draw, place, good)
