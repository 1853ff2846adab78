"""Bytes that are alive while code runs, and their peak: of a run with values, or of one without on the meta device.

On the meta device an op only makes its results. What a backend on plain torch holds besides them (a launch allocates
nothing) is found once per shape, by running it there without values.
"""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from ..contract import FUNCTIONAL, REGISTRY, STATE, VENDORS, Call, Dims, Op, backend_of, record


def nbytes(tensors: Iterable[Tensor]) -> int:
    """Bytes of the memory behind tensors; what several share counts once."""
    return sum({t.untyped_storage()._cdata: t.untyped_storage().nbytes() for t in tensors}.values())


class Live(TorchDispatchMode):
    """Bytes of tensors made while it is active that are still alive, and their peak; a view counts with its owner.

    known  tensors that are there before: what views of them are made later is not new
    kind   type of the device whose tensors count; None: all
    place  the device that a run on meta stands for: what its backends hold besides results counts at the peak
    phase  scopes -> the name under which `peaks` keeps a peak of its own
    """

    clocked = False  # as a recorder of calls

    def __init__(
        self, known: Iterable[Tensor] = (), kind: str | None = None, place: torch.device | None = None,
        phase: Callable[[tuple[str, ...]], str] = lambda scopes: "",
    ):  # fmt: skip
        super().__init__()
        self.now = self.peak = 0
        self.peaks: dict[str, int] = {}
        self._known = [t.untyped_storage() for t in known]  # kept alive: an address must not mean another one later
        self._seen: dict[int, object] = {s._cdata: None for s in self._known}
        self._kind, self._place, self._phase, self._paused = kind, place, phase, False
        self._listening = contextlib.ExitStack()

    def __enter__(self) -> Live:
        """Start counting."""
        self._listening.enter_context(record(self))
        super().__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        """Stop counting; what is alive may still be freed."""
        super().__exit__(*error)
        self._listening.close()

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        """Run the call and count what it made."""
        out = func(*args, **(kwargs or {}))
        if not self._paused:
            for t in tree_leaves(out):
                if isinstance(t, Tensor) and self._kind in (None, t.device.type):
                    self._count(t.untyped_storage())
        return out

    def add(self, call: Call, seconds: float | None) -> None:
        """Take one call of an op, whose results are counted by now."""
        if self._place is None or self._paused or call.op.name not in REGISTRY:
            return
        with self.paused():
            held = scratch(REGISTRY[call.op.name], call.dims, self._place)
        self._mark(self.now + held)

    def forget_peaks(self) -> None:
        """Peaks from here on; what is alive stays counted."""
        self.peak, self.peaks = self.now, {}

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """What is made inside is not counted."""
        before, self._paused = self._paused, True
        try:
            yield
        finally:
            self._paused = before

    def _mark(self, count: int) -> None:
        phase = self._phase(tuple(STATE.scopes))
        self.peaks[phase] = max(self.peaks.get(phase, 0), count)
        self.peak = max(self.peak, count)

    def _count(self, storage: torch.UntypedStorage) -> None:
        key = storage._cdata
        if key in self._seen:
            return
        size = storage.nbytes()
        self._seen[key] = weakref.finalize(storage, self._free, key, size)
        self.now += size
        self._mark(self.now)

    def _free(self, key: int, size: int) -> None:
        del self._seen[key]
        self.now -= size


_scratch: dict[tuple[str, str, str], int] = {}


def scratch(op: Op, d: Dims, place: torch.device) -> int:
    """Bytes that one call on `place` holds at its worst, arguments and results left out.

    0 for kernels, which allocate nothing, and for what cannot be followed without values.
    """
    backend = backend_of(op, place, d)
    if backend not in FUNCTIONAL or backend in VENDORS:
        return 0
    key = (op.name, backend, str(sorted(vars(d).items(), key=str)))
    if key not in _scratch:
        # not plain meta tensors: what torch runs inside depends on the device, fused attention above all
        with FakeTensorMode(), torch.no_grad():
            args: dict[str, Any] = {name: getattr(d, name) for name in op.scalars}
            for name, spec in op.args.items():
                there = getattr(d, f"has_{name}", True)
                args[name] = torch.empty(spec.shape(d), dtype=spec.dtype_of(d), device=place) if there else None
            live = Live(t for t in args.values() if isinstance(t, Tensor))
            with contextlib.suppress(RuntimeError), live:  # of an operator that has no form without values
                op.implementation(backend)(**args)
        made = sum(s.nbytes(d) for s in op.out.values() if s.present(d))
        _scratch[key] = max(0, live.peak - made)
    return _scratch[key]
