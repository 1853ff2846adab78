"""Times that stand in the fragments of a live session: what a player goes by (ISO/IEC 14496-12)."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import NamedTuple

HOLDERS = (b"moov", b"trak", b"mdia", b"moof", b"traf")
AAC_SAMPLES = 1024
VIDEO, AUDIO = 1, 2


class Span(NamedTuple):
    """Of one track in one fragment: decode time of its first sample and how many there are."""

    track: int
    start: int
    count: int


def boxes(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """(name, body) of every box, depth first."""
    at = 0
    while at < len(data):
        size, name = struct.unpack_from(">I4s", data, at)
        body = data[at + 8 : at + size]
        yield name, body
        if name in HOLDERS:
            yield from boxes(body)
        at += size


def timescales(init: bytes) -> dict[int, int]:
    """{track: units per second} of an init segment."""
    found, track = {}, 0
    for name, body in boxes(init):
        if name == b"tkhd":
            track = struct.unpack_from(">I", body, 12)[0]
        elif name == b"mdhd":
            found[track] = struct.unpack_from(">I", body, 12)[0]
    return found


def spans(fragment: bytes) -> list[Span]:
    """What a fragment has of each track."""
    found, track, start = [], 0, 0
    for name, body in boxes(fragment):
        if name == b"tfhd":
            track = struct.unpack_from(">I", body, 4)[0]
        elif name == b"tfdt":
            start = struct.unpack_from(">Q", body, 4)[0]
        elif name == b"trun":
            found.append(Span(track, start, struct.unpack_from(">I", body, 4)[0]))
    return found


class Sync:
    """Follows the two tracks of a session: what is missing, and how far sound is ahead of the picture.

    holes    fragments that do not begin where the one before has ended
    seconds  of picture so far
    lead_ms  end of the sound minus end of the picture, smallest and largest since `turn`
    """

    def __init__(self, init: bytes, fps: float):
        self._scale, self._fps = timescales(init), fps
        self._end = {VIDEO: 0.0, AUDIO: 0.0}
        self.holes, self.lead_ms = 0, (float("inf"), float("-inf"))

    @property
    def seconds(self) -> float:
        return self._end[VIDEO]

    def turn(self) -> None:
        """Smallest and largest lead begin anew."""
        self.lead_ms = (float("inf"), float("-inf"))

    def take(self, fragment: bytes) -> None:
        """One fragment, in the order that they come."""
        for span in spans(fragment):
            scale = self._scale[span.track]
            start, each = span.start / scale, AAC_SAMPLES / scale if span.track == AUDIO else 1 / self._fps
            self.holes += abs(start - self._end[span.track]) > 0.5 / scale
            self._end[span.track] = start + span.count * each
        lead = 1e3 * (self._end[AUDIO] - self._end[VIDEO])
        self.lead_ms = (min(self.lead_ms[0], lead), max(self.lead_ms[1], lead))
