"""Where one recording ends and the next begins in a file of several: chained Ogg, concatenated FLAC, MP3 and WAV."""

import mmap
import os
import re
from itertools import pairwise

_ID3 = re.compile(rb"ID3[\x02-\x04]\x00[\x00-\xf0][\x00-\x7f]{4}", re.DOTALL)
# The frame in front of an MP3 that carries its length: a header, empty side information (by version and mode), a name.
_LENGTH_FRAME = re.compile(
    rb"\xff[\xe2\xe3\xf2\xf3\xfa\xfb][\x10-\xef].(?:\x00{32}|\x00{17}|\x00{9})(?:Xing|Info)", re.DOTALL
)
_FLAC = re.compile(rb"fLaC[\x00\x80]\x00\x00\x22", re.DOTALL)
_FRAME = re.compile(rb"\xff[\xe2\xe3\xf2\xf3\xfa\xfb]")  # a header of Layer III: version 1, 2 or 2.5
_KILOBITS = {
    True: (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    False: (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
MAX_LINKS = 10_000
MAX_JUNK_BYTES = 1 << 16


def link_bounds(path: str) -> list[tuple[int, int]]:
    """Byte ranges (first, one past the last) of the recordings in a file, in order; one range for most files.

    Junk in front of an MP3 is left out, because FFmpeg gives up on it where the name ends in .mp3.
    """
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        size, start, first = len(data), _after_tags(data, 0), 0
        if data[:4] == b"OggS":
            cuts = _ogg(data)
        elif data[start : start + 4] == b"fLaC":
            cuts = [match.start() for match in _FLAC.finditer(data)][1:]
        elif data[:4] == b"RIFF" and data[8:12] == b"WAVE":
            cuts = _wav(data)
        elif os.path.splitext(path)[1].lower() == ".mp3" or data[start : start + 1] == b"\xff":
            junk = _junk(data, start)
            first = start + junk if junk else 0
            cuts = _mp3(data, start + junk)
        else:
            cuts = []
        edges = [first, *cuts[:MAX_LINKS], size]
    return list(pairwise(edges))


def _ogg(data: mmap.mmap) -> list[int]:
    """Starts of later links: a first page (flag 2) that follows other pages."""
    cuts, at, heading = [], 0, True
    while at >= 0 and at + 27 <= len(data):
        if data[at : at + 4] != b"OggS":
            at = data.find(b"OggS", at)
            continue
        first = bool(data[at + 5] & 2)
        if first and not heading:
            cuts.append(at)
        heading = first
        segments = data[at + 26]
        at += 27 + segments + sum(data[at + 27 : at + 27 + segments])
    return cuts


def _wav(data: mmap.mmap) -> list[int]:
    cuts, at = [], 0
    while True:
        at += 8 + int.from_bytes(data[at + 4 : at + 8], "little")
        at += at % 2
        if data[at : at + 4] != b"RIFF" or data[at + 8 : at + 12] != b"WAVE":
            return cuts
        cuts.append(at)


def _mp3(data: mmap.mmap, start: int) -> list[int]:
    tags = [match.start() for match in _ID3.finditer(data) if match.start() >= start]
    tags = [at for at in tags[:MAX_LINKS] if data[(end := _after_tags(data, at)) : end + 1] == b"\xff"]
    inside = {_after_tags(data, at) for at in tags} | {start}
    frames = [match.start() for match in _LENGTH_FRAME.finditer(data)]
    return sorted({*tags, *(at for at in frames if at > start + 4096 and at not in inside)})


def _junk(data: mmap.mmap, start: int) -> int:
    """Bytes from `start` to the first three MP3 frames in a row, 0 where there are none nearby."""
    near = data[start : start + MAX_JUNK_BYTES]
    for match in _FRAME.finditer(near):
        at, count = start + match.start(), 0
        while count < 3 and (size := _frame_bytes(data[at : at + 4])):
            at, count = at + size, count + 1
        if count == 3:
            return match.start()
    return 0


def _frame_bytes(head: bytes) -> int:
    """Length of the Layer III frame with this header, 0 if it is none."""
    if len(head) < 4 or not _FRAME.match(head) or head[2] >> 4 in (0, 15) or head[2] >> 2 & 3 == 3:
        return 0
    version = head[1] >> 3 & 3
    newest, rate = version == 3, (44100, 48000, 32000)[head[2] >> 2 & 3] // {3: 1, 2: 2, 0: 4}[version]
    kilobits = _KILOBITS[newest][head[2] >> 4]
    return (144 if newest else 72) * kilobits * 1000 // rate + (head[2] >> 1 & 1)


def _after_tags(data: mmap.mmap, at: int) -> int:
    """The first byte after the ID3 tags at `at`."""
    while match := _ID3.match(data, at):
        a, b, c, d = match[0][6:10]
        at += 10 + (a << 21 | b << 14 | c << 7 | d)
    return at
