"""A launch with its parsed code, ready to be replayed on a machine, and how many of its blocks an SM holds."""

from __future__ import annotations

from dataclasses import dataclass, field

from . import Unpredictable, code
from .copies import matched
from .launches import Launch
from .paths import Items, Kernel
from .rates import Machine
from .simulate import Memory, Simulation, Trace
from .work import Work


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
        _, listing, use = function(code.load(self.launch.cubin), self.launch.function)
        self.kernel, self.regs = Kernel(listing), use["REG"]
        shared = max(self.launch.shared, use.get("SHARED", 0))
        self.resident, self.held_by = resident(self.machine, self.regs, 32 * self.launch.warps, shared)
        if (share := -(-self.launch.blocks // self.machine.sms)) < self.resident:
            self.resident, self.held_by = share, "grid"

    @property
    def per(self) -> int:
        """Warps of a block on one sub-partition."""
        return max(1, self.launch.warps // 4)

    @property
    def places(self) -> int:
        """Blocks that one sub-partition sees: small ones lie on different sub-partitions."""
        return max(1, self.resident * min(self.launch.warps, 4) // 4)

    def simulation(self, traces: list[Trace], items: Items, memory: Memory) -> Simulation:
        """Resident blocks that all start together, on the path that tells waits from copies."""
        return Simulation(self.machine, traces, self.per, memory, matched(self.kernel, items))

    def run(self, traces: list[Trace], items: Items, memory: Memory) -> float:
        """Their cycles."""
        return self.simulation(traces, items, memory).run()


def function(cubin: code.Cubin, name: str | None = None) -> tuple[str, code.Listing, dict[str, int]]:
    """(name, code, usage) of a function of a cubin, its only one by default."""
    if name is None and len(cubin.functions) != 1:
        raise Unpredictable(f"expected a cubin with one function, or --function, got {len(cubin.functions)} functions")
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
    return max(1, n), min(by, key=lambda name: by[name])
