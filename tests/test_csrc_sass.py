"""The built extension's machine code: no spills, and the instructions that each op stands on."""

import importlib.util
from pathlib import Path

import pytest
from conftest import ROOT

if importlib.util.find_spec("liveact_kernels._C") is None:
    pytest.skip("liveact_kernels._C is not built (no nvcc?)", allow_module_level=True)
pytest.importorskip("triton", reason="nvdisasm comes with triton")

from liveact_kernels import _C, tuned
from liveact_kernels.compiled import aot_cuda
from liveact_kernels.compiled.predict import code, library, parts
from liveact_kernels.compiled.predict.paths import Kernel
from liveact_kernels.compiled.predict.rates import MACHINES
from liveact_kernels.contract import REGISTRY, Dims, bf16
from liveact_kernels.ops.fp8_linear import cuda_kernel as fp8_linear


@pytest.fixture(scope="module")
def table():
    return aot_cuda.kernels(Path(_C.__file__), "sm_90a")


def test_no_kernel_spills_and_each_op_has_the_instructions_it_stands_on(table):
    assert {key.split("/")[0] for key in table} == {path.name for path in (ROOT / "csrc" / "ops").iterdir()}
    assert aot_cuda.check(table, 90) == []


def test_a_spill_a_missing_instruction_and_a_missing_kernel_are_named(table):
    ours = {k: v for k, v in table.items() if k.startswith("kv_compress/")}
    narrow = {k: v | {"sass": {n: c for n, c in v["sass"].items() if n != "LDG.128"}} for k, v in ours.items()}
    spilling = next(iter(ours))
    said = aot_cuda.check(narrow | {spilling: narrow[spilling] | {"spill": 8}}, 90)
    assert f"{spilling} spills 8 bytes" in said
    assert "kv_compress has no LDG.128 instruction" in said
    assert "qkv_norm_rope has no kernel" in said


def test_a_fence_in_a_loop_is_seen_and_one_behind_it_is_not(table):
    """Compiled from mbarrier arrivals, with .release.cluster (MEMBAR, ERRBAR) in the loop or once after it."""
    functions = code.parse((ROOT / "tests/sass/fences.sass").read_text())
    assert aot_cuda.fences_in_loops(functions["fence_in_loop"]) == 15  # five arrivals of the unrolled loop
    assert sum(getattr(i, "base", "") in aot_cuda.FENCES for i in functions["fence_after_loop"]) == 3
    assert aot_cuda.fences_in_loops(functions["fence_after_loop"]) == 0
    key = next(iter(table))
    assert f"{key} has 3 of MEMBAR, ERRBAR in loops" in aot_cuda.check({key: table[key] | {aot_cuda.FENCED: 3}}, 90)


def test_what_is_used_behind_registers_given_away_is_seen(table):
    """A division of the copying warp once was a call, and that one used R98 of 24."""
    functions = code.load(library.cubins()["attention_8bit"]).functions
    listing = next(f for n, f in functions.items() if "kernelIhE" in n)
    assert aot_cuda.used_after_giving_away(listing) == []
    at = next(n for n, i in enumerate(listing) if getattr(i, "base", "") == "USETMAXREG" and "DEALLOC" in i.op)
    behind = [i for i in listing[at + 1 :] if hasattr(i, "base")]
    calm = next(i for i in behind if i.base == "MUFU")
    calm.args = "R24, R2"
    assert aot_cuda.used_after_giving_away(listing) == ["R24"]
    calm.base = "CALL"
    assert aot_cuda.used_after_giving_away(listing) == ["a call", "R24"]
    key = next(iter(table))
    said = aot_cuda.check({key: table[key] | {aot_cuda.LOST: 2}}, 90)
    assert f"{key} uses 2 registers or calls after it gave registers away" in said


def waited_for(trip):
    """Loads whose result has not come when the cluster's barrier is told of this block, and loads before its wait."""
    pending, late, told = {}, [], False
    for i in trip:
        for s in i.waits:
            pending.pop(s, None)
        told = (told or i.base == "UCGABAR_ARV") and i.base != "UCGABAR_WAIT"
        late += [*pending.values()] if i.base == "UCGABAR_ARV" else [i.op] if told and i.base == "LDG" else []
        if i.base == "LDG":
            pending[i.writes] = i.op
    return late


def test_what_a_chunk_reads_has_come_before_its_block_says_so():
    """kv_compress arrives without order of memory: only loads that have returned may be behind it."""
    kernels = [Kernel(f) for n, f in code.load(library.cubins()["kv_compress"]).functions.items() if "kv_compress" in n]
    loops = [(k, n) for k in kernels for n in range(len(k.loops)) if parts.count_of(k, n, "UCGABAR_ARV") == 1]
    trips = [k.flat(parts.one_trip(k, n)) for k, n in loops]
    assert len(trips) == 4 * len(kernels) and not any(waited_for(trip) for trip in trips)
    trip = trips[0]
    last = max(n for n, i in enumerate(trip) if i.base == "LDG")
    told = next(n for n, i in enumerate(trip) if i.base == "UCGABAR_ARV")
    assert waited_for([*trip[: last + 1], *trip[told:]]), "told as soon as the last load was asked for"
    assert waited_for([*trip[:last], *trip[last + 1 : told + 1], trip[last]]), "loaded between telling and waiting"


@pytest.mark.parametrize("bn,out", [(bn, out) for out in ("bf16", "e4m3") for bn in fp8_linear.WIDTHS[out]])
def test_tiles_are_chosen_by_the_clocks_that_their_code_is_predicted_to_take(bn, out):
    op = REGISTRY["fp8_linear_gelu" if out == "e4m3" else "fp8_linear"]
    more = {"A": bf16, "GN": 15360 // 128} if out == "e4m3" else {"out_dtype": bf16}
    d = Dims(M=8192, N=15360, K=5120, G=1, has_b=True, **more)
    with tuned.pinned(bn=bn, side=0):
        p = library.fp8_linear(library.cubins()["fp8_linear"], d, MACHINES["h200"], op, op.flops(d), op.bytes(d))
    step, end = fp8_linear.CLOCKS[out][bn]
    assert p.cycles["step simulated"] == pytest.approx(step, rel=0.02)
    assert p.cycles["tile end"] == pytest.approx(end, rel=0.05)
