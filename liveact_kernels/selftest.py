"""Each op's chosen backend against its reference on its smallest case: never trust a version, run it."""

from __future__ import annotations

import functools
import math
import time
from dataclasses import dataclass

import torch

from .available import missing
from .contract import REGISTRY, Case, Op
from .dispatch import OPTIONAL, STATE, backend_of, chosen_for, poisoned, use


@dataclass(frozen=True)
class Outcome:
    """What one op resolved to on a device, why, and whether it computes the right thing there."""

    op: str
    backend: str
    why: str
    ok: bool
    said: str


def reason(op: Op, device: torch.device | str) -> str:
    """Why `backend_of` answers as it does, and what is missing for a faster answer."""
    device = torch.device(device)
    if chosen_for(op):
        return "chosen for this op" if op.name in STATE.chosen else "chosen for all ops"
    every = STATE.chosen.get("*")
    said = f"best it has on {device.type}" + (f"; it has no {every}" if every else "")
    skipped = [missing(b, device) for b in OPTIONAL if b in op.backends and device.type == "cuda"]
    return "; ".join([said, *filter(None, skipped)])


def check(op: Op, device: torch.device | str = "cpu") -> Outcome:
    """Run one op's smallest case with poisoned outputs; a backend that is missing or raises is reported, not hidden."""
    device = torch.device(device)
    backend = chosen_for(op) or "none"
    try:
        backend = backend_of(op, device)
        case = smallest(op, backend)
        inputs = op.make(case, device)
        want = op.reference(**op.make(case))
        with poisoned(), torch.no_grad():
            got = op(**inputs)
        got = tuple(None if g is None else g.cpu() for g in (got if isinstance(got, tuple) else (got,)))
        bad = [f"{name}: {said}" for name, ok, said in op.check(got, want, backend) if not ok]
    except Exception as error:
        bad = [f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"]
    return Outcome(op.name, backend, reason(op, device), not bad, "; ".join(bad))


def smallest(op: Op, backend: str) -> Case:
    """The op's smallest case that the backend takes; raises ValueError when it takes none that runs everywhere."""
    whys, cases = [], [c for c in op.cases if c.rung == "cpu"]
    for case in sorted(cases, key=lambda c: math.prod(v for v in c.dims.values() if type(v) is int)):
        if not (why := op.refused(backend, op.dims_of(case))):
            return case
        whys.append(why)
    raise ValueError(f"{op.name}: backend {backend!r} takes none of its cases: {whys[0]}")


@functools.cache
def distrusted(op: Op, backend: str, device: torch.device) -> str | None:
    """Why other people's kernels are not used for `op` on `device`: tested on their first call, once per process."""
    if _TESTING:
        return None  # the call that tests them
    _TESTING.append(backend)
    try:
        with use(**{op.name: backend}):
            outcome = check(op, device)
    finally:
        _TESTING.clear()
    return None if outcome.ok else outcome.said


_TESTING: list[str] = []


def run(device: torch.device | str = "cpu") -> tuple[list[Outcome], float]:
    """Every op, and the seconds it took."""
    from . import ops  # noqa: F401 - fills the registry

    began = time.perf_counter()
    outcomes = [check(op, device) for op in REGISTRY.values()]
    return outcomes, time.perf_counter() - began
