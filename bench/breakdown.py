"""Where a block's time goes: its stages on the device's time line, its ops inside them, each beside its floor."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import root  # noqa: F401
import torch
from torch import Tensor

from liveact_kernels.contract import Call, Op, record
from liveact_kernels.cost.budget import group_of
from liveact_kernels.cost.clock import Marks
from liveact_kernels.cost.hw import Chip
from liveact_model.avatar import Avatar

STAGES = ("audio features", "denoising", "VAE decode", "uint8 conversion", "copy to host")
REST = {"denoising": "denoising, outside ops", "VAE decode": "VAE, outside ops"}


class Stages:
    """An avatar whose encoders and VAE mark where a stage ends, through the interfaces that any of them can fill."""

    def __init__(self, avatar: Avatar):
        self.marks: Marks | None = None
        self.avatar = replace(avatar, audio=_Audio(avatar.audio, self), vae=_VAE(avatar.vae, self))

    def mark(self, stage: str) -> None:
        """`stage` has ended, if somebody is measuring."""
        if self.marks is not None:
            self.marks.mark(stage)


class _Audio:
    """An audio encoder whose streams mark the end of `embeddings`."""

    def __init__(self, audio: Any, stages: Stages):
        self._audio, self._stages = audio, stages
        self.blocks, self.channels, self.sample_rate = audio.blocks, audio.channels, audio.sample_rate

    def stream(self, fps: float, *levels: Any) -> _Stream:
        return _Stream(self._audio.stream(fps, *levels), self._stages)


class _Stream:
    def __init__(self, stream: Any, stages: Stages):
        self._stream, self._stages = stream, stages

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def embeddings(self, start: int, stop: int) -> Tensor:
        rows = self._stream.embeddings(start, stop)
        self._stages.mark("audio features")
        return rows


class _VAE:
    """A VAE whose decoders mark their beginning, which ends the denoising, and their end."""

    def __init__(self, vae: Any, stages: Stages):
        self._vae, self._stages, self.z_dim = vae, stages, vae.z_dim

    def encode(self, video: Tensor) -> Tensor:
        return self._vae.encode(video)

    def stream(self) -> _VAE:
        return _Decoder(self._vae.stream(), self._stages)


class _Decoder:
    def __init__(self, decoder: Any, stages: Stages):
        self._decoder, self._stages = decoder, stages

    def decode(self, latents: Tensor) -> Tensor:
        self._stages.mark("denoising")
        video = self._decoder.decode(latents)
        self._stages.mark("VAE decode")
        return video


class OpTimes:
    """Time of every op call inside, from before it to after it on the device, beside the recorded calls."""

    def __init__(self, device: torch.device):
        self._marks, self.calls = Marks(device), []

    @contextlib.contextmanager
    def on(self) -> Iterator[None]:
        """Measure inside: the one door that every op call takes is watched."""
        door, marks = Op.__call__, self._marks

        def timed(op: Op, **kw: Any) -> Any:
            marks.mark("")
            out = door(op, **kw)
            marks.mark("op")
            return out

        Op.__call__ = timed
        try:
            with record() as self.calls:
                yield
        finally:
            Op.__call__ = door

    def pairs(self) -> list[tuple[Call, float]]:
        """[(call, microseconds)] in order."""
        return list(zip(self.calls, [us for name, us in self._marks.spans() if name == "op"]))


@dataclass
class Part:
    """One line of the frame: ms per video frame, its floor where ceilings are known, and how many launches."""

    ms: float = 0.0
    floor_ms: float | None = None
    calls: int = 0


def parts(spans: list[tuple[str, float]], ops: list[tuple[Call, float]], video_frames: int,
          chip: Chip | None) -> tuple[dict[str, Part], dict[str, Part]]:  # fmt: skip
    """(by group, by op) of one block, ms per video frame; the groups add up to the stages' sum.

    spans  [(stage, us)]; a stage of ops becomes its ops' groups and what lies between them
    """
    groups: dict[str, Part] = {}
    single: dict[str, Part] = {}
    inside = dict.fromkeys(REST, 0.0)
    for call, us in ops:
        inside["VAE decode" if "vae" in call.scope else "denoising"] += us
        for table, name in ((groups, group_of(call.op.name)), (single, call.op.name)):
            part = table.setdefault(name, Part(floor_ms=None if chip is None else 0.0))
            part.ms, part.calls = part.ms + us / 1e3 / video_frames, part.calls + 1
            if chip is not None:
                part.floor_ms += call.op.floor_us(call.dims, chip) / 1e3 / video_frames
    for stage in STAGES:
        us = sum(t for name, t in spans if name == stage) - inside.get(stage, 0.0)
        groups[REST.get(stage, stage)] = Part(us / 1e3 / video_frames)
    return groups, single


def verdict(ms: float, groups: dict[str, Part], target: float = 50.0) -> str:
    """One sentence: met or missed by how much, and which part has most above its floor."""
    if not groups:
        return _met(ms, target)
    name = max(groups, key=lambda n: groups[n].ms - (groups[n].floor_ms or 0.0))
    part = groups[name]
    floor = "" if part.floor_ms is None else f", floor {part.floor_ms:.2f}"
    return f"{_met(ms, target)}, most of it in {name} ({part.ms:.2f} ms{floor})"


def _met(ms: float, target: float) -> str:
    if ms <= target:
        return f"{target:g} ms met: {ms:.2f} ms per video frame"
    return f"{target:g} ms missed by {ms - target:.2f} ms: {ms:.2f} ms per video frame"
