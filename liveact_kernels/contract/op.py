"""The op contract: one object per op, read by dispatch, tests, bench, budget, NVTX and torch.library.

An op is a folder that states what it computes, how wrong it may be and what it must cost. Everything else
(outputs, checks, labels, test inputs, flops, bytes) follows from the shapes of the tensors it is given.
"""

from __future__ import annotations

import importlib
import inspect
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch

from .available import VENDORS, lacks_instructions
from .dispatch import BACKENDS, FUNCTIONAL, STATE, Call, backend_of, pop, push, run_poisoned
from .spec import Case, Dims, DType, T, cast, evaluate
from .tolerance import Tolerance
from .trust import distrusted

REGISTRY: dict[str, Op] = {}
"""Every op by name; an Op adds itself when its folder is imported."""

_traced: Callable[[Any, Any, dict], Any]


def when_tracing(call: Callable[[Any, Any, dict], Any]) -> None:
    """Let `call(op, out, kw)` answer while torch.compile traces: `library` needs Op, so it comes here by itself."""
    global _traced
    _traced = call


class Plan(NamedTuple):
    """Everything a call needs, checked once per (shapes, dtypes, device, scalars, backend choice)."""

    dims: Dims
    device: torch.device
    backend: str
    launch: Callable | None
    label: str
    outs: tuple[tuple[tuple[int, ...], torch.dtype] | None, ...]


class Op:
    """One op.

    name       unique; the label of its NVTX range and of its budget row
    reference  float64 function: the signature, the formula and the oracle
    args, out  tensor specs by name; a backend outside dispatch.FUNCTIONAL is `launch(*outs, **args)`
    where      derived dims, name -> expression; `require`: expressions that must hold
    flops      dims -> {"fp4" | "fp8" | "bf16" | "f32": count}, 2 per multiply-add
    bytes      dims -> bytes moved; by default each tensor once
    tol        one tolerance, or one per output
    rows       a dim of whose indices each can be computed alone, arguments and results cut alike: what does not fit in
               float64 is then compared in slices
    backends   name -> callable or "module:attribute", imported when first used. A callable may carry
               `takes`: dims -> None, or why it does not take such a call; `tol`: its own bound, where another recipe
               than the op's is its point
    """

    def __init__(
        self,
        name: str,
        *,
        reference: Callable,
        args: Mapping[str, T],
        out: Mapping[str, T],
        flops: Callable[[Dims], dict[str, float]],
        tol: Any,
        cases: list[Case],
        where: Mapping[str, str] | None = None,
        rows: str | None = None,
        require: tuple[str, ...] = (),
        bytes: Callable[[Dims], float] | None = None,
        backends: Mapping[str, Callable | str] | None = None,
    ):
        self.name, self.reference, self.args, self.out = name, reference, dict(args), dict(out)
        self.flops, self._bytes, self.cases = flops, bytes, cases
        self.tol = tol if isinstance(tol, dict) else dict.fromkeys(out, tol)
        self.where, self.require, self.rows = dict(where or {}), tuple(require), rows
        self.backends: dict[str, Callable | str] = {"reference": reference, **(backends or {})}
        parameters = inspect.signature(reference).parameters
        self.scalars = {p: v.default for p, v in parameters.items() if p not in self.args}
        self._absent = {a: None for a, s in self.args.items() if s.optional}
        self._plans: dict[tuple, Plan] = {}
        REGISTRY[name], BACKENDS[name] = self, self.backends

    def __repr__(self) -> str:
        return self.name

    # ---- dims -------------------------------------------------------------------------------------------------

    def dims(self, kw: Mapping[str, Any]) -> Dims:
        """Named sizes of one call; raises TypeError or ValueError naming op, argument, expected and got."""
        unknown = [k for k in kw if k not in self.args and k not in self.scalars]
        if unknown:
            raise TypeError(f"{self.name}: unknown argument {unknown[0]!r}, expected {[*self.args, *self.scalars]}")
        d = Dims(**{p: kw.get(p, v) for p, v in self.scalars.items()})
        for p, v in vars(d).items():
            if v is inspect.Parameter.empty:
                raise TypeError(f"{self.name}: argument {p} is missing")
        device = None
        for arg, spec in self.args.items():
            t = kw.get(arg)
            setattr(d, f"has_{arg}", t is not None)
            if t is None:
                if not spec.optional:
                    raise TypeError(f"{self.name}: argument {arg} [{spec.dims}] is missing")
                continue
            device = t.device if device is None else device
            if t.device != device:
                raise ValueError(f"{self.name}: {arg} must be on {device} like the first argument, got {t.device}")
            self._bind(d, arg, spec, t)
        derived = self.derive(d)
        for arg, spec in self.args.items():
            if (t := kw.get(arg)) is not None and tuple(t.shape) != spec.shape(derived):
                want = spec.shape(derived)
                raise ValueError(f"{self.name}: {arg} must be [{spec.dims}] = {want}, got shape {tuple(t.shape)}")
        return derived

    def _bind(self, d: Dims, arg: str, spec: T, t: torch.Tensor) -> None:
        names = spec.dims.split()
        if len(names) != t.ndim:
            raise ValueError(f"{self.name}: {arg} must be [{spec.dims}], got shape {tuple(t.shape)}")
        for n, size in zip(names, t.shape):
            if n.isidentifier() and not hasattr(d, n):
                setattr(d, n, size)
        want = spec.dtype
        if isinstance(want, DType):
            if t.dtype not in want.allowed:
                raise TypeError(f"{self.name}: {arg} must be one of {want.allowed}, got {t.dtype}")
            if not hasattr(d, want.name):
                setattr(d, want.name, t.dtype)
        if t.dtype != spec.dtype_of(d):
            raise TypeError(f"{self.name}: {arg} must be {spec.dtype_of(d)}, got {t.dtype}")

    def derive(self, d: Dims) -> Dims:
        """Add the derived dims and check what must hold."""
        for n, expression in self.where.items():
            setattr(d, n, evaluate(expression, d))
        for rule in self.require:
            if not evaluate(rule, d):
                raise ValueError(f"{self.name}: needs {rule}, got {d.label()}")
        return d

    # ---- cost -------------------------------------------------------------------------------------------------

    def bytes(self, d: Dims) -> float:
        """Bytes one call must move: each tensor once unless the op says otherwise."""
        if self._bytes:
            return self._bytes(d)
        read = sum(s.nbytes(d) for a, s in self.args.items() if getattr(d, f"has_{a}", True))
        return read + sum(s.nbytes(d) for s in self.out.values() if s.present(d))

    def floor_us(self, d: Dims, chip) -> float:
        """Least time of one call on a chip (hw.Chip): the slowest of its arithmetic and its traffic."""
        compute = [n / chip.rate(kind) for kind, n in self.flops(d).items()]
        return 1e6 * max([*compute, self.bytes(d) / chip.bandwidth])

    # ---- tests ------------------------------------------------------------------------------------------------

    def dims_of(self, case: Case) -> Dims:
        """Dims of a case, derived ones included; no tensor is made."""
        d = Dims(**{p: v for p, v in self.scalars.items() if v is not inspect.Parameter.empty} | case.dims)
        for a, s in self.args.items():
            setattr(d, f"has_{a}", getattr(d, f"has_{a}", not s.optional))
        return self.derive(d)

    def make(
        self, case: Case, device: str | torch.device = "cpu", seed: int = 0, generator: torch.Generator | None = None
    ) -> dict[str, Any]:
        """Random arguments for a case.

        Drawn on the CPU, so that they are the same on every device, unless a `generator` of another device draws them
        there: a benchmark of large tensors has no time to draw them on the host.
        """
        d = self.dims_of(case)
        g = torch.Generator().manual_seed(seed) if generator is None else generator
        made: dict[str, Any] = {p: getattr(d, p) for p in self.scalars}
        for a, s in self.args.items():
            if not getattr(d, f"has_{a}"):
                made[a] = None
                continue
            with g.device:
                x = s.draw(g, s.shape(d), d) if s.draw else torch.randn(s.shape(d), generator=g)
            made[a] = cast(x, s.dtype_of(d)).to(device)
        return made

    def check(self, got, want, backend: str = "reference") -> list[tuple[str, bool, str]]:
        """[(output, accepted, explanation)] of a backend's results against the reference, each with its tolerance."""
        got, want = (x if isinstance(x, tuple) else (x,) for x in (got, want))
        rows = zip(self.out, got, want)
        return [(n, *self.tolerance(n, backend).check(g, w.double())) for n, g, w in rows if g is not None]

    def tolerance(self, output: str, backend: str = "reference") -> Tolerance:
        """How wrong an output may be: the backend's own bound, else the op's."""
        return getattr(self.implementation(backend), "tol", None) or self.tol[output]

    # ---- calls ------------------------------------------------------------------------------------------------

    def implementation(self, backend: str) -> Callable:
        """The callable of a backend; imports it on first use."""
        fn = self.backends[backend]
        if isinstance(fn, str):
            module, attribute = fn.split(":")
            fn = self.backends[backend] = getattr(importlib.import_module(module), attribute)
        return fn

    def refused(self, backend: str, d: Dims) -> str | None:
        """Why a backend does not take a call of these dims, or nothing on this GPU; None when it does."""
        takes = getattr(self.implementation(backend), "takes", None)
        return self.absent(backend) or (takes(d) if takes else None)

    def absent(self, backend: str) -> str | None:
        """Why no call of a backend can run on the GPU at hand; None where its instructions are there."""
        return lacks_instructions(getattr(self.implementation(backend), "least_arch", 0))

    def plan(self, kw: Mapping[str, Any]) -> Plan:
        """Check the arguments and choose the backend."""
        d = self.dims(kw)
        device = next(t.device for a in self.args if (t := kw.get(a)) is not None)
        backend = "meta" if device.type == "meta" else backend_of(self, device, d)
        launch = None if backend == "meta" else self.implementation(backend)
        label = f"{self.name}[{d.label()}]"
        if launch and (why := self.refused(backend, d)):
            raise ValueError(f"{label}: backend {backend!r} does not take this call: {why}")
        if backend in VENDORS and (why := distrusted(self, backend, device)):
            raise ValueError(f"{label}: backend {backend!r} is not trusted here: {why}")
        outs = tuple((s.shape(d), s.dtype_of(d)) if s.present(d) else None for s in self.out.values())
        return Plan(d, device, backend, launch, label, outs)

    def __call__(self, *, out=None, **kw):
        """Run the op. `out` hands in the caller's tensors (a cache slot, say) instead of fresh ones.

        Returns one tensor, or a tuple in the order of `self.out` with None for outputs that do not exist.
        """
        if torch.compiler.is_compiling():
            return _traced(self, out, kw)
        key = tuple([(k, v.shape, v.dtype, v.device) if isinstance(v, torch.Tensor) else (k, v) for k, v in kw.items()])
        key = (STATE.epoch, key)
        plan = self._plans.get(key)
        if plan is None:
            if len(self._plans) > 4096:  # scalars such as a sampler's coefficients must not grow it for ever
                self._plans.clear()
            plan = self._plans[key] = self.plan(kw)
        if out is not None:
            out = [out] if isinstance(out, torch.Tensor) else list(out)
            got = tuple(None if o is None else (tuple(o.shape), o.dtype) for o in out)
            if got != plan.outs:
                raise ValueError(f"{plan.label}: out must be {plan.outs}, got {got}")
        clocked = any(r.clocked for r in STATE.recorders)
        began = time.perf_counter() if clocked else 0.0
        push(plan.label)
        try:
            out = _run(plan, out, self._absent | kw)
        finally:
            pop()
        if STATE.recorders:
            seconds = time.perf_counter() - began if clocked else None
            call = Call(tuple(STATE.scopes), self, plan.backend, plan.dims)
            for recorder in STATE.recorders:
                recorder.add(call, seconds)
        return out[0] if len(out) == 1 else tuple(out)


def _run(plan: Plan, out: list | None, kw: Mapping[str, Any]) -> list:
    if plan.launch is not None and plan.backend in FUNCTIONAL:
        result = run_poisoned(plan.launch, kw) if STATE.poison else plan.launch(**kw)
        result = list(result) if isinstance(result, tuple) else [result]
        result = [None if s is None else cast(r, s[1]) for r, s in zip(result, plan.outs)]
        if out is None:
            return result
        for o, r in zip(out, result):
            if o is not None:
                o.copy_(r)
        return out
    if out is None:
        out = [None if s is None else torch.empty(s[0], dtype=s[1], device=plan.device) for s in plan.outs]
    if plan.launch is not None:
        for name, t in (*kw.items(), *(("out", o) for o in out)):  # strides are not in a plan's key
            if isinstance(t, torch.Tensor) and not t.is_contiguous():
                raise ValueError(f"{plan.label}: {name} must be contiguous, got strides {t.stride()}")
        if STATE.poison:
            for o in filter(lambda o: o is not None, out):
                o.view(torch.uint8).fill_(0xFF)  # NaN in bf16, fp32 and e4m3
        plan.launch(*out, **kw)
    return out

