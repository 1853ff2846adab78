"""The ahead-of-time check finds what it is there to find: spills, missing instructions, a changed ledger."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton.language", reason="triton is not installed: pip install 'liveact[triton]'")
from liveact_kernels.compiled import aot
from liveact_kernels.compiled.ledger import Ledger
from liveact_kernels.contract import REGISTRY

ENTRY = {"regs": 64, "spill": 0, "shared": 1024, "warps": 4, "stages": 2, "sass": {"LDG": 3, "HGMMA": 8}}
ROOT = Path(__file__).parents[2]


def test_faults_name_spills_and_too_much_shared_memory():
    assert aot.faults(ENTRY, 90) == []
    assert aot.faults(ENTRY | {"spill": 48}, 90) == ["spills 48 bytes"]
    assert aot.faults(ENTRY | {"sass": {"STL": 2}}, 90), "local stores are spills even when no stack is reported"
    assert aot.faults(ENTRY | {"shared": 232449}, 90) == ["needs 232449 bytes of shared memory, a block has 232448"]


def test_required_instructions_take_alternatives_and_any_kernel_of_the_call():
    other = ENTRY | {"sass": {"UTMALDG": 1}}
    assert aot.missing([ENTRY, other], ("QGMMA|HGMMA", "UTMALDG")) == []
    assert aot.missing([ENTRY], ("QGMMA|HGMMA", "UTMALDG")) == ["has no UTMALDG instruction"]


def test_real_shapes_are_compiled_for_one_rank_and_for_two():
    dims = {label: case.dims for label, case in aot.cases(REGISTRY["modulate"], ranks=True)}
    assert dims["live_416x720"]["L"] == 9360 and dims["live_416x720/2"]["L"] == 4680
    outs, args = aot.meta_case(REGISTRY["modulate_quant"], REGISTRY["modulate_quant"].cases[-1])
    assert [tuple(o.shape) for o in outs] == [(9360, 5120), (9360, 1)] and args["x"].device.type == "meta"


def test_ledger_reports_every_kind_of_change_and_keeps_other_ops(tmp_path):
    path = tmp_path / "resources.json"
    book = Ledger("triton 1", path)
    assert not book.knows("sm_90a") and book.changes("sm_90a", {"a/x/k": ENTRY}, ["a"]) == []
    book.replace("sm_90a", {"a/x/k": ENTRY, "b/x/k": ENTRY}, ["a", "b"])
    book.save()

    book = Ledger("triton 1", path)
    assert book.changes("sm_90a", {"a/x/k": ENTRY}, ["a"]) == []
    assert book.changes("sm_90a", {"a/x/k": ENTRY | {"regs": 65}}, ["a"]) == ["sm_90a a/x/k: regs was 64, is 65"]
    assert book.changes("sm_90a", {}, ["a"]) == ["sm_90a a/x/k: in the ledger, but no longer compiled"]
    assert book.changes("sm_90a", {"a/x/k": ENTRY, "a/y/k": ENTRY}, ["a"]) == ["sm_90a a/y/k: not in the ledger"]
    book.replace("sm_90a", {"a/x/k": ENTRY | {"regs": 65}}, ["a"])
    book.save()
    saved = json.loads(path.read_text())["triton 1"]["sm_90a"]
    assert saved["a/x/k"]["regs"] == 65 and saved["b/x/k"] == ENTRY


def test_what_the_ledger_has_no_version_for_is_said_in_one_line_and_passes(tmp_path, capsys):
    path = tmp_path / "resources.json"
    book = Ledger("triton 1", path)
    book.replace("sm_90a", {"a/x/k": ENTRY}, ["a"])
    book.save()

    for version, chips, said in (
        ("triton 1", ["sm_90a"], ""),
        ("triton 1", ["sm_90a", "sm_89"], "resources are not compared for sm_89: resources.json has no triton 1; "),
        ("triton 2", ["sm_90a", "sm_89"], "resources are not compared for sm_90a, sm_89: resources.json has no "),
    ):
        book, wrong = Ledger(version, path), []
        for chip in chips:
            wrong += book.changes(chip, {"a/x/k": ENTRY}, ["a"])
            book.replace(chip, {"a/x/k": ENTRY}, ["a"])
        assert wrong == [] and book.close(wrong, update=False) == 0
        out = capsys.readouterr().out
        assert out.startswith(said) and out.count("\n") == bool(said)


def test_a_new_version_is_recorded_whole(monkeypatch, capsys):
    monkeypatch.delenv("TRITON_INTERPRET")
    monkeypatch.setattr(aot.triton, "__version__", "0")
    assert aot.main(["--op", "quant", "--chip", "sm_89", "--update"]) == 2
    assert "triton 0 is new to the ledger for sm_89" in capsys.readouterr().err


def test_the_ledger_has_the_triton_that_is_installed_the_gpu_stack_s_and_the_newest():
    (locked,) = re.findall(r"^triton==(\S+)", (ROOT / "constraints.txt").read_text(), re.M)
    for version in {locked, "3.6.0", "3.9.0"}:
        assert all(Ledger(f"triton {version}").knows(chip) for chip in aot.CHIPS), version


def compiled(source: str) -> str:
    """Output of a process that compiles; in this one the interpreter stands in for the compiler."""
    env = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    done = subprocess.run([sys.executable, "-c", source], env=env, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


SPILL = """
from liveact_kernels import tuned
from liveact_kernels.compiled import aot
from liveact_kernels.contract.op import REGISTRY
op = REGISTRY["quant"]
for rows in (1, 4):  # more of them take Triton 3.7 minutes
    with tuned.pinned(rows=rows, warps=1):
        for kernel in aot.launched(op, op.cases[-1], 90):
            print(rows, *aot.faults(aot.measure(kernel), 90))
"""


def test_a_kernel_that_spills_is_found():
    small, large = compiled(SPILL).splitlines()
    assert small == "1" and large.startswith("4 spills")


IN_PLACE = """
from liveact_kernels import tuned
from liveact_kernels.compiled import aot
from liveact_kernels.contract.op import REGISTRY
op = REGISTRY["kv_compress"]
with tuned.pinned(stages=1):  # no barriers but its own
    print(aot.launched(op, next(c for c in op.cases if c.rung == "device"), 90)[0].asm["ptx"])
"""


def test_kv_compress_reads_a_chunk_before_its_barrier_and_writes_it_after():
    """What the interpreter cannot show: it runs a program's loads before its stores whatever stands between."""
    events = re.findall(r"^\s*(?:@%\w+\s+)?(ld\.global|st\.global|bar\.sync|bra|\$L__BB\w+:)", compiled(IN_PLACE), re.M)
    kinds = "".join({"ld.global": "r", "st.global": "w", "bar.sync": "|", "bra": " "}.get(e, " ") for e in events)
    guarded = [chunk for chunk in kinds.split() if "|" in chunk]
    assert len(guarded) == 2, "keys and values each have one entry that reads memory"
    assert all(re.fullmatch(r"r{15,}\|w+", chunk) for chunk in guarded), guarded


def test_the_interpreter_is_refused(capsys, monkeypatch):
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    with pytest.raises(SystemExit) as stop:
        aot.main(["--op", "quant"])
    assert stop.value.code == 2 and "TRITON_INTERPRET" in capsys.readouterr().err


TABLE = """
import sys
from liveact_kernels import tuned
from liveact_kernels.compiled import aot
entries = {"quant": {"L=327680,C=128": {"warps": 3}, "L=1,C=1": {}}, "rms_norm": {"L=8192,C=5120": {"rows": 2}}}
tuned.table = lambda chip: entries if chip == "h200" else {}
_, wrong = aot.compiled(["quant", "rms_norm"], "sm_90a")
print(*wrong, *aot.unasked(["quant", "rms_norm"], 90), sep="\\n")
"""


def test_entries_of_a_table_that_do_not_compile_or_that_nobody_asks_for_are_reported():
    *_, broken, unasked = compiled(TABLE).splitlines()
    assert broken.startswith("sm_90a quant/live_512x512 does not compile: ") and broken.endswith(
        "num_warps must be a power of 2"
    )
    assert unasked == "tuned/h200.json quant L=1,C=1: no shape asks for it"


CANDIDATES = """
from liveact_kernels.tune import gpu as tune_gpu
quant = next(t for t in tune_gpu.tasks(["quant"], None) if t.case == "live_512x512")
linear = tune_gpu.tasks(["fp8_linear"], None)[0]
print(tune_gpu.compiled(quant, quant.heuristic, 90))
print(tune_gpu.compiled(quant, quant.heuristic | {"rows": 128, "warps": 1}, 90))
print(tune_gpu.compiled(quant, quant.heuristic | {"rows": 3}, 90))
print(tune_gpu.compiled(linear, linear.heuristic | {"stages": 6}, 90))
"""


def test_the_tuner_drops_candidates_that_spill_do_not_fit_or_do_not_compile():
    good, spills, odd, large = compiled(CANDIDATES).splitlines()
    assert good == "None" and spills.startswith("spills ") and odd.startswith("does not compile: ")
    assert re.fullmatch(r"(spills \d+ bytes; )?needs \d+ bytes of shared memory, a block has 232448", large)


def test_fp4_products_are_compiled_for_the_chips_that_have_them_alone(monkeypatch):
    for version, chips in json.loads((ROOT / "profiles" / "resources.json").read_text()).items():
        if not version.startswith("triton"):
            continue
        for chip, wanted in (("sm_100a", "UTCOMMA"), ("sm_120a", "OMMA"), ("sm_90a", None), ("sm_89", None)):
            found = [e for key, e in chips[chip].items() if "fp4_gemm_kernel" in key]
            assert len(found) == (8 if wanted else 0) and all(wanted in e["sass"] for e in found), (version, chip)
            assert chip != "sm_100a" or not any(e["spill"] for e in found)
    op = REGISTRY["fp4_linear"]
    assert (aot.home(op), aot.home(REGISTRY["quant_fp4"])) == (100, 90)
    assert list(aot.survey(op, 90)) == [], "older chips are left out, not compiled by emulation"
    bad = [f"{aot.LACKS}UTCOMMA|OMMA instruction"]
    monkeypatch.setattr(aot, "survey", lambda op, arch: [("key", ENTRY, [*bad, "spills 8 bytes"])])
    assert aot.compiled(["fp4_linear"], "sm_120a")[1] == [f"sm_120a key {bad[0]}"]
    assert aot.compiled(["fp4_linear"], "sm_100a")[1] == [f"sm_100a key {b}" for b in (*bad, "spills 8 bytes")]
