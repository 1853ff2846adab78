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


def _plain(key: str) -> str:
    """A key without what torch's wrappers (compile, data parallel) put in front."""
    while key.startswith(("module.", "_orig_mod.")):
        key = key.partition(".")[2]
    return key


class Tensors(Mapping[str, Tensor]):
    """Tensors of several safetensors files, each read when asked for; shapes cost nothing (they stay on disk).

    `what` names them in a sentence about what is wrong.
    """

    def __init__(self, files: list[Path], what: str = "model"):
        from safetensors import SafetensorError, safe_open  # a model of random weights needs no files

        self.files, self._what = files, what
        self._files: dict[str, Any] = {}  # key -> the open file that has it, the key there, the file's name
        for path in files:
            if path.exists() and not (path.is_file() and path.stat().st_size):  # a pipe would be waited for
                raise InputError(f"{what}: expected a complete safetensors file {path}, found none or nothing in it")
            try:
                handle = safe_open(str(path), framework="pt")
                keys = {_plain(key): key for key in handle.keys()}  # noqa: SIM118 - no mapping
            except (OSError, RuntimeError, SafetensorError) as error:
                reason = " ".join(str(error).split())
                raise InputError(f"{what}: expected a complete safetensors file {path}, got: {reason:.200}") from error
            if len(keys) < len(handle.keys()):
                raise InputError(f"{what}: expected each key once in {path}, found one with and without a prefix")
            if twice := next((key for key in keys if key in self._files), None):
                raise InputError(f"{what}: expected each key in one file, found {twice:.200} again in {path}")
            self._files.update({key: (handle, stored, path) for key, stored in keys.items()})
        self._names = ", ".join(path.name for path in files[:2])

    def __getitem__(self, key: str) -> Tensor:
        handle, stored, _ = self._files[key]
        return self._read(handle, key, stored)

    def take(self, key: str) -> Tensor:
        """The tensor through a mapping of its own, whose pages leave memory with it: for values used once."""
        from safetensors import safe_open

        _, stored, path = self._files[key]
        return self._read(safe_open(str(path), framework="pt"), key, stored)

    def _read(self, handle: Any, key: str, stored: str) -> Tensor:
        try:
            return handle.get_tensor(stored)
        except Exception as error:  # a type that torch does not know
            reason = " ".join(str(error).split())
            wanted = f"{self._what}: expected a readable {key:.200} in {self._names}"
            raise InputError(f"{wanted}, got: {reason:.200}") from error

    def __contains__(self, key: object) -> bool:
        return key in self._files

    def __iter__(self) -> Iterator[str]:
        return iter(self._files)

    def __len__(self) -> int:
        return len(self._files)
