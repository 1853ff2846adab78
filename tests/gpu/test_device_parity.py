"""Every op on every backend that is there, at every shape, against float64 on the device itself."""

import functools

import pytest
import torch
from junit import keep
from spoil import SPOIL, spoiled

from liveact_kernels import ops  # noqa: F401 - fills the registry
from liveact_kernels.contract import REGISTRY, backend_of, missing, use
from liveact_kernels.proof import parity

DEVICE = "cuda" if torch.cuda.is_available() else None
PAIRS = [(op, backend) for op in REGISTRY.values() for backend in op.backends if backend != "reference"]
HERE = [pair for pair in PAIRS if DEVICE is None or not missing(pair[1], DEVICE)]
GRID = [(op, case, backend) for op, backend in HERE for case in op.cases]
GRID.sort(key=lambda row: (list(REGISTRY).index(row[0].name), row[0].cases.index(row[1])))  # backends share arguments
LARGEST = {op.name: sorted(op.cases, key=lambda c: c.rung == "device")[-1] for op in REGISTRY.values()}


@functools.lru_cache(maxsize=1)
def arguments(name, case_id, device):
    torch.cuda.empty_cache()
    return parity.make(REGISTRY[name], next(c for c in REGISTRY[name].cases if c.id == case_id), device)


def refused(op, case, backend):
    if why := op.refused(backend, op.dims_of(case)):
        pytest.skip(why)


@pytest.mark.parametrize("op,case,backend", GRID, ids=str)
def test_parity(op, case, backend, device, record_property):
    refused(op, case, backend)
    keep(record_property, op, backend, case, parity.run(op, backend, arguments(op.name, case.id, device)))


@pytest.mark.parametrize("op,backend", [pair for pair in PAIRS if pair not in HERE], ids=str)
def test_absent(op, backend):
    """A line in the report for what was not compared."""
    pytest.skip(missing(backend, DEVICE))


@pytest.mark.parametrize("op,backend", HERE, ids=str)
def test_same_bytes_twice(op, backend, device):
    case = LARGEST[op.name]
    refused(op, case, backend)
    assert parity.twice(op, backend, arguments(op.name, case.id, device)) == []


@pytest.mark.parametrize("op", REGISTRY.values(), ids=str)
def test_spoiled_results_of_the_device_are_rejected(op, device):
    inputs = arguments(op.name, LARGEST[op.name].id, device)
    backend = backend_of(op, device, op.dims(inputs))
    with use(**{op.name: backend}), torch.no_grad():
        outs = op(**inputs)
    *_, (got, want) = parity.pieces(op, inputs, outs if isinstance(outs, tuple) else (outs,))
    assert all(ok for _, ok, _ in op.check(got, want, backend))
    for spoil in SPOIL:
        for name, bad in spoiled(op, got, want, spoil):
            assert not all(ok for _, ok, _ in op.check(bad, want, backend)), f"{op.name}.{name} would accept: {spoil}"
