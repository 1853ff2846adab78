"""The safetensors of a checkpoint: which files there are, and their tensors, each read when it is asked for."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from ..errors import InputError
from .jsonfile import read_json


def dit_files(folder: Path) -> list[Path]:
    """The denoiser's safetensors: the shards of an index, else all shards of a numbered set, else every matching file.

    Raises InputError naming the first file that is missing.
    """
    stem = "diffusion_pytorch_model"
    index = folder / f"{stem}.safetensors.index.json"
    if index.is_file():
        from .schema import Index, validated

        shards = validated(Index, read_json(index), index).weight_map
        found = [folder / s for s in dict.fromkeys(shards.values())]
    else:
        found = sorted(folder.glob(f"{stem}*.safetensors"))
        if not found:
            raise InputError(f"model: expected {stem}*.safetensors in {str(folder)!r}, found none")
        if count := max(int(m[1]) if (m := re.search(r"-of-([0-9]{5})$", path.stem)) else 0 for path in found):
            found = [folder / f"{stem}-{i:05d}-of-{count:05d}.safetensors" for i in range(1, count + 1)]
    for path in found:
        if not path.is_file():
            raise InputError(f"model: expected the denoiser's file {path}, found none")
    return found


class Tensors(Mapping[str, Tensor]):
    """Tensors of several safetensors files, each read when asked for; shapes cost nothing (they stay on disk)."""

    def __init__(self, files: list[Path]):
        from safetensors import SafetensorError, safe_open  # a model of random weights needs no files

        self._files: dict[str, Any] = {}  # key -> the open file that has it
        for path in files:
            if path.exists() and not (path.is_file() and path.stat().st_size):  # a pipe would be waited for
                raise InputError(f"model: expected a complete safetensors file {path}, found none or nothing in it")
            try:
                handle = safe_open(str(path), framework="pt")
                keys = handle.keys()
            except (OSError, RuntimeError, SafetensorError) as error:
                reason = " ".join(str(error).split())
                raise InputError(f"model: expected a complete safetensors file {path}, got: {reason:.200}") from error
            if twice := next((key for key in keys if key in self._files), None):
                raise InputError(f"model: expected each key in one file, found {twice:.200} again in {path}")
            self._files.update(dict.fromkeys(keys, handle))
        self._names = ", ".join(path.name for path in files[:2])

    def __getitem__(self, key: str) -> Tensor:
        handle = self._files[key]
        try:
            return handle.get_tensor(key)
        except Exception as error:  # a type that torch does not know
            reason = " ".join(str(error).split())
            raise InputError(f"model: expected a readable {key:.200} in {self._names}, got: {reason:.200}") from error

    def __contains__(self, key: object) -> bool:
        return key in self._files

    def __iter__(self) -> Iterator[str]:
        return iter(self._files)

    def __len__(self) -> int:
        return len(self._files)
