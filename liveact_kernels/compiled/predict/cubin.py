"""One kernel of a file, explained: for who writes a kernel that no op launches yet."""

from __future__ import annotations

from dataclasses import replace

from . import Unpredictable, code
from .estimate import Prediction, predict
from .explain import Iteration, iterations
from .launches import Launch
from .rates import Machine
from .setting import Setting, function
from .work import LOOPS, ROWS, Work


def explained(
    content: bytes, name: str | None, machine: Machine, *, grid: int, warps: int, shared: int, trips: tuple[int, ...]
) -> tuple[Prediction, list[Iteration]]:
    """A prediction without flops and traffic, and where its steady iterations' cycles go.

    trips  of the outermost loops in address order. Raises Unpredictable when the code has another number of them.
    """
    name, _, use = function(code.load(content), name)
    launch = Launch(name, content, (grid,), warps, 0, shared, {}, function=name)
    work = Work(LOOPS, trips) if trips else Work(ROWS)
    s = Setting(launch, machine, work, 0.0)
    outer = sum(loop.depth == 1 for loop in s.kernel.loops)
    if outer != len(trips):
        raise Unpredictable(
            f"--trips: expected {outer} number{'s' * (outer != 1)}, one for each outermost loop of {name}, "
            f"got {len(trips)}"
        )
    return predict(replace(launch, shared=max(shared, use.get("SHARED", 0))), machine, {}, 0.0, work), iterations(s)
