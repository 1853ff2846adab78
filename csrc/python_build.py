"""The build backend of pip: setuptools, and liveact_kernels._C where nvcc is (cmake_build.py says how).

Without nvcc one line says that the extension is left out, and the package works without it.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

from cmake_build import NAME, build, find_nvcc, flag, why_not
from setuptools import Extension
from setuptools.build_meta import (  # noqa: F401 - the rest of the build backend's interface
    build_editable,
    build_sdist,
    build_wheel,
    prepare_metadata_for_build_editable,
    prepare_metadata_for_build_wheel,
)
from setuptools.command.build_ext import build_ext
from setuptools.errors import CompileError


def get_requires_for_build_wheel(config_settings: dict | None = None) -> list[str]:
    """What pip installs before it builds; nothing without nvcc: a pure Python install asks the network for no more."""
    if flag("LIVEACT_NO_CUDA") or find_nvcc() is None:
        return []
    return ["pybind11>=2.13", *[tool for tool in ("cmake", "ninja") if shutil.which(tool) is None]]


get_requires_for_build_editable = get_requires_for_build_wheel


def extensions() -> list[Extension]:
    """What setup() gets: the extension, or nothing and one line that says why."""
    reason, forced = why_not(), flag("LIVEACT_FORCE_CUDA") and not flag("LIVEACT_NO_CUDA")
    if reason is None:
        return [Extension(NAME, sources=[], optional=not forced)]
    if forced:
        raise SystemExit(f"liveact: LIVEACT_FORCE_CUDA is set, but the CUDA extension cannot be built: {reason}")
    print(f"liveact: CUDA extension left out: {reason}", file=sys.stderr)
    return []


class CMakeBuild(build_ext):
    """build_ext by way of CMake; setuptools turns the error of an optional extension into a warning."""

    def build_extension(self, ext: Extension) -> None:
        """Build one extension where setuptools wants it."""
        try:
            build(Path(self.get_ext_fullpath(ext.name)).resolve().parent)
        except subprocess.CalledProcessError as error:
            raise CompileError(f"the CUDA extension was not built: {error}") from error
