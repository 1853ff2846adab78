"""Each op's chosen backend against its reference on small cases: never trust a version, run it.

On a CPU so are torch's own functions (primitives.py), which its libraries compute differently on each processor.
"""

from __future__ import annotations

import functools
import math
import time
from dataclasses import dataclass

import torch

from ..contract import OPTIONAL, REGISTRY, SHORT, STATE, Case, Op, backend_of, chosen_for, missing, poisoned, use
from .primitives import PRIMITIVES, Primitive


@dataclass(frozen=True)
class Outcome:
    """What one op, or one function of torch's, resolved to on a device, why, and whether it is right there.

    failed  the dtypes of each case that is wrong; an empty set when it cannot run at all
    needed  whether anything here calls it
    """

    op: str
    backend: str
    why: str
    said: str = ""
    failed: tuple[frozenset[torch.dtype], ...] = ()
    needed: bool = True

    @property
    def ok(self) -> bool:
        """Whether every case is right."""
        return not self.failed

    def matters(self, dtypes: frozenset[torch.dtype] | None = None) -> bool:
        """Whether it is wrong for somebody who computes in these dtypes (None: in any)."""
        return self.needed and any(dtypes is None or kinds <= dtypes for kinds in self.failed)


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
    """Run an op's small cases with poisoned outputs; a backend that is missing or raises is reported, not hidden."""
    device = torch.device(device)
    backend, failed, said, kinds = chosen_for(op) or "none", [], [], frozenset()
    try:
        backend = backend_of(op, device)
        for case in small(op, backend, each=device.type == "cpu"):
            kinds = _dtypes(op, case)
            if bad := _wrong(op, case, backend, device):
                failed.append(kinds)
                said += bad
    except Exception as error:
        failed.append(kinds)
        said.append(f"{type(error).__name__}: {' '.join(str(error).split())[:300]}")
    return Outcome(op.name, backend, reason(op, device), "; ".join(said), tuple(failed))


def _wrong(op: Op, case: Case, backend: str, device: torch.device) -> list[str]:
    inputs = op.make(case, device)
    want = op.reference(**op.make(case))
    with poisoned(), torch.no_grad():
        got = op(**inputs)
    got = tuple(None if g is None else g.cpu() for g in (got if isinstance(got, tuple) else (got,)))
    return [f"{name}: {said}" for name, ok, said in op.check(got, want, backend) if not ok]


def _dtypes(op: Op, case: Case) -> frozenset[torch.dtype]:
    """Dtypes of a case's tensors."""
    d = op.dims_of(case)
    given = [s.dtype_of(d) for a, s in op.args.items() if getattr(d, f"has_{a}")]
    return frozenset([*given, *(s.dtype_of(d) for s in op.out.values() if s.present(d))])


def small(op: Op, backend: str, each: bool) -> list[Case]:
    """The op's smallest case that the backend takes, or with `each` one for each set of dtypes.

    Raises ValueError when it takes none that runs everywhere.
    """
    whys, found, cases = [], {}, [c for c in op.cases if c.rung == "cpu"]
    for case in sorted(cases, key=lambda c: math.prod(v for v in c.dims.values() if type(v) is int)):
        if why := op.refused(backend, op.dims_of(case)):
            whys.append(why)
        else:
            found.setdefault(_dtypes(op, case), case)
    if not found:
        raise ValueError(f"{op.name}: backend {backend!r} takes none of its cases: {whys[0]}")
    return list(found.values()) if each else list(found.values())[:1]


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
    """Every op, on a CPU also torch's own functions, and the seconds it took."""
    from .. import ops  # noqa: F401 - fills the registry

    began = time.perf_counter()
    outcomes = [check(op, device) for op in REGISTRY.values()]
    if torch.device(device).type == "cpu":
        outcomes += map(prove, PRIMITIVES)
    return outcomes, time.perf_counter() - began
