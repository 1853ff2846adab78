"""The faces and the recording that ship with the page, and pictures of clients: bytes in, never a name."""

from __future__ import annotations

import secrets
import threading
from importlib import resources
from pathlib import Path

from PIL import Image

from liveact_app.media.image import read_image
from liveact_model.errors import InputError

STATIC = Path(str(resources.files("liveact_app.serve"))) / "static"
FACES = {"first": "first.png", "second": "second.png", "third": "third.png"}
SAMPLE = "speech.wav"
_one = threading.Lock()  # a picture of 100 megapixels fills 300 MB: one at a time


def shipped(name: str) -> Image.Image:
    """A face by its name. Raises InputError."""
    if name not in FACES:
        raise InputError(f"image.face: expected one of {', '.join(FACES)}, got {name!r:.60}")
    return readable(STATIC / "faces" / FACES[name])


def readable(path: Path) -> Image.Image:
    """A picture in a file of ours, decoded. Raises InputError."""
    with _one:
        return read_image(path, "image")


def given(data: bytes, folder: Path) -> Image.Image:
    """A picture file of a client's, put into `folder` under a name of ours. Raises InputError."""
    if not data:
        raise InputError("image: expected a picture, got 0 bytes")
    path = folder / secrets.token_hex(8)
    try:
        path.write_bytes(data)
        return readable(path)
    except InputError as error:
        raise InputError(anonymous(str(error), {str(path): "the picture"})) from None
    finally:
        path.unlink(missing_ok=True)


def anonymous(sentence: str, names: dict[str, str]) -> str:
    """A sentence of the readers without the server's paths and the command's dashes."""
    for path, word in names.items():
        sentence = sentence.replace(repr(path), word)
    return sentence.removeprefix("--")
