"""The parts of the tiny model that need no diffusion: faces, words, picture patches and the VAE."""

import json
import random
import sys
from itertools import pairwise
from pathlib import Path

import pytest
import torch

from liveact_model.avatar import lost_detail
from liveact_model.errors import InputError
from liveact_model.image.patches import PatchEncoder
from liveact_model.loading import ASSETS, load_avatar
from liveact_model.text.words import ACTIONS, CONCEPTS, EMOTIONS, WordEncoder
from liveact_model.vae.tiny import TinyVAE
from liveact_train.__main__ import STAGES, main, parser
from liveact_train.data import speech
from liveact_train.data.faces import EXTRA, POSE, render, render_uint8, still_pose
from liveact_train.data.identity import plain, random_identity
from liveact_train.data.motion import move, random_pose, random_segments
from liveact_train.latents import encode_conditions
from liveact_train.ship import most_lost
from liveact_train.vae import (
    latent_step,
    load_vae,
    picture_loss,
    principal_components,
    psnr,
    save_vae,
    sharpness,
    to_video,
)

FRAMES = 30


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


def test_missing_espeak_is_a_clear_error(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(speech.shutil, "which", lambda name: None)
    with pytest.raises(InputError, match="espeak-ng"):
        speech.speak("hello")
    assert main(["examples", "--out", str(tmp_path)]) == 2
    assert "espeak-ng" in capsys.readouterr().err


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


@pytest.fixture(scope="module", params=[False, True], ids=["alone", "overlap"])
def vae(request) -> TinyVAE:
    """A small VAE with nothing left at zero, so that every path matters."""
    torch.manual_seed(0)
    model = TinyVAE(6, (16, 16), (16, 24), overlap=request.param).eval()
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


def test_with_overlap_every_path_sees_the_latent_frame_before():
    torch.manual_seed(0)
    model = TinyVAE(6, (16, 16), (16, 24), overlap=True).requires_grad_(False)
    torch.nn.init.normal_(model.dec_out[-1].weight, std=0.1)
    z = torch.randn(1, 6, 3, 2, 2)
    changed = z.clone()
    changed[:, :, 1] += 1.0
    for layer in (model.dec_time.conv, model.dec_fine_time.conv, model.linear_before):
        torch.nn.init.normal_(layer.weight, std=0.3)
        alone, both = model.generate(z)[0], model.generate(changed)[0]
        assert (alone[:, :, 8:] - both[:, :, 8:]).abs().max() > 1e-3  # the third latent frame's four
        assert torch.equal(alone[:, :, :4], both[:, :, :4])
        torch.nn.init.zeros_(layer.weight)


def test_a_pulse_is_seen_where_latent_frames_begin():
    steady = torch.linspace(-1, 1, 29).view(1, 1, 29, 1, 1).expand(2, 3, -1, 8, 8)
    assert latent_step(steady) == pytest.approx(1, abs=1e-4)
    jumping = ((torch.arange(29) + 3) // 4).view(1, 1, -1, 1, 1) / 8 + 1e-3 * steady
    assert latent_step(jumping) > 50
    wave = torch.sin(torch.arange(8.0)).view(1, 1, 1, 1, 8).expand(1, 3, 5, 8, 8)
    assert sharpness(wave * 0.5, wave) == pytest.approx(0.5)


def test_the_loss_minds_what_comes_and_goes_with_every_latent_frame_most():
    video = torch.zeros(1, 3, 13, 64, 64)
    kinds = {"stays": torch.ones(13), "pulse": (torch.arange(13) + 3) // 4 % 2, "flicker": torch.arange(13) % 2}
    off = {name: video + 0.1 * at.view(1, 1, -1, 1, 1) for name, at in kinds.items()}
    loss = {name: picture_loss(decoded, video, 3, 20.0, 6.0).item() for name, decoded in off.items()}
    level = {name: at.float().mean().item() * (0.1 + 0.02) for name, at in kinds.items()}
    assert loss["stays"] == pytest.approx(level["stays"], rel=1e-4)
    anywhere, border = 20.0 * 0.01, 6.0 * 0.1
    assert loss["pulse"] == pytest.approx(level["pulse"] + (anywhere + border) * 3 / 12, rel=1e-4)  # three borders
    assert loss["flicker"] == pytest.approx(level["flicker"] + anywhere + border * 3 / 12, rel=1e-4)
    shifted = picture_loss(off["pulse"][:, :, 1:], video[:, :, 1:], 4, 20.0, 6.0).item()  # begins with a latent frame
    level = 0.12 * kinds["pulse"][1:].float().mean().item()
    assert shifted == pytest.approx(level + (anywhere + border) * 2 / 11, rel=1e-4)


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
    full = vae.encode(torch.cat([picture[1][:, None], torch.zeros(3, 52, 16, 16)], 1))
    assert torch.allclose(short[1].transpose(0, 1), full[:, :3], atol=1e-5)
    assert torch.allclose(full[:, 2:3].expand(-1, 12, -1, -1), full[:, 2:], atol=1e-5)  # the rest repeats


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


def test_the_shipped_vae_reconstructs_a_new_face_and_forgives_noise():
    assert (ASSETS / "tiny" / "vae.safetensors").stat().st_size < 8e6
    model = load_avatar("tiny").vae
    identity, _, pose = loud_clip(11)
    video = to_video(render_uint8(plain(identity), pose)[:29].numpy())  # the family that it was trained on
    latents = model.encode(video)
    noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(0))
    clean, noisy = (model.stream().decode(latents + level * noise) for level in (0.0, 0.3))
    assert psnr(clean[None], video[None]) > 24.5
    assert psnr(clean[None], video[None]) - psnr(noisy[None], video[None]) < 3


# --- pictures that it does not know -----------------------------------------------------------------------------------


def rough(seed, size=64, fall=1.0):
    """[3, size, size] in [-1, 1]: noise whose amplitude falls with frequency as that of photographs does."""
    g = torch.Generator().manual_seed(seed)
    f = torch.fft.fftfreq(size)
    radius = (f[:, None] ** 2 + f[None] ** 2).sqrt().clamp_min(1 / size)
    x = torch.fft.ifft2(torch.fft.fft2(torch.randn(3, size, size, generator=g)) / radius**fall).real
    return (x / x.std() * 0.5).clamp(-1, 1)


def test_its_own_faces_are_known_and_others_are_not():
    avatar = load_avatar("tiny")
    own = [render(random_identity(random.Random(f"new {i}")), still_pose())[0] * 2 - 1 for i in range(24)]
    lost = [lost_detail(avatar.vae, face) for face in own]
    assert 0.2 < min(lost) and max(lost) < avatar.most_lost
    others = [rough(seed, fall=fall) for seed in range(6) for fall in (0.0, 1.0)]
    others += [torch.zeros(3, 64, 64), torch.full((3, 64, 64), -1.0)]
    assert min(lost_detail(avatar.vae, picture) for picture in others) > avatar.most_lost
    few = most_lost(avatar.vae, 64, faces=16)
    assert max(lost) * 0.8 < few <= avatar.most_lost


def test_detail_that_comes_back_is_not_lost():
    class Blur:
        def encode(self, video):
            return video

        def stream(self):
            return self

        def decode(self, latents):
            return latents * self.keeps

    vae, picture = Blur(), rough(1)
    for keeps, lost in ((1.0, 0.0), (0.75, 0.25), (0.0, 1.0)):
        vae.keeps = keeps
        assert lost_detail(vae, picture) == pytest.approx(lost, abs=1e-6)


def test_a_picture_that_is_not_known_is_told_once(tmp_path, capsys):
    import soundfile
    from PIL import Image
    from small import speech as talk

    from liveact_app.cli import main as liveact

    soundfile.write(tmp_path / "a.wav", talk(1.2).numpy(), 16000)
    pixels = ((rough(2, 128) + 1) * 127.5).byte().permute(1, 2, 0).numpy()
    Image.fromarray(pixels).save(tmp_path / "photo.png")
    face = Path(__file__).parent.parent / "examples" / "face.png"

    def notes(picture):
        files = ["--audio", str(tmp_path / "a.wav"), "--out", str(tmp_path / "x.mp4"), "--device", "cpu"]
        assert liveact(["generate", "--image", str(picture), *files]) == 0
        return [line for line in capsys.readouterr().err.splitlines() if "is no picture" in line]

    assert notes(face) == []
    [said] = notes(tmp_path / "photo.png")
    assert said.startswith("liveact: --image: ") and "'tiny' knows" in said and "liveact fetch liveact-18b" in said
    assert "its VAE loses" in said and f"{load_avatar('tiny').most_lost:.0%} bounds" in said
