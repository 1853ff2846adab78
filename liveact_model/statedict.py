"""Reading released weight files: pickles without code, strict key and shape checks, no second copy in memory."""

from __future__ import annotations

import json
import pickle
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from liveact_model.errors import InputError


def read_json(path: Path, what: str = "model") -> dict[str, Any]:
    """A JSON object.

    Raises:
        InputError: the file is missing, unreadable, or holds something else.
    """
    if path.exists() and not path.is_file():  # a pipe would be waited for
        raise InputError(f"{what}: expected a readable JSON file {path}, which is no regular file")
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{what}: expected a readable JSON file {path}, got: {error}") from error
    if not isinstance(value, dict):
        raise InputError(f"{what}: expected a JSON object in {path}, got {type(value).__name__}")
    return value


def load_pickle(path: str | Path, what: str) -> dict[str, Tensor]:
    """State dict of a `.pth`/`.bin` file, memory-mapped where the file allows it: nothing is read until used.

    Only tensors are unpickled (`weights_only`), never code.

    Raises:
        InputError: `path` is missing, is not such a file, or holds something other than named tensors.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{what}: expected a weight file {path}, but there is none")
    try:
        try:
            state = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        except RuntimeError:  # files older than torch 1.6 are not zip archives and cannot be mapped
            state = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, pickle.UnpicklingError, EOFError, ValueError, OSError) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0].split(". ")[0]
        found = f"{path.stat().st_size} bytes that cannot be read as one ({reason})"
        raise InputError(f"{what}: expected {path} to be a torch weight file, found {found}") from error
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise InputError(f"{what}: expected {path} to hold a dict of named tensors, got {type(state).__name__}")
    return state


def shape_of(state: Mapping[str, Tensor], key: str, ndim: int, what: str) -> tuple[int, ...]:
    """Shape of `state[key]`, which must exist and have `ndim` dimensions (used to infer sizes).

    Raises:
        InputError: naming the key, what was expected and what was found.
    """
    if key not in state:
        raise InputError(f"{what}: key {key!r} with {ndim} dimensions expected, found no such key")
    shape = tuple(state[key].shape)
    if len(shape) != ndim or 0 in shape:
        raise InputError(f"{what}: key {key!r} with {ndim} dimensions of at least 1 expected, found {list(shape)}")
    return shape


def count_layers(state: Mapping[str, Tensor], prefix: str) -> int:
    """One more than the largest i in keys `{prefix}{i}.`; 0 when there are none."""
    tails = (key[len(prefix) :].split(".")[0] for key in state if key.startswith(prefix))
    return max((int(tail) + 1 for tail in tails if tail.isdecimal()), default=0)


def check_keys(state: Mapping[str, Tensor], expected: Mapping[str, Sequence[int]], what: str) -> None:
    """Every expected key must be there with its shape, and no other key.

    Raises:
        InputError: naming the first wrong key in the order of `expected`, then the first extra one.
    """
    for key, shape in expected.items():
        if key not in state:
            raise InputError(f"{what}: key {key!r} of shape {list(shape)} expected, found no such key")
        if tuple(state[key].shape) != tuple(shape):
            raise InputError(f"{what}: key {key!r} of shape {list(shape)} expected, found {list(state[key].shape)}")
    for key, value in state.items():
        if key not in expected:
            raise InputError(f"{what}: no key {key!r} expected, found one of shape {list(value.shape)}")


def assign(module: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Make `state` the parameters of a module built on the meta device, frozen and without copying."""
    module.load_state_dict(dict(state), strict=True, assign=True)
    module.requires_grad_(False).eval()
