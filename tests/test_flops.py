"""TFLOP per video frame: the released path against counts made elsewhere, ours part by part, the paper's number."""

import json

import pytest

from liveact_app.budget import flops, paper
from liveact_app.budget import tables as budget_tables
from liveact_app.budget.dryrun import record_block
from liveact_app.cli import main
from liveact_kernels.cost.budget import Budget
from liveact_kernels.cost.hw import CHIPS
from liveact_model.config import NAMED

BIG = NAMED["liveact-18b"]


@pytest.fixture(scope="module")
def calls():
    return record_block("liveact-18b", (512, 512))


@pytest.mark.parametrize("size,block,decode", [((512, 512), 971.3, 91.7), ((416, 720), 1155.3, 104.8)])
def test_the_released_path_against_the_counts_of_its_study(size, block, decode):
    assert sum(flops.denoiser(BIG, flops.tokens(size)).values()) / 1e12 == pytest.approx(block, rel=1e-4)
    assert flops.released_rest(BIG, size)["VAE decode"] / 1e12 == pytest.approx(decode, rel=1e-3)


def test_the_first_block_of_the_released_path():
    first = flops.denoiser(BIG, 1024, current=6, memory=0)
    assert sum(first.values()) / 1e12 == pytest.approx(607, rel=2e-2)
    assert first["self attention"] == 4 * 6144 * 6144 * 5120 * 120


def test_ours_is_sorted_without_a_rest(calls):
    mine = flops.ours(calls, BIG)
    assert sum(mine.values()) == flops.total_flops(calls)
    theirs = flops.denoiser(BIG, 1024)
    same = ("q, k, v, o", "self attention", "cross q, o", "cross attention", "feed-forward", "audio q, projection")
    for part in (*same, "audio attention"):
        assert mine[part] == pytest.approx(theirs[part], rel=1e-9), part
    assert mine["cross keys, values"] == 0
    heard = sum(sum(c.op.flops(c.dims).values()) for c in calls if c.op.name == "wav2vec2")
    assert mine["audio network"] == heard > 0
    assert mine["audio keys, values"] == pytest.approx(theirs["audio keys, values"] * 8 / 14 / 2)
    assert mine["VAE decode"] < 0.8 * flops.released_rest(BIG, (512, 512))["VAE decode"]


def test_the_table_adds_up(calls):
    *rows, total = flops.table(calls, BIG, (512, 512))
    for key, tflop in (("released", 33.22), ("ours", 32.27)):
        assert total[key] == pytest.approx(sum(r[key] or 0 for r in rows)) == pytest.approx(tflop, abs=0.01)
    budget = Budget.of(calls, CHIPS["h200"], 32).to_dict()
    assert total["ours"] == pytest.approx(budget["total"]["tflop_per_video_frame"])
    assert all(r["why"] for r in rows if r["released"] and abs(r["released"] - r["ours"]) > 1e-6)


def test_conventions_by_hand():
    found = {k.choices: k.tflop for k in paper.conventions(BIG)}
    steady = found[()]
    assert steady == pytest.approx(30.35, abs=0.005)
    cross = 2 * 2 * 8192 * 5120**2 * 120 / 32 / 1e12
    assert found[("without cross q, o",)] == pytest.approx(steady - cross) == pytest.approx(27.13, abs=0.01)
    assert found[("1 flop per multiply-add",)] == pytest.approx(steady / 2)
    assert found[("with the VAE decode",)] == pytest.approx(steady + 91.7 / 32, rel=1e-3)
    assert found[("6 memory + 6 current",)] == pytest.approx(29.17, abs=0.01)
    first = sum(flops.denoiser(BIG, 1024, 6, 0).values())
    assert found[(paper.WHOLE_CLIP,)] == pytest.approx((first + 6 * 32e12 * steady) / 1e12 / (21 + 6 * 32))
    assert not any("at 416x720" in c and "at 480x832" in c for c in found)


def test_the_report_says_how_much_a_match_is_worth(monkeypatch):
    text = "\n".join(paper.report(BIG))
    assert "1 of 17 within 1%" in text and "does not show that the paper counts so" in text
    monkeypatch.setattr(paper, "PAPER_TFLOP", 22.5)
    assert "no count with a single departure" in "\n".join(paper.report(BIG))


@pytest.mark.parametrize("arguments", [
    ["--size", "64*64"], ["--flops"], ["--op", "fp8_linear"], ["--op", "norm_silu"],
    ["--size", "64*64", "--precision", "bfloat16"],
])  # fmt: skip
def test_everything_fits_a_hundred_columns(arguments, capsys):
    assert main(["budget", *arguments]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) > 5 and max(map(len, lines)) <= 100


def test_help_fits_a_hundred_columns(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    with pytest.raises(SystemExit):
        main(["budget", "--help"])
    assert max(map(len, capsys.readouterr().out.splitlines())) <= 100


def test_formats(capsys):
    assert main(["budget", "--size", "512*512,64*64", "--format", "markdown"]) == 0
    table = [line for line in capsys.readouterr().out.splitlines() if line.startswith("|")]
    assert len({line.count("|") for line in table}) == 1 and "floor ms 64x64" in table[0] and "32.27" in table[-1]
    assert main(["budget", "--flops", "--size", "64*64", "--format", "json"]) == 0
    d = json.loads(capsys.readouterr().out)
    assert d["budgets"][0]["flops"][-1]["part"] == "total" and d["paper"]["tflop"] == 27.2
    assert main(["budget", "--op", "to_host", "--format", "json"]) == 0
    assert list(json.loads(capsys.readouterr().out)["budgets"][0]["ops"]) == ["to_host"]


def test_shapes_name_what_bounds_them(calls):
    host, linear = (budget_tables.shapes(calls, op, CHIPS["h200"]).splitlines() for op in ("to_host", "fp8_linear"))
    assert host[1].endswith("host link") and "393.22" in host[1]  # 32 * 512 * 512 * 3 bytes at 64 GB/s
    assert linear[1].split()[1:] == ["120", "651.08", "arithmetic"] and linear[-1].endswith("memory")


@pytest.mark.parametrize("arguments,words", [
    (["--op", "nope"], "--op: expected one that a block calls"),
    (["--chip", "b200", "--ceilings", "measured"], "nothing was measured"),
    (["--ceilings", "x"], "--ceilings: expected one of"), (["--op", "quant", "--flops"], "--op: expected without"),
    (["--size", "512*512,17*16"], "multiples of 16"), (["--size", "512*512,"], "--size"),
])  # fmt: skip
def test_bad_arguments(arguments, words, capsys):
    assert main(["budget", *arguments]) == 2
    out, err = capsys.readouterr()
    assert words in err and err.count("\n") == 1 and out == ""
