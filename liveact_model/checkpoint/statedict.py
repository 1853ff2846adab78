"""Reading weight files: pickles without code, strict key, shape and type checks, no second copy in memory."""

from __future__ import annotations

import warnings
import zipfile
from collections.abc import Container, Iterable, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from liveact_model.checkpoint.footprint import must_fit
from liveact_model.errors import CheckpointWarning, InputError

FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
PICKLE_BYTES = 8 << 20
"""Of the pickle in a weight file, which holds names and shapes: thousands of tensors take less than one of these."""

SMALL = 1 << 16
"""Tensors up to so many values are also searched for NaN: norms and biases tell scrambled files for next to nothing."""


def load_pickle(path: str | Path, what: str) -> dict[str, Tensor]:
    """State dict of a `.pth`/`.bin` file, memory-mapped where the file allows it: nothing is read until used.

    Only tensors are unpickled (`weights_only`), never code, and each must be whole in the file.

    Raises:
        InputError: `path` is missing, is not such a file, or holds something other than named, plain tensors.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{what}: expected a weight file {path}, but there is none")
    if not path.stat().st_size:  # also what the kernel's own files say, which may be waited for
        raise InputError(f"{what}: expected {path} to be a torch weight file, found nothing in it")
    try:
        zipped = _check_archive(path)
        if not zipped:  # files older than torch 1.6 are not zip archives and cannot be mapped
            must_fit(path.stat().st_size, f"{what}: {path}")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # deprecations of what an old file was written with
            state = torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)
    except InputError:
        raise
    except Exception as error:  # a damaged file makes the unpickler raise anything
        reason = (str(error) or type(error).__name__).splitlines()[0].split(". ")[0]
        found = f"{path.stat().st_size} bytes that cannot be read as one ({reason:.200})"
        raise InputError(f"{what}: expected {path} to be a torch weight file, found {found}") from error
    named = isinstance(state, dict) and all(isinstance(k, str) and isinstance(v, Tensor) for k, v in state.items())
    if not named:
        raise InputError(f"{what}: expected {path} to hold a dict of named tensors, got {type(state).__name__}")
    for key, value in state.items():
        if flaw := _flaw(value):
            raise InputError(f"{what}: expected {key:.200} in {path} to be a plain tensor, found {flaw}")
    return state


def _check_archive(path: Path) -> bool:
    """Whether the file is a zip archive; ValueError if torch would map or unpack something else than it holds."""
    with path.open("rb") as file:
        if file.read(4) != b"PK\x03\x04":
            return False
    with zipfile.ZipFile(path) as archive:
        for entry in archive.infolist():
            if entry.compress_type != zipfile.ZIP_STORED:
                raise ValueError(f"{entry.filename:.80} is compressed")
            if entry.filename.endswith(".pkl") and entry.file_size > PICKLE_BYTES:
                raise ValueError(f"{entry.filename:.80} has {entry.file_size} bytes")
    return True


def _flaw(value: Tensor) -> str | None:
    """What keeps a tensor from being plain values in a file; None where nothing does."""
    if value.layout != torch.strided or value.is_quantized or value.is_nested:
        return "a quantised one" if value.is_quantized else "a sparse or nested one"
    if value.device.type != "cpu":
        return f"one without values on {value.device.type}"
    whole = value.numel() * value.element_size()
    if whole > value.untyped_storage().nbytes():
        return f"{value.untyped_storage().nbytes()} bytes that stand for {list(value.shape)} {name_of(value.dtype)}"
    return None


def name_of(dtype: torch.dtype) -> str:
    """A dtype's name for a sentence."""
    return str(dtype).removeprefix("torch.")


def shape_of(state: Mapping[str, Tensor], key: str, ndim: int, what: str) -> tuple[int, ...]:
    """Shape of `state[key]`, which must exist and have `ndim` dimensions (used to infer sizes).

    Raises:
        InputError: naming the key, what was expected and what was found.
    """
    if key not in state:
        raise InputError(f"{what}: expected key {key} with {ndim} dimensions, found none")
    shape = tuple(state[key].shape)
    if len(shape) != ndim or 0 in shape:
        raise InputError(f"{what}: expected {key} with {ndim} dimensions of at least 1, found {list(shape)}")
    return shape


def count_layers(state: Mapping[str, Tensor], prefix: str) -> int:
    """How many different i there are in keys `{prefix}{i}.`: a stray huge one is then a key too many, not a size."""
    tails = {key[len(prefix) :].split(".")[0] for key in state if key.startswith(prefix)}
    return sum(tail.isascii() and tail.isdecimal() for tail in tails)


def check_tensor(state: Mapping[str, Tensor], key: str, shape: Sequence[int], what: str) -> None:
    """`state[key]` must be there with its shape, hold floating-point values, and finite ones if it is small.

    Raises:
        InputError: naming the key, what was expected and what was found.
    """
    if key not in state:
        raise InputError(f"{what}: expected key {key} {list(shape)}, found none")
    value = state[key]
    if tuple(value.shape) != tuple(shape):
        raise InputError(f"{what}: expected {key} of shape {list(shape)}, found {list(value.shape)}")
    if value.dtype not in FLOATS:
        raise InputError(f"{what}: expected {key} to hold floats of 16 to 64 bits, found {name_of(value.dtype)}")
    if value.numel() <= SMALL and not value.is_meta and not bool(torch.isfinite(value).all()):
        raise InputError(f"{what}: expected {key} to hold finite values, found NaN or infinity")


TABLES = ("freqs", "inv_freq", "position_ids", "num_batches_tracked")
"""Last parts of keys under which libraries store tables and counters that nothing has learned."""
SHOWN = 3


def check_keys(state: Mapping[str, Tensor], expected: Mapping[str, Sequence[int]], what: str) -> None:
    """Every expected key must be there as `check_tensor` says, and no other key that could be a weight.

    Other keys are passed over with one CheckpointWarning where they are `idle`; `only` leaves them out.

    Raises:
        InputError: naming the first wrong key in the order of `expected`, then the first extra one.
    """
    for key, shape in expected.items():
        check_tensor(state, key, shape, what)
    extra = [key for key in state if key not in expected]
    heads = {key.partition(".")[0] for key in expected}
    if weight := next((key for key in extra if not idle(key, state[key], heads)), None):
        raise InputError(f"{what}: unexpected key {weight:.200} {list(state[weight].shape)}")
    if extra:
        more = f" and {len(extra) - SHOWN} more" if len(extra) > SHOWN else ""
        named = ", ".join(f"{key:.60}" for key in extra[:SHOWN])
        warnings.warn(f"{what}: passed over what is no weight: {named}{more}", CheckpointWarning, stacklevel=3)


def idle(key: str, value: Tensor, heads: Container[str]) -> bool:
    """Whether an extra tensor can be no weight of a layer, and another architecture does not show in it.

    `heads` are the first parts of the keys that a network has. Tables and counters go by their names, whole numbers and
    truth values are never weights, and one value alone (a step, a version) is none outside the network's own parts; any
    other float would have been learned for something that is not here.
    """
    if key.rpartition(".")[2] in TABLES or not (value.is_floating_point() or value.is_complex()):
        return True
    return value.numel() <= 1 and key.partition(".")[0] not in heads


def only(state: Mapping[str, Tensor], expected: Iterable[str]) -> dict[str, Tensor]:
    """The expected keys of a state dict that was checked."""
    return {key: state[key] for key in expected}


def check_one_dtype(state: Mapping[str, Tensor], what: str) -> None:
    """All tensors of a network that takes them as they are must have one type.

    Raises:
        InputError: naming the first that differs.
    """
    first: torch.dtype | None = None
    for key, value in state.items():
        first = first or value.dtype
        if value.dtype != first:
            wanted, found = name_of(first), name_of(value.dtype)
            raise InputError(f"{what}: expected {wanted} throughout, found {key} in {found}")


def assign(module: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Make `state` the parameters of a module built on the meta device, frozen and without copying."""
    module.load_state_dict(dict(state), strict=True, assign=True)
    module.requires_grad_(False).eval()
