"""Launch configurations per chip, op and shape: measured ones from JSON, else the op's own heuristic.

`<chip>.json` holds {"source": who measured, when, on which driver; "ops": {op: {label: {name: int}}}}, the label being
the dims that decide ("M=9360,N=5120,K=13824,G=108"). An entry marked `"from": "predicted"` was never
timed: `liveact predict` found it in the machine code, and it stands until `liveact tune` measures the shape. Nothing is
tuned while a video runs: a shape without an entry takes the heuristic that stands beside the kernel, and an entry may
name only what it changes. `liveact tune` writes them; `make aot` compiles each, and reports those that no longer
compile and those that no shape asks for.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import json
import re
from collections.abc import Callable, Iterator, Mapping
from importlib import resources
from typing import NamedTuple

import torch


class Limits(NamedTuple):
    """What a kernel may use: name of the chip's table, compute capability (90 is 9.0), SMs, shared bytes per block."""

    chip: str
    arch: int
    sms: int
    shared: int


Heuristic = Callable[..., dict[str, int]]

TABLES = {80: "a100", 89: "l40s", 90: "h200", 100: "b200", 120: "rtx5090"}
"""Table of each architecture when only the architecture is known: a compilation without the chip."""

SHARED = {80: 166912, 89: 101376, 90: 232448, 100: 232448, 120: 101376}
"""Largest dynamic shared memory of a block, in bytes (CUDA C++ programming guide, compute capabilities)."""

COMPILE_SMS, INTERPRET_SMS = 132, 2
"""SMs assumed without a device: the H200's when compiling; few in the interpreter, so that persistent loops loop."""


FROM = "from"
"""Key of an entry that was not measured; its value says what it is from ("predicted")."""


class Asked(NamedTuple):
    """One question to `config`: the key of the op's entries, its heuristic, and the dims that decide."""

    op: str
    heuristic: Heuristic
    dims: dict[str, int | str]


_pinned: dict[str, int] = {}
_listeners: list[list[Asked]] = []


def tables() -> list[str]:
    """Chips that have a table."""
    return [f.name.removesuffix(".json") for f in resources.files(__name__).iterdir() if f.name.endswith(".json")]


@functools.cache
def _of_cuda(index: int) -> Limits:
    facts = torch.cuda.get_device_properties(index)
    arch = 10 * facts.major + facts.minor
    name = re.sub(r"nvidia|geforce|\W", "", facts.name.lower())
    chip = next((t for t in tables() if name.startswith(t)), name)
    return Limits(chip, arch, facts.multi_processor_count, SHARED.get(arch, SHARED[89]))


def limits(device: torch.device) -> Limits:
    """Limits of a CUDA device; of the target that Triton compiles for when the tensors are on `meta`.

    On the CPU only the interpreter runs, under an H200's limits: it then walks the tiles that the H200 walks.
    """
    if device.type == "cuda":
        return _of_cuda(torch.cuda.current_device() if device.index is None else device.index)
    arch, sms = 90, INTERPRET_SMS
    if device.type == "meta":
        import triton  # a machine without it can still read the tables

        arch, sms = triton.runtime.driver.active.get_current_target().arch, COMPILE_SMS
    return Limits(TABLES.get(arch, "unknown"), arch, sms, SHARED.get(arch, SHARED[89]))


@functools.cache
def table(chip: str) -> Mapping[str, Mapping[str, Mapping[str, int]]]:
    """{op: {label: configuration}} of a chip, without the marks of where entries are from; empty without a file."""
    ops = _entries(chip)
    return {op: {label: {k: v for k, v in e.items() if k != FROM} for label, e in ops[op].items()} for op in ops}


def unmeasured(chip: str) -> list[tuple[str, str]]:
    """(op, label) of the entries that were predicted and never measured."""
    return [(op, label) for op, table in _entries(chip).items() for label, e in table.items() if FROM in e]


def _entries(chip: str) -> dict[str, dict[str, dict]]:
    path = resources.files(__name__) / f"{chip}.json"
    return json.loads(path.read_text())["ops"] if path.is_file() else {}


def label(**dims: int | str) -> str:
    """`M=9360,N=5120`: the key of a configuration."""
    return ",".join(f"{k}={v}" for k, v in dims.items())


@functools.lru_cache(maxsize=4096)
def _chosen(op: str, heuristic: Heuristic, at: Limits, dims: tuple) -> Mapping[str, int]:
    named = dict(dims)
    return heuristic(at, **named) | dict(table(at.chip).get(op, {}).get(label(**named), {}))


def config(op: str, heuristic: Heuristic, at: Limits, **dims: int | str) -> Mapping[str, int]:
    """Configuration of one call: `heuristic(at, **dims)`, overlaid by the chip's measured entry for these dims."""
    for heard in _listeners:
        heard.append(Asked(op, heuristic, dims))
    chosen = _chosen(op, heuristic, at, tuple(dims.items()))
    return {k: _pinned.get(k, v) for k, v in chosen.items()} if _pinned else chosen


@contextlib.contextmanager
def asked() -> Iterator[list[Asked]]:
    """Hear every question to `config`: how a tuner learns what a call's entry would be called."""
    heard: list[Asked] = []
    _listeners.append(heard)
    try:
        yield heard
    finally:
        _listeners[:] = [x for x in _listeners if x is not heard]


def grid(**axes: tuple[int, ...]) -> tuple[dict[str, int], ...]:
    """All combinations of some values per name: candidates of a kernel, each laid over its heuristic."""
    return tuple(dict(zip(axes, values)) for values in itertools.product(*axes.values()))


@contextlib.contextmanager
def pinned(**values: int) -> Iterator[None]:
    """Force parts of every configuration: how a tuner tries candidates, and how a test gets small tiles."""
    global _pinned
    old, _pinned = _pinned, _pinned | values
    try:
        yield
    finally:
        _pinned = old
