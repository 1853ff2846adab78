"""Every op's triton backend against its float64 reference: on the op's own small cases and on odd shapes.

An op whose `backends` has "triton" is tested here without further ado.
"""

import pytest
from junit import keep
from odd import ODD

from liveact_kernels import ops  # noqa: F401 - fills the registry
from liveact_kernels.contract import REGISTRY
from liveact_kernels.proof.parity import run

GRID = [
    (op, case)
    for op in REGISTRY.values()
    if "triton" in op.backends
    for case in [*op.cases, *ODD.get(op.name, [])]
    if case.rung == "cpu"
]


def reference(op, inputs):
    want = op.reference(**inputs)
    return want if isinstance(want, tuple) else (want,)


@pytest.mark.parametrize("op,case", GRID, ids=str)
def test_triton_matches_reference(op, case, device, record_property):
    if why := op.refused("triton", op.dims_of(case)):
        pytest.skip(why)
    keep(record_property, op, "triton", case, run(op, "triton", op.make(case, device)))
