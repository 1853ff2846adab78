"""Our own measures on made-up videos of which the answer is known."""

import pickle

import numpy as np
import pytest
from talking import MOUTH, envelope, face, fed, talking, voice

from liveact_app.evaluate.lipsync import LipSync, Loudness
from liveact_app.evaluate.look import ColourDrift, Flicker, Identity, Sharpness
from liveact_app.evaluate.picture import Picture, cells, centre_square, cut

SECONDS = 8.0
LOUD = envelope(SECONDS)


def lips(pictures, sound, fps=20.0, after=0.0):
    return fed(LipSync(len(pictures), fps, Loudness([sound]), after), pictures, fps).result()


@pytest.mark.parametrize(("late", "fps"), [(0.0, 20.0), (0.2, 20.0), (-0.12, 25.0), (0.375, 30.0), (-0.44, 20.0)])
def test_the_lag_of_the_sound_is_found(late, fps):
    found, why = lips(talking(SECONDS, LOUD, fps), voice(SECONDS, LOUD, late), fps)
    assert why == "" and found["lip_sync"] > 0.9
    assert abs(found["lip_sync_lag_ms"] - 1000 * late) < 8


def test_sound_that_begins_later_in_the_file_is_not_late():
    cut_off = voice(SECONDS, LOUD)[int(0.3 * 16000) :]
    found, _ = lips(talking(SECONDS, LOUD), cut_off, after=0.3)
    assert found["lip_sync"] > 0.9 and abs(found["lip_sync_lag_ms"]) < 8


def test_it_has_looked_at_the_mouth():
    found, _ = lips(talking(SECONDS, LOUD), voice(SECONDS, LOUD))
    assert found["mouth"] == pytest.approx(MOUTH, abs=1 / 16)


@pytest.mark.parametrize("seed", [5, 6, 7])
def test_another_voice_gives_little(seed):
    found, _ = lips(talking(12, LOUD), voice(12, envelope(12, seed)))
    assert found["lip_sync"] < 0.4


def test_a_mouth_that_goes_astray_shows_in_its_tenths():
    n = 20 * 20
    loud, other = envelope(20), envelope(20, 3)
    pictures = talking(20, loud)
    pictures[n // 2 :] = talking(20, other)[n // 2 :]
    found, _ = lips(pictures, voice(20, loud))
    assert min(found["lip_sync_tenths"][:5]) > 0.8 and max(found["lip_sync_tenths"][5:]) < 0.8
    assert len(found["lip_sync_tenths"]) == 10


def test_a_brightness_that_drifts_does_not_count_as_a_mouth():
    pictures = talking(SECONDS, LOUD).astype(float)
    drifting = (pictures + np.linspace(0, 60, len(pictures))[:, None, None, None]).clip(0, 255).astype(np.uint8)
    found, _ = lips(drifting, voice(SECONDS, LOUD))
    assert found["lip_sync"] > 0.85


def test_a_picture_that_follows_the_slow_part_alone_is_no_lip_sync():
    def slow(t):
        return 0.25 + 0.25 * np.sin(2 * np.pi * 0.15 * np.asarray(t))

    pictures = talking(20, lambda t: slow(t) * 2)
    found, _ = lips(pictures, voice(20, lambda t: slow(t) + 0.5 * LOUD(t % 8)))
    assert found["lip_sync"] < 0.5


def test_what_cannot_be_measured_says_why():
    still = np.repeat(face()[None], 160, 0)
    last_bit = np.random.default_rng(0).integers(-1, 2, 16000 * 8).astype(np.float32) / 32768
    for sound in (last_bit, np.zeros_like(last_bit)):
        assert lips(talking(SECONDS, LOUD), sound)[1].startswith("its sound is the same")
    assert lips(talking(1, LOUD), voice(1, LOUD))[1].startswith("too short for lip sync (1.0 s")
    found, _ = lips(still, voice(SECONDS, LOUD))
    assert abs(found["lip_sync"]) < 1e-6 and found["lip_sync_lag_ms"] is None and found["mouth"] is None


def test_loudness_does_not_depend_on_the_chunks_and_knows_its_time():
    sound = voice(3, lambda t: np.where((t > 1) & (t < 2), 1.0, 0.0))
    whole, pieces = Loudness([sound]), Loudness(np.array_split(sound, 37))
    np.testing.assert_array_equal(whole.values, pieces.values)
    edges = np.nonzero(np.diff((whole.at(np.arange(0, 3, 0.001)) > 20).astype(int)))[0]
    np.testing.assert_allclose(edges / 1000, [1, 2], atol=0.03)
    assert whole.at(np.array([-1.0, 99.0])).tolist() == [whole.values[0], whole.values[-1]]


def test_a_still_picture_has_no_flicker_no_drift_and_its_own_identity():
    still = np.repeat(face()[None], 40, 0)
    assert fed(Flicker(), still).result() == {"flicker": 0, "pulse": None, "pulse_phases": [None] * 4}
    assert fed(ColourDrift(40), still).result()["colour_drift_tenths"] == [0] * 10
    assert fed(Identity(40), still).result()["identity"] == 1


def test_drift_is_that_of_the_mean_colour():
    pictures = np.full((100, 16, 16, 3), 100.0)
    pictures[..., 0] += np.linspace(0, 30, 100)[:, None, None]  # red, from one tenth to the next by 30 / 9.9
    found = fed(ColourDrift(100), pictures.round().astype(np.uint8)).result()
    np.testing.assert_allclose(found["colour_drift_tenths"], np.arange(10) * 30 / 9.9 / 3, atol=0.05)
    assert found["colour_drift"] == found["colour_drift_tenths"][-1]


def test_a_pulse_at_latent_borders_is_measured_exactly():
    """Steps of 5 levels at t = 0, 4, 8, ... and of 2 elsewhere: pulse 2.5, seen only in the phase it has."""
    steps = np.where(np.arange(40) % 4 == 0, 5, 2)
    levels = 20 + np.concatenate([[0], np.cumsum(steps)])
    pictures = np.broadcast_to(levels[:, None, None, None], (41, 8, 8, 3)).astype(np.uint8)
    found = fed(Flicker(), pictures).result()
    assert found["pulse"] == 2.5
    np.testing.assert_allclose(found["pulse_phases"], [2.5, 2 / 3, 2 / 3, 2 / 3], atol=0.02)
    assert found["flicker"] == pytest.approx(np.abs(np.diff(steps)).mean(), abs=1e-4)
    later = fed(Flicker(), pictures[1:]).result()
    assert later["pulse"] < 1 and later["pulse_phases"][3] == pytest.approx(2.5)


def test_flicker_counts_what_goes_back_and_not_what_goes_on():
    fade = np.broadcast_to(np.arange(50)[:, None, None, None], (50, 8, 8, 3)).astype(np.uint8)
    shake = np.broadcast_to(np.array([97, 103] * 25)[:, None, None, None], (50, 8, 8, 3)).astype(np.uint8)
    assert fed(Flicker(), fade).result()["flicker"] == 0
    assert fed(Flicker(), shake).result()["flicker"] == 12


def test_another_person_shows_in_the_tenths_where_they_are():
    pictures = talking(10, envelope(10))
    pictures[100:140] = talking(10, envelope(10), person=face(1))[100:140]
    tenths = np.array(fed(Identity(200), pictures).result()["identity_tenths"])
    there = np.isin(np.arange(10), (5, 6))
    assert tenths[there].max() < 0.4 and tenths[~there].min() > 0.9


def test_identity_forgives_brightness_tint_and_a_shift_but_no_mirror():
    person = face()
    reference = Picture(0, 0, person).face

    def like(pixels):
        return fed(Identity(1, reference), pixels[None]).result()["identity"]

    tinted = (person * 0.7 + np.array([20, 40, 5])).astype(np.uint8)
    assert like(tinted) > 0.99 and like(np.roll(person, (4, -6), (0, 1))) > 0.99
    assert like(person[:, ::-1]) < 0.5 and like(np.full_like(person, 90)) == 0


def test_sharpness_is_the_detail_of_three_by_three():
    board = (np.indices((20, 20)).sum(0) % 2 * 90).astype(np.uint8)[None, ..., None].repeat(3, 3)
    flat = np.full_like(board, 45)
    assert fed(Sharpness(1), board).result()["sharpness"] == pytest.approx(40, abs=0.01)  # 4 or 5 of 9 are bright
    assert fed(Sharpness(1), flat).result()["sharpness"] == pytest.approx(0, abs=1e-3)


@pytest.mark.parametrize(("h", "w"), [(64, 64), (33, 47), (416, 720), (20, 100), (1, 1)])
def test_cells_are_means_whatever_the_size(h, w):
    pixels = np.random.default_rng(0).integers(0, 256, (h, w, 3), dtype=np.uint8)
    found = cells(pixels, 32)
    assert found.shape == (32, 32, 3)
    for i, j in ((0, 0), (31, 31), (7, 20)):
        top, left = i * h // 32, j * w // 32
        part = pixels[top : max(top + 1, (i + 1) * h // 32), left : max(left + 1, (j + 1) * w // 32)]
        np.testing.assert_allclose(found[i, j], part.reshape(-1, 3).mean(0), rtol=1e-5)


def test_boxes():
    pixels = np.arange(60 * 100 * 3).reshape(60, 100, 3)
    assert cut(pixels, centre_square((100, 60))).shape == (60, 60, 3)
    assert (cut(pixels, (0.2, 0.5, 0.1, 0.25)) == pixels[30:45, 20:30]).all()
    assert cut(pixels, (0.999, 0.999, 0.001, 0.001)).shape == (1, 1, 3)


def test_memory_does_not_depend_on_the_length():
    loudness = Loudness([voice(2, LOUD)])

    def held(count):
        pictures = np.repeat(talking(1, LOUD), count // 20, 0)
        measures = [LipSync(count, 20, loudness), Identity(count), ColourDrift(count), Flicker(), Sharpness(count)]
        for measure in measures:
            fed(measure, pictures)
            if isinstance(measure, LipSync):
                measure._flush()
        return sum(len(pickle.dumps(m)) for m in measures)

    assert held(1200) < 1.01 * held(300)
