"""What `liveact_train evaluate` reads off a face: blinks, sway, and whether what was asked for is to be seen."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from liveact_train import evaluate as stage
from liveact_train.__main__ import main
from liveact_train.data.clips import make_clip
from liveact_train.data.faces import POSE
from liveact_train.data.processes import BLINKS, FPS, SWAY
from liveact_train.evaluate import ASKED, RAMP, blinks, by_itself, shown
from liveact_train.probe import Probe


@pytest.fixture(scope="module")
def asked():
    """The true attributes of a clip of each emotion and action."""
    return {pair: np.asarray(make_clip(1002, 3, silence=0.0, asked=pair).attributes) for pair in ASKED}


def test_what_is_asked_for_is_seen_in_the_truth_and_nothing_else_is(asked):
    for (emotion, action), attributes in asked.items():
        assert shown(attributes) == (emotion, action)
    still = asked["happy", "none"].copy()
    still[:, POSE.index("smile")] = 0
    still[:, POSE.index("brow_height")] = 0
    assert shown(still) == ("neutral", "none")
    nodding = asked["neutral", "nod"].copy()
    nodding[:, POSE.index("pitch")] *= 0.2
    assert shown(nodding)[1] == "none"


def test_blinks_are_counted_once():
    closing = np.zeros(60)
    assert blinks(closing) == 0
    for start in (3, 20, 40):
        closing[start : start + 4] = BLINKS.shape
    assert blinks(closing) == 3
    closing[40:45] = (0.9, 0.9, 0.4, 0.9, 0.9)  # a reading that flickers is still one blink
    assert blinks(closing) == 3
    assert blinks(0.4 * closing) == 0


def test_rates_of_the_processes_are_found():
    """From long draws of them, in the place of readings."""
    import random

    seen = []
    for seed in range(8):
        rng, frames = random.Random(seed), 1200
        one = np.zeros((frames, len(POSE)), np.float32)
        one[:, POSE.index("blink")] = BLINKS.draw(frames, rng)
        for name, process in SWAY.items():
            one[:, POSE.index(name)] = process.draw(frames, rng)
        seen.append(one)
    found = by_itself(seen, [True] * 7 + [False])
    assert found["blinks_per_minute"] == pytest.approx(BLINKS.per_minute, rel=0.12)
    for name, process in SWAY.items():
        assert found[f"sway_{name}"] == pytest.approx(process.sd, rel=0.15)
    moved = [s.copy() for s in seen]
    moved[7] *= 50  # an action moves this one, so its head does not count
    assert by_itself(moved, [True] * 7 + [False])["sway_dx"] == found["sway_dx"]
    assert by_itself([s[: RAMP + int(60 * FPS)] for s in seen], [False] * 8).keys() == {"blinks_per_minute"}


def test_a_report_has_every_measure(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(stage, "ASKED", (("happy", "none"), ("neutral", "wave")))
    torch.manual_seed(0)
    probe, out = tmp_path / "probe.safetensors", tmp_path / "evaluation.json"
    save_file(Probe().state_dict(), probe)
    sheet = tmp_path / "sheet.png"
    files = ["--probe", str(probe), "--out", str(out), "--sheet", str(sheet)]
    assert main(["evaluate", *files, "--clips", "1", "--asked", "1", "--blocks", "2"]) == 0
    said = capsys.readouterr().out
    for name in ("mouth_correlation", "latent_step", "blinks_per_minute", "recognised", "edges", "happy", "wave"):
        assert f'"{name}"' in said
    assert out.exists() and sheet.exists()
    found = json.loads(out.read_text())["by_itself"]
    assert {"sway_dx", "blinks_per_minute"} <= found["truth"].keys() == found["generated"].keys()  # of "happy", too
    clip = make_clip(1001, 0)
    assert any(p % 4 for p in clip.prompt_ids)  # which the first clip could not tell
    assert main(["evaluate", *files[2:], "--probe", str(tmp_path / "no")]) == 2
    assert capsys.readouterr().err.startswith(f"error: --probe: expected {tmp_path / 'no'} to be what the probe stage")
    for flag, value, least in (("--clips", "0", 1), ("--blocks", "1", 2)):
        assert main(["evaluate", *files, flag, value]) == 2
        assert capsys.readouterr().err == f"error: {flag}: expected at least {least}, got {value}\n"
