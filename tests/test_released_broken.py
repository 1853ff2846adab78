"""Every broken file of a released directory is told in one sentence: which file or key, what was expected and found."""

import json
import shutil

import pytest
import released
import torch
from safetensors.torch import load_file, save_file

from liveact_app.cli import main
from liveact_model.errors import InputError
from liveact_model.loading import load_avatar

T5, CLIP = "models_t5_umt5-xxl-enc-bf16.pth", "models_clip_open-clip-xlm-roberta-large-vit-huge-14.pth"
VAE, INDEX = "Wan2.1_VAE.pth", f"{released.STEM}.safetensors.index.json"
SHARD = f"{released.STEM}-00002-of-00003.safetensors"


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return released.write_released(tmp_path_factory.mktemp("released") / "model")


@pytest.fixture
def folder(whole, tmp_path):
    return shutil.copytree(whole, tmp_path / "model")


def cut(name):
    """Keep the first half of a file."""

    def damage(folder):
        data = (folder / name).read_bytes()
        (folder / name).write_bytes(data[: len(data) // 2])

    return damage


def gone(name):
    """Remove a file or a folder."""

    def damage(folder):
        path = folder / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()

    return damage


def both(*damages):
    return lambda folder: [damage(folder) for damage in damages]


def text(name, content):
    return lambda folder: (folder / name).write_text(content)


def config(**changes):
    """Change config.json; None removes an entry."""

    def damage(folder):
        values = json.loads((folder / "config.json").read_text()) | changes
        (folder / "config.json").write_text(json.dumps({k: v for k, v in values.items() if v != "REMOVE"}))

    return damage


def tensor(key, shape, name=None):
    """Give a key another shape, or with None take it out of its shard or pickle."""

    def damage(folder):
        path = folder / (name or json.loads((folder / INDEX).read_text())["weight_map"][key])
        state = torch.load(path) if name else load_file(path)
        state.pop(key)
        state |= {} if shape is None else {key: torch.zeros(shape)}
        torch.save(state, path) if name else save_file(state, path)

    return damage


def other(write, *args):
    """Write one part of the directory with other sizes."""

    def damage(folder):
        if write is released.write_wav2vec2:
            shutil.rmtree(folder / released.AUDIO)
        write(folder, *args)

    return damage


DAMAGES = {
    "truncated text encoder": (cut(T5), rf"expected \S+{T5} to be a torch weight file, found \d+ bytes"),
    "truncated image encoder": (cut(CLIP), rf"expected \S+{CLIP} to be a torch weight file, found \d+ bytes"),
    "truncated VAE": (cut(VAE), rf"expected \S+{VAE} to be a torch weight file, found \d+ bytes"),
    "truncated shard": (cut(SHARD), rf"expected a complete safetensors file \S+{SHARD}, got: "),
    "truncated audio encoder": (
        cut("chinese-wav2vec2-base/pytorch_model.bin"),
        r"expected \S+pytorch_model.bin to be a torch weight file, found \d+ bytes",
    ),
    "no text encoder": (gone(T5), rf"expected a weight file \S+{T5}, but there is none"),
    "no image encoder": (gone(CLIP), rf"expected a weight file \S+{CLIP}, but there is none"),
    "no VAE": (gone(VAE), rf"expected a weight file \S+{VAE}, but there is none"),
    "no tokenizer": (
        gone("google/umt5-xxl"), r"tokenizer_dir: expected a directory with a tokenizer, got \S+google/umt5-xxl"
    ),
    "empty tokenizer": (
        gone("google/umt5-xxl/tokenizer.json"),
        r"tokenizer_dir: expected a tokenizer.json in \S+umt5-xxl, found none",
    ),
    "garbled tokenizer": (
        text("google/umt5-xxl/tokenizer.json", "{"), r"tokenizer_dir: expected a readable JSON file \S+, got: "
    ),
    "no audio encoder": (gone(released.AUDIO), r"wav2vec_dir: .*\S+chinese-wav2vec2-base, found none"),
    "no shards": (
        both(*(gone(f"{released.STEM}-0000{i}-of-00003.safetensors") for i in (1, 2, 3)), gone(INDEX)),
        r"expected diffusion_pytorch_model\*.safetensors in '\S+model', found none",
    ),
    "a shard missing": (gone(SHARD), rf"expected the denoiser's file \S+{SHARD}, found none"),
    "a shard and the index missing": (both(gone(SHARD), gone(INDEX)), rf"denoiser's file \S+{SHARD}, found none"),
    "an index of nothing": (text(INDEX, "{}"), rf"expected weight_map in \S+{INDEX} to be an object .*, found none"),
    "an index that lists": (text(INDEX, '{"weight_map": ["x"]}'), r"expected weight_map in .*, found \['x'\]"),
    "an index that is not JSON": (text(INDEX, "{"), rf"expected a readable JSON file \S+{INDEX}, got: "),
    "a mis-shaped key": (
        tensor("blocks.1.ffn.2.weight", (48, 63)),
        r"denoiser: expected blocks.1.ffn.2.weight of shape \[48, 64\], found \[48, 63\]",
    ),
    "a missing key": (
        tensor("blocks.0.norm_x.bias", None), r"denoiser: expected key blocks.0.norm_x.bias \[48\], found none"
    ),
    "a missing key that sizes are read from": (
        tensor("audio_proj.proj1_vf.weight", None), r"denoiser: expected key audio_proj.proj1_vf.weight .* found none"
    ),
    "a key with a strange number": (
        lambda folder: save_file(load_file(folder / SHARD) | {"blocks.x.norm": torch.zeros(1)}, folder / SHARD),
        r"denoiser: unexpected key blocks.x.norm \[1\]",
    ),
    "a mis-shaped key of the VAE": (
        tensor("conv2.weight", (16, 16, 1, 1, 2), VAE),
        rf"VAE weights \S+{VAE}: expected conv2.weight of shape \[16, 16, 1, 1, 1\], found \[16, 16, 1, 1, 2\]",
    ),
    "a missing key of the text encoder": (
        tensor("blocks.1.attn.k.weight", None, T5),
        rf"text encoder weights \S+{T5}: expected key blocks.1.attn.k.weight \[32, 32\], found none",
    ),
    "a missing key of the image encoder": (
        tensor("visual.transformer.1.norm2.bias", None, CLIP),
        rf"image encoder weights \S+{CLIP}: expected key transformer.1.norm2.bias \[32\], found none",
    ),
    "config.json is not JSON": (text("config.json", "garbage"), r"expected a readable JSON file \S+config.json, got: "),
    "config.json is a list": (text("config.json", "[1]"), r"expected a JSON object in \S+config.json, got list"),
    "heads in words": (config(num_heads="many"), r"num_heads in \S+config.json to be a whole number .* found 'many'"),
    "no heads at all": (config(num_heads=0), r"num_heads in \S+config.json to be a whole number .* found 0"),
    "heads that do not divide": (config(num_heads=5), r"dim must be num_heads times an even number, got 48 / 5"),
    "another kind of model": (config(model_type="t2v"), r"model_type in \S+config.json to be 'i2v', found 't2v'"),
    "more layers stated than found": (config(num_layers=3), r"expected num_layers 3 as in \S+, found 2 in the tensors"),
    "another width stated": (config(output_dim=25), r"expected output_dim 25 as in \S+config.json, found 24"),
    "an audio encoder of other layers": (
        other(released.write_wav2vec2, released.CONFIG.with_(audio_blocks=2)),
        r"wav2vec_dir: expected .* blocks x channels = 96, .*proj1_vf.weight takes, found 2 x 32 = 64",
    ),
    "a text encoder of another width": (
        other(released.write_t5, released.UMT5Shape(40, 16, 32, 48, 4, 1)),
        rf"expected text_dim 32 in \S+{T5}, as .*text_embedding.0.weight takes, found text_dim 16",
    ),
    "an image encoder of another width": (
        other(released.write_clip, released.CLIPShape(48, 48, 8, 2, 14, 257)),
        rf"expected clip_dim 32 in \S+{CLIP}, as .*img_emb.proj.1.weight takes, found clip_dim 48",
    ),
    "a VAE of other channels": (
        other(released.write_vae, released.WanVAEConfig(dim=4, z_dim=8)),
        rf"expected z_dim 16 in \S+{VAE}, as .*head.head.weight takes, found z_dim 8",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", DAMAGES)
def test_one_sentence(folder, name):
    damage, complaint = DAMAGES[name]
    damage(folder)
    with pytest.raises(InputError, match=complaint) as error:
        load_avatar(str(folder))
    assert "\n" not in str(error.value)


def test_the_command_says_it_and_exits_with_2(folder, tmp_path, capsys):
    gone(released.AUDIO)(folder)
    (tmp_path / "s.wav").write_bytes(b"")
    wave, face = tmp_path / "ok.wav", tmp_path / "face.png"
    import soundfile
    from PIL import Image

    soundfile.write(wave, [0.1] * 16000, 16000)
    Image.new("RGB", (32, 32)).save(face)
    command = ["generate", "--model", str(folder), "--image", str(face), "--audio", str(wave), "--device", "cpu"]
    assert main([*command, "--out", str(tmp_path / "x.mp4")]) == 2
    assert "wav2vec_dir: expected the audio encoder's folder" in capsys.readouterr().err
    elsewhere = ["--wav2vec-dir", str(tmp_path / "nowhere")]
    assert main([*command, *elsewhere, "--out", str(tmp_path / "x.mp4")]) == 2
    assert "nowhere, found none" in capsys.readouterr().err


def test_an_audio_encoder_from_elsewhere(folder, tmp_path):
    moved = shutil.move(folder / released.AUDIO, tmp_path / "speech")
    assert load_avatar(str(folder), wav2vec_dir=str(moved)).audio.channels == 32


def test_an_unknown_device_is_refused_before_anything_is_read(tmp_path):
    with pytest.raises(InputError, match="device: expected a device that torch knows, got 'quantum'"):
        load_avatar(str(tmp_path), device="quantum")
