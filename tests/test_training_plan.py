"""What training would cost: counted as a real pass is, sums that can be checked by hand, and what is refused."""

import json

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from liveact_model.dit import DiT
from liveact_train.__main__ import main
from liveact_train.clips_at_once import Conditions
from liveact_train.forcing import velocity_loss
from liveact_train.plan import GIB, PlanConfig, clip_cost, plan
from liveact_train.sizes import MODELS
from liveact_train.start import initialise


@pytest.fixture(scope="module")
def large():
    return plan(PlanConfig())


def test_a_clip_costs_what_a_real_pass_of_training_computes():
    c = MODELS["tiny"]
    _, cost = clip_cost(c, (64, 64), 30)
    dit = initialise(DiT(c))
    dit.dtype = torch.bfloat16
    z, y = torch.randn(1, c.out_dim, 30, 8, 8), torch.randn(1, 4 + c.out_dim, c.window_slots, 8, 8)
    text, image = torch.randn(1, 4, c.text_len, c.text_dim), torch.randn(1, c.clip_tokens, c.clip_dim)
    x = Conditions(y, text, image, torch.randn(1, 30, 8, c.audio_blocks, c.audio_channels))
    with FlopCounterMode(display=False) as forward:
        loss = velocity_loss(dit, z, x, torch.full((1, 4), 500.0), torch.randn(z.shape), True)
    with FlopCounterMode(display=False) as backward:
        loss.backward()
    assert forward.get_total_flops() == cost.flops["bf16"]
    assert backward.get_total_flops() / forward.get_total_flops() == pytest.approx(2, rel=0.03)


def test_seconds_hours_and_memory_are_these_sums(large):
    stage, flops = large["stages"][0], large["clip"]["tflop"]
    n, f = large["parameters"], flops["bf16"] / 989 + flops["f32"] / 67
    assert 18.8e9 < n < 19e9 and large["note"] == "predicted, not measured"
    assert stage["passes"] == 4 and stage["compute_s"] == pytest.approx(4 * f / 0.4)
    # two gathers in bf16, one gradient in float32
    assert stage["exchange_s"] == pytest.approx((2 * 2 + 4) * n * 63 / 64 / 50e9)
    assert stage["step_s"] == stage["compute_s"] and stage["gpu_hours"] == pytest.approx(
        stage["step_s"] * 1e4 * 64 / 3600
    )
    memory = stage["memory_gib"]
    assert memory["weights"] == memory["gradients"] == memory["optimiser"] / 2 == pytest.approx(4 * n / 64 / GIB)
    assert memory["frozen teacher"] == 0
    distilled = large["stages"][1]
    assert distilled["passes"] == (2 + 4 + 2 + 1) + 5 * (3 + 4)
    assert distilled["memory_gib"]["frozen teacher"] == pytest.approx(2 * n / 64 / GIB)
    assert distilled["memory_gib"]["weights"] == 2 * memory["weights"]


def tiny(**options):
    return plan(PlanConfig(model="tiny", **options))["stages"][0]


def test_options_change_what_they_should():
    base = tiny(gpus=8)
    memory = base["memory_gib"]
    half, all_kept = tiny(gpus=8, optimiser="bfloat16"), tiny(gpus=8, checkpointing=False)
    assert half["memory_gib"] == memory | {"optimiser": memory["optimiser"] / 2}
    assert all_kept["passes"] == 3 and all_kept["memory_gib"]["activations"] > 2 * memory["activations"]
    assert all_kept["exchange_s"] == base["exchange_s"]
    more = tiny(gpus=8, batch=3)
    assert more["memory_gib"]["activations"] == 3 * memory["activations"]
    assert more["compute_s"] == pytest.approx(3 * base["compute_s"]) and more["exchange_s"] == base["exchange_s"]
    assert tiny(gpus=1)["exchange_s"] == 0 and tiny(gpus=16)["exchange_s"] > 5 * base["exchange_s"]  # over the network
    assert tiny(gpus=8, efficiency=0.2)["compute_s"] == pytest.approx(2 * base["compute_s"])


def test_it_prints_a_table_or_json(capsys):
    assert main(["plan", "--model", "tiny", "--gpus", "8"]) == 0
    text = capsys.readouterr().out
    assert "predicted, not measured" in text and "GPU hours" in text and "distillation" in text
    assert max(map(len, text.splitlines())) <= 120
    assert main(["plan", "--model", "tiny", "--gpus", "8", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["note"] == "predicted, not measured" and found["config"]["size"] == "64*64"
    assert [s["stage"] for s in found["stages"]] == ["neighbor forcing, ConvKV", "distillation"]


@pytest.mark.parametrize(
    "option,value,said",
    [
        ("model", "huge", "expected one of tiny, liveact-18b, got 'huge'"),
        ("chip", "abacus", "expected one of h200, h100, b200, rtx5090, got 'abacus'"),
        ("optimiser", "int1", "expected one of float32, bfloat16, got 'int1'"),
        ("size", "65*64", "expected W*H, both multiples of 16 from 16 to 4096, got '65*64'"),
        ("size", "64", "expected W*H, both multiples of 16 from 16 to 4096, got '64'"),
        ("latent-frames", "5", "expected 6 to 1000000000, got 5"),
        ("gpus", "0", "expected 1 to 1000000000, got 0"),
        ("efficiency", "nan", "expected more than 0 and at most 1, got nan"),
        ("network", "-1", "expected more than 0 and at most 1000000, got -1.0"),
    ],
)  # fmt: skip
def test_what_does_not_exist_is_refused(capsys, option, value, said):
    assert main(["plan", f"--{option}", value]) == 2
    assert capsys.readouterr().err == f"error: --{option}: {said}\n"
