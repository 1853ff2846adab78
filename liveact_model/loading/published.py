"""Where the files of a published model are, which of them are read, and which a directory still lacks."""

from __future__ import annotations

from collections.abc import Iterable
from fnmatch import fnmatchcase
from pathlib import Path
from typing import NamedTuple

from .released import AUDIO_DIR, IMAGE_FILE, TEXT_FILE, TOKENIZER_DIR, VAE_FILE


class Source(NamedTuple):
    """A repository of a hub, where its files go below the model's directory, and which are wanted.

    needed  alternatives of patterns: of each group the first that some file matches is taken, and one must
    wanted  patterns of files that are taken where they exist
    """

    repo: str
    into: str
    needed: tuple[tuple[str, ...], ...]
    wanted: tuple[str, ...] = ()

    def chosen(self, names: Iterable[str]) -> tuple[list[str], list[str]]:
        """Of a repository's files (those to take, patterns of which none is there)."""
        names, taken, lacking = list(names), [], []
        for group in self.needed:
            found = next((hits for p in group if (hits := [n for n in names if fnmatchcase(n, p)])), [])
            taken += found
            lacking += [] if found else [" or ".join(group)]
        taken += [n for n in names if any(fnmatchcase(n, p) for p in self.wanted)]
        return list(dict.fromkeys(taken)), lacking

    def path(self, folder: Path, name: str) -> Path:
        """Where a file goes below the model's directory."""
        return folder / self.into / name if self.into else folder / name


SOURCES = {
    "liveact-18b": (
        Source(
            "Soul-AILab/LiveAct", "",
            (("config.json",), ("diffusion_pytorch_model*.safetensors",), (VAE_FILE,), (TEXT_FILE,), (IMAGE_FILE,),
             (f"{TOKENIZER_DIR}/tokenizer.json",)),
            ("diffusion_pytorch_model*.safetensors.index.json",),
        ),
        Source(
            "TencentGameMate/chinese-wav2vec2-base", AUDIO_DIR,
            (("config.json",), ("model.safetensors", "pytorch_model.bin")), ("preprocessor_config.json",),
        ),
    ),
}  # fmt: skip
"""By the names that can be fetched; repositories as the released model's own page names them."""


def lacks(name: str, folder: Path) -> list[str]:
    """Patterns of the files of a model that a directory does not have; [] where it can be loaded."""
    out = []
    for source in SOURCES[name]:
        root = folder / source.into
        there = [p.relative_to(root).as_posix() for p in root.rglob("*") if p.is_file()] if root.is_dir() else []
        out += [f"{source.into}/{p}" if source.into else p for p in source.chosen(there)[1]]
    return out
