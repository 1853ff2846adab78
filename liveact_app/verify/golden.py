"""Recorded tensors ("goldens"): a JSON sidecar that says what was recorded, and a safetensors file of the same stem.

The sidecar has `kind` (which replay reads it), usually `case`, `config` and `tensor_list` ({name: [dtype, shape]}).
Tensors are named `weights.*` (a state dict), `in.*` (inputs) and `out.*` (what the released model gave).
A golden without weights of its own names the sibling file that has them.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from liveact_model.errors import InputError

SHARED_WITH = ("weights_from", "weights_and_inputs_from")


@dataclass
class Row:
    """One line of a verification report: `error` was compared with `tolerance`, or the check was skipped."""

    case: str
    variant: str
    error: float | None
    tolerance: float | None
    verdict: str
    note: str = ""


class TensorFile(Mapping[str, Tensor]):
    """The tensors of one safetensors file, read from disk only when asked for.

    Raises:
        InputError: the file is missing or is not safetensors; `get` and indexing of a name that is not in it.
    """

    def __init__(self, path: Path):
        self.path = path
        try:
            self._file = safe_open(str(path), framework="pt")
            self._names = tuple(sorted(self._file.keys()))
        except (OSError, SafetensorError) as error:
            raise InputError(f"golden tensors: expected a readable safetensors file {path}, got: {error}") from error

    def __getitem__(self, name: str) -> Tensor:
        if name not in self._names:
            raise InputError(f"golden tensors: expected a tensor {name!r} in {self.path.name}, but it holds none")
        return self._file.get_tensor(name)

    def get(self, name: str) -> Tensor:
        """The tensor called `name`; a missing one is an InputError, never None."""
        return self[name]

    def shape(self, name: str) -> list[int]:
        """Shape of a tensor, from the header alone."""
        return list(self._file.get_slice(name).get_shape())

    def names(self, prefix: str = "") -> list[str]:
        """Sorted names that start with `prefix`."""
        return [name for name in self._names if name.startswith(prefix)]

    def weights(self) -> dict[str, Tensor]:
        """The state dict stored as `weights.*`, without that prefix."""
        return {name.removeprefix("weights."): self[name] for name in self.names("weights.")}

    def __contains__(self, name: object) -> bool:
        return name in self._names

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


@dataclass
class Golden:
    """One recorded case: `path` of the sidecar, its contents `meta`, and the `tensors` beside it."""

    path: Path
    meta: dict[str, Any]
    tensors: TensorFile

    @property
    def kind(self) -> str:
        """Which replay understands this golden."""
        return self.meta["kind"]

    @property
    def case(self) -> str:
        """Name of the case in reports; the file stem when the sidecar gives none."""
        return str(self.meta.get("case", self.path.stem))

    def get(self, name: str) -> Tensor:
        """The tensor `name` of this golden's own file."""
        return self.tensors.get(name)

    @property
    def config(self) -> dict[str, Any]:
        """The `config` object of the sidecar; InputError when it is missing or no object."""
        config = self.meta.get("config")
        if not isinstance(config, dict):
            raise InputError(f"golden sidecar {self.path.name}: expected an object 'config', got {str(config)[:60]}")
        return config

    def number(self, name: str) -> float:
        """`config[name]`, a number; InputError when it is missing or something else."""
        value = self.config.get(name)
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise InputError(f"golden sidecar {self.path.name}: expected a number config.{name}, got {value!r}")
        return value

    def sibling(self, name: str) -> Golden:
        """Another golden of the same folder, by stem or by the name of either of its files."""
        return load(self.path.with_name(Path(name).with_suffix(".json").name))

    def weights(self) -> dict[str, Tensor]:
        """The state dict `weights.*` without the prefix, from the sibling the sidecar names when there is one."""
        for key in SHARED_WITH:
            if key in self.meta:
                return self.sibling(str(self.meta[key])).tensors.weights()
        return self.tensors.weights()

    def row(self, variant: str, error: float, tolerance: float, note: str = "") -> Row:
        """Judge one comparison: it passes only if `error <= tolerance`, so a NaN fails."""
        return Row(self.case, variant, error, tolerance, "pass" if error <= tolerance else "FAIL", note)

    def skip(self, variant: str, why: str) -> Row:
        """A recorded tensor that is not replayed, and why."""
        return Row(self.case, variant, None, None, "skip", why)


def load(path_json: str | Path) -> Golden:
    """Read a golden's sidecar and open its tensors.

    Raises:
        InputError: the sidecar cannot be read or is not a JSON object with a string `kind`; the safetensors file
            beside it is missing or unreadable; a tensor of `tensor_list` is missing or has another shape.
    """
    path = Path(path_json)
    for file in (path, path.with_suffix(".safetensors")):
        if file.exists() and not file.is_file():  # a pipe would be waited for
            raise InputError(f"golden: expected a regular file {file}")
    try:
        meta = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"golden sidecar: expected a readable JSON file {path}, got: {error}") from error
    if not isinstance(meta, dict) or not isinstance(meta.get("kind"), str):
        raise InputError(f"golden sidecar {path}: expected a JSON object with a string 'kind', got {str(meta)[:60]}")
    tensors = TensorFile(path.with_suffix(".safetensors"))
    listed = meta.get("tensor_list", {})
    if not isinstance(listed, dict):
        raise InputError(f"golden sidecar {path}: expected tensor_list to be an object, got {type(listed).__name__}")
    for name, entry in listed.items():
        if name not in tensors:
            raise InputError(f"golden sidecar {path.name} lists {name!r}, but {tensors.path.name} does not hold it")
        if isinstance(entry, list) and len(entry) == 2 and tensors.shape(name) != entry[1]:
            raise InputError(
                f"golden sidecar {path.name}: expected {name!r} of shape {entry[1]}, got {tensors.shape(name)}"
            )
    return Golden(path, meta, tensors)


def rel_l2(got: Tensor, want: Tensor) -> float:
    """Relative L2 distance |got - want| / |want| in float64; inf for another shape or any non-finite value.

    Against an all-zero `want` the distance is 0 only if `got` is all zero too, else inf.
    """
    if got.shape != want.shape:
        return float("inf")
    got, want = got.detach().cpu().to(torch.float64), want.detach().cpu().to(torch.float64)
    if not (bool(torch.isfinite(got).all()) and bool(torch.isfinite(want).all())):
        return float("inf")
    distance, norm = float((got - want).norm()), float(want.norm())
    if norm == 0.0:
        return 0.0 if distance == 0.0 else float("inf")
    return distance / norm


def mismatches(got: Tensor, want: Tensor) -> float:
    """Number of elements that differ (for tensors that must be equal: tolerance 0); inf for another shape."""
    if got.shape != want.shape:
        return float("inf")
    return float((got.detach().cpu().to(torch.float64) != want.detach().cpu().to(torch.float64)).sum())
