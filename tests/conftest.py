"""Shared by all tests: one torch thread (two fight on two cores), and the recorded cases."""

import signal
from pathlib import Path

import pytest
import torch

torch.set_num_threads(1)
# In the background of a script Ctrl-C is ignored, which processes started by a test would inherit.
signal.signal(signal.SIGINT, signal.default_int_handler)

ROOT = Path(__file__).resolve().parent.parent
GOLDEN = ROOT / "tests" / "golden"


@pytest.fixture
def golden() -> Path:
    """Folder of recorded cases of the released model."""
    return GOLDEN


def pytest_ignore_collect(collection_path, config):
    """Device tests are collected when asked for, by `-m gpu` or by path: elsewhere they are pages of skips."""
    asked = "gpu" in (config.option.markexpr or "") or any("gpu" in Path(a).parts for a in config.args)
    return True if collection_path == ROOT / "tests" / "gpu" and not asked else None
