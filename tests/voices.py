"""What tests of voice agents share: a hall with a small model on a fast clock, and speech of known samples."""

import asyncio
import importlib.util
from pathlib import Path

import numpy as np
import small

from liveact_app.serve.clock import Clock
from liveact_app.serve.hall import Hall
from liveact_app.serve.settings import Settings

RATE, ROOT = 16_000, Path(__file__).parent.parent


def hall(rate: float = 8.0, sessions: int = 1, **settings) -> Hall:
    """A hall whose time passes `rate` times as fast as ours."""
    return Hall(small.avatar(), small.SIZE, Settings(sessions=sessions, **settings), Clock(rate))


def noise(seconds: float, seed: int = 0, rate: int = RATE) -> np.ndarray:
    """int16 [n], no sample of it 0."""
    found = np.random.default_rng(seed).integers(1000, 8000, int(seconds * rate))
    return (found * np.where(np.arange(len(found)) // 40 % 2, 1, -1)).astype("<i2")


def pieces(sound: np.ndarray, samples: int) -> list[bytes]:
    """A sound as a TTS service sends it."""
    return [sound[i : i + samples].tobytes() for i in range(0, len(sound), samples)]


def run(work, minutes: float = 3):
    """Run a coroutine; what hangs fails."""
    return asyncio.run(asyncio.wait_for(work, 60 * minutes))


def example(name: str):
    """A program of examples/ as a module."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "examples" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
