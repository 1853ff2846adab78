"""A recorded run of the released model through the Triton backends: two blocks of dit_tiny, call by call."""

from pathlib import Path

import pytest

from liveact_app.verify.dit import FLOAT32, Replay
from liveact_app.verify.golden import load
from liveact_kernels.contract import record, use

pytest.importorskip("triton.language", reason="triton is not installed: pip install 'liveact[triton]'")


def test_recorded_blocks_replay_on_triton():
    g = load(Path(__file__).parents[1] / "golden" / "dit_tiny.json")
    run = Replay(g, g, "conv", "conv")
    run.iterations = lambda: 2
    with use(all="triton"), record() as calls:
        run.run()
    assert {c.backend for c in calls if "triton" in c.op.backends} == {"triton"}
    error, where = run.worst("noise_pred", "conv")
    assert where != "none recorded" and error <= FLOAT32, f"{error:.1e} at {where}"
