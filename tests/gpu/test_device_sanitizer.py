"""Accesses out of bounds and races in every kernel, as compute-sanitizer sees them."""

import pytest
import sanitize

from liveact_kernels.contract import missing


@pytest.mark.parametrize("backend", ["triton", "cuda"])
@pytest.mark.parametrize("check", ["memcheck", "racecheck"])
def test_kernels_are_clean(check, backend, record_property):
    if why := missing(backend, "cuda"):
        pytest.skip(why)
    tool = sanitize.find_tool()
    if tool is None:
        pytest.skip(f"{sanitize.TOOL} is not on the PATH nor in {', '.join(sanitize.PLACES)}")
    status, said = sanitize.watch(check, backend, tool)
    record_property("said", said[-2000:])
    assert "called " in said, f"nothing ran under {check}: {said}"
    assert status == 0, f"{check} on {backend}: exit status {status}\n{said}"
