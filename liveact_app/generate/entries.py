"""The released input file: a JSON list of videos to make, each a picture, a recording, a prompt and its changes."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from liveact_app.generate.edits import Edit, edits_of
from liveact_app.media.files import require_file
from liveact_app.say import note
from liveact_model.checkpoint.jsonfile import read_json_list
from liveact_model.checkpoint.schema import validated
from liveact_model.errors import InputError

ARGUMENT = "--input_json"
MOST = 10_000
FileName = Annotated[str, Field(min_length=1, max_length=4096)]


class Entry(BaseModel):
    """One object of the file. Keys that nothing here reads are named once and passed over."""

    model_config = ConfigDict(strict=True, extra="ignore")

    prompt: str = Field(description="a text")
    cond_image: FileName = Field(description="the name of a picture")
    cond_audio: FileName = Field(description="the name of a recording")
    edit_prompt: dict[str, str] = Field({}, description='an object {"[first,last]": "text", ...} of blocks')


@dataclass(frozen=True)
class Video:
    """What one entry asks for; `name` is the file name of the video, without an ending, which no other entry has."""

    image: str
    audio: str
    prompt: str
    edits: tuple[Edit, ...]
    name: str


def read_entries(path: str) -> tuple[Video, ...]:
    """All entries of a file, each checked before anything is made.

    A relative name is looked for in the working directory, as released, then beside the file. Videos are called after
    their picture and recording, as released; a second of the same name gets a number.

    Raises:
        InputError: naming the entry (counted from 1) and the first thing that is wrong with it.
    """
    path = require_file(path, ARGUMENT)
    values = read_json_list(Path(path), ARGUMENT)
    if not 1 <= len(values) <= MOST:
        raise InputError(f"{ARGUMENT}: expected 1 to {MOST} entries in {path!r}, got {len(values)}")
    found = {key for value in values if isinstance(value, dict) for key in value}
    unread = sorted(found - Entry.model_fields.keys())
    videos, taken = [], set()
    for number, value in enumerate(values, 1):
        video = _video(value, number, path)
        name = next(name for name in _names(video.name) if name.casefold() not in taken)
        taken.add(name.casefold())
        videos.append(Video(video.image, video.audio, video.prompt, video.edits, name))
    if unread:
        note(f"{ARGUMENT}: nothing here reads {', '.join(f'{key!r:.40}' for key in unread[:5])} of {path!r}")
    return tuple(videos)


def _video(value: Any, number: int, path: str) -> Video:
    where = f"entry {number} of {path!r}"
    if not isinstance(value, dict):
        raise InputError(f"{ARGUMENT}: expected {where} to be an object, found {type(value).__name__}")
    entry = validated(Entry, value, where, ARGUMENT)
    try:
        entry.prompt.encode()  # JSON can hold half a surrogate pair, which no tokenizer takes
    except UnicodeEncodeError:
        found = f"{entry.prompt!r:.60}"
        raise InputError(f"{ARGUMENT}: expected prompt in {where} to be valid text, found {found}") from None
    image, audio = (
        require_file(_found(name, path), f"{ARGUMENT}: {key} of entry {number}")
        for key, name in (("cond_image", entry.cond_image), ("cond_audio", entry.cond_audio))
    )
    edits = edits_of(entry.edit_prompt, f"{ARGUMENT}: edit_prompt of entry {number}")
    return Video(image, audio, entry.prompt, edits, f"{Path(image).stem}_{Path(audio).stem}")


def _found(name: str, path: str) -> str:
    beside = os.path.join(os.path.dirname(path), name)
    return beside if not os.path.exists(name) and os.path.exists(beside) else name


def _names(name: str) -> Iterator[str]:
    yield name
    for number in range(2, MOST + 2):
        yield f"{name}_{number}"
