"""Every op through pytest-benchmark, for CI users: `pytest bench --benchmark-json FILE` (bench/run.py says more).

Small cases on a CPU, real sizes on a GPU. One call per round, waited for, so launches and the host count too; a
backend that is missing is skipped with the reason, one that is wrong fails.
"""

import itertools

import pytest
import torch
from manifest import manifest
from measure import Subject, right, too_large

from liveact_kernels import ops  # noqa: F401 - fills the registry
from liveact_kernels.contract import REGISTRY, missing
from liveact_kernels.cost.clock import synchronise

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
RUNG = "device" if DEVICE.type == "cuda" else "cpu"
ALL = [
    pytest.param(op, case, backend, id=f"{op.name}-{case.id}-{backend}")
    for op in REGISTRY.values()
    for case in op.cases
    for backend in op.backends
    if case.rung == RUNG and backend != "reference"
]


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("op,case,backend", ALL)
@torch.no_grad()
def test_speed(benchmark, op, case, backend):
    if why := missing(backend, DEVICE) or too_large(op, case, DEVICE):
        pytest.skip(why)
    fault = right(op, backend, DEVICE)
    assert fault is None, fault
    subject = Subject(op, case, DEVICE)
    call, turn = subject.backend(backend), itertools.count()

    def once():
        call(next(turn) % subject.copies)
        synchronise(DEVICE)

    flops, moved = sum(op.flops(subject.dims).values()), op.bytes(subject.dims)
    benchmark.extra_info.update(manifest(DEVICE), flops=flops, bytes=moved, label=subject.dims.label())
    benchmark(once)
