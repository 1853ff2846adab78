"""From a contract's tensors to the CUDA extension's integers: addresses, alignment, the stream."""

from __future__ import annotations

import functools
import importlib
from types import ModuleType

import torch

ALIGNED = 16  # bytes of one vector access


@functools.cache
def extension() -> ModuleType:
    """liveact_kernels._C; raises ImportError that says how to build it."""
    try:
        return importlib.import_module("liveact_kernels._C")
    except ImportError as error:
        how = "pip install . with nvcc on PATH, or: python csrc/cmake_build.py"
        raise ImportError(f"liveact_kernels._C is not built ({error}); to build it: {how}") from error


def addresses(op: str, *, aligned: int = ALIGNED, **tensors: torch.Tensor | None) -> list[int]:
    """data_ptr() of each tensor, 0 for None.

    Raises ValueError naming op and argument for an address that is not a multiple of `aligned` bytes: a view that
    starts in the middle of a vector would fault on the device.
    """
    found = []
    for name, t in tensors.items():
        at = 0 if t is None else t.data_ptr()
        if at % aligned:
            raise ValueError(f"{op}: {name} must start at a multiple of {aligned} bytes, got {at % aligned} past one")
        found.append(at)
    return found


def enqueue(function: str, device: torch.device, *values: int | float) -> None:
    """Call a function of the extension on the device's current stream.

    Raises ValueError off a CUDA device and RuntimeError, naming the function, for an error of CUDA's.
    """
    if device.type != "cuda":
        raise ValueError(f"{function}: backend cuda needs tensors on a CUDA device, got {device}")
    with torch.cuda.device(device):
        getattr(extension(), function)(*values, torch.cuda.current_stream().cuda_stream)
