"""The judge of tests/fuzz catches every planted wrong program, through the same fork as a real case."""

import sys

import pytest
from fuzz.case import SHARES, names
from fuzz.engine import Engine
from fuzz.planted import CAUGHT

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="processes are watched through /proc")


@pytest.fixture(scope="module")
def engine():
    with Engine(workers=1) as made:
        yield made


@pytest.mark.parametrize("number", range(len(CAUGHT)), ids=[f.__name__ for f in CAUGHT])
def test_a_planted_program_is_caught(engine, number):
    answer = engine.submit(f"planted:{number}").result(timeout=300)
    assert set(answer["violations"]) == list(CAUGHT.values())[number], answer


def test_a_case_that_cannot_be_made_is_no_pass(engine):
    assert set(engine.submit("planted:999").result(timeout=300)["violations"]) == {"harness"}


def test_names_follow_the_shares():
    made = names(400, first=7)
    assert len(made) == len(set(made)) == 400 and sum(SHARES.values()) == 100
    assert sum(n.startswith("images:") for n in made) == 64 and "images:7" in made and "images:6" not in made
