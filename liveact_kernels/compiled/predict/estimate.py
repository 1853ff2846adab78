"""One launch: what each part of the SM and the chip would need alone, and how long the replayed code takes."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from dataclasses import dataclass, field

from . import Unpredictable, code, rates
from .copies import matched
from .launches import Launch
from .paths import Items, Kernel, cost, limits, loops_on, scaled, trip_of
from .rates import Machine
from .simulate import Memory, Simulation, Trace
from .work import LOOPS, ROWS, TILES, Work, work_of

FEW, MANY = 3, 9  # trips of two simulations whose difference is the steady state
GENERATIONS = 4  # blocks of straight-line kernels per resident place


@dataclass
class Prediction:
    """Predicted, not measured: times in microseconds, cycles of an SM.

    bound_us   the slowest of `limits` (pipe or memory -> microseconds), `limiter` its name
    simulated_us  the replayed code; `us` is the slower of both
    cycles     steady parts, in words: a step, a tile's end, a trip of a loop, a block
    """

    us: float
    simulated_us: float
    bound_us: float
    limiter: str
    limits: dict[str, float]
    cycles: dict[str, int]
    regs: int
    blocks_per_sm: int
    held_by: str
    macs: float = 0.0


@dataclass
class Setting:
    """A launch with its parsed code, ready to be replayed on a machine."""

    launch: Launch
    machine: Machine
    work: Work
    moved: float  # bytes that the op moves, each tensor once
    kernel: Kernel = field(init=False)
    regs: int = field(init=False)
    resident: int = field(init=False)
    held_by: str = field(init=False)

    def __post_init__(self) -> None:
        name, listing, use = function(code.load(self.launch.cubin))
        self.kernel, self.regs = Kernel(listing), use["REG"]
        shared = max(self.launch.shared, use.get("SHARED", 0))
        self.resident, self.held_by = resident(self.machine, self.regs, 32 * self.launch.warps, shared)

    @property
    def per(self) -> int:
        """Warps of a block on one sub-partition."""
        return max(1, self.launch.warps // 4)

    @property
    def places(self) -> int:
        """Blocks that one sub-partition sees: small ones lie on different sub-partitions."""
        return max(1, self.resident * min(self.launch.warps, 4) // 4)

    def run(self, traces: list[Trace], items: Items, memory: Memory) -> float:
        """Cycles of resident blocks that all start together."""
        return Simulation(self.machine, traces, self.per, memory, matched(self.kernel, items)).run()


def function(cubin: code.Cubin, name: str | None = None) -> tuple[str, code.Listing, dict[str, int]]:
    """(name, code, usage) of a function of a cubin, its only one by default."""
    if name is None and len(cubin.functions) != 1:
        raise Unpredictable(f"expected a cubin with one function, got {len(cubin.functions)}")
    name = name or next(iter(cubin.functions))
    if name not in cubin.functions:
        raise Unpredictable(f"function: expected one of {', '.join(sorted(cubin.functions))}, got {name!r}")
    return name, cubin.functions[name], cubin.usage[name]


def resident(machine: Machine, regs: int, threads: int, shared: int) -> tuple[int, str]:
    """(blocks on an SM, what allows no more)."""
    warps = -(-threads // 32)
    by = {
        "registers": machine.registers // (-(-regs * 32 // 256) * 256 * warps),
        "shared memory": machine.shared // (shared + 1024),  # 1 KB of each block is the system's
        "threads": machine.threads // threads,
        "places": 32,
    }
    n = min(by.values())
    return max(1, n), min(by, key=by.get)


def setting(launch: Launch, machine: Machine, moved: float) -> Setting:
    """Raises Unpredictable for a kernel with loops whose trips nothing tells."""
    work = work_of(launch.kernel, launch.args, launch.grid, launch.itemsize, moved)
    made = Setting(launch, machine, work or Work(ROWS), moved)
    if work is None and made.kernel.loops:
        n = len(made.kernel.loops)
        raise Unpredictable(f"{launch.kernel}: its code has {n} loop{'s' * (n > 1)} and compiled/predict/work.py no trips")
    return made


def predict(launch: Launch, machine: Machine, flops: dict[str, float], moved: float) -> Prediction:
    """Time of one launch of an op that counts `flops` and moves `moved` bytes.

    Raises Unpredictable for unknown trips, and when the code does not multiply what the op says.
    """
    s = setting(launch, machine, moved)
    found = {TILES: _tiles, LOOPS: _loops, ROWS: _rows}[s.work.kind](s)
    _check(launch, s.work, found.macs, flops)
    bounds = {name: machine.us(c) for name, c in found.pipes.items()}
    bounds["HBM"] = 1e6 * moved / machine.dram
    bounds["L2"] = 1e6 * found.l2
    bounds["power"] = 1e6 * max((n / rates.POWER[kind] for kind, n in flops.items() if kind in rates.POWER), default=0)
    limiter = max(bounds, key=bounds.get)
    simulated = machine.us(found.total)
    return Prediction(
        max(simulated, bounds[limiter]), simulated, bounds[limiter], limiter, bounds, found.cycles, s.regs, s.resident,
        s.held_by, found.macs,
    )  # fmt: skip


def _check(launch: Launch, work: Work, macs: float, flops: dict[str, float]) -> None:
    """The path through the code must make the products of the tiles, and the tiles those of the op."""
    if work.macs is not None and abs(macs - work.macs) > 1e-6 * work.macs:
        raise Unpredictable(
            f"{launch.kernel}: the path found multiplies {macs:.6g} times, its tiles {work.macs:.6g} times"
        )
    said = sum(n for kind, n in flops.items() if kind in rates.POWER) / 2
    if work.useful is not None and abs(work.useful - said) > 1e-6 * said:
        raise Unpredictable(f"{launch.kernel}: the op counts {said:.6g} multiply-adds, the launch {work.useful:.6g}")


@dataclass
class _Found:
    total: float  # cycles of the busiest SM
    pipes: dict[str, float]
    cycles: dict[str, int]
    macs: float
    l2: float  # seconds


def _l2(s: Setting, loaded: float) -> float:
    own = loaded if s.work.own is None else s.work.own
    return s.work.shared / s.machine.tile_rate() + own / s.machine.l2


# ---- persistent walks over tiles ------------------------------------------------------------------------------------


def _tiles(s: Setting) -> _Found:
    k, w = s.kernel, s.work
    items = k.walk()[0]
    flat = "FLATTEN" in s.launch.args and s.launch.args["FLATTEN"] or len(k.loops) == 1
    step, end, start, c_step, c_end, c_start = (_flattened if flat else _nested)(s, items)
    total = start + w.per_block * (w.steps * step + end)
    per_warp = Counter(c_start)
    for part, times in ((c_step, w.per_block * w.steps), (c_end, w.per_block)):
        per_warp.update(scaled(part, times))
    macs = (c_step["macs"] * w.steps + c_end["macs"]) * s.launch.warps * w.tiles
    cycles = {"step": round(step), "tile end": round(end)}
    return _Found(total, limits(per_warp, s.launch.warps), cycles, macs, _l2(s, 0))


def _multiplies(k: Kernel, loop: int) -> int:
    return sum(bool(i.product) for n in k.loops[loop].body for i in k.blocks[n].code)


def _nested(s: Setting, items: Items) -> tuple:
    """A loop over tiles around a loop over K: cycles and costs of a step, of a tile beyond its steps, of the start."""
    k = s.kernel
    inner = max(loops_on(items), key=lambda i: (k.loops[i].depth, _multiplies(k, i)))
    outer = k.loops[inner].parent

    def time(tiles: int, steps: int) -> float:
        return s.run([k.trace(items, {outer: tiles, inner: steps})] * s.resident, items, Memory())

    short = time(1, 4)
    step = (time(1, 12) - short) / 8
    end = (time(3, 4) - short) / 2 - 4 * step
    tile = trip_of(items, outer)
    return step, end, short - 4 * step - end, k.cost(trip_of(items, inner), {}), cost(k.straight(tile)), cost(k.straight(items))


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


def _loops(s: Setting) -> _Found:
    k, w, grid = s.kernel, s.work, s.launch.blocks
    variants = k.variants() if w.alike else [k.walk()[0]]
    total, slowest, cycles = Counter(), 0.0, {}
    for items in variants:
        trips = trips_of(s, items)
        total.update(scaled(k.cost(items, trips), 1 / len(variants)))
        outside, per = steady(s, items, trips)
        whole = outside + sum(per[i] * trips[i] for i in per)
        if whole > slowest:
            slowest, cycles = whole, {f"loop {i} x{trips[i]}": round(c) for i, c in per.items()}
            cycles["outside loops"] = round(outside)
    waves = grid / (s.machine.sms * s.resident)
    if s.resident == 1:
        full, on_sm = math.ceil(waves), max(1, math.ceil(grid / s.machine.sms))
    else:  # blocks refill places as they end: half a wave is lost at the end
        full, on_sm = (waves + 0.5 if waves > 1 else 1), max(1.0, grid / s.machine.sms)
    macs = total["macs"] * s.launch.warps * grid
    pipes = {name: c * on_sm for name, c in limits(total, s.launch.warps).items()}
    moved = (total["loaded"] + total["stored"]) * s.launch.warps * grid
    return _Found(full * slowest, pipes, cycles, macs, _l2(s, moved))


def trips_of(s: Setting, items: Items) -> dict[int, int]:
    """Loop -> trips on a path."""
    on = loops_on(items)
    if s.work.alike:
        return {i: s.work.trips[0] for i in on}
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


def _rows(s: Setting) -> _Found:
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
    return _Found(per_block * grid / s.machine.sms + first, pipes, {"block": round(per_block)}, macs, s.moved / s.machine.l2)


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
