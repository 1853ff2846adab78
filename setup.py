"""The CUDA extension, when it can be built; everything else is in pyproject.toml."""

import sys
from pathlib import Path

from setuptools import setup

sys.path.insert(0, str(Path(__file__).resolve().parent / "csrc"))
from python_build import CMakeBuild, extensions

setup(ext_modules=extensions(), cmdclass={"build_ext": CMakeBuild})
