"""`liveact convert`: the same bits as quantising while loading, resumable, refused while half-written."""

import json
import os

import pytest
import released
import torch
from safetensors.torch import load_file, save_file

from liveact_app.cli import main
from liveact_model.errors import InputError
from liveact_model.loading import converted, load_avatar


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    return released.write_released(tmp_path_factory.mktemp("released") / "model")


@pytest.fixture
def small_shards(monkeypatch):
    monkeypatch.setattr(converted, "SHARD_BYTES", 20_000)


def tensors(avatar):
    parts = {"dit": avatar.dit, "vae": avatar.vae, "text": avatar.text, "image": avatar.image, "audio": avatar.audio}
    return {f"{n}.{k}": v for n, part in parts.items() for k, v in part.state_dict().items()}


def same(a, b):
    a, b = tensors(a), tensors(b)
    assert a.keys() == b.keys() and len(a) > 200
    assert [k for k in a if a[k].dtype != b[k].dtype or not torch.equal(a[k].float(), b[k].float())] == []


def test_it_loads_to_the_same_bits(original, tmp_path, small_shards, capsys):
    out = tmp_path / "out"
    assert main(["convert", str(original), str(out)]) == 0
    assert len(list(out.glob("dit-fp8-*.safetensors"))) >= 3 and not list(out.rglob("*.part"))
    want = load_avatar(str(original), dtype="fp8")
    for dtype in ("auto", "fp8"):
        same(load_avatar(str(out), dtype=dtype), want)
    assert load_avatar(str(out), mean_memory=True).dit.blocks[0].self_attn.memory == "mean"
    with pytest.raises(InputError, match=r"dtype: expected auto or fp8, as .* holds, got 'float32'"):
        load_avatar(str(out), dtype="float32")
    assert main(["convert", str(out), "--check"]) == 0 and "files are as they were written" in capsys.readouterr().out
    assert main(["convert", str(original), str(out)]) == 2 and "is finished" in capsys.readouterr().err
    path = next(out.glob("dit-*"))
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    assert main(["convert", str(out), "--check"]) == 2 and "1 of" in capsys.readouterr().err
    path.write_bytes(data[:-1])
    with pytest.raises(InputError, match=r"expected \d+ bytes in \S+, as manifest.json says, found \d+"):
        load_avatar(str(out))


def test_a_killed_run_goes_on_where_it_was(original, tmp_path, small_shards, monkeypatch):
    out, save, made = tmp_path / "out", converted._save, []

    def dying(dit, shard, state, precision, path):
        if len(made) == 2:
            path.write_bytes(b"half")
            raise KeyboardInterrupt
        made.append(path.name)
        save(dit, shard, state, precision, path)

    monkeypatch.setattr(converted, "_save", dying)
    assert main(["convert", str(original), str(out)]) == 130 and not list(out.rglob("*.part"))
    with pytest.raises(InputError, match=r"is half converted .2 files of it are there.: run the same"):
        load_avatar(str(out))
    spoilt = out / made[0].removesuffix(".part")
    spoilt.write_bytes(spoilt.read_bytes()[:-1] + b"?")
    again = []
    monkeypatch.setattr(converted, "_save", lambda *a: again.append(a[-1].name) or save(*a))
    assert main(["convert", str(original), str(out)]) == 0
    assert made[0] in again and made[1] not in again and len(again) >= 2
    same(load_avatar(str(out)), load_avatar(str(original), dtype="fp8"))


def test_bad_input_is_one_sentence_and_leaves_nothing(original, tmp_path, capsys):
    out, full = tmp_path / "out", tmp_path / "full"
    full.mkdir()
    (full / "x").touch()
    for args, said in (
        ([original, out, "--precision", "int3"], "--precision: expected one of fp8, fp8-128, nvfp4, mxfp4, or"),
        ([original, out, "--precision", "nvfp4"], "expected layers whose width 16 divides for nvfp4, got one of 24"),
        ([tmp_path / "no", out], "expected a released checkpoint directory"), ([original], "required: OUT"),
        ([original, tmp_path / "a" / "b"], "does not exist"), ([original, full], "holds something else"),
        ([original, out, "--wav2vec-dir", full / "y"], "wav2vec_dir: expected the audio encoder's folder"),
    ):  # fmt: skip
        assert main(["convert", *map(str, args)]) == 2
        err = capsys.readouterr().err
        assert said in err and err.count("\n") == 1
    assert not out.exists() and os.listdir(full) == ["x"]


def test_a_config_that_contradicts_the_tensors_and_an_unknown_quantisation(original, tmp_path, capsys):
    out = tmp_path / "out"
    assert main(["convert", str(original), str(out)]) == 0
    manifest = json.loads((out / "manifest.json").read_text())
    del manifest["files"]["config.json"]
    (out / "manifest.json").write_text(json.dumps(manifest))
    config = json.loads((out / "config.json").read_text())
    (out / "config.json").write_text(json.dumps(config | {"precision": "int3"}))
    with pytest.raises(InputError, match=r"expected precision in .* to be one of 'fp8', .*'plan', found 'int3'"):
        load_avatar(str(out))
    (out / "config.json").write_text(json.dumps(config | {"dit": config["dit"] | {"ffn_dim": 72}}))
    with pytest.raises(InputError, match=r"denoiser: expected blocks.0.ffn.up.w8 float8_e4m3fn \[72, 48\] as in"):
        load_avatar(str(out))


def test_prefixes_of_wrappers_are_taken_off(original, tmp_path):
    folder = released.write_released(tmp_path / "model")
    for path in folder.glob("*.safetensors"):
        save_file({f"module._orig_mod.{k}": v for k, v in load_file(path).items()}, path)
    same(load_avatar(str(folder)), load_avatar(str(original)))
