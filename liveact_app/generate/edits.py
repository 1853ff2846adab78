"""Prompts that replace the main one in a part of the video, told by blocks or by seconds."""

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction

from liveact_app.media.files import require_file
from liveact_model.errors import InputError

NUMBER = r"[0-9]{1,9}(?:\.[0-9]{1,9})?"
SPAN = re.compile(rf"\s*({NUMBER})(s?)\s*-\s*({NUMBER})(s?)\s*:(.*)", re.DOTALL)


@dataclass(frozen=True)
class Edit:
    """A prompt that replaces the main one in blocks first..last (counted from 0, both included).

    `source` is the argument that said so, for errors.
    """

    first: int
    last: int
    text: str
    source: str = "--edit-prompt"


@dataclass(frozen=True)
class TimedEdit:
    """A prompt that replaces the main one from second `start` to second `stop` of the video."""

    start: Fraction
    stop: Fraction
    text: str
    source: str = "--edit"


@dataclass(frozen=True)
class Timeline:
    """The blocks of one video: video frames of the first block and of each later one, fps, video frames in all."""

    first: int
    later: int
    fps: Fraction
    video_frames: int

    @property
    def blocks(self) -> int:
        """Number of blocks."""
        return 1 + max(0, math.ceil((self.video_frames - self.first) / self.later))

    @property
    def seconds(self) -> Fraction:
        """Length of the video."""
        return self.video_frames / self.fps

    def middle(self, block: int) -> Fraction:
        """Second of the video at which a block, or what the video shows of it, is half over."""
        begin = 0 if block == 0 else self.first + (block - 1) * self.later
        return Fraction(begin + min(self.first + block * self.later, self.video_frames), 2) / self.fps

    def block_at(self, second: Fraction) -> int:
        """The block that shows a second."""
        return max(0, 1 + math.floor((second * self.fps - self.first) / self.later))


class Prompts:
    """The prompt of every block of a video: the first edit that covers it, else the main one.

    A range of seconds takes the blocks whose middle it covers; where it covers none, the block around its own middle.

    Raises:
        InputError: a range begins behind the end of the video.
    """

    def __init__(self, main: str, edits: tuple[Edit | TimedEdit, ...], timeline: Timeline):
        self._main, self._edits = main, tuple(_settled(edit, timeline) for edit in edits)

    def of(self, block: int) -> str:
        """The prompt of a block."""
        return next((edit.text for edit in self._edits if edit.first <= block <= edit.last), self._main)


def _settled(edit: Edit | TimedEdit, line: Timeline) -> Edit:
    """The edit by blocks, some of which the video has."""
    if isinstance(edit, TimedEdit):
        outside, got = edit.start >= line.seconds, f"{float(edit.start):g}s-{float(edit.stop):g}s"
    else:
        outside, got = edit.first >= line.blocks, f"blocks {edit.first} to {edit.last}"
    if outside:
        raise InputError(
            f"{edit.source}: expected a range that begins within the video of {float(line.seconds):.2f} s and "
            f"{line.blocks} blocks (0 to {line.blocks - 1}), got {got} = {edit.text!r:.60}"
        )
    if isinstance(edit, Edit):
        return edit
    stop = min(edit.stop, line.seconds)
    covered = [b for b in range(line.block_at(edit.start), line.block_at(stop) + 1)
               if edit.start <= line.middle(b) < edit.stop]  # fmt: skip
    covered = covered or [min(line.block_at((edit.start + stop) / 2), line.blocks - 1)]
    return Edit(covered[0], covered[-1], edit.text, edit.source)


def parse_spans(values: list[str]) -> tuple[Edit | TimedEdit, ...]:
    """Turn the values of --edit into edits: "4s-8s:text" by seconds, "3-5:text" by blocks, the last one included.

    Raises:
        InputError: another form, or a range that is empty.
    """
    return tuple(map(_span, values))


def _span(value: str) -> Edit | TimedEdit:
    match = SPAN.fullmatch(value)
    if match and match[2] == match[4]:
        start, stop, text = Fraction(match[1]), Fraction(match[3]), match[5].strip()
        if match[2] and start < stop:
            return TimedEdit(start, stop, text)
        if not match[2] and "." not in match[1] + match[3] and start <= stop:
            return Edit(int(start), int(stop), text, "--edit")
    raise InputError(f'--edit: expected "4s-8s:text" in seconds or "3-5:text" in blocks, from < to, got {value!r}')


def parse_edits(values: list[str]) -> tuple[Edit, ...]:
    """Turn the values of --edit-prompt into edits, in order; the first that covers a block wins.

    Args:
        values: each "[first,last]=text", or the name of a JSON file with an object {"[first,last]": text} or a list of
            [first, last, text].

    Raises:
        InputError: neither form, unreadable file, or a range that is not 0 <= first <= last.
    """
    edits: list[Edit] = []
    for value in values:
        inline = re.fullmatch(r"\s*(\[[^\]]*\])\s*=(.*)", value, re.DOTALL)
        edits += [_edit(inline[1], inline[2].strip())] if inline else _read_edits(value)
    return tuple(edits)


def edits_of(spans: Mapping[str, str], source: str) -> tuple[Edit, ...]:
    """Edits of an object {"[first,last]": text}; `source` says where it stands. Raises InputError as `parse_edits`."""
    return tuple(_edit(span, text, source) for span, text in spans.items())


def _edit(span: object, text: object, source: str = "--edit-prompt") -> Edit:
    try:
        blocks = json.loads(span) if isinstance(span, str) else span
        first, last = blocks
        if type(first) is int and type(last) is int and 0 <= first <= last and isinstance(text, str):
            text.encode()  # JSON can hold half a surrogate pair, which no tokenizer takes
            return Edit(first, last, text, source)
    except (ValueError, TypeError, RecursionError):
        pass
    raise InputError(
        f"{source}: expected [first,last] with whole numbers 0 <= first <= last and a text, got {span!r} = {text!r}"
    )


def _read_edits(path: str) -> list[Edit]:
    if not path.lower().endswith(".json"):
        raise InputError(f'--edit-prompt: expected "[first,last]=text" or a .json file, got {path!r}')
    path = require_file(path, "--edit-prompt")
    try:
        with open(path, encoding="utf-8") as file:
            data = json.load(file)
    except (ValueError, RecursionError, OSError) as error:
        raise InputError(f"--edit-prompt: {path!r} is not valid JSON ({error})") from error
    if isinstance(data, dict):
        return [_edit(span, text) for span, text in data.items()]
    if isinstance(data, list) and all(isinstance(row, list) and len(row) == 3 for row in data):
        return [_edit(row[:2], row[2]) for row in data]
    raise InputError(f'--edit-prompt: expected {path!r} to hold an object {{"[first,last]": "text", ...}}')
