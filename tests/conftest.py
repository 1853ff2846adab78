"""Shared by all tests: one torch thread (two fight on two cores), and the recorded cases."""

from pathlib import Path

import pytest
import torch

torch.set_num_threads(1)

ROOT = Path(__file__).resolve().parent.parent
GOLDEN = ROOT / "tests" / "golden"


@pytest.fixture
def golden() -> Path:
    """Folder of recorded cases of the released model."""
    return GOLDEN
