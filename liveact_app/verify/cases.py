"""Recorded cases: which there are, and what replays each kind."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from liveact_model.errors import InputError

from . import dit, encoders, sampler, vae, window
from .golden import Golden, Row, load

REPLAYS: dict[str, Callable[[Golden], Iterator[Row]]] = {
    "audio_window": encoders.replay_audio_window,
    "clip": encoders.replay_clip,
    "dit": dit.replay,
    "dit_sp2": dit.replay_two_ranks,
    "memory": window.replay_memory,
    "rope": window.replay_rope,
    "sampler": sampler.replay,
    **vae.REPLAYS,
    "t5": encoders.replay_t5,
    "wav2vec2": encoders.replay_wav2vec2,
}
"""Golden kind -> what replays it."""


def find(folder: str | Path) -> list[Path]:
    """The sidecars of a folder, sorted. Raises InputError if it is no folder or holds none."""
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f"--golden: expected a folder of recorded cases, got {str(folder)!r}")
    found = sorted(folder.glob("*.json"))
    if not found:
        raise InputError(f"--golden: expected *.json sidecars in {str(folder)!r}, found none")
    return found


def replay(path: Path) -> Iterator[Row]:
    """Rows of one case; a kind that nobody replays is a failed row, not a silent pass."""
    golden = load(path)
    if golden.kind not in REPLAYS:
        yield Row(golden.case, golden.kind, None, None, "FAIL", f"unknown kind, expected one of {sorted(REPLAYS)}")
        return
    yield from REPLAYS[golden.kind](golden)
