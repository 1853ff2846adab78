"""The checkpoint that ships with the package does its job: a face whose mouth follows the voice."""

import numpy as np
import pytest
import torch
from conftest import ROOT

from liveact_app.media.audio import AudioReader, model_audio
from liveact_app.media.image import load_image
from liveact_model.loading import ASSETS, load_avatar
from liveact_model.session import Session

MOUTH = (slice(38, 54), slice(22, 42))  # rows and columns of the 64x64 picture around the lips


@pytest.fixture(scope="module")
def avatar():
    return load_avatar("tiny")


@pytest.fixture(scope="module")
def speech():
    return torch.cat([torch.from_numpy(c) for c in model_audio(AudioReader(str(ROOT / "examples/speech.wav")))])


def video(avatar, samples, prompt="a person talking", blocks=5):
    """uint8 [F, 64, 64, 3]."""
    session = Session(avatar, load_image(str(ROOT / "examples/face.png"), (64, 64)), prompt)
    session.push_audio(samples)
    session.close_audio()
    return torch.cat([session.next_block() for _ in range(blocks)]).numpy()


def openness(frames):
    """Dark pixels between the lips, per video frame."""
    grey = frames[:, MOUTH[0], MOUTH[1]].astype(np.float32).mean(-1)
    return (grey < 90).mean((1, 2))


def loudness(samples, frames):
    """Log energy of the 100 ms around each video frame at 20 per second."""
    padded = torch.nn.functional.pad(samples, (400, 1200)).numpy()
    windows = np.stack([padded[i * 800 : i * 800 + 1600] for i in range(frames)])
    return np.log((windows**2).mean(1) + 1e-5)


def test_the_mouth_follows_the_voice(avatar, speech):
    frames = video(avatar, speech)
    seen, heard = openness(frames)[8:], loudness(speech, len(frames))[8:]
    r = np.corrcoef(seen, heard)[0, 1]
    assert r > 0.5
    late = np.corrcoef(seen[10:], heard[:-10])[0, 1]  # half a second off
    assert late < r - 0.3


def test_a_silent_person_keeps_the_mouth_still(avatar, speech):
    quiet = openness(video(avatar, torch.zeros(16000 * 8)))[8:]
    talking = openness(video(avatar, speech))[8:]
    assert quiet.mean() < 0.5 * talking.mean() and quiet.std() < 0.5 * talking.std()


def test_the_first_video_frame_is_the_picture_and_the_background_stays(avatar, speech):
    picture = (load_image(str(ROOT / "examples/face.png"), (64, 64)).permute(1, 2, 0).numpy() + 1) * 127.5
    frames = video(avatar, speech, blocks=9).astype(np.float32)
    assert np.abs(frames[0] - picture).mean() < 8
    assert np.abs(frames[-20:, :8, :6] - picture[:8, :6]).mean() < 8


def test_prompts_change_the_face(avatar, speech):
    def face(prompt):
        return video(avatar, speech, prompt, blocks=3)[40:].astype(np.float32).mean(0)[16:54, 12:52]

    sad, happy, same = face("a sad man"), face("a happy man"), face("an unhappy man")
    assert np.abs(sad - happy).mean() > 2
    assert np.abs(sad - same).max() == 0  # a synonym


def test_it_fits_in_the_package():
    """How fast it is, bench/tiny.py measures."""
    assert sum(p.stat().st_size for p in (ASSETS / "tiny").iterdir()) <= 20e6


def test_its_memory_does_not_grow_without_end():
    """A long-term slot is folded into itself at the end of every block: by the first tap, which must be below 1."""
    for block in load_avatar("tiny").dit.blocks:
        for taps in (block.self_attn.taps, block.self_attn.taps_v):
            assert 0 < taps.abs().max() < 0.71
