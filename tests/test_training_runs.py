"""Runs: cut off and continued bit for bit, curves, and the last good checkpoint kept when something goes wrong."""

import json
import resource
import signal
import subprocess
import sys
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ROOT
from safetensors import safe_open
from safetensors.torch import load_file
from torch import nn

from liveact_model.errors import InputError
from liveact_train import runs, ship
from liveact_train.__main__ import STAGES, main
from liveact_train.data.clips import BLOCK_STARTS, FRAMES, LOOK_AHEAD
from liveact_train.runs import Diverged, Run, learning_rate
from liveact_train.ship import most_lost as ship_most_lost


@dataclass(frozen=True)
class Config:
    seed: int = 3
    steps: int = 8
    rate: float = 0.02
    width: int = 6
    out: str = "-"


def begin(folder, config, **options):
    """A run of a small network, and what a step of it is."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(2, config.width, 3), nn.SiLU(), nn.Conv2d(config.width, 1, 3))
    net = net.to(memory_format=torch.channels_last)
    run = Run("toy", Path(folder), config, net, torch.optim.AdamW(net.parameters(), config.rate), **options)

    def step(rng):
        x = torch.randn(4, 2, 8, 8) * rng.uniform(0.5, 2.0)
        run.update((net(x) - x[:, :1, 2:-2, 2:-2]).square().mean())

    return run, step


def finish(folder, config, until=None, **options):
    run, step = begin(folder, config, **options)
    for rng in run:
        step(rng)
        if run.step == until:
            run.save()
            break
    return run


def test_a_run_that_was_cut_off_ends_in_the_same_bits(tmp_path):
    whole = finish(tmp_path / "whole", Config())
    for until in (1, 3, 6):
        finish(tmp_path / "parts", Config(), until)
    parts = finish(tmp_path / "parts", Config())
    for a, b in ((whole.module, parts.module), (whole.average, parts.average)):
        assert all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values()))
    files = [load_file(run.path) for run in (whole, parts)]
    assert files[0].keys() == files[1].keys() and any(key.startswith("optimiser/") for key in files[0])
    assert all(torch.equal(files[0][key], files[1][key]) for key in files[0])
    assert whole.loss == parts.loss and parts.step == 8
    other = finish(tmp_path / "other", Config(seed=4))
    assert not torch.equal(other.module[0].weight, whole.module[0].weight)


def test_the_average_is_not_the_last_step_and_follows_it(tmp_path):
    run = finish(tmp_path, Config())
    gap = (run.average[0].weight - run.module[0].weight).abs().max()
    assert 0 < gap < 0.2 and not run.average[0].weight.requires_grad


def test_the_rate_rises_stays_and_falls_so_a_run_can_be_made_longer():
    rates = [learning_rate(i, 1000, 1.0) for i in range(1, 1001)]
    assert rates[0] == 0.01 and rates[99] == 1.0 == rates[599] and rates[-1] == 0.02
    assert all(a >= b for a, b in pairwise(rates[99:]))
    assert [learning_rate(i, 2000, 1.0) for i in range(1, 601)] == rates[:600]


def test_a_run_can_be_made_longer_and_moved_but_not_changed(tmp_path):
    finish(tmp_path, Config(), 4)
    longer = finish(tmp_path, Config(steps=10, out="elsewhere"))
    assert longer.step == 10
    with pytest.raises(InputError) as caught:
        begin(tmp_path, Config(width=7))
    assert str(caught.value) == f"--width: expected 6, with which the run in {tmp_path} began, got 7"
    run, _ = begin(tmp_path / "b", Config())
    run.name = "another"
    for _ in run:
        break
    run.update(run.module(torch.zeros(1, 2, 8, 8)).mean())
    run.save()
    with pytest.raises(InputError, match=r"expected a checkpoint of the stage toy in .*, found one of another"):
        begin(tmp_path / "b", Config())


def test_a_checkpoint_of_something_else_is_told(tmp_path):
    (tmp_path / "checkpoint.safetensors").write_bytes(b"what is this")
    with pytest.raises(InputError, match=r"expected a checkpoint of this stage in .*, found"):
        begin(tmp_path, Config())


@pytest.mark.parametrize("what", ["loss", "gradient"])
def test_a_loss_that_is_no_number_stops_the_run_and_the_last_good_checkpoint_stays(tmp_path, what):
    run, step = begin(tmp_path, Config())
    with pytest.raises(Diverged) as caught:
        for rng in run:
            if run.step == 2:
                run.save()
                kept = run.path.read_bytes()
            if run.step == 5:
                weight = run.module[0].weight
                bad = (
                    weight.sum() * torch.inf if what == "loss" else (weight - weight.detach()).clamp_min(0).sqrt().sum()
                )
                run.update(bad)
            step(rng)
    assert str(caught.value).startswith(f"toy: the {what} became ")
    assert str(caught.value).endswith(f" at step 6; the checkpoint of step 2 is kept in {tmp_path}")
    assert run.path.read_bytes() == kept and torch.isfinite(run.module[0].weight).all()
    assert finish(tmp_path, Config()).step == 8


FULL = """
import resource, signal, sys
sys.path[:0] = [{root!r}, {tests!r}]
from test_training_runs import Config, begin
run, step = begin({folder!r}, Config(width=600))
for rng in run:
    step(rng)
    if run.step == 3:
        run.save()
    if run.step == 5:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (20000, resource.RLIM_INFINITY))
        try:
            run.save()
        except Exception as error:
            print(type(error).__name__, error)
            break
"""


def test_a_full_disk_in_the_middle_of_a_checkpoint_keeps_the_last_good_one(tmp_path):
    """A limit on the size of files stands in for the disk: the write fails half way, as there."""
    script = FULL.format(root=str(ROOT), tests=str(ROOT / "tests"), folder=str(tmp_path))
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    said = done.stdout.strip().splitlines()[-1]
    assert said.startswith(f"InputError --out: {tmp_path}/checkpoint.safetensors could not be written (")
    assert said.endswith(f"); the checkpoint of step 3 is kept in {tmp_path}")
    assert not list(tmp_path.glob("*.part"))
    with safe_open(str(tmp_path / "checkpoint.safetensors"), framework="pt") as file:
        assert file.metadata()["step"] == "3"
    assert finish(tmp_path, Config(width=600)).step == 8
    assert resource and signal  # what the script uses exists here


def test_a_report_says_where_the_run_is_and_goes_into_curves(tmp_path, monkeypatch, capsys):
    rows = []

    class Curves:
        def add_scalar(self, *row):
            rows.append(row)

        def flush(self):
            pass

    monkeypatch.setattr(runs, "_curves", lambda folder, step: Curves())
    run, step = begin(tmp_path, Config(), report_every_s=0.0)
    run.measure = lambda: {"held_out": 0.25}
    for rng in run:
        step(rng)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 8 and lines[2].startswith("toy 3/8  ") and lines[2].endswith("held_out 0.25")
    assert "s a step" in lines[2] and "h left" in lines[2] and "loss" in lines[2]
    assert ("toy/held_out", 0.25, 3) in rows and {name for name, *_ in rows} == {
        "toy/held_out", "toy/loss", "toy/rate",
    }  # fmt: skip


def test_curves_are_tensorboards(tmp_path):
    pytest.importorskip("tensorboard")
    finish(tmp_path, Config(), report_every_s=0.0)
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(tmp_path))
    events.Reload()
    assert len(events.Scalars("toy/loss")) == 8


def test_without_tensorboard_one_line_says_so(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    finish(tmp_path, Config())
    assert capsys.readouterr().out.count("pip install liveact[train]") == 1


# --- the stages, one after the other ----------------------------------------------------------------------------------


def folder_of_clips(root, clips=2):
    """Clips of noise in the layout of the data stage."""
    draw = np.random.RandomState(0)
    for name in ("train", "val"):
        folder = root / name
        folder.mkdir(parents=True)
        small = draw.randint(0, 255, (clips, FRAMES, 3, 8, 8), np.uint8)
        np.save(folder / "video.npy", np.repeat(np.repeat(small, 8, 3), 8, 4))
        np.save(folder / "mel.npy", draw.randn(clips, FRAMES + LOOK_AHEAD, 128).astype(np.float16))
        np.save(folder / "attributes.npy", draw.randn(clips, FRAMES, 15).astype(np.float32))
        np.save(folder / "prompt_ids.npy", np.zeros((clips, len(BLOCK_STARTS)), np.uint8))
        (folder / "prompts.json").write_text(json.dumps([["a happy person", "nodding", "", "waving"]] * clips))


def test_the_stages_follow_each_other_and_the_result_generates(tmp_path, capsys, monkeypatch):
    root = str(tmp_path)
    monkeypatch.setattr(ship, "most_lost", lambda vae, pixels: ship_most_lost(vae, pixels, faces=2))
    folder_of_clips(tmp_path)
    vae, latents = f"{root}/vae/vae.safetensors", f"{root}/latents"
    assert main(["vae", "--data", root, "--out", f"{root}/vae", "--steps", "2", "--batch", "1", "--z-dim", "8"]) == 0
    assert main(["latents", "--data", root, "--vae", vae, "--out", latents]) == 0
    dit = ["dit", "--latents", latents, "--out", f"{root}/dit", "--batch", "2"]
    assert main([*dit, "--steps", "1"]) == 0
    assert main([*dit, "--steps", "2"]) == 0
    assert "dit continues after step 1" in capsys.readouterr().out
    assert main([*dit, "--steps", "2", "--forcing", "teacher"]) == 2
    assert capsys.readouterr().err == (
        f"error: --forcing: expected neighbor, with which the run in {root}/dit began, got teacher\n"
    )
    decoder = ["decoder", "--data", root, "--latents", latents, "--vae", vae, "--out", f"{root}/decoder"]
    assert main([*decoder, "--steps", "1", "--batch", "1"]) == 0
    files = [
        "--dit",
        f"{root}/dit/dit.safetensors",
        "--vae",
        f"{root}/decoder/vae.safetensors",
        "--out",
        f"{root}/model",
    ]
    assert main(["ship", *files, "--name", "mine"]) == 0
    from liveact_model.loading import load_avatar
    from liveact_model.session import Session

    avatar = load_avatar(f"{root}/model")
    assert avatar.vae.linear_before is not None
    session = Session(avatar, torch.zeros(3, 64, 64), "a happy person")
    session.push_audio(torch.zeros(16000 * 3))
    session.close_audio()
    assert session.next_block().shape == (21, 64, 64, 3) and session.next_block().shape == (32, 64, 64, 3)


def test_missing_folders_are_told(tmp_path, capsys):
    folder_of_clips(tmp_path / "clips", 1)
    nowhere, data = str(tmp_path / "nowhere"), ["--data", str(tmp_path / "clips")]
    latents = ["--latents", nowhere]
    for flag, command in (
        ("--data", ["vae", "--data", nowhere]), ("--data", ["probe", "--data", nowhere]),
        ("--vae", ["latents", *data, "--vae", nowhere]), ("--latents", ["dit", *latents]),
        ("--latents", ["decoder", *data, *latents]),
    ):  # fmt: skip
        assert main([*command, "--out", str(tmp_path / "out")]) == 2
        said = capsys.readouterr().err
        assert said.startswith(f"error: {flag}: expected ") and nowhere in said and said.count("\n") == 1


def test_a_run_that_diverges_ends_with_one_sentence(monkeypatch, capsys):
    def diverge(config):
        raise Diverged("dit: the loss became nan at step 3")

    monkeypatch.setitem(STAGES, "dit", (STAGES["dit"][0], diverge))
    assert main(["dit"]) == 1
    assert capsys.readouterr().err == "error: dit: the loss became nan at step 3\n"


def test_unknown_choices_are_told(capsys):
    for flag, value, want in (
        ("--forcing", "students", "expected one of neighbor, diffusion, teacher, self, got 'students'"),
        ("--timesteps", "none", "expected all or sampler, got 'none'"),
    ):
        assert main(["dit", flag, value]) == 2
        assert capsys.readouterr().err == f"error: {flag}: {want}\n"


def test_help_says_what_an_option_means(capsys):
    for stage in STAGES:
        with pytest.raises(SystemExit):
            main([stage, "--help"])
    text = " ".join(capsys.readouterr().out.split())
    assert "of the videos, held out whole; one at least (default: 0.1)" in text and "peak learning rate" in text
