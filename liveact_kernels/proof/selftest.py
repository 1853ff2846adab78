"""Each op's chosen backend against its reference on small cases: never trust a version, run it.

On a CPU so are torch's own functions (primitives.py), which its libraries compute differently on each processor.
"""

from __future__ import annotations

import time

import torch

from ..contract import REGISTRY, SHORT, Outcome, check
from .primitives import PRIMITIVES, Primitive


def prove(primitive: Primitive) -> Outcome:
    """Run one of torch's own functions on the CPU."""
    try:
        said = primitive.wrong()
    except Exception as error:
        said = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
    why = f"called by {primitive.user}" if primitive.user else "nothing here calls it"
    failed = () if said is None else (frozenset([primitive.dtype]),)
    name = f"torch {primitive.name}, {SHORT[primitive.dtype]}"
    return Outcome(name, "torch", why, said or "", failed, primitive.user is not None)


def run(device: torch.device | str = "cpu") -> tuple[list[Outcome], float]:
    """Every op, on a CPU also torch's own functions, and the seconds it took."""
    from .. import ops  # noqa: F401 - fills the registry

    began = time.perf_counter()
    outcomes = [check(op, device) for op in REGISTRY.values()]
    if torch.device(device).type == "cpu":
        outcomes += map(prove, PRIMITIVES)
    return outcomes, time.perf_counter() - began
