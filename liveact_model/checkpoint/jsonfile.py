"""Reading a JSON file: whatever is wrong with it is one sentence."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any, NoReturn

from ..errors import InputError

MAX_BYTES = 16 << 20
"""No config or index comes near: the released index has 1713 names."""


def read_json(path: Path, what: str = "model", max_bytes: int = MAX_BYTES) -> dict[str, Any]:
    """A JSON object: UTF-8 without a byte order mark, each key once, every number finite.

    Raises:
        InputError: the file is missing, unreadable, larger than `max_bytes`, or holds something else.
    """
    value = _read(path, what, max_bytes)
    if not isinstance(value, dict):
        raise InputError(f"{what}: expected a JSON object in {path}, got {type(value).__name__}")
    return value


def read_json_list(path: Path, what: str) -> list[Any]:
    """A JSON list, in a file as `read_json` takes it. Raises InputError as that does."""
    value = _read(path, what, MAX_BYTES)
    if not isinstance(value, list):
        raise InputError(f"{what}: expected a JSON list in {path}, got {type(value).__name__}")
    return value


def _read(path: Path, what: str, max_bytes: int) -> Any:
    try:
        if path.exists() and not path.is_file():
            raise OSError("not a regular file")  # reading a pipe could wait for ever
        if path.exists() and path.stat().st_size > max_bytes:
            raise ValueError(f"{path.stat().st_size} bytes, over {max_bytes}")
        if path.exists() and not path.stat().st_size:
            raise ValueError("nothing in it")  # or a file of the kernel's, which may be waited for, too
        text = path.read_bytes().decode("utf-8")
        return json.loads(text, object_pairs_hook=_each_once, parse_constant=_no_number)
    except RecursionError as error:
        raise InputError(f"{what}: expected a readable JSON file {path}, got: nested too deep") from error
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"{what}: expected a readable JSON file {path}, got: {reason:.200}") from error


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        twice, _ = Counter(name for name, _ in pairs).most_common(1)[0]
        raise ValueError(f"key {twice!r:.60} twice")
    return found


def _no_number(text: str) -> NoReturn:
    raise ValueError(f"{text} is not a JSON number")
