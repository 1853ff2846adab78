"""Timing primitives, with a clock that the tests turn themselves."""

import contextlib
import types

import numpy as np
import pytest
import torch

from liveact_kernels.cost import clock
from liveact_kernels.cost.clock import LEAST_SAMPLES, Marks, Runner, copies_for, interleave, quantile

CPU = torch.device("cpu")


class Turned:
    """Elapsed time that is whatever the called work adds to `now`."""

    def __init__(self):
        self.now, self.log = 0.0, []

    def elapsed(self, work, device):
        before = self.now
        work()
        return self.now - before

    def call(self, name, us):
        def one(i):
            self.log.append((name, i))
            self.now += next(us) if hasattr(us, "__next__") else us

        return one

    def runner(self, name, us, copies=1, **more):
        return Runner(self.call(name, us), copies, CPU, elapsed=self.elapsed, **more)


def test_quantile_agrees_with_numpy():
    values = [5.0, 1.0, 4.0, 1.5, 9.0, 2.5]
    for q in (0.0, 0.2, 0.5, 0.8, 1.0):
        assert quantile(values, q) == pytest.approx(np.quantile(values, q))
    with pytest.raises(ValueError, match="at least one value"):
        quantile([], 0.5)


def test_a_sample_has_enough_calls_and_turns_through_all_copies():
    clock = Turned()
    runner = clock.runner("a", 10.0, copies=3, sample_us=95.0)
    assert [i for _, i in clock.log[:3]] == [0, 1, 2]  # every set is touched once before anything is timed
    clock.log.clear()
    assert runner.sample() == 100.0 and runner.us == [10.0]  # 95 us need ten calls of 10 us
    runner.sample()
    assert [i for _, i in clock.log] == [k % 3 for k in range(20)]  # the second sample goes on where the first ended


def test_a_slow_call_still_uses_every_copy():
    clock = Turned()
    runner = clock.runner("slow", 1e6, copies=4, sample_us=1.0)
    clock.log.clear()
    runner.sample()
    assert [i for _, i in clock.log] == [0, 1, 2, 3]


def test_samples_take_turns_and_the_order_is_reversed():
    clock = Turned()
    runners = {"a": clock.runner("a", 1.0, sample_us=1.0), "b": clock.runner("b", 2.0, sample_us=2.0)}
    clock.log.clear()
    interleave(runners, seconds=0.0)
    assert "".join(name for name, _ in clock.log) == "abbaabbaab" and LEAST_SAMPLES == 5


def test_every_runner_gets_its_seconds_and_the_median_ignores_an_outlier():
    clock = Turned()
    us = iter([1.0] * 4 + [10.0, 10.0, 5000.0, 10.0] + [10.0] * 10000)
    runners = {"a": clock.runner("a", us, sample_us=1.0), "b": clock.runner("b", 1000.0, sample_us=1000.0)}
    times = interleave(runners, seconds=0.01)
    assert times["b"].samples * 1000 >= 10_000 and times["a"].us == 10.0 and times["a"].p80_us == 10.0
    assert times["b"].how == "host"


def test_warm_up_is_thrown_away():
    clock = Turned()
    us = iter([1.0] * 4 + [900.0, 200.0] + [3.0] * 100)
    times = interleave({"a": clock.runner("a", us, sample_us=1.0)}, seconds=1e-6, warm=1e-3)
    assert times["a"].p80_us == times["a"].us == 3.0


def test_copies_cover_the_cache_three_times():
    assert copies_for(1 << 20, 50 << 20) == 64 and copies_for(10 << 20, 50 << 20) == 16
    assert copies_for(1 << 30, 50 << 20) == 2 and copies_for(1 << 20, 50 << 20, most=1) == 1


class Recorded:
    """Stands in for torch.cuda.CUDAGraph."""

    replays = 0

    def replay(self):
        Recorded.replays += 1


@pytest.mark.parametrize("fails", [False, True])
def test_calls_are_replayed_from_a_graph_unless_they_cannot_be_captured(monkeypatch, fails):
    @contextlib.contextmanager
    def capture(graph):
        yield
        if fails:
            raise RuntimeError("operation not permitted when stream is capturing")

    monkeypatch.setattr(torch.cuda, "CUDAGraph", Recorded)
    monkeypatch.setattr(torch.cuda, "graph", capture)
    modes = _fake_streams(monkeypatch)
    clock, Recorded.replays = Turned(), 0
    runner = Runner(clock.call("a", 10.0), 2, torch.device("cuda"), sample_us=40.0, elapsed=clock.elapsed)
    clock.log.clear()
    runner.sample()
    assert runner.times().how == ("events" if fails else "graph")
    assert (len(clock.log), Recorded.replays) == ((4, 0) if fails else (0, 2))  # the first replay uploads it
    assert modes == ["error", "default"] + ["the caller's stream"] * fails


def _fake_streams(monkeypatch):
    """No device: what is asked of streams and of the mode in which waiting is an error, in order."""
    asked = []
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: None)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: "the caller's stream")
    monkeypatch.setattr(torch.cuda, "set_stream", asked.append)
    monkeypatch.setattr(torch.cuda, "get_sync_debug_mode", lambda: "default")
    monkeypatch.setattr(torch.cuda, "set_sync_debug_mode", asked.append)
    return asked


def test_a_call_that_waits_for_the_device_is_never_captured(monkeypatch):
    """Up to torch 2.11 a failed capture makes every later capture of the process fail, so none may be tried."""
    modes = _fake_streams(monkeypatch)
    monkeypatch.setattr(torch.cuda, "CUDAGraph", Recorded)
    monkeypatch.setattr(torch.cuda, "graph", lambda graph: pytest.fail("captured"))

    def waits(i):
        if modes[-1:] == ["error"]:
            raise RuntimeError("called a synchronizing CUDA operation")

    runner = Runner(waits, 2, torch.device("cuda"), elapsed=lambda work, device: 1e6)
    assert runner.how == "events" and modes == ["error", "default", "the caller's stream"]


def test_marks_name_the_span_that_ends(monkeypatch):
    now = iter([5.0, 5.02, 5.0203])
    monkeypatch.setattr(clock, "time", types.SimpleNamespace(perf_counter=lambda: next(now)))
    marks = Marks(CPU)
    for name in ("start", "slept", "little"):
        marks.mark(name)
    assert marks.spans() == [("slept", pytest.approx(20_000)), ("little", pytest.approx(300))]
