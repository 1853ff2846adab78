"""One sub-partition of an SM, cycle by cycle: a warp issues when its stalls, scoreboards, pipes and waits allow.

Modelled: in-order issue of one instruction a cycle (the warp that issued last goes first, then the oldest), control
bits, throughput and queues of pipes, latencies, block barriers, groups of warpgroup products and of asynchronous
copies, mbarriers of bulk copies, the rate of global memory. Not modelled: bank conflicts, caches beyond a share of HBM
misses, the order of sub-partitions, register bank conflicts, instruction cache misses.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field

from . import Unpredictable, rates
from .code import Instruction
from .rates import LATENCY, Machine
from .waits import NEVER, REASONS, WAITS

Trace = list[tuple[Instruction, int]]


@dataclass
class Memory:
    """What global memory gives: the share of loads that HBM answers, bytes per clock for this sub-partition."""

    dram: float = 0.0
    rate: float | None = None
    near: str = "l2"  # what answers the other loads; "l1" for kernels whose only reuse is a vector that stays there

    def latency(self) -> float:
        """Mean cycles of a load."""
        return LATENCY[self.near] + self.dram * (LATENCY["dram"] - LATENCY[self.near])


@dataclass
class Copies:
    """Bulk copies: which wait and which copy belong to the same mbarriers, by address; bytes of a copy."""

    waits: dict[int, object] = field(default_factory=dict)
    issues: dict[int, object] = field(default_factory=dict)
    announces: dict[int, object] = field(default_factory=dict)
    bytes: float = 16384.0


class Warp:
    """State of one warp."""

    __slots__ = ("batch", "batches", "block", "blocked", "done", "groups", "passed", "pos", "ready", "row",
                 "scoreboard", "setters", "trace", "why")  # fmt: skip

    batches: list[float]
    blocked: tuple | None

    def __init__(self, block: int, row: int, trace: Trace, ready: float):
        self.block, self.row = block, row
        self.passed: Counter = Counter()  # waits, over all blocks that have this place: barriers count on
        self.begin(trace, ready)

    def begin(self, trace: Trace, ready: float) -> None:
        """Start a trace from nothing."""
        self.trace, self.pos, self.ready, self.done, self.blocked = trace, 0, ready, False, None
        self.scoreboard = [0.0] * 6
        self.setters = [""] * 6  # opcode that each scoreboard stands for
        self.why = ""  # what held the next instruction back
        self.groups: list[float] = []  # ends of committed groups of products
        self.batch, self.batches = 0.0, []  # asynchronous copies: open, committed


class Simulation:
    """Blocks on one sub-partition, `per` warps of each; `traces` has one trace per resident block.

    refill   called when a block ends, gives the next block's trace or None
    stagger  cycles between the starts of blocks
    """

    def __init__(
        self, machine: Machine, traces: list[Trace], per: int, memory: Memory | None = None,
        copies: Copies | None = None, refill: Callable[[], Trace | None] | None = None, stagger: float = 0.0,
    ):  # fmt: skip
        self.machine, self.per = machine, per
        self.memory, self.copies = memory or Memory(), copies or Copies()
        self.refill = refill or (lambda: None)
        self.warps = [Warp(b, w, t, b * stagger) for b, t in enumerate(traces) for w in range(per)]
        self.free: dict[str, float] = defaultdict(float)
        self.arrived: dict[tuple, list[float]] = defaultdict(list)
        self.landed: dict[tuple, list[float]] = defaultdict(list)
        self.ends: list[float] = []
        self.log: list[tuple[float, Instruction, str]] | None = None  # of the first warp: when, what, what held it back
        self.order = list(self.warps)  # as they may issue: the last to issue first, then the oldest

    def run(self, limit: float = 2e7) -> float:
        """Cycles until every block has ended. Raises Unpredictable when no warp can ever go on."""
        order, t = self.order, 0.0
        while order and t < limit:
            for n, w in enumerate(order):
                if w.ready <= t and self._step(w, t):
                    if w.done:
                        order.remove(w)
                    elif n:
                        order.insert(0, order.pop(n))
                    t += 1
                    break
            else:
                soonest = min(w.ready for w in order)
                if soonest == NEVER:
                    at = order[0].trace[order[0].pos][0]
                    raise Unpredictable(f"the model's warps wait for each other for ever at {at.op} {at.address:#x}")
                t = max(t + 1, soonest)
        return t

    # ---- one instruction ----------------------------------------------------------------------------------------

    def _step(self, w: Warp, t: float) -> bool:
        """Issue the warp's next instruction at t; False, with `ready` set, when it cannot."""
        i, epoch = w.trace[w.pos]
        for s in i.waits:
            if w.scoreboard[s] > t:
                w.ready, w.why = w.scoreboard[s], f"result of {w.setters[s]}"
                return False
        wait = WAITS.get(i.base)
        if wait and (until := wait(self, w, i, epoch, t)) > t:
            w.ready, w.why = until, REASONS[i.base]
            return False
        if (until := self._blocked(i, t)) > t:
            w.ready, w.why = until, f"{i.pipe} pipe busy"
            return False
        end = self._effect(w, i, epoch, t)
        if i.writes < 6:
            w.scoreboard[i.writes] = max(w.scoreboard[i.writes], end)
            w.setters[i.writes] = i.base
        if i.reads < 6:
            taken = min(end, self.free["memory"] + 8 if i.pipe == "memory" else t + 14)
            w.scoreboard[i.reads] = max(w.scoreboard[i.reads], taken)
            w.setters[i.reads] = i.base
        w.ready = t + max(1, i.stall, LATENCY["membar"] if i.base == "MEMBAR" else 0)
        if self.log is not None and w.row == 0 and w.block == 0:
            self.log.append((t, i, w.why))
        w.why = ""
        w.pos += 1
        if w.pos == len(w.trace):
            self._ended(w, t)
        return True

    def _blocked(self, i: Instruction, t: float) -> float:
        """When the pipe takes it; memory and special functions have queues."""
        if i.pipe == "tensor":
            return self.free["tensor"] - rates.QUEUE
        if i.pipe == "fma":
            return min(self.free["heavy"], self.free["lite"])
        if i.pipe == "control":
            return t
        slack = {"memory": 8 * i.cost, "special": 8}.get(i.pipe, 0)
        return self.free["heavy" if i.pipe == "imad" else i.pipe] - slack

    def _effect(self, w: Warp, i: Instruction, epoch: int, t: float) -> float:
        """Occupy the pipe; when the result is there."""
        free = self.free
        if i.pipe == "tensor":
            assert i.product is not None, "what this pipe takes multiplies"
            free["tensor"] = max(free["tensor"], t) + rates.product_cycles(i.product, i.from_registers)
            end = free["tensor"] + LATENCY["product_tail"]
            if "gsb0" in i.args:
                w.groups.append(end)
            return t + LATENCY["fixed"] if i.product.group else end
        if i.pipe == "fma":
            free["heavy" if free["heavy"] <= free["lite"] else "lite"] = t + 2
            return t + LATENCY["fixed"]
        if i.pipe == "control":
            return self._control(w, i, epoch, t)
        unit = "heavy" if i.pipe == "imad" else i.pipe
        free[unit] = max(free[unit], t) + i.cost
        if i.pipe == "special":
            return free[unit] + LATENCY["special"] - 8
        if i.pipe == "memory":
            return self._access(w, i, t)
        return t + (LATENCY["uniform"] if i.pipe == "uniform" else LATENCY["fixed"])

    def _access(self, w: Warp, i: Instruction, t: float) -> float:
        after = self.free["memory"]
        if i.base in ("LDG", "LD"):
            return max(self._stream(i, t), after) + self.memory.latency()
        if i.base == "LDGSTS":
            w.batch = max(w.batch, max(self._stream(i, t), after) + self.memory.latency())
            return after + 20
        if i.base in ("STG", "ST"):
            self._stream(i, t)
            return after + 20
        if i.base == "SHFL":
            return after + LATENCY["shuffle"] - 4
        if i.base in ("LDS", "LDSM"):
            return after + LATENCY["shared"] - 4
        return after + (12 if i.base in ("STS", "STSM") else LATENCY["atomic"])

    def _stream(self, i: Instruction, t: float) -> float:
        """When global memory has moved its bytes."""
        if self.memory.rate is None:
            return t
        self.free["global"] = max(self.free["global"], t) + 32 * rates.width(i.op) / self.memory.rate
        return self.free["global"]

    def _control(self, w: Warp, i: Instruction, epoch: int, t: float) -> float:
        if i.base == "LDGDEPBAR":
            w.batches.append(w.batch)
            w.batch = 0.0
        elif i.base == "UTMALDG" and w.row == 0:
            self._copy(w, i, epoch, t)
        elif i.base == "SYNCS":
            if i.address in self.copies.announces and w.row == 0:
                self.landed[w.block, self.copies.announces[i.address], epoch].append(t)
            return t + LATENCY["try_wait"]
        return t + LATENCY[LATENCIES.get(i.base, "fixed")]

    def _copy(self, w: Warp, i: Instruction, epoch: int, t: float) -> None:
        kind = self.copies.issues.get(i.address)
        if kind is None:
            return
        size = self.copies.bytes
        done = max(t + size / self.machine.l2_port, self.free["bulk"] + size / self.machine.l2_tile)
        self.free["bulk"] = done
        landed = self.landed[w.block, kind, epoch]
        arrives = done + LATENCY["bulk"]
        if landed:
            landed[-1] = max(landed[-1], arrives)
        else:
            landed.append(arrives)

    def _ended(self, w: Warp, t: float) -> None:
        """The warp is through; the last one of a block hands its place to the next block."""
        w.done = True
        block = [v for v in self.warps if v.block == w.block]
        if not all(v.done for v in block):
            return
        self.ends.append(t)
        if (trace := self.refill()) is not None:
            for v in block:
                v.begin(trace, t + rates.REFILL)
            self.order += [v for v in block if v is not w]


LATENCIES = {"S2R": "s2r", "CS2R": "s2r", "S2UR": "s2r", "LDC": "constant", "ULDC": "constant", "MEMBAR": "membar",
             "FENCE": "fence"}  # fmt: skip
