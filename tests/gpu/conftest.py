"""Device tests: `make gpu`, or `python -m pytest tests/gpu -m gpu` with nothing installed but torch, triton and pytest.

Without a device every test is skipped with the reason; `--junitxml FILE` keeps op, backend, case, output, error, bound.
"""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]  # an uninstalled checkout, whatever the working directory

import pytest  # noqa: E402
import torch  # noqa: E402

WHY = None if torch.cuda.is_available() else f"torch {torch.__version__} finds no CUDA device"


@pytest.hookimpl(tryfirst=True)  # before `-m gpu` looks for the mark
def pytest_collection_modifyitems(items):
    """Mark every test of this folder, and skip all of them at no cost where there is no device."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.gpu)
            if WHY:
                item.add_marker(pytest.mark.skip(reason=WHY))


@pytest.fixture
def device() -> torch.device:
    """The GPU under test."""
    return torch.device("cuda", torch.cuda.current_device())


@pytest.fixture(scope="session", autouse=True)
def _machine(record_testsuite_property):
    """Chip and versions go into the JUnit file."""
    record_testsuite_property("torch", torch.__version__)
    if not WHY:
        record_testsuite_property("device", torch.cuda.get_device_name())
        record_testsuite_property("cuda", torch.version.cuda)
