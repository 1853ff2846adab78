"""kv_compress on the memory it reads: outputs are rows of k_mem and v_mem, as the window calls it."""

import pytest
import torch
from test_parity import reference

from liveact_kernels import ops
from liveact_kernels.contract import Case, bf16, f32, use
from liveact_kernels.ops.kv_compress import STEADY, _memory

triton = pytest.importorskip("triton.language", reason="triton is not installed: pip install 'liveact[triton]'")
from liveact_kernels import tuned  # noqa: E402 - imports triton
from liveact_kernels.ops.kv_compress.schedule import entries  # noqa: E402

TWO_RANKS = ((2, (2, 6, 7, 8, 9)), (3, (3, 4, 5, 10, 11)), (4, (12,)), (5, (13,)))
FOUR_MOVES = tuple((slot, (slot + 6,)) for slot in range(2, 6))
CASES = [
    Case("raster", H=2, E=8, **_memory(False, f32)),
    Case("raster_bf16_straddling", H=3, E=10, **_memory(False, bf16, tokens=7)),
    Case("raster_eight_bit", H=1, E=16, **_memory(True, tokens=9)),
    Case("raster_codes", H=1, E=16, **_memory(True, "codes", tokens=9)),
    Case("raster_two_ranks", H=1, E=8, **_memory(True, tokens=10, schedule=TWO_RANKS)),
    Case("one_token", H=1, E=4, **_memory(False, f32, tokens=1)),
    Case("temporal", H=2, E=8, **_memory(False, f32, tokens=7, grouping="temporal")),
    Case("temporal_eight_bit", H=1, E=16, **_memory(True, tokens=5, grouping="temporal")),
    Case("moves", H=1, E=8, **_memory(True, tokens=5, schedule=FOUR_MOVES)),
]


@pytest.mark.parametrize("rows", [2, 32])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_in_place_matches_reference(case, rows, device):
    op = ops.kv_compress
    inputs = op.make(case, device)
    want = reference(op, {k: v.clone() if isinstance(v, torch.Tensor) else v for k, v in inputs.items()})
    memory = [inputs[k] for k in ("k_mem", "v_mem", "k_scale", "v_scale")]
    kept = 2 * inputs["tokens"]
    references = [None if m is None else m[:kept].clone() for m in memory]
    outs = tuple(None if m is None else m[kept:] for m in memory)
    with use(kv_compress="triton"), tuned.pinned(rows=rows):
        op(**inputs, out=outs)
    for name, ok, said in op.check(outs, want):
        assert ok, f"{name} {case} with {rows} rows a chunk: {said}"
    for m, r in zip(memory, references):
        assert m is None or torch.equal(m[:kept].view(torch.uint8), r.view(torch.uint8)), "a reference slot changed"


def test_a_schedule_that_overwrites_its_sources_is_refused():
    assert entries(STEADY, 6, 5, True).slots == (2, 3, 4, 5)
    assert entries(STEADY, 6, 5, True).reads_memory == (True, False, False, False)
    backwards = tuple(reversed(STEADY))
    with pytest.raises(ValueError, match="reads a slot before it overwrites it"):
        entries(backwards, 6, 5, True)
    own_slot_late = ((3, (2, 3, 4, 5, 6)),)
    with pytest.raises(ValueError, match="reads a slot before it overwrites it"):
        entries(own_slot_late, 6, 5, True)
    assert entries(own_slot_late, 6, 5, False).slots == (3,)  # a token of its own: only its program touches the row
