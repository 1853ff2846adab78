"""`liveact predict`: what it prints says that it is predicted, bad input is one sentence, files carry the label."""

from __future__ import annotations

import json

import pytest
from conftest import ROOT
from sass_text import PRODUCT, PRODUCT_WORK, product_cubin

from liveact_app.cli import main
from liveact_app.predict import op as predict_op
from liveact_app.predict import tables as predict_tables
from liveact_kernels import tuned
from liveact_kernels.compiled import ledger, sass
from liveact_kernels.compiled.predict import LABEL, code, estimate, rates
from liveact_kernels.compiled.predict.explain import iterations
from liveact_kernels.compiled.predict.frame import GOALS, Frame, Line, line
from liveact_kernels.compiled.predict.launches import Called
from liveact_kernels.compiled.predict.setting import Setting
from liveact_kernels.contract import REGISTRY
from liveact_kernels.cost.hw import CHIPS

H200 = rates.MACHINES["h200"]
LEDGER = ledger.PATH.with_name("predicted.json")


@pytest.fixture
def prediction(monkeypatch):
    monkeypatch.setattr(code, "load", product_cubin)
    return estimate.predict(PRODUCT, H200, {"fp8": 2.0 * 512**3}, 786432.0, PRODUCT_WORK)


@pytest.fixture
def frame(prediction):
    lines = [
        Line("fp8_linear", "out_dtype=bf16,M=512,K=512,G=1,N=512", 100, 0.2, [prediction], prediction),
        Line("to_uint8", "", 3, 1.0),
    ]
    return Frame(CHIPS["h200"], H200, (512, 512), 32, True, "triton 0", lines)


def test_every_table_says_that_it_is_predicted(frame):
    texts = [
        predict_tables.heading("m", "fp8", frame),
        predict_tables.terminal(frame),
        predict_tables.markdown([frame]),
    ]
    assert all(LABEL in text.lower().replace("\n", " ") for text in texts)
    assert texts[1].count(LABEL) == 2  # the sums and the launches
    assert predict_tables.plain("m", "fp8", [frame])["label"] == LABEL
    assert max(len(x) for text in texts[:2] for x in text.splitlines()) <= 100


def test_an_explanation_says_it_too(prediction):
    text = predict_op.kernel("k", prediction)
    found = list(predict_op.iterations(iterations(Setting(PRODUCT, H200, PRODUCT_WORK, 0.0))))
    assert LABEL in text and LABEL in found[0] and max(map(len, [*text.splitlines(), *found])) <= 100


def test_sums(frame, prediction):
    per_frame = (100 * prediction.us + 3 * 2 * 1.0) / 32e3
    assert frame.ms(frame.lines) == pytest.approx(per_frame)
    assert frame.gaps_ms() == pytest.approx(103 * rates.GAP_US / 32e3)
    assert frame.total_ms() == pytest.approx(per_frame + frame.gaps_ms())
    assert [g for g, *_ in predict_tables.groups(frame)] == ["linear", "outside ops", predict_tables.GAPS, "total"]
    assert GOALS["total"] == {(512, 512): 38.0, (416, 720): 44.0}


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--chip", "h900"], "--chip: expected one of h200, h100, got 'h900'"),
        (["--chip", "b200"], "got 'b200': the model has no rates for B200"),
        (["--precision", "mxfp4"], "--chip: expected one that multiplies FP4 (b200 or rtx5090) for mxfp4, got 'h200'"),
        (["--model", "x"], "--model: expected one of"),
        (["--tune"], "--tune: expected with --op"),
        (["--cubin", "/nowhere/k.cubin"], "--cubin: expected a readable file"),
        (["--cubin", __file__], "got a file that is no cubin"),
        (["--cubin", __file__, "--trips", "1,x"], "--trips: expected whole numbers"),
        (["--size", "500*512"], "--size: expected both sides to be multiples of 16"),
    ],
)  # fmt: skip
def test_bad_input_is_one_sentence(words, says, capsys, monkeypatch):
    monkeypatch.setattr(sass, "tools", lambda: ROOT)
    assert main(["predict", *words]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and says in err


def test_without_a_disassembler_it_is_one_sentence(capsys, monkeypatch):
    def absent():
        raise ModuleNotFoundError("cuobjdump and nvdisasm come with triton", name="triton")

    monkeypatch.setattr(sass, "tools", absent)
    assert main(["predict"]) == 2
    assert "nothing here can disassemble: cuobjdump and nvdisasm come with triton" in capsys.readouterr().err


@pytest.mark.parametrize(("trips", "says"), [("", "expected 1 number"), ("3,4", "expected 1 number")])
def test_a_file_needs_the_trips_of_its_loops(trips, says, capsys, monkeypatch):
    monkeypatch.setattr(code, "load", product_cubin)
    monkeypatch.setattr(sass, "tools", lambda: ROOT)
    assert main(["predict", "--cubin", __file__, *(["--trips", trips] if trips else [])]) == 2
    assert f"--trips: {says}, one for each outermost loop of calibration_product" in capsys.readouterr().err
    assert main(["predict", "--cubin", __file__, "--trips", "7"]) == 0
    assert LABEL in capsys.readouterr().out


@pytest.mark.parametrize("words", [["--op", "nothing"], ["--op", "nothing", "--tune"]])
def test_an_unknown_op_prints_one_sentence(words, capsys, monkeypatch):
    monkeypatch.setattr(sass, "tools", lambda: ROOT)
    monkeypatch.setattr("liveact_app.budget.dryrun.record_block", lambda *_: [])
    assert main(["predict", *words]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and "--op: expected one that a block calls" in err


# ---- what is committed ----------------------------------------------------------------------------------------------


def test_the_ledger_says_that_it_is_predicted_and_calibration_is_within_its_bounds():
    calibration = pytest.importorskip("liveact_kernels.compiled.predict.calibration")
    book = json.loads(LEDGER.read_text())
    assert all(chip.endswith(LABEL) for chips in book.values() for chip in chips)
    tables = [t for version, chips in book.items() if version.startswith("triton") for t in chips.values()]
    assert tables
    for table in tables:
        for name, known in calibration.PUBLISHED.items():
            entry, (low, high) = table[f"calibration/{name}"], known.bounds
            assert entry["published_us"] == known.us and low <= entry["replay_us"] / known.us <= high, name


def test_pages_and_pictures_say_it():
    page, picture = ((ROOT / "docs" / f"performance.{end}").read_text(encoding="utf-8") for end in ("md", "svg"))
    assert page.count(f"**{LABEL}**") == 2 and "not yet measured" in page
    assert picture.count(LABEL) >= 4


def test_predicted_entries_of_a_table_are_marked_and_serve(monkeypatch):
    at = tuned.Limits("h200", 90, 132, 232448)
    dims = {"L": 8192, "texts": 512, "images": 257, "H": 40, "D": 128, "bits": 16}
    marked = tuned.unmeasured("h200")
    assert ("cross_attention", tuned.label(**dims)) in marked and len(marked) == 10
    heuristic = lambda at, **d: {"bm": 128, "bn": 64, "warps": 8, "stages": 2}  # noqa: E731
    assert tuned.config("cross_attention", heuristic, at, **dims) == {"bm": 128, "bn": 64, "warps": 8, "stages": 3}


def test_a_compiled_op_from_the_model_to_a_prediction(tmp_path, monkeypatch):
    """The whole way once: meta tensors, Triton, nvdisasm, replay; the count of multiply-adds is checked inside."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    pytest.importorskip("triton")
    op = REGISTRY["cross_attention"]
    case = next(c for c in op.cases if c.id == "live_512x512")
    found = line(Called(op, op.dims_of(case), 1), CHIPS["h200"], H200, {})
    (p,) = found.triton
    assert p.macs == 8192 * 40 * (512 + 320) * 2 * 128  # 257 image keys are 320 in tiles of 64
    assert p.us >= p.bound_us >= found.floor_us and found.cuda is None
    assert len([*tmp_path.rglob("*.txt"), *tmp_path.rglob("*.json")]) == 3  # what a second run need not do again
