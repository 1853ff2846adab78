"""Where the cycles of one steady iteration go: what each instruction of a warp waited for before it could issue."""

from __future__ import annotations

import itertools
from collections import Counter, defaultdict
from dataclasses import dataclass

from .code import Instruction
from .paths import Items, loops_on
from .setting import Setting
from .simulate import Memory
from .work import ROWS, TILES

STEADY = 3  # the trip that is looked at, the first being 0
ISSUE, OTHERS = "own instructions and stalls", "other warps issue"


@dataclass
class Iteration:
    """One trip (or a whole block without loops): its cycles by what they went into, and the longest single waits."""

    name: str
    cycles: int
    instructions: int
    reasons: Counter
    longest: list[tuple[float, Instruction, str]]


def iterations(s: Setting) -> list[Iteration]:
    """One per steady loop of the kernel's hot path; the whole block where it has none."""
    items = s.kernel.walk()[0]
    loops = loops_on(items)
    if not loops or s.work.kind == ROWS:
        log = _log(s, items, {})
        return [_iteration("block", log, log[-1][0] + 1)] if log else []
    log = _log(s, items, {i: 1 if _outer_of_tiles(s, i) else STEADY + 3 for i in loops})
    out = []
    for i in loops:
        first = next(x for n in [s.kernel.loops[i].header] for x in s.kernel.blocks[n].code).address
        starts = [n for n, (_, x, _) in enumerate(log) if x.address == first]
        if not _outer_of_tiles(s, i) and len(starts) > STEADY + 1:
            a, b = starts[STEADY], starts[STEADY + 1]
            out.append(_iteration(f"loop {i}", log[a - 1 : b], log[b][0]))
    return out


def _outer_of_tiles(s: Setting, loop: int) -> bool:
    return s.work.kind == TILES and any(x.parent == loop for x in s.kernel.loops)


def _log(s: Setting, items: Items, trips: dict[int, int]) -> list[tuple[float, Instruction, str]]:
    sim = s.simulation([s.kernel.trace(items, trips)] * s.places, items, Memory(s.work.dram))
    sim.log = []
    sim.run()
    return sim.log


def _iteration(name: str, log: list[tuple[float, Instruction, str]], end: float) -> Iteration:
    """From the second entry of the log to `end`; the first tells when the one before it issued."""
    reasons: defaultdict[str, float] = defaultdict(int)
    longest = []
    for (before, last, _), (t, i, why) in itertools.pairwise(log):
        own = min(t - before, max(1, last.stall))
        reasons[ISSUE] += own
        if t - before > own:
            reasons[why or OTHERS] += t - before - own
            longest.append((t - before - own, i, why or OTHERS))
    longest.sort(key=lambda row: -row[0])
    return Iteration(name, round(end - log[1][0]), len(log) - 1, Counter(reasons), longest[:8])
