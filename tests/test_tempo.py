"""Tempo change of audio that is still arriving: exact length, same pitch, same timing."""

import math

import pytest
import torch

from liveact_model.audio.tempo import TempoStream, factors

RATE = 16000


def noise(n):
    return 0.1 * torch.randn(n, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("fps", (5, 16, 20, 24, 25, 29.97, 30, 60))
def test_tempo_gives_exactly_the_samples_it_owes(fps):
    audio = noise(18077)
    for n in (0, 1, 319, 320, 5000, len(audio)):
        results = []
        for piece in (160, 777, len(audio)):
            tempo = TempoStream(fps)
            out = [tempo.push(part) for part in audio[:n].split(piece)]
            assert tempo.returned <= tempo.length  # more could not be taken back if the audio ended now
            results.append(torch.cat([*out, tempo.close()]))
        assert len(results[0]) == round(n * fps / 25)
        assert all(torch.equal(result, results[0]) for result in results)
    assert results[0].std() > 0.6 * audio.std()
    assert all(0.5 <= factor <= 2 for factor in factors(25 / fps))
    assert math.prod(factors(25 / fps)) == pytest.approx(25 / fps)


@pytest.mark.parametrize("fps", (16, 20, 24, 30))
def test_the_end_of_the_audio_is_kept(fps):
    tone = 0.3 * torch.sin(torch.arange(56 * 320 + 300) * 0.2)
    tempo = TempoStream(fps)
    out = torch.cat([tempo.push(tone), tempo.close()])
    assert out[-150:].abs().max() > 0.2


def test_a_filter_that_runs_ahead_is_held_back(monkeypatch):
    """Samples returned beyond round(n * fps / 25) could not be taken back if the audio ended there."""
    tempo = TempoStream(20)
    monkeypatch.setattr(tempo, "_filter", lambda block: torch.cat([block, block]))
    for part in noise(3000).split(500):
        tempo.push(part)
        assert tempo.returned == tempo.length
    tempo.close()
    assert tempo.returned == 2400


def test_tempo_at_25_is_the_identity():
    audio = noise(1920)
    tempo = TempoStream(25)
    out = tempo.push(audio)
    assert torch.equal(out, audio)
    audio.zero_()
    assert out.abs().max() > 0  # what was pushed is not shared with the caller's buffer
    assert len(tempo.close()) == 0


@pytest.mark.parametrize("fps", (20, 24, 30))
def test_tempo_keeps_pitch_and_timing(fps):
    n = 20 * RATE
    tone = 0.3 * torch.sin(2 * torch.pi * 300 * torch.arange(n) / RATE)
    gate = (torch.arange(n) // (RATE // 2)) % 2  # half a second off, half a second on
    tempo = TempoStream(fps)
    out = torch.cat([tempo.push(tone * gate), tempo.close()])
    on = out[round(0.6 * RATE * fps / 25) : round(0.9 * RATE * fps / 25)]
    padded = torch.nn.functional.pad(on * torch.hann_window(len(on)), (0, 1 << 16))
    peak = torch.fft.rfft(padded).abs().argmax() * RATE / len(padded)
    assert abs(float(peak) - 300) < 4  # without pitch keeping it would be 300 * 25 / fps
    loud = out.unfold(0, 320, 160).square().mean(1).sqrt() > 0.1
    starts = (torch.nonzero(loud[1:] & ~loud[:-1])[:, 0] + 1) * 160 + 160
    expected = (torch.arange(20) + 0.5) * RATE * fps / 25
    assert len(starts) == 20
    assert (starts - expected).abs().max() < 0.04 * RATE  # one video frame at 25 fps
