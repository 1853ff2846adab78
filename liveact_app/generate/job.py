"""What to generate: the checked arguments of one video, and the prompts of its blocks."""

import json
import re
from dataclasses import dataclass

from liveact_app.media.files import check_output, require_file
from liveact_model.errors import InputError

VIDEO_SUFFIXES = (".mp4", ".mkv", ".mov")


@dataclass(frozen=True)
class Edit:
    """A prompt that replaces the main one in blocks first..last (counted from 0, both included)."""

    first: int
    last: int
    text: str


@dataclass(frozen=True)
class Job:
    """A generation with every argument checked that can be checked without opening media or a model.

    `size` and `fps` are None for the avatar's own; `size` is (W, H) in pixels; see `liveact generate --help`.

    Raises:
        InputError: `out` or `report` cannot be written, or has an unknown ending.
    """

    image: str
    audio: str
    prompt: str
    out: str
    model: str = "tiny"
    size: tuple[int, int] | None = None
    fps: float | None = None
    seed: int = 42
    backend: str | None = None
    dtype: str = "auto"
    device: str = "auto"
    wav2vec_dir: str | None = None
    sampler: str = "renoise"
    audio_cfg: float = 1.0
    eight_bit_memory: bool = False
    eight_bit_attention: bool = False
    eager: bool = False
    parallel: str = "auto"
    edits: tuple[Edit, ...] = ()
    edit_files: tuple[str, ...] = ()
    scale: int = 1
    report: str | None = None
    audio_track: int | None = None

    def __post_init__(self) -> None:
        """Check the outputs, and put their real paths in place."""
        inputs = {"--image": self.image, "--audio": self.audio, **{f"--edit-prompt {f}": f for f in self.edit_files}}
        object.__setattr__(self, "out", check_output(self.out, "--out", VIDEO_SUFFIXES, inputs))
        if self.report is not None:
            object.__setattr__(self, "report", check_output(self.report, "--report", (".json",), inputs))

    def prompt_of(self, block: int) -> str:
        """The prompt of a block: the first edit that covers it, else the main prompt."""
        return next((edit.text for edit in self.edits if edit.first <= block <= edit.last), self.prompt)


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


def _edit(span: object, text: object) -> Edit:
    try:
        blocks = json.loads(span) if isinstance(span, str) else span
        first, last = blocks
        if type(first) is int and type(last) is int and 0 <= first <= last and isinstance(text, str):
            text.encode()  # JSON can hold half a surrogate pair, which no tokenizer takes
            return Edit(first, last, text)
    except (ValueError, TypeError, RecursionError):
        pass
    raise InputError(
        "--edit-prompt: expected [first,last] with whole numbers 0 <= first <= last and a text, "
        f"got {span!r:.200} = {text!r:.200}"
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
