"""A few fixed cases of tests/fuzz: whatever comes in, exit 0 or 2 and one sentence. `make fuzz N=2000` runs more."""

import sys

import pytest
from fuzz.case import names
from fuzz.engine import Engine

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="processes are watched through /proc")
QUICK = names(64)


@pytest.fixture(scope="module")
def answers(request):
    """Futures of the chosen cases: two run at a time, while the tests wait for theirs."""
    chosen = {item.callspec.params["name"] for item in request.session.items
              if item.path == request.path and hasattr(item, "callspec")}  # fmt: skip
    with Engine(workers=2) as engine:
        yield {name: engine.submit(name) for name in QUICK if name in chosen}


@pytest.mark.parametrize("name", QUICK)
def test_case(answers, name):
    answer = answers[name].result(timeout=500)
    assert not answer["violations"], f"python -m tests.fuzz --case {name}: {answer['about']}"
