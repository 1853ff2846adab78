"""A rank that dies, hangs, fails or leaves: what the others see."""

import os
import signal
import time
from pathlib import Path

import group
import pytest

from liveact_model.errors import InputError

SILENCE_S = 2.0
"""Only where a rank is stopped; where a busy machine must not look like a dead rank, the limit is group.HANGS_S."""


def turns(ranks, number, who):
    """Collectives without end; after a few of them one rank is gone."""
    for i in range(10**6):
        if i == 20 and ranks.rank == who:
            os.kill(os.getpid(), number)
        ranks.share(lambda: 0)
        time.sleep(0.01)


@pytest.mark.parametrize("who", [0, 1])
def test_a_dead_rank_is_named_by_every_survivor(who):
    answers = group.collect(*group.start(turns, 3, signal.SIGKILL, who, dead_after_s=group.HANGS_S), expect=2)
    assert answers[who] is None
    for answer in (a for r, a in enumerate(answers) if r != who):
        assert answer[1].startswith(f"PeerError: rank {who} of 3 has died"), answer


@pytest.mark.parametrize("who", [0, 1])
def test_a_hanging_rank_ends_processes_whose_main_thread_is_stuck(who):
    started, results = group.start(turns, 3, signal.SIGSTOP, who, dead_after_s=SILENCE_S)
    deadline = time.monotonic() + group.HANGS_S
    for p in (started[1 - who], started[2]):
        p.join(max(0, deadline - time.monotonic()))
        assert p.exitcode == 1
    started[who].kill()
    group.collect(started, results, expect=0)


def fails(ranks, error):
    for _ in range(20):
        ranks.share(lambda: 0)
    if ranks.rank == 1:
        raise error
    while True:
        ranks.share(lambda: 0)


def test_the_reason_of_a_rank_that_fails_reaches_the_others():
    answers = group.collect(*group.start(fails, 3, InputError("the third wish is missing"), dead_after_s=60.0))
    for r in (0, 2):
        assert answers[r][1] == "PeerError: rank 1 failed: the third wish is missing", answers


def busy(ranks, folder):
    """Rank 1 holds the interpreter until rank 0 has heard it often enough -> beats that were heard meanwhile."""
    began, enough, deadline = Path(folder, "began"), Path(folder, "enough"), time.monotonic() + group.HANGS_S
    if ranks.rank == 1:
        began.touch()
        while not enough.exists() and time.monotonic() < deadline:
            sum(range(10**5))
        return 0
    heard = set()
    while len(heard) < 6 and time.monotonic() < deadline:
        if began.exists():
            heard.add(ranks.wire.watch._heard.get(1))
        time.sleep(0.01)
    enough.touch()
    return len(heard - {None}) - 1  # the first may be from before it began


def test_a_busy_rank_beats_all_the_same(tmp_path):
    assert group.run(busy, 2, str(tmp_path), dead_after_s=group.HANGS_S)[0] >= 4


def test_detection_and_grace_stay_below_twenty_seconds():
    from liveact_model.parallel.watch import BEAT_S, DEAD_AFTER_S, GRACE_S

    assert DEAD_AFTER_S + GRACE_S + 4 * BEAT_S < 20
