"""Whether an op's backend is right here, on the op's small cases with poisoned outputs: a version proves nothing.

Other people's kernels are tried this way on their first call; `proof.selftest` tries every op at the start.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from .available import missing
from .dispatch import OPTIONAL, STATE, Choosable, backend_of, chosen_for, poisoned, use
from .spec import Case, Dims, T


class Testable(Choosable, Protocol):
    """What a trial asks of an op, which is `op.Op`: cases, inputs, a reference, and a verdict."""

    args: dict[str, T]
    out: dict[str, T]
    cases: list[Case]

    @property
    def reference(self) -> Callable:
        """The float64 function."""

    def dims_of(self, case: Case) -> Dims:
        """Dims of a case."""

    def make(self, case: Case, device: str | torch.device = "cpu") -> dict[str, Any]:
        """Random arguments."""

    def absent(self, backend: str) -> str | None:
        """Why no call of a backend can run on the GPU at hand."""

    def check(self, got: Any, want: Any, backend: str = "reference") -> list[tuple[str, bool, str]]:
        """(output, accepted, explanation) each."""

    def __call__(self, **kw: Any) -> Any:
        """Run the op."""


@dataclass(frozen=True)
class Outcome:
    """What one op, or one function of torch's, resolved to on a device, why, and whether it is right there.

    failed  the dtypes of each case that is wrong; an empty set when it cannot run at all
    needed  whether anything here calls it
    absent  whether this GPU lacks its instructions: nothing ran, and a call is refused with the reason, `why`
    """

    op: str
    backend: str
    why: str
    said: str = ""
    failed: tuple[frozenset[torch.dtype], ...] = ()
    needed: bool = True
    absent: bool = False

    @property
    def ok(self) -> bool:
        """Whether every case is right."""
        return not self.failed and not self.absent

    def matters(self, dtypes: frozenset[torch.dtype] | None = None) -> bool:
        """Whether it is wrong for somebody who computes in these dtypes (None: in any)."""
        return self.needed and any(dtypes is None or kinds <= dtypes for kinds in self.failed)


def reason(op: Testable, device: torch.device | str) -> str:
    """Why `backend_of` answers as it does, and what is missing for a faster answer."""
    device = torch.device(device)
    if chosen_for(op):
        return "chosen for this op" if op.name in STATE.chosen else "chosen for all ops"
    every = STATE.chosen.get("*")
    said = f"best it has on {device.type}" + (f"; it has no {every}" if every else "")
    skipped = [missing(b, device) for b in OPTIONAL if b in op.backends and device.type == "cuda"]
    return "; ".join([said, *filter(None, skipped)])


def check(op: Testable, device: torch.device | str = "cpu") -> Outcome:
    """Run an op's small cases with poisoned outputs; a backend that is missing or raises is reported, not hidden."""
    device = torch.device(device)
    backend, failed, said = chosen_for(op) or "none", [], []
    kinds: frozenset[torch.dtype] = frozenset()
    try:
        backend = backend_of(op, device)
        if lacking := op.absent(backend):
            return Outcome(op.name, backend, lacking, absent=True)
        for case in small(op, backend, each=device.type == "cpu"):
            kinds = _dtypes(op, case)
            if bad := _wrong(op, case, backend, device):
                failed.append(kinds)
                said += bad
    except Exception as error:
        failed.append(kinds)
        said.append(f"{type(error).__name__}: {' '.join(str(error).split())[:300]}")
    return Outcome(op.name, backend, reason(op, device), "; ".join(said), tuple(failed))


def _wrong(op: Testable, case: Case, backend: str, device: torch.device) -> list[str]:
    inputs = op.make(case, device)
    want = op.reference(**op.make(case))
    with poisoned(), torch.no_grad():
        got = op(**inputs)
    got = tuple(None if g is None else g.cpu() for g in (got if isinstance(got, tuple) else (got,)))
    return [f"{name}: {said}" for name, ok, said in op.check(got, want, backend) if not ok]


def _dtypes(op: Testable, case: Case) -> frozenset[torch.dtype]:
    """Dtypes of a case's tensors."""
    d = op.dims_of(case)
    given = [s.dtype_of(d) for a, s in op.args.items() if getattr(d, f"has_{a}")]
    return frozenset([*given, *(s.dtype_of(d) for s in op.out.values() if s.present(d))])


def small(op: Testable, backend: str, each: bool) -> list[Case]:
    """The op's smallest case that the backend takes, or with `each` one for each set of dtypes.

    Raises ValueError when it takes none that runs everywhere.
    """
    found: dict[frozenset[torch.dtype], Case] = {}
    whys, cases = [], [c for c in op.cases if c.rung == "cpu"]
    for case in sorted(cases, key=lambda c: math.prod(v for v in c.dims.values() if type(v) is int)):
        if why := op.refused(backend, op.dims_of(case)):
            whys.append(why)
        else:
            found.setdefault(_dtypes(op, case), case)
    if not found:
        raise ValueError(f"{op.name}: backend {backend!r} takes none of its cases: {whys[0]}")
    return list(found.values()) if each else list(found.values())[:1]


@functools.cache
def distrusted(op: Testable, backend: str, device: torch.device) -> str | None:
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
