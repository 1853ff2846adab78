"""From a name or a directory to an Avatar: models that ship, models trained here, the released checkpoint.

The room's face. It stands above the encoders and the denoiser, which read their files through `checkpoint`.
"""

from collections.abc import Callable
from pathlib import Path

from ..dit import Precision
from .blueprint import Blueprint, Opened
from .keymap import Target, check, infer_config, load, released_of, targets, value_of
from .plans import file_of, read_plan
from .published import SOURCES, Source, lacks
from .released import encoders, named
from .weights import ASSETS, AVATARS, load_avatar, open_avatar, save_ours

__all__ = [
    "ASSETS", "AVATARS", "SOURCES", "Blueprint", "Opened", "Source", "Target", "check", "convert", "encoders",
    "file_of", "infer_config", "lacks", "load", "load_avatar", "named", "open_avatar", "read_plan", "released_of",
    "save_ours", "targets", "value_of",
]  # fmt: skip


def convert(
    folder: Path,
    out: Path,
    precision: str | Precision = "fp8",
    wav2vec_dir: str | None = None,
    say: Callable[[str], None] = lambda text: None,
) -> None:
    """`converted.convert`, imported when it is called: a machine that only measures kernels has no pydantic."""
    from .converted import convert as write

    write(folder, out, precision, wav2vec_dir, say)
