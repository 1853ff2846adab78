"""What a run left: a plain record that travels as JSON."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path


@dataclass
class Outcome:
    """rc is None after a hang and negative after a signal; paths are relative to the case's root."""

    rc: int | None
    stdout: str
    stderr: str
    wall_s: float
    grown_bytes: int
    new: list[str] = field(default_factory=list)
    changed: list[str] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)
    processes: list[str] = field(default_factory=list)
    playable: list[str] = field(default_factory=list)
    canary: bool = False


def snapshot(root: Path) -> dict[str, tuple]:
    """Every path below `root` with what tells a change."""
    found = {}
    for folder, folders, files in os.walk(root):
        for name in (*folders, *files):
            path = os.path.join(folder, name)
            s = os.lstat(path)
            mark = (s.st_mode, s.st_ino) if name in folders else (s.st_mode, s.st_ino, s.st_size, s.st_mtime_ns)
            found[os.path.relpath(path, root)] = mark
    return found
