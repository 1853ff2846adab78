"""The cheapest plan within a bound: formats in the order of what they save by what they spoil, cut where runs say.

A unit is a linear layer, or a block's feed-forward, whose two products go together: codes leave the first one as the
second takes them. One more unit is the window, whose memory and attention can take 8 bits.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field

from liveact_app.calibrate.cost import Costs, kind_of, kinds
from liveact_app.calibrate.measure import Errors, Runner
from liveact_model.dit import Precision, patterns
from liveact_model.errors import InputError

WIDE = "bfloat16"
WINDOW = "window"
BITS = {"eight_bit_memory": {"eight_bit_memory": True}, "eight_bit_attention": {"eight_bit_attention": True}}
"""What the window can have, and the options of a Session for it."""
MAIN, NO_WINDOW, LEAST_FIRST = "changes", "changes without the window's", "changes, the least error first"
"""Orders that the search cuts: the best one may spend what a bound allows before it comes to what is small."""
POINTS = 8
"""Plans along the order that are run for the picture, besides those that the search needs."""

Choice = dict[str, str]
"""Unit -> what it has, where that is not WIDE."""


Order = list[tuple[str, str]]
"""(unit, what it gets), one after the other."""


@dataclass(frozen=True)
class Tried:
    """A plan that was run: how many moves of the main order it makes (None: it is none of its plans), ms, error."""

    name: str
    moves: int | None
    ms: float
    error: float
    plan: Precision


@dataclass
class Found:
    """What a search has measured and chosen."""

    errors: Errors
    units: dict[str, list[str]]
    names: tuple[str, ...]
    orders: dict[str, Order]
    saved: dict[str, dict[str, float]]
    spoilt: dict[str, float]
    runs: list[Tried] = field(default_factory=list)
    chosen: Tried | None = None

    @property
    def order(self) -> Order:
        """The main one."""
        return self.orders[MAIN]

    @property
    def wide(self) -> Tried:
        """The run that all others are compared with."""
        return next(run for run in self.runs if run.moves == 0)


def units_of(paths: Iterable[str]) -> dict[str, list[str]]:
    """Unit -> paths of its linear layers."""
    found: dict[str, list[str]] = {}
    for path in paths:
        parent, _, _ = path.rpartition(".")
        found.setdefault(parent if parent.endswith(".ffn") else path, []).append(path)
    return found


def plan_of(choice: Choice) -> Precision:
    """A choice as a plan."""
    by_format: dict[str, list[str]] = {}
    for unit, name in choice.items():
        if unit != WINDOW:
            by_format.setdefault(name, []).append(unit)
    linears = tuple((p, name) for name in sorted(by_format) for p in patterns(by_format[name]))
    return Precision(WIDE, linears, **BITS.get(choice.get(WINDOW, ""), {}))


def least_first(options: dict[str, dict[str, tuple[float, float]]]) -> Order:
    """Units from the least error to the largest, each with the option that saves most."""
    best = {unit: max(found.items(), key=lambda o: o[1][0]) for unit, found in options.items() if found}
    paying = {unit: name for unit, (name, (saved, _)) in best.items() if saved > 0}
    return sorted(paying.items(), key=lambda move: options[move[0]][move[1]][1])


def ordered(options: dict[str, dict[str, tuple[float, float]]]) -> Order:
    """(unit, what it gets) from the most saved by error to the least; options are (ms saved, square of the error).

    Of a unit the options come in the order of what they save, without those that are dominated: where more is saved
    for less error, or by a straight line between two others, one is left out. So every prefix is a choice.
    """
    moves = []
    for place, (unit, found) in enumerate(options.items()):
        at = (0.0, 0.0)
        while better := [(n, s, e) for n, (s, e) in found.items() if s > at[0] and s > 0]:
            slope, saved, name, square = min(((e - at[1]) / (s - at[0]), -s, n, e) for n, s, e in better)
            moves.append((slope, place, -saved, unit, name))
            at = (-saved, square)
    return [(unit, name) for *_, unit, name in sorted(moves)]


class Search:
    """Measures and decides."""

    def __init__(self, runner: Runner, costs: Costs, names: tuple[str, ...]):
        self.runner, self.costs, self.names = runner, costs, names
        self._tried: dict[Precision, float] = {}

    def measure(self) -> Found:
        """Errors of every layer, of every kind of layer alone, and of the window; then the order. No bound yet."""
        runner, costs = self.runner, self.costs
        units = units_of(runner.avatar.dit.linears())
        errors = runner.errors(self.names)
        saved, spoilt, options = self.savings(), {}, {}
        for kind in saved:
            members = [u for u in units if kind_of(u) == kind]
            first = next((n for n in self.names if saved[kind][n] > 0), None)
            if first is None:
                continue
            spoilt[kind] = self.error(plan_of(dict.fromkeys(members, first)))
            squares = {u: {n: _square(errors, units[u], n) for n in self.names} for u in members}
            local = sum(squares[u][first] for u in members)
            weight = spoilt[kind] ** 2 / local if local else 0.0  # of one layer's error in that of the latents
            options |= {u: {n: (saved[kind][n], weight * squares[u][n]) for n in self.names} for u in members}
        options[WINDOW] = {}
        saved[WINDOW] = {name: costs.saved_by(**bits) for name, bits in BITS.items()}
        for name, bits in BITS.items():
            if saved[WINDOW][name] > 0:
                spoilt[name] = self.error(Precision(WIDE, **bits))
                options[WINDOW][name] = saved[WINDOW][name], spoilt[name] ** 2
        main = ordered(options)
        orders = {MAIN: main, NO_WINDOW: [m for m in main if m[0] != WINDOW], LEAST_FIRST: least_first(options)}
        return Found(errors, units, self.names, orders, saved, spoilt)

    def savings(self) -> dict[str, dict[str, float]]:
        """Ms per video frame that one unit of each kind saves by format."""
        found = kinds(units_of(self.runner.avatar.dit.linears()))
        return {kind: {n: self.costs.saved(kind, n) for n in self.names} for kind in found}

    def runs(self) -> int:
        """How many runs `run` will make, about: for a bar."""
        pays = {kind: sum(ms > 0 for ms in row.values()) for kind, row in self.savings().items()}
        units = units_of(self.runner.avatar.dit.linears())
        moves = len(BITS) + sum(pays[kind_of(unit)] for unit in units)
        search = 3 * math.ceil(math.log2(moves + 2)) + POINTS  # of three orders
        return 1 + sum(n > 0 for n in pays.values()) + len(BITS) + search + 2 * len(self.names)

    def error(self, plan: Precision) -> float:
        """Of a plan's latents; each plan is run once."""
        if plan not in self._tried:
            self._tried[plan] = self.runner.apart(plan) if plan != Precision(WIDE) else 0.0
        return self._tried[plan]

    def at(self, found: Found, moves: int, which: str = MAIN) -> Tried:
        """The plan of the first `moves` of an order, run."""
        order = found.orders[which]
        plan = plan_of(dict(order[:moves]))
        name = f"{moves} of {len(order)} {which}"
        return Tried(name, moves if which == MAIN else None, self.costs.ms(plan), self.error(plan), plan)

    def choose(self, found: Found, bound: float) -> Tried:
        """The cheapest of the last plans, one of each order, that runs find within the bound.

        Raises InputError where even the first moves are over it.
        """
        last = [self._last(found, bound, which) for which in found.orders]
        if found.order and not any(last):
            tried = [(self.at(found, 1, which).error, *order[0]) for which, order in found.orders.items() if order]
            least, unit, name = min(tried)
            raise InputError(f"--bound: expected one that some plan cheaper than {WIDE} stays within, got {bound:g}: "
                             f"the least change ({unit} in {name}) alone makes {least:.2e}")  # fmt: skip
        plans = [self.at(found, moves, which) for which, moves in zip(found.orders, last)]
        return min(plans, key=lambda tried: (tried.ms, tried.error))

    def _last(self, found: Found, bound: float, which: str) -> int:
        """By bisection, the number of moves of an order with which a run is within the bound.

        A lower bound never gives more: the questions are the same until one is answered otherwise. So with it no
        order gives a cheaper plan, nor do they together.
        """
        low, high = 0, len(found.orders[which]) + 1
        middle = high - 1  # the cheapest may do
        while high - low > 1:
            plan = plan_of(dict(found.orders[which][:middle]))
            low, high = (middle, high) if self.error(plan) <= bound else (low, middle)
            middle = (low + high) // 2
        return low

    def run(self, bound: float) -> Found:
        """Everything: measured, chosen, and what the picture needs."""
        found = self.measure()
        found.chosen = self.choose(found, bound)
        n = len(found.order)
        picked = {0, n, found.chosen.moves or 0, *(round(n * i / POINTS) for i in range(POINTS))}
        found.runs = [self.at(found, k) for k in sorted(picked)]
        found.runs += [] if found.chosen in found.runs else [found.chosen]
        for name in filter(self.costs.fits, self.names):
            for what, bits in (("", {}), (", 8-bit attention", BITS["eight_bit_attention"])):
                plan = Precision(name, **bits)
                found.runs.append(Tried(f"all {name}{what}", None, self.costs.ms(plan), self.error(plan), plan))
        return found


def _square(errors: Errors, paths: list[str], name: str) -> float:
    return sum(errors.square(path, name) for path in paths)
