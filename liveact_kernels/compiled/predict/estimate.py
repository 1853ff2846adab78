"""One launch: what each part of the SM and the chip would need alone, and how long the replayed code takes."""

from __future__ import annotations

from dataclasses import dataclass

from . import Unpredictable, kinds, rates
from .launches import Launch
from .rates import Machine
from .setting import Setting
from .work import LOOPS, ROWS, TILES, Work, work_of


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


def setting(launch: Launch, machine: Machine, moved: float, work: Work | None = None) -> Setting:
    """Raises Unpredictable for a kernel with loops whose trips nothing tells."""
    work = work or work_of(launch.kernel, launch.args, launch.grid, launch.itemsize, moved)
    made = Setting(launch, machine, work or Work(ROWS), moved)
    if work is None and made.kernel.loops:
        n = len(made.kernel.loops)
        raise Unpredictable(
            f"{launch.kernel}: its code has {n} loop{'s' * (n > 1)} and compiled/predict/work.py no trips"
        )
    return made


def predict(
    launch: Launch, machine: Machine, flops: dict[str, float], moved: float, work: Work | None = None
) -> Prediction:
    """Time of one launch of an op that counts `flops` and moves `moved` bytes; `work` of a kernel that work.py lacks.

    Raises Unpredictable for unknown trips, and when the code does not multiply what the op says.
    """
    s = setting(launch, machine, moved, work)
    found = {TILES: kinds.tiles, LOOPS: kinds.loops, ROWS: kinds.rows}[s.work.kind](s)
    _check(launch, s.work, found.macs, flops)
    bounds = {name: machine.us(c) for name, c in found.pipes.items()}
    bounds["HBM"] = 1e6 * moved / machine.dram
    bounds["L2"] = 1e6 * found.l2
    bounds["power"] = 1e6 * max((n / rates.POWER[kind] for kind, n in flops.items() if kind in rates.POWER), default=0)
    limiter = max(bounds, key=lambda name: bounds[name])
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
