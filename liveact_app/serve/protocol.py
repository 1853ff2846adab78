"""What a client says over a session's socket, as docs/live.md has it, and the sentence for what is none of it."""

from __future__ import annotations

import base64
import binascii
import json
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from liveact_app.serve.speech import MAX_RATE_HZ, MIN_RATE_HZ
from liveact_model.errors import InputError

LONGEST_PROMPT = 1000  # characters
NORMAL, GOING_AWAY, INTERNAL = 1000, 1001, 1011
BAD_INPUT, NO_TOKEN, UNKNOWN, TIMEOUT, TOO_LARGE, BUSY = 4400, 4401, 4404, 4408, 4413, 4429
CLOSE_CODES = {"closed": NORMAL, "idle": TIMEOUT, "long": TIMEOUT, "drained": GOING_AWAY, "input": BAD_INPUT,
               "failed": INTERNAL}  # fmt: skip
"""Of a session's end, by its word."""


HTTP = 4000
"""A refusal's close code is its HTTP status and this."""


class Refused(Exception):
    """A connection that is turned away: a close code and one sentence."""

    def __init__(self, code: int, sentence: str):
        super().__init__(sentence)
        self.code, self.sentence = code, sentence


class _Message(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Audio(_Message):
    """How the binary messages that follow are to be read; mono."""

    type: Literal["audio"] = "audio"
    rate: int = Field(16_000, ge=MIN_RATE_HZ, le=MAX_RATE_HZ)
    coding: Literal["s16le", "f32le"] = "s16le"
    source: Literal["live", "stored"] = "live"


class Face(_Message):
    """A face that ships with the server, by its name."""

    face: str = Field(max_length=40)


class Upload(_Message):
    """A picture file of the client's, in base64."""

    base64: str


class Open(_Message):
    """The first message: what the session shall be."""

    type: Literal["open"]
    image: Face | Upload
    prompt: str = Field("A person is talking.", max_length=LONGEST_PROMPT)
    size: tuple[int, int] | None = None
    fps: float | None = Field(None, ge=1, le=60)
    seed: int = Field(42, ge=0, le=2**63 - 1)
    scale: int = Field(1, ge=1, le=8)
    audio: Audio = Audio()
    token: str | None = Field(None, max_length=200)


class Watch(_Message):
    """The first message of one who watches another's session."""

    type: Literal["watch"]
    token: str | None = Field(None, max_length=200)


class Prompt(_Message):
    """Another prompt from the next block on; the event that tells of it repeats `number`."""

    type: Literal["prompt"]
    prompt: str = Field(max_length=LONGEST_PROMPT)
    number: int = Field(0, ge=0, le=2**31)


class Interrupt(_Message):
    """Drop the speech that waits."""

    type: Literal["interrupt"]


class End(_Message):
    """The sound so far is a whole; what comes next is another one."""

    type: Literal["end"]


class Close(_Message):
    """The session is over."""

    type: Literal["close"]


_LATER = TypeAdapter(Annotated[Audio | Prompt | Interrupt | End | Close, Field(discriminator="type")])


def first_message(text: str, kind: type[Open] | type[Watch]) -> Any:
    """The opening of a connection. Raises InputError."""
    return _read(TypeAdapter(kind), text)


def later_message(text: str) -> Audio | Prompt | Interrupt | End | Close:
    """Any other message. Raises InputError."""
    return _read(_LATER, text)


def _read(adapter: TypeAdapter, text: str) -> Any:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        raise InputError(f"message: expected JSON, got {text!r:.60}") from None
    if not isinstance(found, dict):
        raise InputError(f"message: expected a JSON object, got {text!r:.60}")
    try:
        return adapter.validate_python(found)
    except ValidationError as error:
        raise InputError(sentence(error)) from None


def sentence(error: ValidationError) -> str:
    """The first fault of several: where, what was expected, what came."""
    fault = error.errors(include_url=False, include_context=False)[0]
    where = ".".join(str(part) for part in fault["loc"] if part not in ("Face", "Upload")) or "message"
    said = fault["msg"][:1].lower() + fault["msg"][1:]
    return f"{where}: {said}, got {fault['input']!r:.60}"


def picture_bytes(upload: Upload, most: int) -> bytes:
    """The picture file. Raises Refused when it is too large, InputError when it is no base64."""
    if len(upload.base64) > 4 * (most + 2) // 3:
        raise Refused(TOO_LARGE, f"image: expected at most {most >> 20} MiB, got more")
    try:
        return base64.b64decode(upload.base64, validate=True)
    except (ValueError, binascii.Error):
        raise InputError(f"image.base64: expected base64, got {upload.base64!r:.40}") from None
