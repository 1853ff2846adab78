"""What the denoiser of a released directory is given, against straightforward derivations from the specification."""

import pytest
import released
import small
import torch
from torch.nn import functional as F

from liveact_model.audio.tempo import TempoStream
from liveact_model.loading import load_avatar
from liveact_model.session import Session

PROMPT, FPS = "A person is talking", 20.0


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return released.write_released(tmp_path_factory.mktemp("released") / "model")


@pytest.fixture(scope="module")
def avatar(folder):
    return load_avatar(folder, dtype="float32")


def crescendo(seconds):
    """Noise that starts soft and ends loud, so that its statistics are not those of its beginning."""
    n = int(seconds * 16000)
    noise = torch.randn(n, generator=torch.Generator().manual_seed(6))
    return noise * torch.linspace(0.01, 0.3, n) + 0.02


def expected_y(avatar, image):
    """[20, 14, h, w]: the mask of video frames as latent channels, then the encoded image and 52 grey frames."""
    mask = torch.zeros(53)
    mask[0] = 1
    mask = torch.cat((mask[:1].repeat(4), mask[1:])).reshape(14, 4).T[:, :, None, None]
    latent = avatar.vae.encode(torch.cat((image[:, None], torch.zeros(3, 52, *image.shape[1:])), 1))
    return torch.cat((mask.expand(4, 14, *latent.shape[2:]), latent))


def expected_embeddings(folder, samples):
    """One pass over samples that were already brought to 25 embeddings per second: [n, layers, channels]."""
    from transformers import Wav2Vec2Model

    model = Wav2Vec2Model.from_pretrained(str(folder / released.AUDIO)).eval()
    rows = []
    for layer in model.encoder.layers:
        layer.register_forward_hook(lambda _, __, out: rows.append((out[0] if isinstance(out, tuple) else out)[0]))
    wave = (samples - samples.mean()) / (samples.var(unbiased=False) + 1e-7).sqrt()
    with torch.no_grad():
        features = model.feature_extractor(wave[None])
        frames = int(len(samples) / 16000 * 25)
        features = F.interpolate(features, size=frames, mode="linear", align_corners=True).transpose(1, 2)
        model.encoder(model.feature_projection(features)[0])
    return torch.stack(rows, 1)


def expected_rows(embeddings, start, latents):
    """Eight rows for each latent frame of the released window of 53 video frames, five offsets each."""
    frames = start + torch.arange(53)[:, None] + torch.arange(-2, 3)
    window = embeddings[frames.clamp(0, len(embeddings) - 1)]
    four = [[window[4 * g - 3 + n] for n in range(4)] for g in latents]
    return torch.stack([torch.cat((a[:3], b[2:3], c[2:3], d[2:])) for a, b, c, d in four])


def stretched(samples, fps=FPS):
    stream = TempoStream(fps)
    return torch.cat((stream.push(samples), stream.close()))


def test_the_denoiser_gets_what_the_specification_says(folder, avatar, monkeypatch):
    heard, prompts, ys = [], [], []
    dit, image, samples = avatar.dit, released.picture(), crescendo(1.6)  # 32 video frames: all in every window
    hear, prompt = dit.hear, dit.prompt
    monkeypatch.setattr(dit, "hear", lambda rows: heard.append(rows) or hear(rows), raising=False)
    monkeypatch.setattr(dit, "prompt", lambda text, *rest: prompts.append(text) or prompt(text, *rest), raising=False)
    handle = dit.register_forward_pre_hook(lambda _, args: ys.append((args[1], args[-1])))
    session = Session(avatar, image, PROMPT, fps=FPS)
    session.push_audio(samples)
    session.close_audio()
    session.next_block()
    session.set_prompt(" the  man &amp;\nnods")
    session.next_block()
    handle.remove()

    assert session.done
    y = expected_y(avatar, image)
    assert [first for _, first in ys] == [True] * 3 + [False] * 3
    assert all(released.relative(got, y[:, :6] if first else y[:, 6:]) < 1e-6 for got, first in ys)
    embeddings = expected_embeddings(folder, stretched(samples))
    assert released.relative(heard[0], expected_rows(embeddings, 0, range(1, 6))) < 1e-4  # latent frame 0 hears nothing
    assert released.relative(heard[1], expected_rows(embeddings, 0, range(6, 14))) < 1e-4
    assert torch.equal(heard[1][-1, -1], heard[1][-2, -1])  # past the end the last embedding repeats
    end, unknown, blank = 1, 2, 3 + len(released.WORDS)  # pieces of the tokenizer; the words are 3, 4, ...
    first, second = (blank, unknown, 4, 5, 6, end), (8, 9, blank, unknown, 10, end)  # "A" and "&" are no pieces
    for got, ids in zip(prompts, (first, second), strict=True):
        assert len(got) == len(ids)
        padded, mask = torch.zeros(2, 1, 512, dtype=torch.int64)
        padded[0, : len(ids)], mask[0, : len(ids)] = torch.tensor(ids), 1
        rows = avatar.text.encoder(input_ids=padded, attention_mask=mask).last_hidden_state[0, : len(ids)]
        assert released.relative(got, rows) < 1e-5


def test_levels_of_a_recording_are_those_of_one_pass(avatar):
    samples = crescendo(4)
    levels = avatar.measure_audio(iter(samples.split(7001)), FPS)
    whole = stretched(samples)
    conv = avatar.audio.convolutions[0].conv
    out = F.conv1d(whole[None, None], conv.weight, stride=conv.stride)[0].double()
    assert levels.mean == pytest.approx(float(whole.double().mean()), rel=1e-6)
    assert levels.variance == pytest.approx(float(whole.double().var(unbiased=False)), rel=1e-6)
    assert torch.allclose(levels.conv_mean, out.mean(1), rtol=1e-5, atol=1e-8)
    assert torch.allclose(levels.conv_variance, out.var(1, unbiased=False), rtol=1e-5)
    deaf = small.avatar()
    deaf.audio = object()
    assert deaf.measure_audio(iter([samples]), FPS) is None


def test_a_session_uses_the_levels_it_is_given(avatar):
    samples = crescendo(4)
    levels = avatar.measure_audio(samples.split(16000), FPS)
    window = stretched(samples)[: 33 * 640]  # what the first chunk of 23 video frames sees, 10 more included
    want = avatar.audio.embed_window(window, 33, levels)[:23]
    sessions = [Session(avatar, released.picture(), PROMPT, audio_levels=given) for given in (levels, None)]
    for session in sessions:
        session.push_audio(samples)
    known, live = (session._audio.embeddings(0, 23) for session in sessions)
    assert released.relative(known, want) < 1e-6
    assert released.relative(live, want) > 0.01  # a live stream has heard the soft beginning only
    plain = small.avatar()
    none = plain.measure_audio(iter(()), FPS)
    Session(plain, small.picture(), "", audio_levels=none).push_audio(samples)
