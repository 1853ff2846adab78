"""How a launch's time adds up, by kind of kernel: walks over tiles, loops of known trips, straight-line blocks."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from dataclasses import dataclass

from . import Unpredictable
from .paths import Items, Kernel, cost, limits, loops_on, scaled, trip_of
from .setting import Setting
from .simulate import Memory, Simulation, Trace

FEW, MANY = 3, 9  # trips of two simulations whose difference is the steady state
GENERATIONS = 4  # blocks of straight-line kernels per resident place


@dataclass
class Found:
    """What a kind of kernel comes to: all times in cycles but l2, in seconds."""

    total: float  # cycles of the busiest SM
    pipes: dict[str, float]
    cycles: dict[str, int]
    macs: float
    l2: float  # seconds


def _l2(s: Setting, loaded: float) -> float:
    own = loaded if s.work.own is None else s.work.own
    return s.work.shared / s.machine.tile_rate() + own / s.machine.l2


# ---- persistent walks over tiles ------------------------------------------------------------------------------------


def tiles(s: Setting) -> Found:
    """A persistent walk: start + tiles x (steps + end)."""
    k, w = s.kernel, s.work
    items = k.walk()[0]
    flat = ("FLATTEN" in s.launch.args and s.launch.args["FLATTEN"]) or len(k.loops) == 1
    step, end, start, c_step, c_end, c_start = (_flattened if flat else _nested)(s, items)
    total = start + w.per_block * (w.steps * step + end)
    per_warp = Counter(c_start)
    for part, times in ((c_step, w.per_block * w.steps), (c_end, w.per_block)):
        per_warp.update(scaled(part, times))
    macs = (c_step["macs"] * w.steps + c_end["macs"]) * s.launch.warps * w.tiles
    cycles = {"step": round(step), "tile end": round(end)}
    return Found(total, limits(per_warp, s.launch.warps), cycles, macs, _l2(s, 0))


def _multiplies(k: Kernel, loop: int) -> int:
    return sum(bool(i.product) for n in k.loops[loop].body for i in k.blocks[n].code)


def _nested(s: Setting, items: Items) -> tuple:
    """A loop over tiles around a loop over K: cycles and costs of a step, of a tile beyond its steps, of the start."""
    k = s.kernel
    inner = max(loops_on(items), key=lambda i: (k.loops[i].depth, _multiplies(k, i)))
    outer = k.loops[inner].parent
    assert outer is not None, "a walk that is not flat has its steps in a loop over tiles"

    def time(tiles: int, steps: int) -> float:
        return s.run([k.trace(items, {outer: tiles, inner: steps})] * s.resident, items, Memory())

    short = time(1, 4)
    step = (time(1, 12) - short) / 8
    end = (time(3, 4) - short) / 2 - 4 * step
    tile = trip_of(items, outer)
    return (
        step,
        end,
        short - 4 * step - end,
        k.cost(trip_of(items, inner), {}),
        cost(k.straight(tile)),
        cost(k.straight(items)),
    )


def _flattened(s: Setting, items: Items) -> tuple:
    """One loop whose conditional parts belong to a tile: the same, a tile's part being what they add to a step."""
    k = s.kernel
    loop = max(loops_on(items), key=lambda i: _multiplies(k, i))
    header = {k.loops[loop].header}

    def skip(n: int, hot: list[int]) -> int:
        if n not in k.loops[loop].body:
            return k.prefer(n, hot)
        own = {s: k.only(s, o, header) if s != o else [] for s, o in (hot[:2], hot[1::-1])}
        return min(own, key=lambda s: -1 if any(i.product for i in own[s]) else len(own[s]))

    plain = k.walk(skip)[0]
    bare, full = trip_of(plain, loop), trip_of(items, loop)

    def time(pattern: list[bool]) -> float:
        before = plain[: next(n for n, x in enumerate(plain) if not isinstance(x, int) and x.loop == loop)]
        after = plain[len(before) + 1 :]
        trace = k.trace([*before, *itertools.chain.from_iterable(full if p else bare for p in pattern), *after], {})
        return s.run([trace] * s.resident, plain, Memory())

    short = time([False] * 4)
    step = (time([False] * 14) - short) / 10
    end = time([False] * 6 + [True] + [False] * 6) - time([False] * 13)
    c_step = k.cost(bare, {})
    c_end = Counter({key: n - c_step[key] for key, n in k.cost(full, {}).items()})
    return step, end, short - 4 * step, c_step, c_end, cost(k.straight(plain))


# ---- loops of known trips -------------------------------------------------------------------------------------------


def loops(s: Setting) -> Found:
    """Waves of blocks, each its loops' trips and what is around them."""
    k, w, grid = s.kernel, s.work, s.launch.blocks
    variants = k.variants() if w.alike else [k.walk()[0]]
    total: Counter = Counter()
    cycles: dict[str, int] = {}
    slowest = 0.0
    for items in variants:
        trips = trips_of(s, items)
        total.update(scaled(k.cost(items, trips), 1 / len(variants)))
        outside, per = steady(s, items, trips)
        whole = outside + sum(per[i] * trips[i] for i in per)
        if whole > slowest:
            slowest, cycles = whole, {f"loop {i} x{trips[i]}": round(c) for i, c in per.items()}
            cycles["outside loops"] = round(outside)
    waves = grid / (s.machine.sms * s.resident)
    full: float
    on_sm: float
    if s.resident == 1:
        full, on_sm = math.ceil(waves), max(1, math.ceil(grid / s.machine.sms))
    else:  # blocks refill places as they end: half a wave is lost at the end
        full, on_sm = (waves + 0.5 if waves > 1 else 1), max(1.0, grid / s.machine.sms)
    macs = total["macs"] * s.launch.warps * grid
    pipes = {name: c * on_sm for name, c in limits(total, s.launch.warps).items()}
    moved = (total["loaded"] + total["stored"]) * s.launch.warps * grid
    return Found(full * slowest, pipes, cycles, macs, _l2(s, moved))


def trips_of(s: Setting, items: Items) -> dict[int, int]:
    """Loop -> trips on a path."""
    on = loops_on(items)
    if s.work.alike:
        return dict.fromkeys(on, s.work.trips[0])
    outer = [i for i in on if s.kernel.loops[i].depth == 1]
    if not outer and s.work.macs is not None:
        return {}  # unrolled as a whole: the count of multiply-adds tells whether that is so
    if len(outer) != len(s.work.trips):
        raise Unpredictable(
            f"{s.launch.kernel}: its code has {len(outer)} outermost loops, compiled/predict/work.py tells the trips "
            f"of {len(s.work.trips)}"
        )
    return dict(zip(outer, s.work.trips))


def steady(s: Setting, items: Items, trips: dict[int, int]) -> tuple[float, dict[int, float]]:
    """(cycles outside loops, loop -> cycles of a trip) with all resident blocks running."""
    memory = Memory(s.work.dram)

    def time(n: dict[int, int]) -> float:
        return s.run([s.kernel.trace(items, n)] * s.places, items, memory)

    few = {i: min(FEW, n) for i, n in trips.items()}
    base, per = time(few), {}
    for i, n in trips.items():
        more = min(MANY, n)
        per[i] = (time(few | {i: more}) - base) / (more - few[i]) if more > few[i] else 0.0
    return base - sum(per[i] * few[i] for i in per), per


# ---- straight-line blocks -------------------------------------------------------------------------------------------


def rows(s: Setting) -> Found:
    """Blocks without loops, a new one where one ends."""
    k, grid, warps = s.kernel, s.launch.blocks, s.launch.warps
    variants = k.variants()
    total: Counter = Counter()
    for items in variants:
        total.update(scaled(k.cost(items, {}), 1 / len(variants)))
    asked = (total["loaded"] + total["stored"]) * warps * grid
    misses = min(1.0, s.moved / max(1.0, asked))
    rate = min(s.machine.dram / misses / s.machine.sms / s.machine.clock, 128) / 4
    per_block, first = _refilled(s, variants, Memory(misses, rate, "l1"))
    pipes = {name: c * grid / s.machine.sms for name, c in limits(total, warps).items()}
    macs = total["macs"] * warps * grid
    return Found(
        per_block * grid / s.machine.sms + first, pipes, {"block": round(per_block)}, macs, s.moved / s.machine.l2
    )


def _refilled(s: Setting, variants: list[Items], memory: Memory) -> tuple[float, float]:
    """(SM cycles per block, cycles of the first one) when a new block takes the place of each that ends."""
    traces = itertools.cycle([s.kernel.trace(items, {}) for items in variants])
    left = s.places * GENERATIONS

    def refill() -> Trace | None:
        nonlocal left
        left -= 1
        return next(traces) if left >= 0 else None

    first = [next(traces) for _ in range(s.places)]
    run = Simulation(s.machine, first, s.per, memory, refill=refill, stagger=60)
    run.run()
    ends = sorted(run.ends)
    a, b = len(ends) // 4, len(ends) - s.places - 1
    if b <= a:
        a, b = 0, len(ends) - 1
    per_block = (ends[b] - ends[a]) / max(1, b - a)
    return per_block * min(s.launch.warps, 4) / 4, ends[0]
