"""What the models of the CUDA library's kernels share: finding a function and its loops, adding up."""

from __future__ import annotations

from . import Unpredictable, code
from .estimate import Prediction
from .paths import Items, Kernel
from .rates import Machine
from .setting import function

START = 3000  # cycles of a persistent kernel's start and end: descriptors, barriers of the cluster, first copies [M]
STARTS = (0, 400, 800, 1600, 3200)
"""Cycles between the starts of two warpgroups that share only a ring. Products of both fall into step or interleave by
chance, which moves a tile's time by up to a quarter: no start stands for all, so their mean does [M]."""
KINDS = {"bf16": "13__nv_bfloat16", "e4m3": "h", "f32": "f"}


def function_with(cubin: bytes, *words: str) -> tuple[Kernel, int]:
    """(code, registers) of the one function whose symbol has all the words."""
    found = code.load(cubin)
    names = [n for n in found.functions if all(w in n for w in words)]
    if len(names) != 1:
        raise Unpredictable(f"expected one function of the CUDA library with {' and '.join(words)}, found {len(names)}")
    _, listing, use = function(found, names[0])
    return Kernel(listing), use["REG"]


def one_trip(k: Kernel, loop: int) -> Items:
    """The preferred way once through a loop."""
    return k.walk(k.prefer, k.loops[loop].header, loop)[0]


def prediction(
    machine: Machine, cycles: float, pipes: dict[str, float], memory: dict[str, float], parts: dict[str, float],
    held: tuple[int, int, str], macs: float = 0.0,
) -> Prediction:  # fmt: skip
    """pipes in cycles of the busiest SM; memory (and power) in seconds."""
    bounds = {n: machine.us(c) for n, c in pipes.items()} | {n: 1e6 * t for n, t in memory.items()}
    limiter, simulated = max(bounds, key=lambda n: bounds[n]), machine.us(cycles)
    return Prediction(
        max(simulated, bounds[limiter]), simulated, bounds[limiter], limiter, bounds,
        {n: round(c) for n, c in parts.items()}, *held, macs,
    )  # fmt: skip


def products(k: Kernel, loop: int) -> int:
    """Tensor core instructions inside a loop."""
    return sum(bool(i.product) for n in k.loops[loop].body for i in k.blocks[n].code)


def count_of(k: Kernel, loop: int, base: str) -> int:
    """Instructions of one name inside a loop."""
    return sum(i.base == base for n in k.loops[loop].body for i in k.blocks[n].code)
