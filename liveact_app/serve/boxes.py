"""The boxes of a fragmented MP4 with one H.264 and one AAC track (ISO/IEC 14496-12, -14 and -15).

Written here because a fragment shall leave in the moment that its video frame is encoded: a muxer of FFmpeg's closes it
when the next packet comes.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

VIDEO_TRACK, AUDIO_TRACK = 1, 2
AAC_SAMPLES = 1024
KEY, DEPENDS = 0x02000000, 0x01010000  # sample flags: a sync sample; one that needs others and is none
MATRIX = struct.pack(">9I", 0x10000, 0, 0, 0, 0x10000, 0, 0, 0, 0x40000000)


class VideoTrack(NamedTuple):
    """Size in pixels, units per second, units per video frame, and the parameter sets without start codes."""

    width: int
    height: int
    timescale: int
    duration: int
    sps: bytes
    pps: bytes


class AudioTrack(NamedTuple):
    """Samples per second, bits per second, and the AudioSpecificConfig; one channel."""

    rate: int
    bit_rate: int
    config: bytes


def _box(name: bytes, *parts: bytes) -> bytes:
    body = b"".join(parts)
    return struct.pack(">I", 8 + len(body)) + name + body


def _full(name: bytes, version: int, flags: int, *parts: bytes) -> bytes:
    return _box(name, struct.pack(">I", version << 24 | flags), *parts)


def init_segment(video: VideoTrack, audio: AudioTrack) -> bytes:
    """ftyp and moov: what a player must have before any fragment."""
    ftyp = _box(b"ftyp", b"iso5", struct.pack(">I", 512), b"iso5iso6mp41")
    mvhd = _full(b"mvhd", 0, 0, struct.pack(">4I", 0, 0, 1000, 0), struct.pack(">IHH", 0x10000, 0x100, 0), bytes(8),
                 MATRIX, bytes(24), struct.pack(">I", 3))  # fmt: skip
    mvex = _box(
        b"mvex",
        _full(b"trex", 0, 0, struct.pack(">5I", VIDEO_TRACK, 1, video.duration, 0, DEPENDS)),
        _full(b"trex", 0, 0, struct.pack(">5I", AUDIO_TRACK, 1, AAC_SAMPLES, 0, KEY)),
    )
    size = (video.width, video.height)
    vmhd, smhd = _full(b"vmhd", 0, 1, bytes(8)), _full(b"smhd", 0, 0, bytes(4))
    traks = (
        _trak(VIDEO_TRACK, size, 0, video.timescale, b"vide", vmhd, _avc1(video)),
        _trak(AUDIO_TRACK, (0, 0), 0x100, audio.rate, b"soun", smhd, _mp4a(audio)),
    )
    return ftyp + _box(b"moov", mvhd, *traks, mvex)


def _trak(
    number: int, size: tuple[int, int], volume: int, timescale: int, kind: bytes, header: bytes, sample: bytes
) -> bytes:
    tkhd = _full(b"tkhd", 0, 3, struct.pack(">5I", 0, 0, number, 0, 0), bytes(8), struct.pack(">4H", 0, 0, volume, 0),
                 MATRIX, struct.pack(">2I", *(side << 16 for side in size)))  # fmt: skip
    mdhd = _full(b"mdhd", 0, 0, struct.pack(">4I2H", 0, 0, timescale, 0, 0x55C4, 0))  # language: und
    hdlr = _full(b"hdlr", 0, 0, bytes(4), kind, bytes(12), b"LiveAct\0")
    dinf = _box(b"dinf", _full(b"dref", 0, 0, struct.pack(">I", 1), _full(b"url ", 0, 1)))
    empty = [_full(name, 0, 0, bytes(n)) for name, n in ((b"stts", 4), (b"stsc", 4), (b"stsz", 8), (b"stco", 4))]
    stbl = _box(b"stbl", _full(b"stsd", 0, 0, struct.pack(">I", 1), sample), *empty)
    return _box(b"trak", tkhd, _box(b"mdia", mdhd, hdlr, _box(b"minf", header, dinf, stbl)))


def _avc1(video: VideoTrack) -> bytes:
    sps, pps = video.sps, video.pps
    avcc = _box(b"avcC", bytes([1, *sps[1:4], 0xFF, 0xE1]), struct.pack(">H", len(sps)), sps, b"\1",
                struct.pack(">H", len(pps)), pps, _high_profile(sps))  # fmt: skip
    colours = _box(b"colr", b"nclx", struct.pack(">3HB", 1, 1, 1, 0))  # BT.709, limited range
    head = struct.pack(">6xH16x2H2I4xH32xHh", 1, video.width, video.height, 72 << 16, 72 << 16, 1, 24, -1)
    return _box(b"avc1", head, avcc, colours)


def _high_profile(sps: bytes) -> bytes:
    """Profiles from High on repeat their format: 4:2:0, 8 bits."""
    return bytes([0xFD, 0xF8, 0xF8, 0]) if sps[1] in (100, 110, 122, 144) else b""


def _mp4a(audio: AudioTrack) -> bytes:
    def descriptor(tag: int, body: bytes) -> bytes:
        return bytes([tag, len(body)]) + body

    rates = struct.pack(">2I", audio.bit_rate, audio.bit_rate)
    decoder = b"\x40\x15" + bytes(3) + rates + descriptor(5, audio.config)
    stream = descriptor(3, struct.pack(">HB", AUDIO_TRACK, 0) + descriptor(4, decoder) + descriptor(6, b"\2"))
    head = struct.pack(">6xH8x2H4xI", 1, 1, 16, audio.rate << 16)
    return _box(b"mp4a", head, _full(b"esds", 0, 0, stream))


def fragment(number: int, video: bytes, at: int, key: bool, audio: list[bytes], audio_at: int) -> bytes:
    """moof and mdat: one video frame, and the AAC frames that go with it.

    number    from 1, one more with each
    video     the video frame, its units with lengths in front; `at` is its time in the video's units
    audio     AAC frames, the first at `audio_at` samples; there may be none
    """

    def traf(track: int, start: int, trun: bytes) -> bytes:
        tfhd = _full(b"tfhd", 0, 0x020000, struct.pack(">I", track))  # data offsets count from the moof
        return _box(b"traf", tfhd, _full(b"tfdt", 1, 0, struct.pack(">Q", start)), trun)

    def moof(offset: int) -> bytes:
        flags = KEY if key else DEPENDS
        trun = _full(b"trun", 0, 0x601, struct.pack(">IiII", 1, offset, len(video), flags))
        trafs = [traf(VIDEO_TRACK, at, trun)]
        if audio:
            sizes = struct.pack(f">{len(audio)}I", *map(len, audio))
            trun = _full(b"trun", 0, 0x201, struct.pack(">Ii", len(audio), offset + len(video)), sizes)
            trafs.append(traf(AUDIO_TRACK, audio_at, trun))
        return _box(b"moof", _full(b"mfhd", 0, 0, struct.pack(">I", number)), *trafs)

    return moof(len(moof(0)) + 8) + _box(b"mdat", video, *audio)
