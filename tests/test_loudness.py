"""Quiet speech moves the mouth as loud speech does; a live stream follows within two seconds and holds on silence."""

import pytest
import torch

from liveact_model.audio.mel import MelEncoder


def speech(seconds, seed=0):
    """Noise in syllables of 0.15 s with pauses of 0.1 s."""
    noise = torch.randn(int(seconds * 16000), generator=torch.Generator().manual_seed(seed)) * 0.1
    at = torch.arange(len(noise)) % 4000
    return noise * (at < 2400) + 1e-5 * torch.randn(len(noise), generator=torch.Generator().manual_seed(1))


def streamed(samples, gain=None, chunk=3200):
    stream = MelEncoder().stream(20, gain)
    for piece in samples.split(chunk):
        stream.push(piece)
    stream.close()
    return stream.embeddings(0, stream.total)[:, 0]


@pytest.mark.parametrize("db", [0, -10, -20, -30, -40])
def test_a_measured_recording_gives_the_same_embeddings_at_any_level(db):
    encoder, sound = MelEncoder(), speech(4)
    quiet = sound * 10 ** (db / 20)
    want = streamed(sound, encoder.measure([sound], 20))
    got = streamed(quiet, encoder.measure(quiet.split(1234), 20))
    assert (want - got).abs().max() < 0.02


@pytest.mark.parametrize("db", [-20, -40])
def test_a_live_stream_reaches_the_level_in_two_seconds(db):
    sound = speech(6)
    got, want = streamed(sound * 10 ** (db / 20)), streamed(sound, MelEncoder().measure([sound], 20))
    assert (got[40:] - want[40:]).abs().mean() < 0.1


def test_a_live_stream_depends_on_no_chunking():
    sound = speech(4) * 0.02
    whole = streamed(sound, chunk=10**6)
    for chunk in (777, 1600, 16000):  # to the last bit: vectorised arithmetic rounds by how much it is given
        assert torch.equal(streamed(sound, chunk=chunk), whole), chunk


def test_silence_and_steady_noise_are_not_made_loud():
    noise = 1e-4 * torch.randn(16000 * 6, generator=torch.Generator().manual_seed(2))
    alone = streamed(noise, 0.0)
    assert (streamed(noise) - alone).abs().max() < 0.01
    after = streamed(torch.cat([speech(4), noise]))
    gains = after[100:] - alone[20:]
    assert gains.std() < 0.05 or gains.abs().max() < 0.6
    assert after[100:].max() < 0
