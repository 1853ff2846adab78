"""Distillation: clips in as many passes as there are steps, a student that goes where its teacher went, and one that
is drawn as its teacher draws."""

import json

import numpy as np
import pytest
import small
import torch
from safetensors.torch import load_file as torch_load
from test_training_forward import CLIPS, clips, sizes

from liveact_model.dit import DiT
from liveact_model.schedule import TIMESTEPS
from liveact_train import distill as stage
from liveact_train.__main__ import main
from liveact_train.clips_at_once import AtOnce, blocks_of
from liveact_train.distill import DistillConfig, regression_loss, teach
from liveact_train.dit import HELD, Latents, load_dit, save_dit
from liveact_train.forcing import latents_of, tokens_of
from liveact_train.matching import matching_gradient, student_clip
from liveact_train.passes import Clips, Weaker, teacher_timesteps
from liveact_train.start import initialise


def test_tokens_and_latents_are_the_same_thing():
    z = torch.randn(5, 3, 4, 6)
    assert torch.equal(latents_of(tokens_of(z), z.shape), z)


@pytest.mark.parametrize("steps", [4, 16, 24])
def test_the_released_timesteps_are_among_the_teachers(steps):
    found = teacher_timesteps(steps)
    assert len(found) == steps and found[0] == 1000 and found[-1] > 0
    assert sorted(set(found), reverse=True) == list(found)
    assert [found[0], found[steps // 4], found[steps // 2]] == pytest.approx(TIMESTEPS)


def noises(z, count=3):
    g = torch.Generator().manual_seed(8)
    return [torch.randn(z.shape, generator=g) for _ in range(count)]


def test_a_pass_a_step_makes_the_clip_that_generation_makes_block_by_block():
    dit = small.dit(sizes())
    z, x = clips(dit)
    noise = noises(z)
    with torch.no_grad():
        ours = Clips(dit, x).denoise(noise, TIMESTEPS, "renoise")
        theirs = AtOnce(dit, x).rollout(torch.stack(noise, 1), TIMESTEPS)
    torch.testing.assert_close(ours[-1], theirs.latents, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(ours[-2], theirs.entered, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("last", [0, 1, 2])
def test_the_student_s_clip_is_what_its_denoise_steps_make_and_the_gradient_leads_through_the_last_one(last):
    dit = small.dit(sizes()).requires_grad_(True)
    z, x = clips(dit, later=1)
    noise = noises(z)
    x0 = student_clip(dit, x, noise, last)
    with torch.no_grad():
        given = Clips(dit, x).denoise(noise, TIMESTEPS, "renoise", last)
        assert len(given) == last + 1
        whole = Clips(dit, x).denoise(noise, TIMESTEPS[: last + 1], "renoise")[-1]
    torch.testing.assert_close(x0, whole, atol=1e-5, rtol=1e-5)
    x0.square().mean().backward()
    assert dit.head.head.weight.grad.abs().sum() > 0


def test_guidance_moves_away_from_silence():
    dit = small.dit(sizes())
    z, x = clips(dit, later=1)
    t = torch.full((CLIPS,), 600.0)
    with torch.no_grad():
        one, two, none = (Clips(dit, x, g).velocity(z, t) for g in (1.0, 2.0, 0.0))
        silent = Clips(dit, x, 2.0).velocity(z, t, silent=True)
        deaf = Clips(dit, x._replace(audio=torch.zeros_like(x.audio))).velocity(z, t)
        start = [Clips(dit, x, g).velocity(z, torch.full((CLIPS,), 1000.0)) for g in (1.0, 2.0)]
    torch.testing.assert_close(none, deaf)
    torch.testing.assert_close(silent, deaf)
    torch.testing.assert_close(two - deaf, 2 * (one - deaf), atol=1e-4, rtol=1e-4)
    assert (one - deaf).abs().max() > 1e-3
    torch.testing.assert_close(*start)  # nothing is heard there, so nothing is guided


class Few:
    """Two clips, as a Latents of distillation."""

    def __init__(self, dit, later=1):
        self.z, self.x = clips(dit, later)
        self.config, self.blocks = dit.config, blocks_of(self.z.shape[2], dit.config)

    def batch(self, indices):
        return self.z, self.x


def test_autoguidance_goes_beyond_the_better_model_away_from_the_weaker_one():
    dit, weaker = small.dit(sizes()), small.dit(sizes())
    with torch.no_grad():
        weaker.head.head.weight.mul_(0.5)
    z, x = clips(dit, later=1)
    for t in (600.0, 1000.0):
        t = torch.full((CLIPS,), t)
        with torch.no_grad():
            good, weak, loud = (Clips(*model).velocity(z, t) for model in ((dit, x), (weaker, x), (dit, x, 2.0)))
            for beyond in (1.0, 2.5):
                found = Clips(dit, x, 1.0, Weaker(weaker, beyond)).velocity(z, t)
                torch.testing.assert_close(found, weak + beyond * (good - weak), atol=1e-4, rtol=1e-4)
            both = Clips(dit, x, 2.0, Weaker(weaker, 2.5)).velocity(z, t)
        torch.testing.assert_close(both, loud + 1.5 * (good - weak), atol=1e-4, rtol=1e-4)


def test_regression_asks_for_where_the_teacher_went():
    """A student that is the teacher has no error where the teacher goes straight; any other one has."""
    dit = small.dit(sizes())
    few = Few(dit)
    states = teach(dit, few, [0, 1], DistillConfig(teacher_steps=4, guidance=1.0), 3)
    assert states.shape[1] == 4
    with torch.no_grad():
        path = Clips(dit, few.x).denoise([states[:, 0]], teacher_timesteps(4), "euler")
    torch.testing.assert_close(states, torch.stack([path[0], path[1], path[2], path[4]], 1))
    straight = states.clone()
    for i, t in enumerate(TIMESTEPS):
        at = straight[:, i]
        with torch.no_grad():
            end = at - t / 1000 * Clips(dit, few.x).velocity(at, torch.full((CLIPS,), t))
        straight[:, 3] = end
        assert regression_loss(dit, straight, few.x, i) < 1e-9
        straight[:, 3] = end + 1.0
        assert regression_loss(dit, straight, few.x, i).item() == pytest.approx((1000 / t) ** 2, rel=1e-3)


def gaussian(mean, deviation):
    """Velocities of noisy samples of a Gaussian, in closed form."""

    def velocity(noisy, t):
        s = (t / 1000).view(-1, 1)
        total = (1 - s) ** 2 * deviation**2 + s**2
        clean = mean + (1 - s) * deviation**2 / total * (noisy - (1 - s) * mean)
        return (noisy - clean) / s

    return velocity


def test_matching_draws_samples_as_the_teacher_does():
    """A generator a + b e that follows the gradient reaches the teacher's mean and spread; its critic is exact here."""
    torch.manual_seed(0)
    a, b = torch.tensor([-1.0], requires_grad=True), torch.tensor([0.2], requires_grad=True)
    optimiser = torch.optim.Adam([a, b], 0.02)
    for _ in range(600):
        x0 = a + b * torch.randn(512, 1)
        t = torch.rand(512) * 900 + 50
        fake = gaussian(a.item(), b.item())
        away = matching_gradient(gaussian(2.0, 0.5), fake, x0, t, torch.randn_like(x0))
        optimiser.zero_grad()
        (0.5 * (x0 - (x0 - away).detach()).square()).mean().backward()
        optimiser.step()
    assert a.item() == pytest.approx(2.0, abs=0.05) and abs(b.item()) == pytest.approx(0.5, abs=0.08)


def test_matching_counts_every_noise_level_alike():
    x0, noise = torch.full((2, 4), 3.0), torch.randn(1, 4).expand(2, 4)
    away = matching_gradient(gaussian(0.0, 1.0), gaussian(1.0, 1.0), x0, torch.tensor([300.0, 900.0]), noise)
    real = gaussian(0.0, 1.0)
    for i, t in enumerate((300.0, 900.0)):
        s = t / 1000
        noisy = (1 - s) * x0[i : i + 1] + s * noise[:1]
        clean, ours = (noisy - s * v(noisy, torch.tensor([t])) for v in (real, gaussian(1.0, 1.0)))
        torch.testing.assert_close(away[i : i + 1], (ours - clean) / (x0[:1] - clean).abs().mean())


# --- the stage --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Random latents of three clips, and a teacher of the shipped kind with random weights, made small."""
    root, draw = tmp_path_factory.mktemp("distil"), np.random.RandomState(0)
    for name in ("train", "val"):
        latents = root / "latents" / name
        latents.mkdir(parents=True)
        np.save(latents / "z.npy", draw.randn(3, 14, 8, 8, 8).astype(np.float16))
        np.save(latents / "y.npy", draw.randn(3, 3, 8, 8, 8).astype(np.float16))
        np.save(latents / "mel.npy", draw.randn(3, 55, 128).astype(np.float16))
        (latents / "prompts.json").write_text(json.dumps([["a happy person", "nodding", "", "waving"]] * 3))
    torch.manual_seed(0)
    dit = initialise(DiT(Latents(root / "latents/train").config))
    torch.nn.init.normal_(dit.head.head.weight, std=0.02)
    save_dit(dit, root / "teacher.safetensors")
    return root


def command(folder, out, *more):
    files = ["--latents", str(folder / "latents"), "--teacher", str(folder / "teacher.safetensors"), "--out", str(out)]
    sizes = ["--batch", "2", "--rollouts", "3", "--teacher-steps", "4", "--rate", "1e-3"]
    return ["distill", *files, *sizes, *more]


def weights(out):
    return load_dit(str(out / "dit.safetensors")).state_dict()


@pytest.mark.parametrize("method", ["regression", "matching"])
def test_a_run_that_was_cut_off_ends_in_the_same_bits(folder, tmp_path, method):
    assert main(command(folder, tmp_path / "whole", "--method", method, "--steps", "4")) == 0
    assert main(command(folder, tmp_path / "cut", "--method", method, "--steps", "2")) == 0
    assert main(command(folder, tmp_path / "cut", "--method", method, "--steps", "4")) == 0
    first, second = weights(tmp_path / "whole"), weights(tmp_path / "cut")
    teacher = load_dit(str(folder / "teacher.safetensors")).state_dict()
    changed = [k for k in first if not torch.equal(first[k], teacher[k])]
    assert changed
    if method == "regression":  # the rate of a longer run is another one in its warm-up
        assert all(torch.equal(first[k], second[k]) for k in first)


def most_of_taps(path):
    return max(v.abs().max().item() for k, v in load_dit(str(path)).state_dict().items() if "taps" in k)


@pytest.mark.parametrize("method", ["regression", "matching", "dit"])
def test_taps_that_would_grow_without_end_are_brought_back(folder, tmp_path, method):
    """A long-term slot is folded into itself by the first tap, in an hour thousands of times."""
    loud = load_dit(str(folder / "teacher.safetensors"))
    with torch.no_grad():
        for name, value in loud.named_parameters():
            if "taps" in name:
                value[0].fill_(-1.5)
    save_dit(loud, tmp_path / "loud.safetensors")
    assert most_of_taps(tmp_path / "loud.safetensors") == 1.5
    more = ["--start", str(tmp_path / "loud.safetensors"), "--steps", "3"]
    if method == "dit":
        files = ["--latents", str(folder / "latents"), "--out", str(tmp_path / "out"), "--batch", "1"]
        assert main(["dit", *files, *more]) == 0
    else:
        assert main(command(folder, tmp_path / "out", "--method", method, *more)) == 0
    kept = torch_load(tmp_path / "out/checkpoint.safetensors")
    taps = [v for k, v in kept.items() if k.startswith("module/") and "taps" in k]
    assert taps and max(v.abs().max() for v in taps) <= HELD


def test_the_teacher_s_clips_are_made_once(folder, tmp_path, monkeypatch, capsys):
    assert main(command(folder, tmp_path, "--steps", "1")) == 0
    said = capsys.readouterr().out
    assert "the teacher has made 3 of 3 train clips" in said and "val_833.3" in said
    monkeypatch.setattr(stage, "teach", None)
    assert main(command(folder, tmp_path, "--steps", "2")) == 0
    assert "the teacher has made" not in capsys.readouterr().out


def test_students_learn_only_when_it_is_their_turn(folder, tmp_path, monkeypatch):
    """Of three steps two are the critic's and the last one is the student's."""
    seen = []
    update = stage.Run.update

    def note(run, loss):
        before = [[p.clone() for p in part.parameters()] for part in (run.module.student, run.module.critic)]
        update(run, loss)
        after = [list(part.parameters()) for part in (run.module.student, run.module.critic)]
        seen.append([any(not torch.equal(a, b) for a, b in zip(*pair)) for pair in zip(before, after)])

    monkeypatch.setattr(stage.Run, "update", note)
    assert main(command(folder, tmp_path, "--method", "matching", "--steps", "3")) == 0
    assert seen == [[False, True], [False, True], [True, False]]


@pytest.mark.parametrize(
    "flag,value,want",
    [
        ("--method", "guessing", "expected one of regression, matching, got 'guessing'"),
        ("--teacher-steps", "6", "expected a multiple of four from 4 on, got 6"),
        ("--guidance", "-1", "expected a number from 0 on, got -1.0"),
        ("--guidance", "nan", "expected a number from 0 on, got nan"),
        ("--weaker-guidance", "inf", "expected a number from 0 on, got inf"),
        ("--keep", "-0.5", "expected a number from 0 on, got -0.5"),
        ("--critic-updates", "0", "expected at least 1, got 0"),
        ("--batch", "4", "expected at most the 3 clips in {latents}, got 4"),
    ],
)
def test_unknown_choices_are_told(folder, tmp_path, capsys, flag, value, want):
    assert main(command(folder, tmp_path / "out", flag, value)) == 2
    want = want.format(latents=folder / "latents")
    assert capsys.readouterr().err == f"error: {flag}: {want}\n" and not (tmp_path / "out").exists()


def test_a_student_of_another_shape_is_told(folder, tmp_path, capsys):
    torch.manual_seed(0)
    other = Latents(folder / "latents/train", memory="mean").config
    save_dit(initialise(DiT(other)), tmp_path / "other.safetensors")
    assert main(command(folder, tmp_path / "out", "--start", str(tmp_path / "other.safetensors"))) == 2
    assert capsys.readouterr().err.startswith("error: --start: expected weights of DiTConfig(")
    assert main(command(folder, tmp_path / "out", "--weaker", str(tmp_path / "other.safetensors"))) == 2
    assert capsys.readouterr().err.startswith("error: --weaker: expected weights of DiTConfig(")
    assert not (tmp_path / "out").exists()
    assert main(command(folder, tmp_path / "out", "--teacher", str(tmp_path / "nothing"))) == 2
    assert capsys.readouterr().err.startswith("error: --teacher: expected ")


def test_matching_keeps_what_regression_taught(folder, tmp_path, monkeypatch, capsys):
    """On the student's turn the teacher's clips, of the run that made them, are part of the loss; with --keep 0 not."""
    seen = []
    loss = stage.regression_loss
    monkeypatch.setattr(stage, "regression_loss", lambda *a: seen.append(a) or loss(*a))
    assert main(command(folder, tmp_path / "first", "--steps", "1")) == 0
    seen.clear()
    capsys.readouterr()
    matching = ["--method", "matching", "--steps", "3"]
    assert main(command(folder, tmp_path / "with", *matching, "--made", str(tmp_path / "first"))) == 0
    assert len(seen) == 1 and "the teacher has made" not in capsys.readouterr().out
    assert main(command(folder, tmp_path / "without", *matching, "--keep", "0")) == 0
    assert len(seen) == 1 and not (tmp_path / "without/rollouts").exists()
    first, second = weights(tmp_path / "with"), weights(tmp_path / "without")
    assert any(not torch.equal(first[k], second[k]) for k in first)


def test_clips_of_another_teacher_or_guidance_are_told(folder, tmp_path, capsys):
    assert main(command(folder, tmp_path / "first", "--steps", "1")) == 0
    capsys.readouterr()
    weaker = ["--weaker", str(folder / "teacher.safetensors")]
    for more in (["--guidance", "2"], ["--batch", "3"], weaker):
        assert main(command(folder, tmp_path / "second", "--made", str(tmp_path / "first"), *more)) == 2
        assert capsys.readouterr().err.startswith("error: --made: expected clips made by this teacher, ")
