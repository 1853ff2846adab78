"""What a server tells Prometheus."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from prometheus_client import CollectorRegistry, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from liveact_app.media.audio import MODEL_RATE_HZ
from liveact_app.serve.figures import STAGES
from liveact_app.serve.live import ENDS

if TYPE_CHECKING:
    from liveact_app.serve.files import Files
    from liveact_app.serve.hall import Hall
    from liveact_app.serve.live import Event

SECONDS = (0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 2.4, 3.2, 5, 10)
COUNTERS = {
    "video_frames": "Video frames that have left.",
    "late_video_frames": "Periods of a video frame in which none was there.",
    "blocks": "Blocks made.",
    "interrupts": "Interrupts.",
    "gaps": "Times that speech ran dry and came again.",
    "compilations": "Kernels compiled after a session's warm-up.",
}


class Metrics:
    """A registry of one server; `watch` takes the events of its sessions."""

    def __init__(self, hall: Hall, files: Files):
        self.registry = CollectorRegistry()
        self.registry.register(_Now(hall, files))

        def seconds(name: str, help: str) -> Histogram:
            return Histogram(f"liveact_{name}_seconds", help, buckets=SECONDS, registry=self.registry)

        self._first = seconds("first_frame", "From a session's opening to its first video frame.")
        self._speech = seconds("speech_latency", "From a sample's arrival to its video frame, the newest of a block.")

    def watch(self, event: Event) -> None:
        """Hear an event."""
        if event["type"] == "first_frame":
            self._first.observe(event["latency_ms"] / 1e3)
        elif event["type"] == "block" and event["latency_ms"] is not None:
            self._speech.observe(event["latency_ms"] / 1e3)

    def text(self) -> bytes:
        """The page that Prometheus reads."""
        return generate_latest(self.registry)


class _Now(Collector):
    """Numbers that are there anyway, read when they are asked for."""

    def __init__(self, hall: Hall, files: Files):
        self._hall, self._files = hall, files

    def collect(self) -> Iterator[Metric]:
        hall, totals = self._hall, self._hall.totals()
        lives = list(hall.live.values())
        ended = {why: hall.ended[why] for why in ENDS}  # from 0 on, or Prometheus does not see the first one
        yield _gauge("sessions", "Sessions that run.", len(lives))
        yield _gauge("sessions_most", "Sessions that may run at a time.", hall.settings.sessions)
        yield _gauge("draining", "1 when no more sessions are opened.", int(hall.draining))
        yield _gauge("queued_speech_seconds", "Speech that waits, of all sessions.",
                     sum(live.speech.queued for live in lives) / MODEL_RATE_HZ)  # fmt: skip
        yield _gauge("waiting_for_the_model", "Blocks that wait for their turn.", hall.turns.waiting)
        yield _labelled(GaugeMetricFamily, "files", "Videos from uploads.", "state", self._files.counts())
        yield _labelled(CounterMetricFamily, "sessions_ended", "Sessions that are over.", "why", ended)
        yield _counter("sessions_refused", "Sessions that were not opened for want of room.", hall.refused)
        for name, help in COUNTERS.items():
            yield _counter(name, help, totals[name])
        yield _counter("dropped_speech_seconds", "Speech that came too late, or beyond the room.", totals["dropped_s"])
        spent = {name: totals[name] for name in STAGES}
        yield _labelled(CounterMetricFamily, "stage_seconds", "Time of blocks by stage.", "stage", spent)
        frames = max(1, totals["video_frames"])
        each = {name: 1e3 * s / frames for name, s in spent.items()}
        yield _labelled(GaugeMetricFamily, "ms_per_video_frame", "Mean since the start, by stage.", "stage", each)


def _gauge(name: str, help: str, value: float) -> Metric:
    return GaugeMetricFamily(f"liveact_{name}", help, value=value)


def _counter(name: str, help: str, value: float) -> Metric:
    return CounterMetricFamily(f"liveact_{name}", help, value=value)


def _labelled(kind: Any, name: str, help: str, label: str, values: dict[str, float]) -> Metric:
    family = kind(f"liveact_{name}", help, labels=[label])
    for which, value in values.items():
        family.add_metric([which], value)
    return family
