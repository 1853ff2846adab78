"""Which backend an op runs on, who listens to its calls, and under which scope."""

from __future__ import annotations

import contextlib
import os
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple, Protocol

import torch

from .available import VENDORS, missing
from .spec import Dims

BACKENDS: dict[str, Mapping[str, object]] = {}
"""Backends of every op by its name; an Op adds itself when its folder is imported."""

PREFERRED = {"cuda": ("cuda", "triton", "torch"), "cpu": ("torch", "reference")}
"""Backends by device type, best first: an op runs on the first one it has. One that is missing or fails to import
raises; nothing falls back to a slower one in silence."""

OPTIONAL = ("cuda",)
"""The exception, because nobody need build it: where it is missing or does not take a call, the op's next backend runs,
and doctor says so."""

FUNCTIONAL = ("reference", "torch", *VENDORS)
"""Backends that return fresh tensors; all others write into `out`."""


class Choosable(Protocol):
    """What the choice of a backend asks of an op."""

    name: str
    backends: dict[str, Callable | str]

    def refused(self, backend: str, d: Dims) -> str | None:
        """Why a backend does not take a call of these dims."""


class Called(Protocol):
    """What a listener asks of an op that was called, or of what stands for one."""

    name: str

    @property
    def flops(self) -> Callable[[Dims], dict[str, float]]:
        """Dims -> operations by the rate they run at."""

    def bytes(self, d: Dims) -> float:
        """Bytes one call must move."""

    def floor_us(self, d: Dims, chip: Any) -> float:
        """Least time of one call on a chip."""


FACTS = ("takes", "tol", "requires_sass", "candidates", "least_arch")


def mark(*launches: Callable, **facts: Any) -> None:
    """Let backends say of themselves what not every one has.

    takes          dims -> None, or why the backend does not take such a call
    tol            its own tolerance, where another recipe than the op's is its point
    requires_sass  instructions that its machine code must have, alternatives with |
    candidates     configurations that a tuner may try, or dims -> such
    least_arch     the first architecture that has its instructions (100 is compute capability 10.0), where not all do
    Raises TypeError for any other name: a misspelt one would be ignored for ever.
    """
    for name, value in facts.items():
        if name not in FACTS:
            raise TypeError(f"mark: expected one of {', '.join(FACTS)}, got {name!r}")
        for launch in launches:
            setattr(launch, name, value)


class Call(NamedTuple):
    """One recorded call: the scope it ran in, the op, the backend it resolved to, and its dims."""

    scope: tuple[str, ...]
    op: Called
    backend: str
    dims: Dims


class Recorder(Protocol):
    """Listens to op calls. `seconds` is host time around the call, None where it was not clocked."""

    clocked: bool

    def add(self, call: Call, seconds: float | None) -> None:
        """Take one call."""


class CallList(list):
    """Keeps every call: for budgets and tests, which are short."""

    clocked = False

    def add(self, call: Call, seconds: float | None) -> None:
        """Append the call."""
        self.append(call)


def _nvtx_domain():
    """The NVTX domain `liveact` when LIVEACT_NVTX is set, else None: only then is the nvtx package needed."""
    if os.environ.get("LIVEACT_NVTX", "0") in ("", "0"):
        return None
    try:
        import nvtx
    except ModuleNotFoundError as error:
        words = "LIVEACT_NVTX is set, but the nvtx package is not installed: pip install nvtx, or unset the variable"
        raise ModuleNotFoundError(words, name="nvtx") from error
    return nvtx.get_domain("liveact")


class _State:
    """Process-wide switches; `epoch` invalidates the plans that ops cache."""

    chosen: dict[str, str] = {}  # noqa: RUF012 - replaced as a whole, never mutated
    epoch = 0
    poison = False
    recorders: list[Recorder] = []  # noqa: RUF012
    scopes: list[str] = []  # noqa: RUF012
    nvtx_domain = _nvtx_domain()


STATE = _State()


def parse_backends(text: str) -> dict[str, str]:
    """`"triton"` or `"triton,kv_compress=cuda"` -> {"*": "triton", "kv_compress": "cuda"}.

    Raises ValueError for an op or a backend that does not exist, listing those that do.
    """
    chosen = {}
    for item in filter(None, (part.strip() for part in text.split(","))):
        op, _, backend = item.rpartition("=")
        chosen[op or "all"] = backend
    return _checked(chosen)


def _checked(chosen: dict[str, str]) -> dict[str, str]:
    if not BACKENDS:
        raise ValueError("backend: no op is registered yet: import liveact_kernels.ops first")
    known = sorted({b for backends in BACKENDS.values() for b in backends})
    out = {}
    for name, backend in chosen.items():
        if name != "all" and name not in BACKENDS:
            raise ValueError(f"backend: expected an op of {', '.join(sorted(BACKENDS))}, got {name!r}")
        has = known if name == "all" else sorted(BACKENDS[name])
        if backend not in has:
            raise ValueError(f"backend: expected one of {', '.join(has)}, got {backend!r}")
        out["*" if name == "all" else name] = backend
    return out


def chosen_for(op: Choosable) -> str | None:
    """The backend that the user chose for `op`, by its name or by `all=`; None when the default applies."""
    every = STATE.chosen.get("*")
    return STATE.chosen.get(op.name, every if every in op.backends else None)


def backend_of(op: Choosable, device: torch.device | str, dims: Dims | None = None) -> str:
    """The backend `op` runs on: chosen by name, else by `all=`, else the device's first that the op has.

    With the `dims` of a call, an OPTIONAL backend that does not take it gives way too. Raises ValueError, with the
    reason and the way to get it, for a backend that cannot run on the device.
    """
    device = torch.device(device)
    if chosen := chosen_for(op):
        return _present(op, chosen, device)
    for name in PREFERRED.get(device.type, ("torch", "reference")):
        if name not in op.backends:
            continue
        if name in OPTIONAL and (missing(name, device) or (dims is not None and op.refused(name, dims))):
            continue
        return _present(op, name, device)
    return "reference"


def unusable(device: torch.device | str) -> str | None:
    """Why a backend that the user chose cannot run on `device`, None when all can: for a command's first lines."""
    said = [f"{b!r} cannot run here: {why}" for b in STATE.chosen.values() if (why := missing(b, device))]
    return said[0] if said else None


def _present(op: Choosable, backend: str, device: torch.device) -> str:
    if why := missing(backend, device):
        raise ValueError(f"{op.name}: backend {backend!r} cannot run here: {why}")
    return backend


@contextlib.contextmanager
def use(**backends: str) -> Iterator[None]:
    """Choose backends: `use(all="triton")`, `use(kv_compress="reference")`.

    `all=` applies to every op that has the backend; the others keep their default.
    Raises ValueError, listing the known names, for an op or a backend that does not exist.
    """
    old = STATE.chosen
    STATE.chosen = old | _checked(backends)
    STATE.epoch += 1
    try:
        yield
    finally:
        STATE.chosen = old
        STATE.epoch += 1


def with_gradients() -> contextlib.AbstractContextManager[None]:
    """Inside, every op runs on the backend that has gradients and goes through torch's transforms: for training."""
    return use(all="torch")


@contextlib.contextmanager
def scope(label: str) -> Iterator[None]:
    """Name the calls inside: session > block > step > layer. An NVTX range when NVTX is on; nothing while tracing."""
    if torch.compiler.is_compiling():
        yield
        return
    STATE.scopes.append(label)
    push(label)
    try:
        yield
    finally:
        pop()
        STATE.scopes.pop()


def push(label: str) -> None:
    """Open an NVTX range in domain `liveact` when LIVEACT_NVTX is set."""
    if STATE.nvtx_domain is not None:
        STATE.nvtx_domain.push_range(STATE.nvtx_domain.get_event_attributes(message=label))


def pop() -> None:
    """Close the NVTX range."""
    if STATE.nvtx_domain is not None:
        STATE.nvtx_domain.pop_range()


@contextlib.contextmanager
def record(recorder: Recorder | None = None) -> Iterator[Recorder]:
    """Let `recorder` (a new CallList by default) hear every op call inside."""
    recorder = CallList() if recorder is None else recorder
    STATE.recorders.append(recorder)
    try:
        yield recorder
    finally:
        STATE.recorders[:] = [r for r in STATE.recorders if r is not recorder]


@contextlib.contextmanager
def poisoned() -> Iterator[None]:
    """Fill every output with NaN before the call, so that an unwritten element shows."""
    STATE.poison = True
    try:
        yield
    finally:
        STATE.poison = False


def run_poisoned(launch: Callable, kw: Mapping[str, Any]) -> Any:
    """A functional backend's result when all memory that it allocates holds NaN first, also from C++."""
    before = torch.get_deterministic_debug_mode()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what is not deterministic; the mode is here for what it does to `empty`
        torch.set_deterministic_debug_mode("warn")  # use_deterministic_algorithms imports torch's compiler: seconds
        try:
            return launch(**kw)
        finally:
            torch.set_deterministic_debug_mode(before)
