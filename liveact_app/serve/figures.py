"""What a live session counts: video frames, lateness, latency, and where a block's time goes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from liveact_app.serve.clock import Clock

STAGES = ("wait", "audio", "generate", "encode")
"""Of a block: until the model is free; features of sound and a new prompt; denoising, VAE and the copy to the host; and
encoding, which runs beside the next block."""


@dataclass
class Figures:
    """Counted since the start of a session. Times are seconds of the session's clock.

    late_video_frames  periods of a video frame in which none was there to be shown
    dropped_s          speech that came too late or beyond the queue's room
    gaps               times that speech ran dry in the middle and came again
    first_frame_s      from the opening to the first video frame
    speech_latency_s   from a sample's arrival to the moment its video frame left, the newest
    """

    video_frames: int = 0
    late_video_frames: int = 0
    blocks: int = 0
    dropped_s: float = 0.0
    gaps: int = 0
    interrupts: int = 0
    first_frame_s: float | None = None
    speech_latency_s: float | None = None
    compilations: int = 0
    stages: dict[str, float] = field(default_factory=lambda: dict.fromkeys(STAGES, 0.0))

    @contextmanager
    def stage(self, name: str, clock: Clock) -> Iterator[None]:
        """Add what passes inside to a stage."""
        began = clock.now()
        try:
            yield
        finally:
            self.stages[name] += (clock.now() - began) / clock.rate  # work takes real seconds on any clock
