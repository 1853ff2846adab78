"""The tiny model's audio front end: exact streaming, flat memory, and lips that follow it."""

import random

import numpy as np
import pytest
import torch

from liveact_model.audio.mel import MelEncoder, mel_filters
from liveact_model.errors import InputError
from liveact_train.data.motion import lips


def sound(seconds: float, seed: int = 0) -> torch.Tensor:
    """Noise bursts of changing loudness, [seconds * 16000]."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(int(seconds * 16000), generator=generator)
    return noise * (0.2 + 0.2 * torch.sin(torch.arange(len(noise)) / 900.0))


def straightforward_mel(samples: torch.Tensor, fps: float, frame: int) -> torch.Tensor:
    """One video frame's embedding straight from the definition, in float64."""
    rows = []
    for j in range(4 * frame, 4 * frame + 4):
        centre = round(j * 16000 / (4 * fps))
        piece = torch.zeros(512, dtype=torch.float64)
        for i in range(512):
            if 0 <= centre - 256 + i < len(samples):
                piece[i] = samples[centre - 256 + i]
        power = torch.fft.rfft(piece * torch.hann_window(512, dtype=torch.float64)).abs() ** 2
        rows.append((torch.log(mel_filters().double() @ power + 1e-4) + 4) / 4)
    return torch.cat(rows)


@pytest.mark.parametrize("fps", [20, 24, 25, 29.97])
def test_mel_follows_its_definition(fps):
    samples = sound(0.6)
    whole = MelEncoder().encode(samples, fps)
    assert whole.shape == (int(np.ceil(0.6 * fps - 1e-9)), 1, 128)
    for frame in (0, 5, len(whole) - 1):
        assert torch.allclose(whole[frame, 0].double(), straightforward_mel(samples, fps, frame), atol=1e-4)


@pytest.mark.parametrize("fps", [20, 23.976, 1])
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("gain", [0.0, 12.0, None])
def test_any_chunking_gives_the_offline_embeddings(fps, seed, gain):
    samples, rng = sound(3.3, seed), random.Random(seed)
    whole = MelEncoder().encode(samples, fps, gain)
    stream, at, seen = MelEncoder().stream(fps, gain), 0, 0
    while at < len(samples):
        size = rng.choice([0, 1, 7, 160, 801, 5000])
        stream.push(samples[at : at + size])
        at += size
        assert stream.total is None
        # a frame that is called ready must already be final
        assert torch.allclose(stream.embeddings(seen, stream.ready), whole[seen : stream.ready], atol=1e-6)
        seen = stream.ready
    assert seen >= len(whole) - 2
    stream.close()
    assert stream.total == stream.ready == len(whole)
    assert torch.allclose(stream.embeddings(0, stream.total), whole, atol=1e-6)


def test_embeddings_clamp_at_the_edges_and_refuse_frames_that_are_not_ready():
    stream = MelEncoder().stream(20)
    stream.push(sound(1.0))
    with pytest.raises(RuntimeError, match="not ready"):
        stream.embeddings(0, stream.ready + 1)
    left = stream.embeddings(-2, 1)
    assert torch.equal(left[0], left[2])
    stream.close()
    assert stream.total == 20
    right = stream.embeddings(18, 25)
    assert right.shape == (7, 1, 128) and torch.equal(right[1], right[6]) and not torch.equal(right[0], right[1])
    with pytest.raises(RuntimeError, match="close"):
        stream.push(sound(0.1))
    empty = MelEncoder().stream(20)
    empty.close()
    assert empty.total == 1 and empty.embeddings(0, 3).max() < -1


def held_bytes(stream) -> int:
    """Memory behind everything a stream holds."""
    values = [item for value in vars(stream).values() for item in (value if isinstance(value, list) else [value])]
    storages = {v.untyped_storage().data_ptr(): v.untyped_storage().nbytes() for v in values if torch.is_tensor(v)}
    return sum(storages.values()) + 8 * len(values)


def test_forget_keeps_memory_flat():
    stream, second, sizes = MelEncoder().stream(20), sound(1.0), []
    for i in range(60):
        stream.push(second)
        stream.forget(stream.ready - 10)
        if i % 20 == 19:
            sizes.append(held_bytes(stream))
    assert max(sizes) < 1.02 * min(sizes)
    assert stream.embeddings(stream.ready - 10, stream.ready).shape == (10, 1, 128)
    with pytest.raises(RuntimeError, match="forgotten"):
        stream.embeddings(0, 1)


def test_a_forgotten_big_push_is_really_freed():
    stream = MelEncoder().stream(20)
    stream.push(sound(30.0))
    before = held_bytes(stream)
    stream.forget(stream.ready - 1)
    assert held_bytes(stream) < before / 3


def test_mel_input_errors():
    with pytest.raises(InputError, match="fps"):
        MelEncoder().stream(0)
    with pytest.raises(InputError, match="samples"):
        MelEncoder().stream(20).push(torch.zeros(2, 100))


def test_lips_open_with_sound_and_close_in_silence():
    quiet = MelEncoder().encode(sound(1.0) * 0.003, 20)[:, 0]
    loud = MelEncoder().encode(sound(1.0), 20)[:, 0]
    assert lips(quiet, 18)[0].max() < 0.02
    assert lips(loud, 18)[0].mean() > 0.2
