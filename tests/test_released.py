"""A checkpoint directory in the released layout works from its files to the video, as the specification says."""

import gc
from pathlib import Path

import av
import pytest
import released
import small
import soundfile
import torch
from torch.nn import functional as F

from liveact_app.cli import main
from liveact_model.audio import tempo
from liveact_model.config import DiTConfig
from liveact_model.schedule import TIMESTEPS
from liveact_model.session import Session
from liveact_model.weights import load_avatar

FACE = Path(__file__).parent.parent / "examples" / "face.png"
PROMPT = "A person is talking"
FPS = 20.0


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return released.write_released(tmp_path_factory.mktemp("released") / "model")


@pytest.fixture(scope="module")
def avatar(folder):
    return load_avatar(folder, dtype="float32")


def picture(height=32, width=48):
    return torch.rand(3, height, width, generator=torch.Generator().manual_seed(5)) * 2 - 1


def crescendo(seconds):
    """Noise that starts soft and ends loud, so that its statistics are not those of its beginning."""
    n = int(seconds * 16000)
    noise = torch.randn(n, generator=torch.Generator().manual_seed(6))
    return noise * torch.linspace(0.01, 0.3, n) + 0.02


def relative(got, want):
    assert got.shape == want.shape
    return float((got - want).norm() / want.norm())


def test_every_size_is_found(folder, avatar):
    assert avatar.dit.config == released.CONFIG and avatar.dit.config.num_heads == 3  # which no tensor shows
    assert (avatar.name, avatar.default_fps, avatar.timesteps) == ("model", FPS, TIMESTEPS)
    assert all(n % 16 == 0 for n in avatar.default_size)
    assert (avatar.text.text_dim, avatar.text.text_len) == (32, 512)
    assert (avatar.image.clip_dim, avatar.image.clip_tokens) == (32, 257)
    assert (avatar.audio.blocks, avatar.audio.channels) == (3, 32)
    assert (avatar.vae.z_dim, avatar.vae.spatial, avatar.vae.temporal) == (16, 8, 4)


def test_config_json_need_not_state_what_the_tensors_show(folder, tmp_path):
    released.write_released(tmp_path)
    config = tmp_path / "config.json"
    config.write_text('{"_class_name": "WanModel", "num_heads": 3, "text_len": 64, "some_new_key": [1]}')
    loaded = load_avatar(tmp_path)
    assert loaded.dit.config == released.CONFIG.with_(text_len=64) and loaded.text.text_len == 64
    assert loaded.text.encode(" ".join(released.WORDS * 20)).shape == (64, 32)
    for unused in (*tmp_path.glob("xlm-roberta-large"), *tmp_path.glob("*.index.json")):
        unused.rmdir() if unused.is_dir() else unused.unlink()
    assert load_avatar(tmp_path).dit.config.num_layers == 2  # shards without their index, and no unused tokenizer
    assert DiTConfig().text_len == 512


def held(session):
    """Bytes of all tensors but the audio that still waits."""
    gc.collect()
    waiting = {id(t) for t in session._audio._samples}
    return sum(t.nbytes for t in gc.get_objects() if type(t) is torch.Tensor and id(t) not in waiting)


@pytest.mark.parametrize(
    "dtype,size,activations", [("auto", (32, 48), 2), ("float32", (32, 32), 4), ("fp8", (48, 32), 2)]
)
def test_three_blocks(folder, dtype, size, activations):
    avatar = load_avatar(str(folder), dtype=dtype)
    assert avatar.dit.blocks[1].ffn.up.is_fp8 == (dtype == "fp8")
    assert (avatar.dit.dtype.itemsize, avatar.vae.conv1.weight.dtype.itemsize) == (activations, activations)
    assert avatar.text.encoder.embed_tokens.weight.dtype.itemsize == activations  # bf16 in its file
    session, audio, seen = Session(avatar, picture(*size), PROMPT), iter(small.speech(10).split(1600)), []
    decode = session._decoder.decode

    def watched(latents):
        frames = decode(latents)
        seen.append((latents, frames))
        return frames

    session._decoder.decode = watched
    bytes_held, windows = [], set()
    for block in range(4):
        while not session.ready():
            session.push_audio(next(audio))
        frames = session.next_block()
        assert frames.shape == (32 if block else 21, *size, 3) and frames.dtype == torch.uint8
        latents, video = seen.pop()
        assert latents.shape == (16, 8 if block else 6, size[0] // 8, size[1] // 8)
        assert torch.isfinite(latents).all() and torch.isfinite(video).all()
        assert 0.3 < latents.float().std() < 3 and video.std() > 0.05
        del frames, latents, video
        windows.add(session.memory_bytes())
        bytes_held.append(held(session))
    tokens = size[0] * size[1] // 256
    assert windows == {6 * tokens * 48 * 2 * activations * 2 * 3}  # slots, width, K and V, bytes, layers, steps
    assert bytes_held[1] == bytes_held[2] == bytes_held[3]


def test_precisions_agree(folder, avatar):
    def latents(model):
        session = Session(model, picture(), PROMPT)
        session.push_audio(small.speech(6))
        return torch.cat([session.next_latents().float() for _ in range(3)], 1)

    want = latents(avatar)
    assert 1e-4 < relative(latents(load_avatar(folder)), want) < 2e-2
    assert 1e-3 < relative(latents(load_avatar(folder, dtype="fp8")), want) < 0.15


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
    stream = tempo.TempoStream(fps)
    return torch.cat((stream.push(samples), stream.close()))


def test_the_denoiser_gets_what_the_specification_says(folder, avatar, monkeypatch):
    heard, prompts, ys = [], [], []
    dit, image, samples = avatar.dit, picture(), crescendo(1.6)  # 32 video frames: every chunk's window is all of it
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
    assert all(relative(got, y[:, :6] if first else y[:, 6:]) < 1e-6 for got, first in ys)
    embeddings = expected_embeddings(folder, stretched(samples))
    assert relative(heard[0], expected_rows(embeddings, 0, range(1, 6))) < 1e-4  # latent frame 0 hears nothing
    assert relative(heard[1], expected_rows(embeddings, 0, range(6, 14))) < 1e-4
    assert torch.equal(heard[1][-1, -1], heard[1][-2, -1])  # past the end the last embedding repeats
    end, unknown, blank = 1, 2, 3 + len(released.WORDS)  # pieces of the tokenizer; the words are 3, 4, ...
    first, second = (blank, unknown, 4, 5, 6, end), (8, 9, blank, unknown, 10, end)  # "A" and "&" are no pieces
    for got, ids in zip(prompts, (first, second), strict=True):
        assert len(got) == len(ids)
        padded, mask = torch.zeros(2, 1, 512, dtype=torch.int64)
        padded[0, : len(ids)], mask[0, : len(ids)] = torch.tensor(ids), 1
        rows = avatar.text.encoder(input_ids=padded, attention_mask=mask).last_hidden_state[0, : len(ids)]
        assert relative(got, rows) < 1e-5


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
    assert small.avatar().measure_audio(iter([samples]), FPS) is None


def test_a_session_uses_the_levels_it_is_given(avatar):
    samples = crescendo(4)
    levels = avatar.measure_audio(samples.split(16000), FPS)
    window = stretched(samples)[: 33 * 640]  # what the first chunk of 23 video frames sees, 10 more included
    want = avatar.audio.embed_window(window, 33, levels)[:23]
    sessions = [Session(avatar, picture(), PROMPT, audio_levels=given) for given in (levels, None)]
    for session in sessions:
        session.push_audio(samples)
    known, live = (session._audio.embeddings(0, 23) for session in sessions)
    assert relative(known, want) < 1e-6
    assert relative(live, want) > 0.01  # a live stream has heard the soft beginning only
    plain = small.avatar()
    none = plain.measure_audio(iter(()), FPS)
    Session(plain, small.picture(), "", audio_levels=none).push_audio(samples)


def test_generate_with_a_released_directory(folder, tmp_path, monkeypatch):
    stretches, atempo = [], tempo._atempo
    monkeypatch.setattr(tempo, "_atempo", lambda fps, rate: stretches.append(fps) or atempo(fps, rate))
    soundfile.write(tmp_path / "two.wav", small.speech(2).numpy(), 16000)
    out = tmp_path / "x.mp4"
    args = ["--image", str(FACE), "--audio", str(tmp_path / "two.wav"), "--size", "32*32", "--out", str(out)]
    assert main(["generate", "--model", str(folder), "--device", "cpu", *args]) == 0
    with av.open(str(out)) as file:
        video, audio = file.streams.video[0], file.streams.audio[0]
        assert (video.width, video.height, video.average_rate, audio.rate > 0) == (32, 32, FPS, True)
        frames = [f.to_ndarray(format="rgb24") for f in file.decode(video)]
    assert len(frames) == 40 and max(f.std() for f in frames) > 5
    assert (frames[0] != frames[-1]).any()
    assert stretches and set(stretches) == {FPS}  # the audio was stretched, at the released model's own rate
