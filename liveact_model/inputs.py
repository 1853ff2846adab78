"""The door of a Session: whatever a caller hands in is checked and brought to one form here, and nowhere behind it."""

from __future__ import annotations

import math
import operator
from numbers import Real
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .errors import InputError

AUDIO_PEAK = 2.0
"""Largest magnitude of a float sample. Lossy decoders and resamplers overshoot 1 a little; +6 dB is no overshoot."""

PICTURE_PEAK = 1.5
"""Largest magnitude of a picture's value: bicubic scaling overshoots [-1, 1] by less."""

INT16 = 32768.0
FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
CUT = 60  # characters of a foreign value that a sentence repeats


def shown(value: Any) -> str:
    """A foreign value for a sentence: short, on one line, whatever it is."""
    try:
        text = " ".join(repr(value).split())
    except Exception:  # another type's repr is foreign code, too
        text = f"a {type(value).__name__}"
    return text if len(text) <= CUT else f"{text[: CUT - 3]}..."


def audio_samples(samples: Any) -> Tensor:
    """Mono audio [n] at 16 kHz -> float32 [n]; n may be 0.

    A torch.Tensor or NumPy array of floats (16 to 64 bits) in [-1, 1] with a margin up to AUDIO_PEAK, or of int16,
    which is divided by 32768. Raises InputError naming what came.
    """
    want = "audio: expected mono samples [n] at 16 kHz, float in [-1, 1] or int16, as a torch.Tensor or NumPy array"
    given = _tensor(samples)
    if given is None or given.ndim != 1 or given.dtype not in (*FLOATS, torch.int16):
        raise InputError(f"{want}, got {_kind(samples)}")
    if given.dtype == torch.int16:
        return given.float() / INT16
    _check_range("audio", "finite samples", given, AUDIO_PEAK)
    return given.float()


def picture(image: Any) -> Tensor:
    """A picture [3, H, W], H and W multiples of 16 -> float32 on its device.

    A torch.Tensor or NumPy array of floats in [-1, 1] with a margin up to PICTURE_PEAK: bytes could be anything.
    Raises InputError naming what came.
    """
    given = _tensor(image)
    if given is None or given.ndim != 3 or given.dtype not in FLOATS:
        hint = "; bytes are x / 127.5 - 1" if _kind(image).startswith("uint8 ") else ""
        raise InputError(
            f"image: expected [3, H, W], float in [-1, 1], as a torch.Tensor or NumPy array, got {_kind(image)}{hint}"
        )
    if given.shape[0] != 3 or any(n % 16 or n < 16 for n in given.shape[1:]):
        raise InputError(f"image: expected [3, H, W] with H and W multiples of 16, got {tuple(given.shape)}")
    _check_range("image", "finite values", given, PICTURE_PEAK)
    return given.float()


def prompt_text(prompt: Any) -> str:
    """A prompt that a tokenizer takes. Raises InputError for anything but valid text."""
    if not isinstance(prompt, str):
        raise InputError(f"prompt: expected text, got {shown(prompt)} ({type(prompt).__name__})")
    try:
        prompt.encode()
    except UnicodeEncodeError as error:
        raise InputError(f"prompt: expected valid Unicode text, got {shown(prompt)}") from error
    return prompt


def number(value: Any, name: str, low: float, high: float) -> float:
    """A real number in [low, high]. Raises InputError."""
    real = isinstance(value, Real) and not isinstance(value, bool | np.bool_)
    if not (real and low <= value <= high):
        raise InputError(f"{name}: expected {low:g} to {high:g}, got {shown(value)}")
    return float(value)


def whole(value: Any, name: str, low: int | None = None, high: int | None = None) -> int:
    """A whole number, of any size unless it is to be from `low` to `high`. Raises InputError."""
    try:
        if not isinstance(value, bool | np.bool_):
            found = operator.index(value)
            if low is None or high is None or low <= found <= high:
                return found
    except TypeError:
        pass
    between = "" if low is None or high is None else f" from {low} to {high}"
    raise InputError(f"{name}: expected a whole number{between}, got {shown(value)}")


def switch(value: Any, name: str) -> bool:
    """True or False. Raises InputError: a text such as "no" would count as true."""
    if not isinstance(value, bool | np.bool_):
        raise InputError(f"{name}: expected True or False, got {shown(value)}")
    return bool(value)


def _tensor(value: Any) -> Tensor | None:
    """A plain strided tensor of the values, off the graph; None where there is none."""
    if isinstance(value, np.ndarray) and value.dtype.kind in "fi" and value.dtype.itemsize <= 8:
        # a copy: torch takes neither negative strides nor another byte order nor read-only memory
        value = torch.from_numpy(np.array(value, dtype=value.dtype.newbyteorder("="), order="C", subok=False))
    if not isinstance(value, Tensor) or value.layout != torch.strided or value.is_quantized:
        return None
    return value.detach()


def _kind(value: Any) -> str:
    """What came, for a sentence: "int32 [2, 100]", or the type's name."""
    if isinstance(value, Tensor | np.ndarray):
        sparse = "sparse " if isinstance(value, Tensor) and value.layout != torch.strided else ""
        return f"{sparse}{str(value.dtype).removeprefix('torch.')} {list(value.shape)}"
    return type(value).__name__


def _check_range(name: str, values: str, given: Tensor, peak: float) -> None:
    if given.is_meta or not given.numel():  # a run without data
        return
    largest = float(given.abs().max())  # NaN and infinity pass through
    if not math.isfinite(largest):
        raise InputError(f"{name}: expected {values}, got NaN or infinity")
    if largest > peak:
        raise InputError(f"{name}: expected values in [-1, 1] (up to {peak:g} passes), got one of size {largest:.4g}")
