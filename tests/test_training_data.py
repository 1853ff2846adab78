"""The drawn clips: faces, what their pictures hide, and processes whose rates are those that are stated."""

import random
from collections import Counter
from dataclasses import replace
from itertools import pairwise

import pytest
import torch

from liveact_model.text.words import ACTIONS, EMOTIONS
from liveact_train.data.clips import BLOCK_STARTS, FRAMES
from liveact_train.data.faces import render, render_uint8, still_pose
from liveact_train.data.identity import SECRETS, SKINS, plain, random_identity, skin_tone
from liveact_train.data.motion import RAMP, move, random_pose, random_segments
from liveact_train.data.processes import BLINKS, BREATHING, FPS, SACCADES, SWAY

LONG = 200_000  # video frames: nearly three hours of a process by itself
NOTHING = {"mitten": None, "mark": None, "bow": None}


def clip_pose(seed: int, segments=((0, "neutral", "none"),), frames: int = FRAMES):
    """Pose of one clip in silence."""
    rng = random.Random(f"pose {seed}")
    return move(torch.full((frames + 2, 128), -1.3), frames, list(segments), random_pose(rng), rng)


# --- processes --------------------------------------------------------------------------------------------------------


def starts(curve, least=0.0):
    """Video frames at which the curve leaves `least`."""
    on = curve > least
    return torch.nonzero(on[1:] & ~on[:-1]).flatten() + 1


def test_blinks_come_at_their_rate_and_last_as_stated():
    blink = BLINKS.draw(LONG, random.Random(0))
    begun = starts(blink)
    assert len(begun) / LONG * FPS * 60 == pytest.approx(BLINKS.per_minute, rel=0.05)
    gaps = (begun[1:] - begun[:-1]) / FPS
    assert gaps.min() >= BLINKS.rest - 1 / FPS
    wait = 60 / BLINKS.per_minute - BLINKS.rest  # beyond the rest: exponential, whose deviation is its mean
    assert (gaps - BLINKS.rest).std() == pytest.approx(wait, rel=0.1)
    assert blink.sum() / len(begun) == pytest.approx(sum(BLINKS.shape), rel=0.02)


def test_gaze_jumps_at_its_rate_and_half_of_the_jumps_go_home():
    gaze = SACCADES.draw(LONG, random.Random(1))
    jump = (gaze[1:] != gaze[:-1]).any(1)
    assert jump.sum() / LONG * FPS * 60 == pytest.approx(SACCADES.per_minute, rel=0.05)
    after = gaze[1:][jump]
    away = after[(after != 0).any(1)]
    home = 1 - len(away) / len(after)  # from the middle all jumps lead away
    assert home == pytest.approx(SACCADES.centre / (1 + SACCADES.centre), rel=0.05)
    for axis, sd in enumerate(SACCADES.spread):
        assert 0.8 * sd < away[:, axis].std() < sd  # a little less: cut at two deviations


@pytest.mark.parametrize("name", SWAY)
def test_sway_has_its_deviation_and_its_memory(name):
    process = SWAY[name]
    x = process.draw(LONG, random.Random(name))
    assert x.std() == pytest.approx(process.sd, rel=0.05) and abs(x.mean()) < 0.05 * process.sd
    for seconds in (0.25, 0.5, 1.0, 2.0):
        lag = int(seconds * FPS)
        u = torch.tensor(seconds / process.memory)
        seen = (x[lag:] * x[:-lag]).mean() / x.square().mean()
        assert seen == pytest.approx(((1 + u) * torch.exp(-u)).item(), abs=0.04)


def test_breath_is_a_sine_whose_rate_lies_in_its_range():
    rates = []
    for seed in range(200):
        x = BREATHING.draw(6000, random.Random(seed))
        assert x.abs().max() == pytest.approx(BREATHING.amplitude, rel=0.01)
        rates.append(len(starts(x)) / 6000 * FPS * 60)
    low, high = BREATHING.per_minute
    assert low - 0.3 < min(rates) < low + 1 and high - 1 < max(rates) < high + 0.3
    assert sum(rates) / len(rates) == pytest.approx((low + high) / 2, rel=0.05)


def test_drawn_clips_keep_the_rates_after_they_have_settled():
    """What `move` makes of the processes, over many clips, and what the eyes of some pictures show of it."""
    poses = [clip_pose(seed, frames=1000) for seed in range(60)]
    minutes = 60 * (1000 - RAMP) / FPS / 60
    assert sum(len(starts(p["blink"])) for p in poses) / minutes == pytest.approx(BLINKS.per_minute, rel=0.1)
    jumps = sum(int((p["gaze_x"][1:] != p["gaze_x"][:-1]).sum()) for p in poses)
    assert jumps / minutes == pytest.approx(SACCADES.per_minute, rel=0.1)
    for name, process in SWAY.items():
        x = torch.stack([p[name][200:] for p in poses])
        if name == "dy":  # breathing lifts the head a little, too
            x = x + 0.015 * torch.stack([p["breath"][200:] for p in poses])
        within = (x - torch.stack([p[name][:1] for p in poses])).square().mean().sqrt()
        assert within == pytest.approx(process.sd, rel=0.1), name
    face = replace(random_identity(random.Random(4)), accessory="none", iris=(0.0, 0.0, 0.0))
    some = {name: value[:300] for name, value in poses[0].items()}
    white = (render(face, some)[:, :, 16:34, 12:52].amin(1) > 0.9).sum((1, 2))
    assert len(starts(-white.float(), -3.0)) == len(starts(some["blink"])) > 1  # no white is left in a closed eye


# --- faces ------------------------------------------------------------------------------------------------------------


def test_skin_tones_are_even_from_light_to_dark():
    shades = sorted(sum(random_identity(random.Random(f"tone {i}")).skin) / 3 for i in range(600))
    line = [sum(skin_tone(i / 100)) / 3 for i in range(101)]
    assert line == sorted(line, reverse=True) and skin_tone(0) == SKINS[0] and skin_tone(1) == SKINS[-1]
    for part in range(1, 5):  # quintiles of the drawn tones are those of the line
        assert shades[part * 120] == pytest.approx(sorted(line)[part * 20], abs=0.04)


def test_faces_are_richer_than_the_plain_family():
    def edges(picture):
        return (picture[..., 1:] - picture[..., :-1]).abs().mean()

    for seed in range(8):
        face = random_identity(random.Random(f"rich {seed}"))
        rich, bare = (render(f, still_pose(open=0.8)) for f in (face, plain(face)))
        assert (rich - bare).abs().mean() > 0.01
        assert len(torch.unique(render_uint8(face, still_pose())[0, :, 28:52, 22:42].flatten(1), dim=1).T) > 150
    textured, bare = replace(face, backdrop="checks", backdrop_contrast=0.15), replace(face, backdrop="plain")
    assert edges(render(textured, still_pose())[..., :8]) > 2 * edges(render(bare, still_pose())[..., :8])


def test_breathing_moves_the_shoulders_and_gaze_the_eyes_only():
    face = random_identity(random.Random(1))
    rest = render(face, still_pose())
    deep, aside = render(face, still_pose(breath=0.5)) - rest, render(face, still_pose(gaze_x=0.06)) - rest
    assert deep[..., 48:, :].abs().max() > 0.1 and deep[..., :40, :].abs().max() == 0
    eyes = aside.abs().amax((0, 1))
    assert eyes[22:36, 14:50].max() > 0.3 and eyes[:20].max() == 0 and eyes[38:].max() == 0


# --- what a picture hides ---------------------------------------------------------------------------------------------


def shown(face, pose):
    """How many pixels each secret changes, [3, T]: mitten, mark, bow."""
    whole = render(face, pose)
    without = (render(replace(face, **{name: None}), pose) for name in NOTHING)
    return torch.stack([((whole - picture).abs().amax(1) > 0.1).sum((1, 2)) for picture in without])


def test_no_reference_picture_shows_a_secret_and_each_action_shows_its_own():
    for seed in range(12):
        rng = random.Random(f"secret {seed}")
        style = rng.choice(["short", "long", "bald"])
        face = replace(random_identity(rng), accessory="none", style=style, bow=SECRETS["red"])
        assert shown(face, random_pose(rng)).sum() == 0
        for i, action in enumerate(("wave", "shake", "nod")):
            seen = shown(face, clip_pose(seed, [(0, "neutral", action)], 60))
            assert seen[:, :5].sum() == 0  # nor do the reference slots, which hold video frames 0 to 4
            assert seen[i, 21:].max() > 12 and seen.sum(1).argmax() == i, action


def test_a_secret_is_hidden_for_longer_than_the_short_term_slots_reach_and_comes_back():
    rng = random.Random(9)
    face = replace(random_identity(rng), accessory="none")
    actions = zip(BLOCK_STARTS, ("wave", "none", "none", "wave"))
    pose = clip_pose(2, [(start, "neutral", action) for start, action in actions])
    seen = shown(face, pose)[0] > 0
    assert seen[6:21].any() and seen[85 + RAMP :].any()
    assert not seen[85 - 4 * (8 + 2) : 85].any()  # a block and two latent frames before it


def test_half_of_the_clips_bring_an_action_back():
    rng = random.Random(0)
    drawn = [[action for *_, action in random_segments(rng, BLOCK_STARTS, 0.6)] for _ in range(600)]
    assert {len(clip) for clip in drawn} == {len(BLOCK_STARTS)}

    def returns(clip):
        return any(
            a != "none" and a == clip[j] and a not in clip[i + 1 : j]
            for i, a in enumerate(clip) for j in range(i + 2, len(clip))
        )  # fmt: skip

    assert 0.5 < sum(map(returns, drawn)) / 600 < 0.75
    never = [random_segments(rng, BLOCK_STARTS, 0.0, 0.0) for _ in range(50)]
    assert all(a[1:] == b[1:] for clip in never for a, b in pairwise(clip))
    said = Counter(action for clip in drawn for action in clip)
    assert set(said) == set(ACTIONS) and min(said.values()) > 300
    assert {e for _ in range(60) for _, e, _ in random_segments(rng, BLOCK_STARTS, 0.6)} == set(EMOTIONS)


def test_secret_colours_are_drawn_evenly_and_far_apart():
    faces = [random_identity(random.Random(f"colour {i}")) for i in range(600)]
    for drawn in (Counter(f.mitten for f in faces), Counter(f.mark[0] for f in faces)):
        assert set(drawn) == set(SECRETS.values()) and max(drawn.values()) < 2 * min(drawn.values())
    colours = list(SECRETS.values())
    assert min(max(abs(x - y) for x, y in zip(a, b)) for a in colours for b in colours if a != b) > 0.4
