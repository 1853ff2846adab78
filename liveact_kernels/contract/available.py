"""Why a backend cannot run on a device, and how to get it; vendor libraries are found, never required.

Finding a library proves nothing about what it computes: selftest runs it.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import os
import re
from collections.abc import Callable

import torch

VENDORS = ("sdpa", "cudnn", "flash", "sage", "scaled_mm", "deepgemm")
"""Other people's kernels: peers to compare with. They return fresh tensors, and no op chooses one by default."""

FLASH = ("flash_attn_interface", "flash_attn")
"""Modules of FlashAttention 3 and 2, best first."""


@functools.cache
def missing(backend: str, device: torch.device | str) -> str | None:
    """One sentence: why `backend` cannot run on `device` and how to get it; None when it can, as far as can be told.

    A backend that this file does not know (`torch`, `reference`, one that a test adds) is never missing. Answers are
    kept: `missing.cache_clear()` after installing or building something.
    """
    why = _WHY.get(backend)
    return why(torch.device(device)) if why else None


def found(module: str) -> bool:
    """Whether a top-level module, or one of this package, can be imported by name."""
    try:
        return importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):  # a module put into sys.modules by hand has no spec
        return False


def capability(device: torch.device) -> tuple[int, int]:
    """Compute capability of a CUDA device, (0, 0) of anything else."""
    return torch.cuda.get_device_capability(device) if device.type == "cuda" else (0, 0)


def lacks_instructions(least_arch: int) -> str | None:
    """Why the GPU at hand cannot run machine code of `least_arch` (100: compute capability 10.0); None where it can.

    Also None without a GPU: what runs there is no machine code.
    """
    if not least_arch or not torch.cuda.is_available():
        return None
    have = torch.cuda.get_device_capability()
    if 10 * have[0] + have[1] >= least_arch:
        return None
    want = f"{least_arch // 10}.{least_arch % 10}"
    return f"it needs tensor cores of compute capability {want} or later, this GPU has {have[0]}.{have[1]}"


def _too_old(name: str, device: torch.device, least: tuple[int, int]) -> str | None:
    if device.type != "cuda":
        return f"{name} needs an NVIDIA GPU, the tensors are on {device.type}: choose torch there"
    have = capability(device)
    if have >= least:
        return None
    want = "{}.{}".format(*least)
    return f"{name} needs compute capability {want} or later, this GPU has {have[0]}.{have[1]}: choose torch"


def _not_importable(name: str, modules: tuple[str, ...], how: str) -> str | None:
    """Whether the first of `modules` that is installed can be imported."""
    first = next((m for m in modules if found(m)), None)
    if first is None:
        return f"{name} is not installed: {how}"
    try:
        importlib.import_module(first)
    except Exception as error:  # a wheel for another torch or CUDA fails in many ways
        said = " ".join(str(error).split())[:160]
        return f"{name} fails to import ({type(error).__name__}: {said}): {how}"
    return None


def _cuda(device: torch.device) -> str | None:
    build = "pip install . with nvcc on the PATH, or python csrc/cmake_build.py"
    if bad := _too_old("the CUDA extension", device, (9, 0)):
        return bad
    if not found("liveact_kernels._C"):
        return f"the CUDA extension liveact_kernels._C was not built: {build}"
    if bad := _not_importable("the CUDA extension", ("liveact_kernels._C",), build):
        return bad
    archs = getattr(importlib.import_module("liveact_kernels._C"), "ARCHS", ("sm_90a",))
    chip = "{}{}".format(*capability(device))
    if chip not in {re.sub(r"\D", "", a) for a in archs}:
        return f"the CUDA extension was built for {', '.join(archs)}, this GPU is sm_{chip}: choose triton"
    return _driver_too_old()


def driver_version() -> int:
    """The newest CUDA that the driver runs, 13000 for 13.0; 0 where torch cannot tell."""
    return torch._C._cuda_getDriverVersion() if hasattr(torch._C, "_cuda_getDriverVersion") else 0


def _driver_too_old() -> str | None:
    """A driver runs every runtime of its own major version, machine code being all that the extension holds."""
    runtime = getattr(importlib.import_module("liveact_kernels._C"), "CUDART", 0)
    have = driver_version()
    if not have or have // 1000 >= runtime // 1000:
        return None
    said = "the CUDA extension has the runtime of CUDA {}.{}, this driver is of CUDA {}.{}: "
    said = said.format(*(n for v in (runtime, have) for n in (v // 1000, v % 1000 // 10)))
    return f"{said}update the driver, build with nvcc {have // 1000}, or choose triton"


def _triton(device: torch.device) -> str | None:
    if bad := _not_importable("triton", ("triton.language",), "pip install 'liveact[triton]', or choose torch"):
        return bad
    if device.type == "cuda" or os.environ.get("TRITON_INTERPRET", "0") not in ("", "0"):
        return None
    return f"triton needs a GPU, the tensors are on {device.type}: choose torch there"


def _sdpa(device: torch.device) -> str | None:
    return None  # part of torch, on every device


def _cudnn(device: torch.device) -> str | None:
    if bad := _too_old("cuDNN's attention", device, (8, 0)):
        return bad
    return None if torch.backends.cudnn.is_available() else "this torch was built without cuDNN: install a CUDA wheel"


def _flash(device: torch.device) -> str | None:
    how = "pip install flash-attn, or build its hopper/ folder for version 3"
    return _too_old("FlashAttention", device, (8, 0)) or _not_importable("flash_attn", FLASH, how)


def _sage(device: torch.device) -> str | None:
    how = "build it from its sources, https://github.com/thu-ml/SageAttention"
    return _too_old("SageAttention", device, (8, 0)) or _not_importable("sageattention", ("sageattention",), how)


def _scaled_mm(device: torch.device) -> str | None:
    if not hasattr(torch, "_scaled_mm"):
        return f"torch {torch.__version__} has no scaled_mm: install torch 2.8 or later"
    return _no_row_scales() if device.type == "cpu" else _too_old("torch's scaled_mm", device, (8, 9))


def _no_row_scales() -> str | None:
    """On a CPU not every torch can multiply with a scale per row; which one can, a product tells."""
    codes, scale = torch.zeros(16, 16, dtype=torch.float8_e4m3fn), torch.ones(16, 1)
    try:
        torch._scaled_mm(codes, codes.t(), scale_a=scale, scale_b=scale.t(), out_dtype=torch.bfloat16)
    except RuntimeError:
        return f"torch {torch.__version__} has no scaled_mm with a scale per row on a CPU: install a later one"
    return None


def _deepgemm(device: torch.device) -> str | None:
    how = "build it from its sources, https://github.com/deepseek-ai/DeepGEMM"
    return _too_old("DeepGEMM", device, (9, 0)) or _not_importable("deep_gemm", ("deep_gemm",), how)


_WHY: dict[str, Callable[[torch.device], str | None]] = {
    "cuda": _cuda, "triton": _triton, "sdpa": _sdpa, "cudnn": _cudnn, "flash": _flash, "sage": _sage,
    "scaled_mm": _scaled_mm, "deepgemm": _deepgemm,
}  # fmt: skip
