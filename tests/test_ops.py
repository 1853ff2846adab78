"""Every op: each backend against its float64 reference, and every tolerance shown to reject spoiled results."""

import pytest
import torch
from junit import keep
from spoil import SPOIL, spoiled

from liveact_kernels import ops  # noqa: F401 - fills the registry
from liveact_kernels.contract import FUNCTIONAL, REGISTRY, cast, missing, poisoned, use
from liveact_kernels.proof.parity import compare

CASES = [(op, case) for op in REGISTRY.values() for case in op.cases if case.rung == "cpu"]
GRID = [
    (op, backend, case)
    for op, case in CASES
    for backend in op.backends
    if backend in FUNCTIONAL and not missing(backend, "cpu") and not op.refused(backend, op.dims_of(case))
]


def reference(op, inputs):
    want = op.reference(**inputs)
    return want if isinstance(want, tuple) else (want,)


def dtypes(op, inputs):
    d = op.dims(inputs)
    return [s.dtype_of(d) if s.present(d) else None for s in op.out.values()]


@pytest.mark.parametrize("op,backend,case", GRID, ids=str)
def test_backend_matches_reference(op, backend, case, record_property):
    inputs = op.make(case)
    with use(**{op.name: backend}), poisoned(), torch.no_grad():
        got = op(**inputs)
    keep(record_property, op, backend, case, compare(op, inputs, got if isinstance(got, tuple) else (got,), backend))


@pytest.mark.parametrize("op,case", CASES, ids=str)
def test_torch_backend_under_autograd_matches_reference(op, case):
    inputs = op.make(case)
    with use(**{op.name: "torch"}):
        got = op(**inputs)
    for name, ok, said in op.check(got, reference(op, inputs)):
        assert ok, f"{op.name}.{name} {case}: {said}"


@pytest.mark.parametrize("spoil", SPOIL)
@pytest.mark.parametrize("op,case", CASES, ids=str)
def test_tolerance_has_teeth(op, case, spoil):
    inputs = op.make(case)
    want, kinds = reference(op, inputs), dtypes(op, inputs)
    good = tuple(None if t is None else cast(w, t) for w, t in zip(want, kinds))
    assert all(ok for _, ok, _ in op.check(good, want))
    for name, bad in spoiled(op, good, want, spoil):
        assert not all(ok for _, ok, _ in op.check(bad, want)), f"{op.name}.{name} would accept: {spoil}"


@pytest.mark.parametrize("op", REGISTRY.values(), ids=str)
def test_meta_call_gives_the_same_shapes_and_a_finite_cost(op):
    case = op.cases[0]
    inputs = op.make(case)
    on_meta = {k: v.to("meta") if isinstance(v, torch.Tensor) else v for k, v in inputs.items()}
    real, fake = op(**inputs), op(**on_meta)
    pairs = zip(real, fake) if isinstance(real, tuple) else [(real, fake)]
    for r, f in pairs:
        assert (r is None) == (f is None)
        assert r is None or (r.shape == f.shape and r.dtype == f.dtype and f.device.type == "meta")
    d = op.dims(inputs)
    assert op.bytes(d) > 0 and all(n > 0 for n in op.flops(d).values())
