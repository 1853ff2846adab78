"""The list of a written directory's files with sizes and hashes; until it says "complete", the directory is refused."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from ..errors import InputError
from .jsonfile import read_json
from .schema import validated

NAME = "manifest.json"
FORMAT = "liveact-manifest-1"
PIECE = 8 << 20
INSIDE = r"^[A-Za-z0-9_][A-Za-z0-9_. -]*(/[A-Za-z0-9_][A-Za-z0-9_. -]*)*$"
"""Names of files below the directory: no part begins with a dot."""


class File(BaseModel):
    """One file: its bytes and their SHA-256."""

    model_config = ConfigDict(strict=True, extra="forbid")
    bytes: int = Field(ge=0, description="a number of bytes")
    sha256: str = Field(pattern="^[0-9a-f]{64}$", description="64 hexadecimal digits")


class Manifest(BaseModel):
    """`source` tells the directory that these files were made from: name -> [bytes, time of change in ns]."""

    model_config = ConfigDict(strict=True, extra="forbid")
    format: Literal["liveact-manifest-1"] = Field(description=f"'{FORMAT}'")
    complete: bool = Field(description="true or false")
    precision: str = Field(description="the precision of the weights")
    source: dict[str, list[int]] = Field(description="an object of [bytes, time] by file name")
    files: dict[Annotated[str, Field(pattern=INSIDE)], File] = Field(
        description="an object of {bytes, sha256} by file name"
    )

    def write(self, folder: Path) -> None:
        """Put it in place whole, whatever happens meanwhile."""
        part = folder / f"{NAME}.part"
        part.write_text(json.dumps(self.model_dump(), indent=1) + "\n", encoding="utf-8")
        os.replace(part, folder / NAME)


def read_manifest(folder: Path) -> Manifest | None:
    """The manifest of a directory; None where there is none. Raises InputError for one that cannot be used."""
    path = folder / NAME
    return validated(Manifest, read_json(path), path) if path.exists() else None


def require_complete(folder: Path) -> None:
    """Raise InputError for a directory that is half-written, or a file of which is missing or has another size."""
    manifest = read_manifest(folder)
    if manifest is None:
        return
    if not manifest.complete:
        done = f"{len(manifest.files)} files of it are there"
        raise InputError(f"model: expected a finished directory, {str(folder)!r} is half converted ({done}): "
                         f"run the same 'liveact convert' again")  # fmt: skip
    for name, file in manifest.files.items():
        size = (folder / name).stat().st_size if (folder / name).is_file() else None
        if size != file.bytes:
            found = "none" if size is None else f"{size}"
            raise InputError(f"model: expected {file.bytes} bytes in {folder / name}, as {NAME} says, found {found}")


def hashed(path: Path) -> File:
    """Size and hash of a file that is there."""
    digest, count = hashlib.sha256(), 0
    with path.open("rb") as file:
        while piece := file.read(PIECE):
            digest.update(piece)
            count += len(piece)
    return File(bytes=count, sha256=digest.hexdigest())


def differing(folder: Path) -> tuple[int, list[str]]:
    """Number of files that the manifest lists, and those that are missing or hold something else."""
    manifest = read_manifest(folder)
    if manifest is None:
        raise InputError(f"expected a {NAME} in {str(folder)!r}, found none")
    wrong = [n for n, f in manifest.files.items() if not (folder / n).is_file() or hashed(folder / n) != f]
    return len(manifest.files), wrong
