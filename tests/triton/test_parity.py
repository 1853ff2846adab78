"""Every op's triton backend against its float64 reference: on the op's own small cases and on odd shapes.

An op whose `backends` has "triton" is tested here without further ado.
"""

import pytest
import torch
from conftest import INTERPRETED
from odd import ODD

from liveact_kernels import ops  # noqa: F401 - fills the registry
from liveact_kernels.contract import REGISTRY, use
from liveact_kernels.dispatch import poisoned

RUNGS = ("cpu",) if INTERPRETED else ("cpu", "device")
GRID = [
    (op, case)
    for op in REGISTRY.values()
    if "triton" in op.backends
    for case in [*op.cases, *ODD.get(op.name, [])]
    if case.rung in RUNGS
]
GUARD = 256
"""Bytes around each output that a kernel must leave alone."""


def reference(op, inputs):
    want = op.reference(**inputs)
    return want if isinstance(want, tuple) else (want,)


def fenced(op, inputs, device):
    """Outputs cut from the middle of larger buffers -> (buffers, outputs)."""
    d = op.dims(inputs)
    buffers, outs = [], []
    for spec in op.out.values():
        if not spec.present(d):
            outs.append(None)
            continue
        n = spec.nbytes(d)
        buffers.append(torch.full((n + 2 * GUARD,), 0x5A, dtype=torch.uint8, device=device))
        outs.append(buffers[-1][GUARD : GUARD + n].view(spec.dtype_of(d)).view(spec.shape(d)))
    return buffers, outs


@pytest.mark.parametrize("op,case", GRID, ids=str)
def test_triton_matches_reference(op, case, device):
    inputs = op.make(case, device)
    before = {k: v.clone() for k, v in inputs.items() if isinstance(v, torch.Tensor)}
    buffers, outs = fenced(op, inputs, device)
    with use(**{op.name: "triton"}), poisoned():
        op(**inputs, out=outs)
    for name, ok, said in op.check(tuple(outs), reference(op, inputs)):
        assert ok, f"{op.name}.{name} triton/{case}: {said}"
    for b in buffers:
        assert (b[:GUARD] == 0x5A).all() and (b[-GUARD:] == 0x5A).all(), f"{op.name}/{case} wrote outside its output"
    for k, v in before.items():
        same = torch.equal(v.view(torch.uint8), inputs[k].view(torch.uint8))
        assert same, f"{op.name}/{case} changed its argument {k}"
