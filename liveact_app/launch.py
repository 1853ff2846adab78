"""What the launcher (torchrun, or a hand) says of this process by environment variables."""

from __future__ import annotations

import argparse
import os
from typing import NamedTuple

from liveact_app.arguments import real_number, whole_number
from liveact_model.errors import InputError

MOST_RANKS = 512  # each has a socket for every other


class Place(NamedTuple):
    """This process among those of a launch: its number, how many there are, its number on this machine.

    host, port  where rank 0 (or the launcher, where `hosted`) keeps the store by which they find each other
    near        all of them are on this machine
    """

    rank: int
    size: int
    local: int
    host: str = ""
    port: int = 0
    near: bool = True
    hosted: bool = False


def place() -> Place:
    """What the launcher says; one process where there is none. Raises InputError for what makes no sense."""
    if not _said("WORLD_SIZE"):
        if _said("RANK") not in ("", "0"):
            raise InputError(f"WORLD_SIZE: expected the number of processes beside RANK={_said('RANK')}, got nothing")
        return Place(0, 1, 0)
    size = _number("WORLD_SIZE", 1, MOST_RANKS)
    if size == 1:
        return Place(_number("RANK", 0, 0, "0"), 1, _number("LOCAL_RANK", 0, 0, "0"))
    rank, local = _number("RANK", 0, size - 1), _number("LOCAL_RANK", 0, size - 1)
    port, host = _number("MASTER_PORT", 1, 65535), _said("MASTER_ADDR")
    if not host:
        raise InputError("MASTER_ADDR: expected the name or address of rank 0's machine, got nothing")
    near = _number("LOCAL_WORLD_SIZE", 1, size, "1") == size
    return Place(rank, size, local, host, port, near, _said("TORCHELASTIC_USE_AGENT_STORE") == "True")


def _said(name: str) -> str:
    return os.environ.get(name, "").strip()


def _number(name: str, low: int, high: int, default: str = "") -> int:
    text = _said(name) or default
    try:
        return whole_number(low, high)(text)
    except argparse.ArgumentTypeError as error:
        raise InputError(f"{name}: {str(error) if text else str(error).replace(repr(text), 'nothing')}") from None


def seconds(name: str, default: float) -> float:
    """A time from 1 s to a day that a variable may set. Raises InputError for anything else."""
    try:
        return real_number(1, 86400)(_said(name) or str(default))
    except argparse.ArgumentTypeError as error:
        raise InputError(f"{name}: {error}, in seconds") from None


def talks() -> bool:
    """Whether this process is the one that speaks to the user; one that does not know its place does, too."""
    try:
        return place().rank == 0
    except InputError:
        return True
