"""A checkpoint directory in the released layout works from its files to the video, as the specification says."""

import gc
from pathlib import Path

import av
import pytest
import released
import small
import soundfile
import torch

from liveact_app.cli import main
from liveact_model.audio import tempo
from liveact_model.audio.levels import Levels
from liveact_model.audio.wav2vec2 import Wav2Vec2AudioEncoder
from liveact_model.config import DiTConfig
from liveact_model.loading import load_avatar
from liveact_model.schedule import TIMESTEPS
from liveact_model.session import Session

FACE = Path(__file__).parent.parent / "examples" / "face.png"
PROMPT = "A person is talking"
FPS = 20.0


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return released.write_released(tmp_path_factory.mktemp("released") / "model")


@pytest.fixture(scope="module")
def avatar(folder):
    return load_avatar(folder, dtype="float32")


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
    "dtype,size,activations,live",
    [("auto", (32, 48), 2, True), ("float32", (32, 32), 4, True), ("fp8", (48, 32), 2, False)],
)
def test_blocks_are_finite_and_memory_is_flat(folder, dtype, size, activations, live):
    avatar = load_avatar(str(folder), dtype=dtype)
    assert (avatar.dit.blocks[1].ffn.up.format.name == "fp8") == (dtype == "fp8")
    assert (avatar.dit.dtype.itemsize, avatar.vae.conv1.weight.dtype.itemsize) == (activations, activations)
    assert avatar.text.encoder.embed_tokens.weight.dtype.itemsize == activations  # bf16 in its file
    session, seen = Session(avatar, released.picture(*size), PROMPT), []
    audio, decode = iter(small.speech(10).split(1600 if live else 160000)), session._decoder.decode

    def watched(latents):
        frames = decode(latents)
        seen.append((latents, frames))
        return frames

    session._decoder.decode = watched
    bytes_held, windows = [], set()
    if not live:
        session.push_audio(next(audio))
        session.close_audio()
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
        session = Session(model, released.picture(), PROMPT)
        session.push_audio(small.speech(6))
        return torch.cat([session.next_latents().float() for _ in range(3)], 1)

    want = latents(avatar)
    assert 1e-4 < released.relative(latents(load_avatar(folder)), want) < 2e-2
    assert 1e-3 < released.relative(latents(load_avatar(folder, dtype="fp8")), want) < 0.15


def test_generate_with_a_released_directory(folder, tmp_path, monkeypatch):
    stretches, atempo = [], tempo._atempo
    monkeypatch.setattr(tempo, "_atempo", lambda fps, rate: stretches.append(fps) or atempo(fps, rate))
    given, stream = [], Wav2Vec2AudioEncoder.stream
    monkeypatch.setattr(Wav2Vec2AudioEncoder, "stream", lambda self, *args: given.append(args) or stream(self, *args))
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
    assert [type(levels) for _, levels in given] == [Levels]
    assert stretches == [FPS, FPS]  # stretched at the released model's own rate: to measure levels, then to hear
