"""What a case is, and how it is made from its name."""

from __future__ import annotations

import importlib
import os
import random
from dataclasses import dataclass, field
from pathlib import Path

SHARES = {
    "images": 16, "sounds": 16, "options": 18, "environment": 8, "config": 14, "weights": 9, "released": 13,
    "hostile": 6,
}  # fmt: skip
"""Classes, each a module beside this one with `make(draw, place) -> Case`, and their shares of a run in percent."""


@dataclass
class Case:
    """One run of the command.

    The command starts in the empty folder `run`; input lies in `in`, a sibling (argv says ../in/...).

    argv     arguments after the program's name
    about    what is odd, in a few words
    env      variables that differ from the plain environment; None takes one away
    stdin    "none" (/dev/null), "yes" (endless agreement) or "closed"
    stdout   "file", "closed", "full" (/dev/full) or "broken" (a pipe that nobody reads); stderr: "file" or "closed"
    limits   RLIMIT name -> value
    fresh    a new interpreter, not a fork of one that has imported everything
    do       what happens during the run: "SIGINT", "SIGTERM", "SIGHUP" or "rmtree" (of run/out), `after` seconds
    outputs  paths below `run` that success may leave
    video    success must leave a video that plays among `outputs`
    module   what is run
    deadline_s, memory_bytes  bounds; the first only tells a hang and grows with the machine's load
    """

    argv: list[str]
    about: str
    env: dict[str, str | None] = field(default_factory=dict)
    stdin: str = "none"
    stdout: str = "file"
    stderr: str = "file"
    limits: dict[str, int] = field(default_factory=dict)
    fresh: bool = False
    do: str | None = None
    after: float = 0.0
    outputs: list[str] = field(default_factory=lambda: ["v.mp4"])
    video: bool = True
    module: str = "liveact_app"
    deadline_s: float = 40.0
    memory_bytes: int = 1_500_000_000

    @property
    def allowed(self) -> set[str]:
        """`outputs` as paths below the case's root."""
        return {os.path.normpath(f"run/{name}") for name in self.outputs}


class Draw(random.Random):
    """Random choices of one case; `number` is its seed as a number."""

    def __new__(cls, kind: str, number: int) -> Draw:  # Python 3.10 would hand both on
        return super().__new__(cls)

    def __init__(self, kind: str, number: int):
        super().__init__(f"{kind}:{number}")
        self.number = number


@dataclass(frozen=True)
class Place:
    """Where a case's input goes: `root` holds `in`, `run`, `home`, `tmp`; `released` is a whole miniature."""

    root: Path
    released: Path

    @property
    def inputs(self) -> Path:
        return self.root / "in"

    @property
    def run(self) -> Path:
        return self.root / "run"

    @property
    def canary(self) -> Path:
        """Code that must not run makes this file."""
        return self.root / "canary"


def make(name: str, place: Place) -> Case:
    """Write the input of the case "class:seed" and return it."""
    kind, seed = name.split(":")
    module = importlib.import_module(f".{kind}", __package__)
    return module.make(Draw(kind, int(seed)), place)


def names(count: int, first: int = 0) -> list[str]:
    """Names of `count` cases, classes by their shares; each class starts at the seed `first`."""
    each = {kind: count * share // 100 for kind, share in SHARES.items()}
    for kind in list(SHARES)[: count - sum(each.values())]:
        each[kind] += 1
    return [f"{kind}:{first + i}" for kind, n in each.items() for i in range(n)]
