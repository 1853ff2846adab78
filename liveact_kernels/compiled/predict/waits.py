"""What a warp may have to wait for besides scoreboards and pipes: products, copies, barriers.

Each function answers when the instruction may go on; an answer that is not later than now takes the wait as over.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Protocol

from .code import Instruction
from .rates import LATENCY

NEVER = float("inf")


class Warp(Protocol):
    """What a wait looks at of `simulate.Warp`, which asks."""

    block: int
    row: int
    ready: float
    groups: list[float]
    batches: list[float]
    blocked: tuple | None
    passed: Counter


class Copies(Protocol):
    """Of `simulate.Copies`: which wait belongs to which mbarriers, by address."""

    @property
    def waits(self) -> Mapping[int, object]:
        """Address -> mbarriers."""


class Simulation(Protocol):
    """Of `simulate.Simulation`: its warps, and what came to barriers and mbarriers."""

    per: int
    arrived: dict[tuple, list[float]]
    landed: dict[tuple, list[float]]

    @property
    def copies(self) -> Copies:
        """Bulk copies."""

    @property
    def warps(self) -> Sequence[Warp]:
        """All that are here."""


def _oldest(pending: list[float], left: int) -> float:
    """When all but `left` of the groups are done; forgets them by then."""
    return max(pending[: len(pending) - left], default=0.0) if left < len(pending) else 0.0


def _count(i: Instruction, name: str) -> int | None:
    m = re.search(rf"{name}, (0x[0-9a-f]+)", i.args)
    return int(m[1], 16) if m else None


def _wait_products(sim: Simulation, w: Warp, i: Instruction, epoch: int, t: float) -> float:
    if "DEPBAR" not in i.op:
        return t
    left = _count(i, "gsb0")
    assert left is not None, "it says how many groups may be left"
    until = _oldest(w.groups, left)
    if until <= t and left < len(w.groups):
        w.groups = w.groups[len(w.groups) - left :]
    return until


def _wait_copies(sim: Simulation, w: Warp, i: Instruction, epoch: int, t: float) -> float:
    left = _count(i, "SB0")
    if left is None:
        return t
    until = _oldest(w.batches, left)
    if until <= t and left < len(w.batches):
        w.batches = w.batches[len(w.batches) - left :]
    return until


def _wait_barrier(sim: Simulation, w: Warp, i: Instruction, epoch: int, t: float) -> float:
    """A barrier of all warps of a block here, or of the named number of threads (a quarter of its warps are here)."""
    if "SYNC" not in i.op and "RED" not in i.op:
        return t
    m = re.search(r"(0x[0-9a-f]+|R\d+), (0x[0-9a-f]+)", i.args)
    threads = int(m[2], 16) if m else 128 * sim.per
    need = max(1, threads // 128) if threads < 128 * sim.per else sim.per
    if need == 1:
        return t
    key = (w.block, i.address, w.passed[i.address], w.row // need if m else 0)
    arrived = sim.arrived[key]
    if w.blocked != key:
        w.blocked = key
        arrived.append(t)
    if len(arrived) < need:
        return NEVER
    go = max(arrived) + LATENCY["barrier"]
    for v in sim.warps:
        if v.blocked == key and v.ready == NEVER:
            v.ready = go
    if go <= t:
        w.passed[i.address] += 1
        w.blocked = None
    return go


def _wait_bulk(sim: Simulation, w: Warp, i: Instruction, epoch: int, t: float) -> float:
    kind = sim.copies.waits.get(i.address) if i.tries else None
    if kind is None:
        return t
    n, landed = w.passed["bulk", kind, epoch], sim.landed[w.block, kind, epoch]
    if n < len(landed):
        if landed[n] > t:
            return landed[n]
    elif w.row:
        return t + 8  # the block's first warp has not asked for it yet
    w.passed["bulk", kind, epoch] += 1
    return t


WAITS = {"WARPGROUP": _wait_products, "DEPBAR": _wait_copies, "BAR": _wait_barrier, "SYNCS": _wait_bulk}
REASONS = {
    "WARPGROUP": "products", "DEPBAR": "asynchronous copies", "BAR": "other warps at a barrier", "SYNCS": "bulk copies",
}  # fmt: skip
"""What an explanation calls each wait."""
