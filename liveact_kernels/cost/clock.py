"""Timing: device events, graph replay, cold caches by rotated inputs, interleaved samples, percentiles."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

SAMPLE_US = 5000.0  # work of one sample: a thousand times the resolution of an event
LEAST_SAMPLES = 5
MOST_REPEATS = 1000  # calls per sample, which also bounds a captured graph
COLD = 3  # rotated inputs cover the last-level cache this many times

Elapsed = Callable[[Callable[[], object], torch.device], float]


@dataclass(frozen=True)
class Times:
    """Microseconds per call: the median of `samples` samples and their 20th and 80th percentile.

    how  "graph" (replayed CUDA graph), "events" (launched one by one between CUDA events), "host" (perf_counter)
    """

    us: float
    p20_us: float
    p80_us: float
    samples: int
    how: str


def quantile(values: Sequence[float], q: float) -> float:
    """The q-quantile, 0 <= q <= 1, with linear interpolation between ranks; raises ValueError for no values."""
    if not values:
        raise ValueError("quantile: expected at least one value, got none")
    ranked = sorted(values)
    at = q * (len(ranked) - 1)
    low = math.floor(at)
    return ranked[low] + (ranked[min(low + 1, len(ranked) - 1)] - ranked[low]) * (at - low)


def synchronise(device: torch.device) -> None:
    """Wait until a device is idle; nothing to do on a CPU."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def elapsed_us(work: Callable[[], object], device: torch.device) -> float:
    """Microseconds that `work` takes: between two events of a GPU's stream, else on the host."""
    if device.type != "cuda":
        began = time.perf_counter()
        work()
        return 1e6 * (time.perf_counter() - began)
    start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    work()
    stop.record()
    stop.synchronize()
    return 1e3 * start.elapsed_time(stop)


def cache_bytes(device: torch.device) -> int:
    """Size of the device's last-level cache."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).L2_cache_size
    sizes = sorted(Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size"))
    kib = [int(text[:-1]) for path in sizes if (text := path.read_text().strip()).endswith("K")]
    return 1024 * max(kib, default=32768)


def copies_for(call_bytes: float, cache: int, most: int = 64) -> int:
    """How many sets of tensors to rotate so that a call finds none of its own in the cache; `most` bounds memory."""
    return max(1, min(most, 1 + math.ceil(COLD * cache / max(call_bytes, 1))))


class Runner:
    """One thing to time: `call(i)` uses the i-th of `copies` sets of tensors.

    `sample()` is one measurement in microseconds per call. Making a runner calls it on every set (so that everything is
    compiled), counts how many calls fill SAMPLE_US and, on a GPU, captures them in one graph. A call that cannot
    be captured (it synchronises) is launched instead, and its times include what the host adds.
    """

    def __init__(
        self, call: Callable[[int], object], copies: int, device: torch.device, *,
        sample_us: float = SAMPLE_US, graph: bool = True, elapsed: Elapsed = elapsed_us,
    ):  # fmt: skip
        self.us: list[float] = []
        self._device, self._elapsed, self._at = device, elapsed, 0
        for i in range(copies):
            call(i)
        synchronise(device)
        once = min(elapsed(lambda: call(0), device) for _ in range(3))
        self._repeats = max(min(MOST_REPEATS, math.ceil(sample_us / max(once, 0.1))), copies)
        self._call, self._copies = call, copies
        self.how, self._work = "events" if device.type == "cuda" else "host", self._launch
        if device.type == "cuda" and graph:
            self._capture()

    def _launch(self) -> None:
        for i in range(self._at, self._at + self._repeats):
            self._call(i % self._copies)
        self._at = (self._at + self._repeats) % self._copies

    def _capture(self) -> None:
        graph, before = torch.cuda.CUDAGraph(), torch.cuda.current_stream()
        try:
            self._refuse_to_wait()  # up to torch 2.11 a failed capture spoils every later one of the process
            with torch.cuda.graph(graph):
                self._launch()
        except RuntimeError:
            torch.cuda.set_stream(before)  # a capture that fails leaves its own stream current
            synchronise(self._device)
            return
        self.how, self._work = "graph", graph.replay
        graph.replay()  # the first replay uploads the graph
        synchronise(self._device)

    def _refuse_to_wait(self) -> None:
        """Call once; RuntimeError if it waits for the device, as a copy from the host does: no graph can hold that."""
        mode = torch.cuda.get_sync_debug_mode()
        torch.cuda.set_sync_debug_mode("error")
        try:
            self._call(0)
        finally:
            torch.cuda.set_sync_debug_mode(mode)

    def sample(self) -> float:
        """Time one sample, keep it, and return the microseconds that it took in all."""
        total = self._elapsed(self._work, self._device)
        self.us.append(total / self._repeats)
        return total

    def times(self) -> Times:
        """What was sampled so far."""
        median, p20, p80 = (quantile(self.us, q) for q in (0.5, 0.2, 0.8))
        return Times(median, p20, p80, len(self.us), self.how)


def interleave(runners: Mapping[str, Runner], seconds: float = 0.5, warm: float = 0.0) -> dict[str, Times]:
    """Sample all runners in turn, A/B then B/A, until each has `seconds` of samples (and at least LEAST_SAMPLES).

    Clocks, heat and neighbours then weigh on all of them alike. The first `warm` seconds of each are thrown away.
    """
    for runner in runners.values():
        spent = 0.0
        while spent < 1e6 * warm:
            spent += runner.sample()
        runner.us.clear()
    total, order = dict.fromkeys(runners, 0.0), list(runners)
    while any(total[n] < 1e6 * seconds or len(runners[n].us) < LEAST_SAMPLES for n in order):
        for name in order:
            total[name] += runners[name].sample()
        order.reverse()
    return {name: runner.times() for name, runner in runners.items()}


class Marks:
    """Named points on a device's time line; reading them waits once, at the end, so that taking them costs nothing."""

    def __init__(self, device: torch.device):
        self._device = device
        self._points: list[tuple[str, Any]] = []  # an event of the device, else seconds

    def mark(self, name: str) -> None:
        """End the span `name`, which began at the mark before."""
        if self._device.type == "cuda":
            event = torch.cuda.Event(enable_timing=True)
            event.record()
            self._points.append((name, event))
        else:
            self._points.append((name, time.perf_counter()))

    def spans(self) -> list[tuple[str, float]]:
        """[(name, microseconds since the mark before)]; the first mark only starts the clock."""
        synchronise(self._device)
        pairs = zip(self._points, self._points[1:])
        if self._device.type == "cuda":
            return [(name, 1e3 * before.elapsed_time(now)) for (_, before), (name, now) in pairs]
        return [(name, 1e6 * (now - before)) for (_, before), (name, now) in pairs]
