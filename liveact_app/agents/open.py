"""What an agent's program begins with: a model that is loaded and warm, and a picture for it."""

from __future__ import annotations

import os
import tempfile
from typing import Any

from torch import Tensor

from liveact_app.generate.job import Job
from liveact_app.generate.loading import device_of, load
from liveact_app.media.image import load_image
from liveact_app.serve.hall import Hall
from liveact_app.serve.settings import Settings


def open_hall(
    model: str = "tiny", *, device: str = "auto", size: tuple[int, int] | None = None, dtype: str = "auto",
    sessions: int = 1, **options: Any,
) -> Hall:  # fmt: skip
    """Load a model as `liveact serve` does, test its kernels and warm it up; do it once in a process.

    model     a name or a checkpoint directory
    device    auto, cpu, cuda or cuda:N
    size      (W, H) of the largest picture, pixels; None for the model's own
    sessions  at a time
    options   of every Session: audio_cfg, sampler, eight_bit_attention, ...
    Raises InputError for what cannot be loaded or does not fit into memory.
    """
    nowhere = os.path.join(tempfile.gettempdir(), "live.mp4")  # of a job that nothing is made of or into
    job = Job(image="", audio="", prompt="", out=nowhere, model=model, size=size, dtype=dtype)
    avatar, largest = load(job, device_of(device))
    hall = Hall(avatar, largest, Settings(sessions=sessions), **options)
    hall.warm()
    return hall


def open_picture(path: str | os.PathLike, hall: Hall, size: tuple[int, int] | None = None) -> Tensor:
    """A picture file, fitted to the hall's size or to `size` (W, H): float32 [3, H, W]. Raises InputError."""
    return load_image(path, size or hall.size, "picture")
