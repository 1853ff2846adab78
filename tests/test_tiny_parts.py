"""The parts of the tiny model that need no diffusion: faces, audio, words, picture patches and the VAE."""

import json
import random
import sys
from itertools import pairwise

import numpy as np
import pytest
import torch

from liveact_model.audio.mel import MelEncoder, mel_filters
from liveact_model.errors import InputError
from liveact_model.image.patches import PatchEncoder
from liveact_model.text.words import ACTIONS, CONCEPTS, EMOTIONS, WordEncoder
from liveact_model.vae.tiny import TinyVAE
from liveact_train.__main__ import STAGES, main, parser
from liveact_train.data import speech
from liveact_train.data.faces import EXTRA, POSE, render_uint8, still_pose
from liveact_train.data.identity import random_identity
from liveact_train.data.motion import lips, move, random_pose, random_segments
from liveact_train.latents import encode_conditions
from liveact_train.vae import load_vae, principal_components, psnr, save_vae, to_video

FRAMES = 30


def sound(seconds: float, seed: int = 0) -> torch.Tensor:
    """Noise bursts of changing loudness, [seconds * 16000]."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(int(seconds * 16000), generator=generator)
    return noise * (0.2 + 0.2 * torch.sin(torch.arange(len(noise)) / 900.0))


def loud_clip(seed: int = 3):
    """Identity, resting pose and moving pose of a clip whose audio, emotion and action all start at once."""
    rng = random.Random(seed)
    identity, rest = random_identity(rng), random_pose(rng)
    mel = torch.rand(FRAMES + 2, 128, generator=torch.Generator().manual_seed(seed)) * 2.0 + 0.5
    return identity, rest, move(mel, FRAMES, [(0, "happy", "wave"), (15, "angry", "nod")], rest, rng)


# --- faces ------------------------------------------------------------------------------------------------------------


def test_the_same_seed_draws_the_same_clip_and_another_seed_does_not():
    pictures = [render_uint8(identity, pose) for identity, _, pose in map(loud_clip, (3, 3, 4))]
    assert torch.equal(pictures[0], pictures[1])
    assert not torch.equal(pictures[0], pictures[2])


def test_a_clip_starts_at_its_neutral_reference_picture_and_eases_in():
    identity, rest, pose = loud_clip()
    for name in (*POSE, *EXTRA):
        assert torch.allclose(pose[name][0], rest[name][0], atol=1e-6), name
    assert rest["open"] == 0 and rest["smile"] == 0 and rest["wave"] == 0 and rest["eye_open"] == 1
    video, reference = render_uint8(identity, pose).int(), render_uint8(identity, rest).int()
    assert (video[0] - reference[0]).abs().max() <= 1
    assert (video[14] - reference[0]).abs().float().mean() > 3  # and it does leave the picture
    assert (pose["smile"][1:13] - pose["smile"][:12]).abs().max() < 0.2
    assert pose["open"][4] > 0.3


def test_a_large_picture_scaled_down_looks_like_a_small_one():
    identity = random_identity(random.Random(5))
    small = render_uint8(identity, still_pose(), 64).float()
    large = torch.nn.functional.avg_pool2d(render_uint8(identity, still_pose(), 256).float(), 4)
    assert (small - large).abs().mean() < 2.0


def test_prompts_switch_only_at_block_starts_and_often():
    rng = random.Random(0)
    segments = [random_segments(rng, (0, 21, 53), 0.6) for _ in range(300)]
    assert {tuple(start for start, *_ in clip) for clip in segments} == {(0, 21, 53)}
    switched = sum(a[1:] != b[1:] for clip in segments for a, b in pairwise(clip)) / 600
    assert 0.4 < switched < 0.6  # 60%, less the draws that repeat the old prompt
    assert {act for clip in segments for _, _, act in clip} == set(ACTIONS)
    assert {emotion for clip in segments for _, emotion, _ in clip} == set(EMOTIONS)


def test_lips_open_with_sound_and_close_in_silence():
    quiet = MelEncoder().encode(sound(1.0) * 0.003, 20)[:, 0]
    loud = MelEncoder().encode(sound(1.0), 20)[:, 0]
    assert lips(quiet, 18)[0].max() < 0.02
    assert lips(loud, 18)[0].mean() > 0.2


def test_missing_espeak_is_a_clear_error(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(speech.shutil, "which", lambda name: None)
    with pytest.raises(InputError, match="espeak-ng"):
        speech.speak("hello")
    assert main(["examples", "--out", str(tmp_path)]) == 2
    assert "espeak-ng" in capsys.readouterr().err


# --- audio ------------------------------------------------------------------------------------------------------------


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
def test_any_chunking_gives_the_offline_embeddings(fps, seed):
    samples, rng = sound(3.3, seed), random.Random(seed)
    whole = MelEncoder().encode(samples, fps)
    stream, at, seen = MelEncoder().stream(fps), 0, 0
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


# --- words and patches ------------------------------------------------------------------------------------------------


def test_words_are_orthogonal_concepts_and_synonyms_agree():
    encoder = WordEncoder()
    rows = torch.stack([encoder.encode(words[0])[1] for words in (*EMOTIONS.values(), *ACTIONS.values())])
    constant = encoder.encode("")[0]
    gram = torch.cat([constant[None], rows]) @ torch.cat([constant[None], rows]).T
    assert torch.equal(gram, 64.0 * torch.eye(len(CONCEPTS) + 1))
    assert torch.equal(encoder.encode("A joyful man, WAVING!"), encoder.encode("happy wave"))
    assert not torch.equal(encoder.encode("happy"), encoder.encode("sad"))


def test_unknown_words_are_ignored_and_no_word_means_neutral():
    encoder = WordEncoder()
    assert encoder.concepts("a zebra talking") == ["neutral"] == encoder.concepts("")
    assert encoder.concepts("smiling happy person nods then waves") == ["happy", "nod", "wave"]
    everything = " ".join(word for words in (*EMOTIONS.values(), *ACTIONS.values()) for word in words)
    assert encoder.encode(everything).shape == (8, 64)


def test_patches_are_two_by_two_latent_pixels_with_a_position():
    latent = torch.arange(24 * 8 * 12).float().view(24, 8, 12)
    encoder = PatchEncoder(24, 8, 12)
    tokens = encoder.encode(torch.zeros(3, 64, 96), latent)
    assert tokens.shape == (encoder.clip_tokens, encoder.clip_dim) == (24, 4 * 24 + 16)
    expected = latent[:, 2:4, 4:6].flatten()  # row 1, column 2
    assert torch.equal(tokens[1 * 6 + 2, :96], expected)
    positions = tokens[:, 96:]
    assert len(torch.unique(positions.round(decimals=4), dim=0)) == 24
    with pytest.raises(InputError, match="latent"):
        encoder.encode(torch.zeros(3, 64, 64), torch.zeros(24, 7, 8))


# --- VAE --------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def vae() -> TinyVAE:
    """A small VAE with nothing left at zero, so that every path matters."""
    torch.manual_seed(0)
    model = TinyVAE(6, (16, 16), (16, 24)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
        model.mean.normal_()
        model.std.uniform_(0.5, 2.0)
    return model


@pytest.mark.parametrize("chunks", [[1] * 6, [2, 4], [3, 1, 2]])
def test_streaming_decode_equals_one_shot(vae, chunks):
    latents = torch.randn(6, 6, 3, 2, generator=torch.Generator().manual_seed(1))
    whole = vae.stream().decode(latents)
    stream = vae.stream()
    parts = [stream.decode(part) for part in latents.split(chunks, 1)]
    assert [part.shape[1] for part in parts] == [4 * chunks[0] - 3] + [4 * n for n in chunks[1:]]
    assert whole.shape == (3, 21, 24, 16)
    assert torch.allclose(torch.cat(parts, 1), whole, atol=1e-5)
    forgetful = torch.cat([vae.stream().decode(part)[:, -1:] for part in latents.split(1, 1)], 1)
    assert not torch.allclose(forgetful[:, 1], whole[:, 4], atol=1e-3)  # so the state did something


def test_encode_is_causal_and_normalised(vae):
    video = torch.rand(3, 13, 16, 24, generator=torch.Generator().manual_seed(2)) * 2 - 1
    latents = vae.encode(video)
    assert latents.shape == (6, 4, 2, 3)
    assert torch.allclose(vae.encode(video[:, :5]), latents[:, :2], atol=1e-5)
    raw = vae.posterior(video[None])[0][0]
    assert torch.allclose(latents * vae.std.view(-1, 1, 1, 1) + vae.mean.view(-1, 1, 1, 1), raw, atol=1e-5)


def test_conditions_are_the_picture_followed_by_grey(vae):
    picture = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(3)) * 2 - 1
    short = encode_conditions(vae, picture)
    full = torch.cat([picture[1][:, None], torch.zeros(3, 52, 16, 16)], 1)
    assert torch.allclose(short[1].transpose(0, 1), vae.encode(full), atol=1e-5)


def test_vae_input_errors(vae):
    for shape in ((3, 4, 16, 16), (1, 5, 16, 16), (3, 5, 12, 16), (5, 16, 16)):
        with pytest.raises(InputError, match="video"):
            vae.encode(torch.zeros(shape))
    for shape in ((5, 2, 2, 2), (6, 0, 2, 2), (6, 2, 2)):
        with pytest.raises(InputError, match="latents"):
            vae.stream().decode(torch.zeros(shape))


def test_principal_components_alone_reconstruct_faces_and_survive_saving(tmp_path):
    poses = [loud_clip(seed) for seed in range(4)]
    video = to_video(torch.stack([render_uint8(identity, pose)[:9] for identity, _, pose in poses]).numpy())
    model = TinyVAE(24, (8, 8), (8, 8))
    principal_components(model, video)
    decoded = model.generate(model.posterior(video)[0])[0][:, :, 3:]
    assert psnr(decoded, video) > 22
    save_vae(model, str(tmp_path / "vae.safetensors"), torch.bfloat16)
    copy = load_vae(str(tmp_path / "vae.safetensors"))
    assert json.loads((tmp_path / "vae.json").read_text())["z_dim"] == 24
    assert torch.allclose(copy.encode(video[0]), model.encode(video[0]), atol=0.05)


# --- command line -----------------------------------------------------------------------------------------------------


def test_every_stage_has_help_and_defaults(capsys):
    for name, (config, _) in STAGES.items():
        options = vars(parser().parse_args([name]))
        assert config(**{key: value for key, value in options.items() if key != "stage"}) == config()
        with pytest.raises(SystemExit) as stop:
            main([name, "--help"])
        assert stop.value.code == 0 and name in capsys.readouterr().out
    assert "liveact_train" in sys.modules
