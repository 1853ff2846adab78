"""The frame budget: totals against counts made by hand, and the table a generation prints."""

import json

import pytest
import torch

from liveact_app.budget.dryrun import record_block
from liveact_app.cli import main
from liveact_app.generate.timing import FrameBudget
from liveact_kernels import ops
from liveact_kernels.cost.budget import Budget
from liveact_kernels.cost.hw import CHIPS

C, FFN, LAYERS, STEPS, FRAMES = 5120, 13824, 40, 3, 32


def by_hand(tokens):
    """TFLOP per video frame of a steady block of the 18.9-billion-parameter model, 2 per multiply-add."""
    m = 8 * tokens
    always = 2 * m * C * (3 * C + C + 2 * C + 2 * FFN)  # qkv, o, cross q and o, feed-forward
    heard = 2 * m * C * 2 * C  # audio q and proj, not at the first step
    products = LAYERS * (STEPS * always + (STEPS - 1) * heard)
    window = LAYERS * STEPS * 4 * m * (14 * tokens) * C
    cross = LAYERS * (STEPS * 4 * m * (512 + 257) * C + (STEPS - 1) * 4 * m * 32 * C)
    return {"linear": products, "self attention": window, "cross attention": cross}


@pytest.fixture(scope="module")
def budget_512():
    return Budget.of(record_block("liveact-18b", (512, 512)), CHIPS["h200"], FRAMES).to_dict()


def test_the_big_model_agrees_with_counts_by_hand(budget_512):
    for group, flops in by_hand(1024).items():
        assert budget_512["groups"][group]["tflop_per_video_frame"] == pytest.approx(flops / 1e12 / FRAMES, rel=1e-2)
    published = {"linear": 20.5, "self attention": 9.02, "cross attention": 0.50, "VAE decode": 2.2}
    for group, tflop in published.items():
        assert budget_512["groups"][group]["tflop_per_video_frame"] == pytest.approx(tflop, rel=1.1e-2), group


def test_launches_of_a_steady_block(budget_512):
    launches = {op: row["launches_per_block"] for op, row in budget_512["ops"].items()}
    assert launches["attention_8bit"] == launches["kv_compress"] == launches["qkv_norm_rope_8bit"] == LAYERS * STEPS
    assert launches["head_major"] == 2 * LAYERS * STEPS  # the memory and the block
    assert launches["audio_attention_quant"] == LAYERS * (STEPS - 1) and launches["denoise_update"] == STEPS
    assert sum(launches.values()) == budget_512["total"]["launches_per_block"]


def test_floors_add_up_and_follow_the_chip(budget_512):
    rows = budget_512["groups"].values()
    total = budget_512["total"]["floor_ms_per_video_frame"]
    assert sum(r["floor_ms_per_video_frame"] for r in rows) == pytest.approx(total)
    linear = budget_512["groups"]["linear"]
    least = linear["tflop_per_video_frame"] * 1e12 / CHIPS["h200"].flops["fp8"] * 1e3
    assert least <= linear["floor_ms_per_video_frame"] < 1.02 * least


def test_memory_traffic_is_twelve_slots_read_and_four_written(budget_512):
    codes, scales = 1024 * C, 4 * 1024 * 40
    tables = 14 * 1024 * 64 * 2 * 4 + 5 * C * 4  # rope of the window, taps
    want = (2 * (12 + 4) * (codes + scales) + tables) * LAYERS * STEPS / FRAMES / 1e9
    assert budget_512["groups"]["memory"]["gb_per_video_frame"] == pytest.approx(want, rel=1e-6)


def test_command(capsys):
    assert main(["budget", "--size", "64*64,128*64", "--format", "json"]) == 0
    d = json.loads(capsys.readouterr().out)
    assert d["model"] == "liveact-18b" and [b["size"] for b in d["budgets"]] == [[64, 64], [128, 64]]
    assert all(b["total"]["launches_per_block"] > 2000 for b in d["budgets"])
    assert main(["budget", "--size", "64*64", "--precision", "bfloat16"]) == 0
    text = capsys.readouterr().out
    assert "fp8_linear" not in text and "total per video frame" in text
    for flag, value in (("--model", "x"), ("--chip", "x"), ("--ranks", "0"), ("--size", "17*16")):
        assert main(["budget", flag, value]) == 2
        assert flag in capsys.readouterr().err


def test_generation_table_adds_up():
    budget = FrameBudget()
    with budget.block(0):
        for _ in range(3):
            ops.rms_norm(x=torch.ones(8, 16), weight=torch.ones(16))
    lines = budget.table(video_frames=21, encode_seconds=0.5).splitlines()
    assert lines[1].split()[:3] == ["rms_norm", "torch", "3"]
    shares = [float(line.split()[-1].rstrip("%")) for line in lines[1:-2]]
    assert sum(shares) == pytest.approx(100, abs=0.3)
    assert lines[-2].split() == ["total", f"{budget.seconds / 21 * 1e3:.3f}", "100.0%"]
    assert lines[-1].startswith("H.264") and lines[-1].endswith(f"{0.5 / 21 * 1e3:.3f}")
