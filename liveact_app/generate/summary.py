"""What a generation made and what it took: the final line, the report, and the peak memory."""

import json
import sys
from dataclasses import asdict, dataclass, field


@dataclass(frozen=True)
class Summary:
    """What a generation made and what it took; times in seconds.

    `generate_seconds` runs from the first pushed audio to the finished file; `encode_seconds` (conversion, H.264, AAC,
    muxing) is spent beside it on another thread; `prepare_seconds` is loading the model and encoding image and prompt;
    `first_block_seconds` is the wait until the first frames exist. `interrupted` names the signal, `cut_short`
    says what else ended the run before the recording did; both are None after a whole one. `graphs`
    counts the CUDA graphs that were replayed (0: kernel by kernel), `live_compilations` the kernels that compiled after
    they were captured (more than 0: some video frame waited for a compiler). `load_seconds` has what opening the files
    and loading each component took, for the first video of a run.
    """

    out: str
    model: str
    device: str
    size: tuple[int, int]
    written_size: tuple[int, int]
    fps: float
    seed: int
    blocks: int
    video_frames: int
    video_frames_wanted: int
    audio_seconds: float
    prepare_seconds: float
    first_block_seconds: float
    generate_seconds: float
    encode_seconds: float
    peak_rss_bytes: int | None
    interrupted: str | None
    cut_short: str | None
    graphs: int
    live_compilations: int
    audio_track: int = 0
    audio_tracks: int = 1
    load_seconds: dict[str, float] = field(default_factory=dict)

    @property
    def video_seconds(self) -> float:
        """Length of the video."""
        return self.video_frames / self.fps

    @property
    def video_frames_per_second(self) -> float:
        """Video frames made per second of work."""
        return self.video_frames / self.generate_seconds

    @property
    def real_time_factor(self) -> float:
        """Seconds of work per second of video; below 1 keeps up with playback."""
        return self.generate_seconds / self.video_seconds

    def json(self) -> str:
        """The report: every field and the three derived figures as a JSON object."""
        derived = ("video_seconds", "video_frames_per_second", "real_time_factor")
        return json.dumps(asdict(self) | {name: getattr(self, name) for name in derived}, indent=2)

    def text(self) -> str:
        """The final line."""
        w, h = self.written_size
        memory = f", peak memory {self.peak_rss_bytes / 2**20:.0f} MiB" if self.peak_rss_bytes else ""
        if self.graphs:
            memory += f"; {self.graphs} CUDA graphs, {self.live_compilations} kernels compiled while it ran"
        many = self.audio_tracks > 1
        track = f"; sound from audio track {self.audio_track} of {self.audio_tracks}, from 0" if many else ""
        took, whole = self.load_seconds, sum(self.load_seconds.values())
        each = ", ".join(f"{name} {s:.1f}" for name, s in took.items() if s >= 0.05)
        loaded = f"; loaded in {whole:.1f} s{each and f' ({each})'}" if took else ""
        part = f" of {self.video_frames_wanted}" if self.interrupted or self.cut_short else ""
        return (
            f"{self.out!r}: {self.video_frames}{part} video frames, {self.video_seconds:.2f} s, {w}x{h} at "
            f"{self.fps:g} fps; {self.video_frames_per_second:.1f} video frames/s, real-time factor "
            f"{self.real_time_factor:.2f} (below 1 keeps up with playback){memory}{track}{loaded}"
        )


def peak_rss_bytes() -> int | None:
    """Largest resident memory of this process so far, in bytes; None where the system does not tell."""
    try:
        # Linux: getrusage would also count what the parent process held before it started this one.
        with open("/proc/self/status", encoding="ascii", errors="replace") as status:
            return next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM:"))
    except (OSError, StopIteration):
        pass
    try:
        import resource
    except ImportError:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # macOS counts bytes, others KiB
