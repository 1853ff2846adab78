"""Builds liveact_kernels._C through CMake and Ninja; run as a script it builds in place and needs no setuptools.

    python csrc/cmake_build.py

    LIVEACT_NO_CUDA=1     leave it out
    LIVEACT_FORCE_CUDA=1  fail when it cannot be built (installation; the script always does)
    LIVEACT_CUDA_JOBS=N   compilers at a time
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
NAME = "liveact_kernels._C"


def flag(name: str) -> bool:
    """Whether an environment variable is set to something other than 0."""
    return os.environ.get(name, "0") not in ("", "0")


def find_nvcc() -> str | None:
    """Path of nvcc: CUDACXX, PATH, CUDA_HOME, or the usual place."""
    homes = (os.environ.get("CUDA_HOME"), "/usr/local/cuda")
    places = [os.environ.get("CUDACXX"), shutil.which("nvcc"), *[f"{home}/bin/nvcc" for home in homes if home]]
    return next((p for p in places if p and shutil.which(p)), None)


def why_not() -> str | None:
    """Why the extension cannot be built here, or None."""
    if flag("LIVEACT_NO_CUDA"):
        return "LIVEACT_NO_CUDA is set"
    if find_nvcc() is None:
        return "no nvcc in CUDACXX, PATH, CUDA_HOME or /usr/local/cuda"
    for tool in ("cmake", "ninja"):
        if shutil.which(tool) is None:
            return f"no {tool} on PATH"
    return None if importlib.util.find_spec("pybind11") else f"pybind11 is not installed for {sys.executable}"


def build(folder: Path) -> None:
    """Leave the extension in `folder`. The objects are kept, so that the next build compiles what changed.

    Raises subprocess.CalledProcessError when CMake or a compiler fails.
    """
    import pybind11

    objects = ROOT / "build" / f"cuda-{sys.implementation.cache_tag}"
    options = {
        "CMAKE_CUDA_COMPILER": find_nvcc(),
        "CMAKE_MAKE_PROGRAM": shutil.which("ninja"),  # given anew each time: pip's build environment moves
        "Python_EXECUTABLE": sys.executable,
        "Python_INCLUDE_DIR": sysconfig.get_path("include"),
        "pybind11_DIR": pybind11.get_cmake_dir(),
        "CMAKE_LIBRARY_OUTPUT_DIRECTORY": folder,
    }
    settings = [f"-D{name}={value}" for name, value in options.items()]
    jobs = os.environ.get("LIVEACT_CUDA_JOBS", str(os.cpu_count() or 1))
    subprocess.run(["cmake", "-G", "Ninja", "-S", ROOT, "-B", objects, *settings], check=True)
    subprocess.run(["cmake", "--build", objects, "--parallel", jobs], check=True)


if __name__ == "__main__":
    if reason := why_not():
        sys.exit(f"liveact: the CUDA extension cannot be built: {reason}")
    build(ROOT / "liveact_kernels")
