"""Where the milliseconds go: recorded op calls x a chip's ceilings, or host clocks, as one table."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from ..contract import REGISTRY, Call, CallList, record
from .hw import Chip
from .outside import PLAIN_ROWS

OUTSIDE_OPS = "outside ops"
GROUPS = {
    "linear": ("fp4_linear", "fp8_linear", "linear"),
    "self attention": ("attention", "attention_8bit", "head_major"),
    "cross attention": ("cross_attention", "audio_attention"),
    "norm, rope, quantise": (
        "modulate",
        "gate_modulate_quant",
        "quant",
        "quant_fp4",
        "rms_norm",
        "qkv_norm_rope",
        "qkv_norm_rope_8bit",
        "gate_residual",
    ),
    "memory": ("kv_compress",),
    "sampler": ("denoise_update",),
    "VAE decode": ("causal_conv3d", "norm_silu", "upsample_conv", "frame_attention"),
    OUTSIDE_OPS: PLAIN_ROWS,
}
"""Rows of the frame budget: group -> op names or prefixes (`fp8_linear` covers its epilogue variants)."""


OUTSIDE = "(outside ops)"


def group_of(op: str) -> str:
    """The budget row an op belongs to; an op of no group is its own row."""
    for group, names in GROUPS.items():
        if op in names or op.rpartition("_")[0] in names:
            return group
    return op


def recorded(run: Callable[[], object]) -> list[Call]:
    """Every op call that run() makes, in order: for who counts and has nothing else to do with the dispatcher."""
    calls = CallList()
    with record(calls):
        run()
    return calls


@dataclass
class Line:
    """Totals of one op over a block."""

    op: str
    launches: int = 0
    flops: dict[str, float] = field(default_factory=dict)
    bytes: float = 0.0
    floor_us: float = 0.0

    def add(self, call: Call, chip: Chip) -> None:
        """Count one call: each launch is bounded by its own slower side."""
        self.launches += 1
        for kind, n in call.op.flops(call.dims).items():
            self.flops[kind] = self.flops.get(kind, 0.0) + n
        self.bytes += call.op.bytes(call.dims)
        self.floor_us += call.op.floor_us(call.dims, chip)


@dataclass
class Budget:
    """Lines of one steady block; per-video-frame numbers divide by `video_frames`."""

    chip: Chip
    video_frames: int
    lines: dict[str, Line] = field(default_factory=dict)

    @classmethod
    def of(cls, calls: Iterable[Call], chip: Chip, video_frames: int) -> Budget:
        """Sum recorded calls by op."""
        budget = cls(chip, video_frames)
        for call in calls:
            budget.lines.setdefault(call.op.name, Line(call.op.name)).add(call, chip)
        return budget

    def groups(self) -> dict[str, list[Line]]:
        """Lines by group, in the order of GROUPS."""
        order = list(GROUPS)
        found: dict[str, list[Line]] = {}
        for line in self.lines.values():
            found.setdefault(group_of(line.op), []).append(line)
        return dict(sorted(found.items(), key=lambda g: order.index(g[0]) if g[0] in order else len(order)))

    def to_dict(self) -> dict:
        """Plain numbers: per op and group, per block and per video frame."""

        def row(lines: list[Line]) -> dict:
            flops: dict[str, float] = {}
            for line in lines:
                for kind, n in line.flops.items():
                    flops[kind] = flops.get(kind, 0.0) + n
            floor = sum(line.floor_us for line in lines) / 1e3
            return {
                "launches_per_block": sum(line.launches for line in lines),
                "flops_per_block": flops,
                "bytes_per_block": sum(line.bytes for line in lines),
                "tflop_per_video_frame": sum(flops.values()) / 1e12 / self.video_frames,
                "gb_per_video_frame": sum(line.bytes for line in lines) / 1e9 / self.video_frames,
                "floor_ms_per_video_frame": floor / self.video_frames,
            }

        return {
            "chip": self.chip.name, "ceilings": self.chip.source, "video_frames_per_block": self.video_frames,
            "ops": {name: row([line]) for name, line in self.lines.items()},
            "groups": {name: row(lines) for name, lines in self.groups().items()},
            "total": row(list(self.lines.values())),
        }  # fmt: skip


class Tally:
    """A recorder that adds up host time by op: constant in size however long a run is."""

    clocked = True

    def __init__(self) -> None:
        self.calls: dict[str, int] = {}
        self.seconds: dict[str, float] = {}
        self.backends: dict[str, str] = {}

    def add(self, call: Call, seconds: float | None) -> None:
        """Count one call."""
        name = call.op.name
        self.calls[name] = self.calls.get(name, 0) + 1
        self.seconds[name] = self.seconds.get(name, 0.0) + (seconds or 0.0)
        self.backends[name] = call.backend

    def rows(self, video_frames: int, total_seconds: float) -> list[tuple[str, str, int, float, float]]:
        """(op, backend, calls, ms per video frame, share), slowest first; the last row is everything outside ops."""
        rows = [
            (n, self.backends[n], self.calls[n], 1e3 * s / video_frames, s / total_seconds)
            for n, s in sorted(self.seconds.items(), key=lambda item: -item[1])
        ]
        rest = total_seconds - sum(self.seconds.values())
        return [*rows, (OUTSIDE, "", 0, 1e3 * rest / video_frames, rest / total_seconds)]


def check_groups() -> list[str]:
    """Ops that no group lists: a test keeps this empty, so that a new op cannot vanish from the picture."""
    return [name for name in REGISTRY if group_of(name) not in GROUPS]
