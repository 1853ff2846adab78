"""The built extension's machine code: no spills, and the instructions that each op stands on."""

import importlib.util
from pathlib import Path

import pytest
from conftest import ROOT

if importlib.util.find_spec("liveact_kernels._C") is None:
    pytest.skip("liveact_kernels._C is not built (no nvcc?)", allow_module_level=True)
pytest.importorskip("triton", reason="nvdisasm comes with triton")

from liveact_kernels import _C
from liveact_kernels.compiled import aot_cuda


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
