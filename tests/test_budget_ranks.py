"""The budget of several ranks: one rank's share of the work, the bytes it sends, and the modelled time of sending."""

import json
from dataclasses import replace

import pytest

from liveact_app.budget.dryrun import record_block
from liveact_app.cli import main
from liveact_kernels.cost.budget import Budget
from liveact_kernels.cost.hw import CHIPS
from liveact_model.config import NAMED
from liveact_model.parallel.cost import HOP_US, best, exchanges
from liveact_model.parallel.dry import DryRanks
from liveact_model.parallel.forms import FORMS
from liveact_model.parallel.pieces import pieces

C, HEADS, STEPS, FRAMES = 5120, 40, 3, 32


@pytest.mark.parametrize("size", [2, 3, 8])
def test_ranks_share_the_work_and_the_model_of_the_exchange_counts_what_the_run_sends(monkeypatch, size):
    layers = 2
    monkeypatch.setitem(NAMED, "few", NAMED["liveact-18b"].with_(num_layers=layers))
    chip, tokens = CHIPS["h200"], 16 * 16
    alone = Budget.of(record_block("few", (256, 256), "bfloat16"), chip, FRAMES).to_dict()["groups"]
    modelled = exchanges(size, tokens, HEADS, C, 2, chip)
    rows = 8 * -(-tokens // size)
    tokens_out = (1 + 1 + 6 / 8) * 3 * rows * 64 * 2  # of the head, three denoise steps
    video = 3 * (21 + 32 + 32) * 8 * -(-32 // size) * 256 * 4
    rest, near = (size - 1) * (tokens_out + video), 0.01 + 0.03 * (size == 3)
    for form in FORMS:
        rank = DryRanks(size, tokens, form)
        calls = record_block("few", (256, 256), "bfloat16", parallel=rank)
        share = Budget.of(calls, chip, FRAMES).to_dict()["groups"]
        fair = -(-tokens // size) / tokens
        heads = len(pieces(HEADS, size)[rank.rank]) / HEADS
        for group, want in (("linear", fair), ("self attention", heads if form == "ulysses" else fair)):
            part = share[group]["tflop_per_video_frame"] / alone[group]["tflop_per_video_frame"]
            assert part == pytest.approx(want, rel=0.05), (form, group)
        blocks = layers * STEPS * (1 + 1 + 6 / 8)  # a first block of six latent frames and two of eight
        assert rank.wire.sent == pytest.approx(modelled[form].sent * blocks + rest, rel=near), form
    rank, codes = DryRanks(size, tokens), exchanges(size, tokens, HEADS, C, 2, chip, coded=True)
    record_block("few", (256, 256), "fp8", parallel=rank)  # the first block travels in bf16, the others as codes
    sent = layers * STEPS * (codes["gather"].sent * 2 + modelled["gather"].sent * 6 / 8)
    assert [*codes] == ["gather"] and rank.wire.sent == pytest.approx(sent + rest, rel=near)


def test_budget_of_several_ranks(capsys):
    assert main(["budget", "--size", "64*64", "--ranks", "3", "--format", "json", "--precision", "bfloat16"]) == 0
    d = json.loads(capsys.readouterr().out)
    forms = d["budgets"][0]["exchange_modelled"]
    assert d["ranks"] == 3 and set(forms) == set(FORMS) and sum(row["default"] for row in forms.values()) == 1
    assert main(["budget", "--size", "64*64", "--ranks", "2"]) == 0
    text = capsys.readouterr().out
    assert "modelled" in text and "the busiest of 2 H200" in " ".join(text.split()) and text.count("  default") == 1
    assert main(["budget", "--size", "16*16", "--ranks", "2"]) == 2
    assert "--ranks: expected at most one per token" in capsys.readouterr().err
    assert main(["budget", "--ranks", "2", "--flops"]) == 2
    assert "--flops: expected without --ranks" in capsys.readouterr().err


def test_exposed_time_by_hand():
    """Two ranks, 1024 tokens: 4096 rows of 2 x 10240 bytes and a wait, while the queries meet 6144 + 4096 keys."""
    chip = CHIPS["h200"]
    link = 4096 * 2 * 10240 / 450e9 * 1e6
    local, remote = (4 * 4096 * keys * C / 989e12 * 1e6 for keys in (6144 + 4096, 4096))
    forms = exchanges(2, 1024, HEADS, C, 2, chip)
    assert forms["gather"].exposed_us == pytest.approx(HOP_US + link) and link < local
    assert forms["ring"].exposed_us == forms["overlap"].exposed_us == 0
    slow = replace(chip, link=chip.link / 10)
    late = max(0, 10 * link + HOP_US - local)
    assert late > remote and exchanges(2, 1024, HEADS, C, 2, slow)["overlap"].exposed_us == pytest.approx(late)
    assert best(forms) == "ring" and best(exchanges(8, 1024, HEADS, C, 2, chip)) == "ulysses"
    assert "ulysses" not in exchanges(8, 1024, 4, C, 2, chip)
