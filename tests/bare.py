"""A Python process that has only what a bare machine with a GPU has: torch, Triton, pytest, a few build tools."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

HAS = (
    "torch", "torchgen", "functorch", "triton", "numpy", "cupy", "pybind11", "ninja", "cmake", "pytest", "_pytest",
    "py", "pytest_benchmark", "cpuinfo", "iniconfig", "pluggy", "packaging", "pygments", "exceptiongroup", "tomli",
    "sympy", "mpmath", "networkx", "jinja2", "markupsafe", "filelock", "fsspec", "typing_extensions", "setuptools",
)  # fmt: skip
"""Import names: the machine's packages, and what they themselves need."""

HOOK = """
import sys
from importlib.machinery import PathFinder
class Bare:
    def find_spec(self, name, path=None, target=None):
        found = PathFinder.find_spec(name, path, target)
        installed = any(p in (found and found.origin or "") for p in ("site-packages", "dist-packages"))
        known = path is not None or name in {has!r} or name in sys.stdlib_module_names
        return found if known or not installed else None
    def find_distributions(self, context):
        return PathFinder.find_distributions(context)
sys.meta_path[sys.meta_path.index(PathFinder)] = Bare()
"""


def python(code: str, *args: str, folder: Path, **env: str) -> subprocess.CompletedProcess:
    """Run code there; processes that it starts are bare as well. `folder` takes the hook."""
    (folder / "sitecustomize.py").write_text(HOOK.format(has=HAS), encoding="utf-8")
    places = os.pathsep.join([str(folder), str(ROOT)])
    env = {
        **os.environ, "PYTHONPATH": places, "OMP_NUM_THREADS": "1", "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
        "LIVEACT_NVTX": "", **env,
    }  # fmt: skip
    return subprocess.run([sys.executable, "-c", code, *args], env=env, cwd=ROOT, capture_output=True, text=True)
