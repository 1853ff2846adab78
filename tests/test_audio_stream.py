"""Streaming audio: embeddings while the audio arrives, and what stays constant for hours."""

from pathlib import Path

import pytest
import torch

from liveact_app.verify.golden import load, rel_l2
from liveact_model.audio.tempo import TempoStream
from liveact_model.audio.wav2vec2 import Wav2Vec2AudioEncoder, embedding_count
from liveact_model.audio.wav2vec2_weights import build
from liveact_model.errors import InputError

GOLDEN = Path(__file__).parent / "golden"
RATE = 16000


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def tiny(local=False):
    """The recorded tiny network; `local` cuts the two parts that look across time, so every window must agree."""
    golden = load(GOLDEN / "wav2vec2_tiny.json")
    state = golden.weights()
    if local:
        for key in state:
            if "out_proj.weight" in key or key.endswith("weight.original0"):
                state[key] = torch.zeros_like(state[key])
    return Wav2Vec2AudioEncoder(state, golden.config)


def speech(video_frames, seed=0):
    """Noise that swells and fades, as long as `video_frames` at 25 fps."""
    n = 640 * video_frames
    noise = torch.randn(n, generator=torch.Generator().manual_seed(seed))
    return noise * 0.1 * (1.2 + torch.sin(torch.arange(n) / 5000)) + 0.02


def streamed(stream, audio, pieces, eager=True):
    """Push `audio` in pieces of the given sizes, in turn; read at once (eager) or only after the end."""
    out, done, at, turn = [], 0, 0, 0
    while at < len(audio):
        size = pieces[turn % len(pieces)]
        stream.push(audio[at : at + size])
        at, turn = at + size, turn + 1
        if eager and stream.ready > done:
            out.append(stream.embeddings(done, stream.ready))
            done = stream.ready
            stream.forget(done)
    stream.close()
    if stream.total > done:
        out.append(stream.embeddings(done, stream.total))
    return torch.cat(out)


@pytest.mark.parametrize("fps", (0, -1, float("nan"), float("inf"), "20", True))
def test_a_bad_fps_is_refused(fps):
    with pytest.raises(InputError, match="fps: expected a finite number above 0"):
        tiny().stream(fps)


def test_bad_samples_are_refused():
    stream = tiny().stream(20)
    for bad in (torch.zeros(2, 5), torch.zeros(5, dtype=torch.int16), torch.tensor([0.0, float("nan")])):
        with pytest.raises(InputError, match="samples: expected"):
            stream.push(bad)
    stream.push(torch.zeros(639))
    with pytest.raises(InputError, match="at least one video frame of it, got 639 samples"):
        stream.close()
    for window in ({"context_s": -1}, {"look_ahead_s": -0.1}, {"first_frames": 0}, {"chunk_frames": 0}):
        with pytest.raises(InputError, match="audio window"):
            tiny().stream(25, **window)
    config = load(GOLDEN / "wav2vec2_tiny.json").config
    for kernels, strides, found in (
        ([5, 2, 2, 2, 2, 2, 2], [5, 2, 2, 2, 2, 2, 2], "got 2 and steps of 320"),
        ([10, 3, 3, 3, 3, 2, 2], [6, 2, 2, 2, 2, 2, 2], "got 1 and steps of 384"),
    ):
        odd = config | {"conv_kernel": kernels, "conv_stride": strides}
        state = {key: torch.zeros(value.shape) for key, value in build(odd).state_dict().items()}
        with pytest.raises(InputError, match=found):
            Wav2Vec2AudioEncoder(state, odd).stream(25)


def test_a_window_over_everything_is_the_one_pass_result():
    encoder, audio = tiny(), speech(120)
    want = encoder.embed(audio)
    stream = encoder.stream(25, context_s=1000, look_ahead_s=1000)
    assert rel_l2(streamed(stream, audio, (16000,)), want) < 1e-5


def test_chunks_are_aligned_to_the_one_pass_frames():
    """With no look across time left in the network, every frame of every chunk must be the one-pass frame."""
    encoder, audio = tiny(local=True), speech(150)
    want = encoder.embed(audio)
    levels = encoder.measure(audio.split(7000), 25)
    for window in ({"context_s": 0, "look_ahead_s": 0}, {"context_s": 0.2, "chunk_frames": 7}, {}):
        got = streamed(encoder.stream(25, levels, **window), audio, (4000,))
        assert float(((got - want).norm(dim=(1, 2)) / want.norm(dim=(1, 2))).max()) < 1e-5
    running = streamed(encoder.stream(25), audio, (4000,))
    errors = (running - want).norm(dim=(1, 2)) / want.norm(dim=(1, 2))
    assert float(errors[:23].mean()) > 1e-3  # a live stream cannot know the levels of what follows
    assert float(errors[-32:].mean()) < 0.1 * float(errors[:23].mean())


def test_a_chunk_sees_its_window_and_nothing_else():
    encoder, audio = tiny(), speech(150)
    stream = encoder.stream(25, context_s=1.0, look_ahead_s=0.4)
    stream.push(audio)
    got = stream.embeddings(55, 87)  # the third chunk: 23, then 32 each
    meter = encoder.meter()
    meter.update(audio[: 640 * 97])
    want = encoder.embed_window(audio[640 * 30 : 640 * 97], 67, meter.levels())[25:57]
    assert rel_l2(got, want) < 1e-5
    changed = audio.clone()
    changed[640 * 97 :] = 0
    other = encoder.stream(25, context_s=1.0, look_ahead_s=0.4)
    other.push(changed)
    assert torch.equal(other.embeddings(55, 87), got)


@pytest.mark.parametrize("fps", (20, 25, 30))
def test_results_do_not_depend_on_how_audio_arrives(fps):
    encoder, audio = tiny(), speech(100)[:-200]
    window = {"context_s": 1.0, "look_ahead_s": 0.2, "chunk_frames": 9}
    runs = [
        streamed(encoder.stream(fps, **window), audio, pieces, eager)
        for pieces, eager in (((160,), True), ((len(audio),), False), ((1, 5000, 333), True), ((640,), False))
    ]
    assert len(runs[0]) == len(audio) * fps // RATE
    assert all(torch.equal(run, runs[0]) for run in runs)


def test_known_levels_are_those_of_the_whole_recording():
    encoder, audio = tiny(), speech(60)
    once, pieces = encoder.measure([audio], 20), encoder.measure(audio.split(1234), 20)
    tempo = TempoStream(20)
    stretched = torch.cat([tempo.push(audio), tempo.close()])
    assert once.mean == pytest.approx(float(stretched.double().mean()), rel=1e-6)
    assert once.variance == pytest.approx(float(stretched.double().var(unbiased=False)), rel=1e-6)
    conv = torch.nn.functional.conv1d(stretched[None, None], encoder.convolutions[0].conv.weight, stride=5)[0].double()
    for levels in (once, pieces):
        assert rel_l2(levels.conv_mean, conv.mean(1)) < 1e-5
        assert rel_l2(levels.conv_variance, conv.var(1, unbiased=False)) < 1e-5


def test_ready_total_clamping_and_forgetting():
    encoder, audio = tiny(), speech(80)
    stream = encoder.stream(25, look_ahead_s=0.4)
    for frames, ready in ((22, 0), (10, 0), (1, 23), (31, 23), (1, 55)):
        stream.push(torch.zeros(640 * frames))
        assert stream.ready == ready and stream.total is None
    first = stream.embeddings(-2, 3)
    assert first.shape == (5, encoder.blocks, encoder.channels)
    assert torch.equal(first[0], first[2]) and torch.equal(first[1], first[2])
    for start, stop in ((54, 56), (5, 5)):
        with pytest.raises(RuntimeError, match="55 video frames are ready"):
            stream.embeddings(start, stop)
    stream.push(audio[:300])
    stream.close()
    stream.close()
    assert (stream.ready, stream.total) == (65, 65)
    last = stream.embeddings(63, 70)
    assert all(torch.equal(row, last[1]) for row in last[2:])
    assert torch.isfinite(last).all()  # digital silence has no variance to divide by
    with pytest.raises(RuntimeError, match="push after close"):
        stream.push(audio)
    stream.forget(30)
    assert stream.embeddings(30, 31).shape[0] == 1
    with pytest.raises(RuntimeError, match="before 30 are gone"):
        stream.embeddings(29, 31)


def test_frames_forgotten_in_advance_are_never_computed():
    encoder, audio = tiny(), speech(120)
    want = streamed(encoder.stream(25), audio, (640,))
    stream = encoder.stream(25)
    stream.push(audio)
    stream.close()
    stream.forget(87)
    calls, run = [], encoder.embed_window
    encoder.embed_window = lambda *args: calls.append(1) or run(*args)
    assert torch.equal(stream.embeddings(87, 120), want[87:120])  # statistics still cover the skipped audio
    assert len(calls) == 2


def test_memory_and_cost_stay_flat():
    encoder = tiny()
    stream = encoder.stream(20, context_s=1.0)
    samples, frames, windows, run = [], [], [], encoder.embed_window
    encoder.embed_window = lambda audio, *args: windows.append(len(audio)) or run(audio, *args)
    done, audio = 0, speech(50)
    for _ in range(40):  # 80 s
        for piece in audio.split(3200):
            stream.push(piece)
            if stream.ready > done:
                stream.embeddings(done, stream.ready)
                done = stream.ready
                stream.forget(done - 2)
            samples.append(sum(len(part) for part in stream._samples))
            frames.append(sum(len(rows) for _, rows in stream._kept))
    assert done > 1400
    # at most twice the context (stale audio is cut when it is half of what is held), a chunk and the look-ahead
    assert max(samples) <= 2 * 640 * (25 + 32 + 10 + 5)
    assert max(samples[len(samples) // 2 :]) <= max(samples[: len(samples) // 2])
    assert max(frames) <= 64
    assert len(windows) <= done / 32 + 2 and max(windows) == 640 * (25 + 32 + 10)


def test_the_released_frame_count():
    assert [embedding_count(n) for n in (639, 640, 11680, 18560, 16000 * 60)] == [0, 1, 18, 28, 1500]
