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
MAX_LINKS = 10_000


def link_bounds(path: str) -> list[tuple[int, int]]:
    """Byte ranges (first, one past the last) of the recordings in a file, in order; one range for most files."""
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        size, start = len(data), _after_tags(data, 0)
        if data[:4] == b"OggS":
            cuts = _ogg(data)
        elif data[start : start + 4] == b"fLaC":
            cuts = [match.start() for match in _FLAC.finditer(data)][1:]
        elif data[:4] == b"RIFF" and data[8:12] == b"WAVE":
            cuts = _wav(data)
        elif os.path.splitext(path)[1].lower() == ".mp3" or data[start : start + 1] == b"\xff":
            cuts = _mp3(data, start)
        else:
            cuts = []
        edges = [0, *cuts[:MAX_LINKS], size]
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


def _after_tags(data: mmap.mmap, at: int) -> int:
    """The first byte after the ID3 tags at `at`."""
    while match := _ID3.match(data, at):
        a, b, c, d = match[0][6:10]
        at += 10 + (a << 21 | b << 14 | c << 7 | d)
    return at
