"""Launch configurations measured on the chip at hand, written to its table in `tuned/`.

    liveact tune [--op NAME ...] [--minutes N] [--out FILE] [--dry-run]      (or python -m liveact_kernels.tune)

For every op with a Triton backend, at its real shapes, dearest first: the candidates that stand beside the kernel
(`launch.candidates`) are compiled in parallel without touching the GPU, those that spill or ask for more shared memory
than a block has are dropped, the others are timed on rotated inputs (cold L2, graph replay), and one that beats the
heuristic by more than 2% twice, and is right against float64, becomes an entry. It is written as soon as it is found:
when the time is up, what there is is kept. A later `make aot` compiles every entry.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

GAIN = 0.02
"""An entry must be this much faster than the heuristic: less is noise, and a table should be short."""

Config = Mapping[str, int]


@dataclass(frozen=True)
class Task:
    """One op at one shape: the key and label of its table entry, the heuristic's configuration, and what to try."""

    op: str
    case: str
    key: str
    label: str
    heuristic: Config
    candidates: tuple[Config, ...]
    share: float


class Device(Protocol):
    """What the search asks of a chip; tests put a fake one here."""

    def rejected(self, task: Task, configs: Sequence[Config]) -> list[str | None]:
        """Per configuration: why it cannot run (it spills, or wants too much shared memory), None when it can."""

    def time(self, task: Task, config: Config) -> float:
        """Median microseconds of one call; raises what the launch raises."""

    def wrong(self, task: Task, config: Config) -> str | None:
        """What is wrong with its results against float64, None when nothing is."""


@dataclass(frozen=True)
class Found:
    """What a search ended with; `config` is the heuristic's where nothing was better by GAIN."""

    task: Task
    config: Config
    heuristic_us: float
    us: float
    tried: int
    dropped: int
    finished: bool

    @property
    def better(self) -> bool:
        """Whether it deserves an entry."""
        return dict(self.config) != dict(self.task.heuristic)


def combinations(heuristic: Config, overlays: Sequence[Config]) -> tuple[Config, ...]:
    """Distinct configurations, the heuristic's own left out: each overlay changes what it names of it."""
    seen, out = {tuple(sorted(heuristic.items()))}, []
    for overlay in overlays:
        config = {k: overlay.get(k, v) for k, v in heuristic.items()}
        if (key := tuple(sorted(config.items()))) not in seen:
            seen.add(key)
            out.append(config)
    return tuple(out)


def search(task: Task, device: Device, left: Callable[[], float], say: Callable[[str], None]) -> Found:
    """Try the candidates of a task until `left()` seconds are none; raises ValueError if the heuristic itself fails."""
    if fault := device.wrong(task, task.heuristic):
        raise ValueError(f"the heuristic's result is wrong: {fault}")
    base = device.time(task, task.heuristic)
    whys = device.rejected(task, task.candidates)
    runnable = [c for c, why in zip(task.candidates, whys) if why is None]
    timed: list[tuple[float, Config]] = []
    finished = True
    for config in runnable:
        if left() <= 0:
            finished = False
            break
        try:
            timed.append((device.time(task, config), config))
        except Exception as error:  # a launch that the compiler let through may still be refused
            say(f"  {dict(config)}: {type(error).__name__}: {' '.join(str(error).split())[:120]}")
    best, best_us = task.heuristic, base
    for us, config in sorted(timed, key=lambda row: row[0]):
        if us >= (1 - GAIN) * base:
            break
        again, base_again = device.time(task, config), device.time(task, task.heuristic)
        if again >= (1 - GAIN) * base_again:
            continue  # lucky the first time
        if fault := device.wrong(task, config):
            say(f"  {dict(config)}: wrong: {fault}")
            continue
        best, best_us, base = config, again, base_again
        break
    return Found(task, best, base, best_us, len(timed), len(task.candidates) - len(runnable), finished)


class Table:
    """A chip's JSON: entries of other shapes stay as they are; written whole or not at all."""

    def __init__(self, path: Path, source: str):
        self.path, self._source = path, source
        self._table = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {"ops": {}}

    def add(self, found: Found) -> bool:
        """Enter a result, or take away an entry that no longer beats the heuristic; whether the file changed."""
        ops = {op: dict(entries) for op, entries in self._table["ops"].items()}
        had = ops.get(found.task.key, {}).pop(found.task.label, None)
        if found.better:
            ops.setdefault(found.task.key, {})[found.task.label] = dict(found.config)
        elif had is None or not found.finished:
            return False
        entries = {op: dict(sorted(ops[op].items())) for op in sorted(ops) if ops[op]}
        self._table = self._table | {"source": self._source, "ops": entries}
        fresh = self.path.with_name(self.path.name + ".new")
        fresh.write_text(json.dumps(self._table, indent=1) + "\n", encoding="utf-8")
        os.replace(fresh, self.path)
        return True


def run(
    tasks: Sequence[Task], device: Device, table: Table, seconds: float,
    clock: Callable[[], float] = time.monotonic, say: Callable[[str], None] = print,
) -> list[Found]:  # fmt: skip
    """Search the tasks in order of share until the time is up; every result is in the table before the next begins."""
    end, out = clock() + seconds, []
    for i, task in enumerate(sorted(tasks, key=lambda t: -t.share), 1):
        if clock() >= end:
            say(f"time is up after {i - 1} of {len(tasks)} shapes")
            break
        head = f"[{i}/{len(tasks)}] {task.op}/{task.case}"
        try:
            found = search(task, device, lambda: end - clock(), say)
        except Exception as error:
            say(f"{head}: left out: {type(error).__name__}: {' '.join(str(error).split())[:200]}")
            continue
        table.add(found)
        out.append(found)
        gain = 100 * (1 - found.us / found.heuristic_us)
        verdict = f"{found.us:.1f} us, {gain:.1f}% less: {dict(found.config)}" if found.better else "stays"
        counts = f"{found.tried} timed, {found.dropped} do not fit" + ("" if found.finished else ", cut off")
        say(f"{head}: heuristic {found.heuristic_us:.1f} us, {verdict} ({counts})")
    return out
