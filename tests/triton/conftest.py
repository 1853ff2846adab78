"""Triton backends on a CPU: one process in which every kernel runs in Triton's (patched) interpreter.

TRITON_INTERPRET is read when a kernel is decorated, so these tests have a process of their own: `make test` starts it.
On a machine with a GPU the same tests run the compiled kernels, at the real shapes too.
"""

import importlib.util
import os

import pytest
import torch

INTERPRETED = not torch.cuda.is_available()
if INTERPRETED:
    os.environ["TRITON_INTERPRET"] = "1"  # before the first import of triton.language, whose own functions read it

HAS_TRITON = importlib.util.find_spec("triton.language") is not None  # `triton` alone would find this folder
if INTERPRETED and HAS_TRITON:
    import interp

    interp.install()


def pytest_configure(config):
    """NumPy warns of the infinities and NaN that a chip computes in silence."""
    config.addinivalue_line("filterwarnings", r"ignore::RuntimeWarning:triton\.runtime\.interpreter")
    config.addinivalue_line("filterwarnings", r"ignore::DeprecationWarning:triton\.runtime\.interpreter")


@pytest.fixture(autouse=True)
def _needs_triton():
    if not HAS_TRITON:
        pytest.skip("triton is not installed: pip install 'liveact[triton]'")


@pytest.fixture
def device() -> str:
    """Where kernels run: the CPU means the interpreter."""
    return "cpu" if INTERPRETED else "cuda"
