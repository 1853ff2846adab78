"""Whatever stands in a checkpoint's files, a load ends in an avatar or in one sentence; nothing large is allocated."""

import json
import shutil
from pathlib import Path

import mutate
import pytest
import released
import torch

from liveact_model.checkpoint import footprint
from liveact_model.checkpoint.jsonfile import read_json
from liveact_model.checkpoint.schema import Index, Ours, Released, Speech, SpeechInput, validated
from liveact_model.errors import InputError
from liveact_model.loading import ASSETS, load_avatar
from liveact_model.text.umt5 import UMT5TextEncoder

T5 = "models_t5_umt5-xxl-enc-bf16.pth"


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return released.write_released(tmp_path_factory.mktemp("released") / "model")


@pytest.fixture
def tiny(tmp_path):
    return shutil.copytree(ASSETS / "tiny", tmp_path / "tiny")


def said(call):
    """The sentence a call ends in, None where it ends well; any other exception passes through."""
    try:
        call()
    except InputError as error:
        assert "\n" not in str(error) and len(str(error)) < 600
        return str(error)
    return None


@pytest.mark.parametrize(
    "schema,name",
    [(Ours, "tiny"), (Released, "config.json"), (Index, f"{released.STEM}.safetensors.index.json"),
     (Speech, f"{released.AUDIO}/config.json"), (SpeechInput, f"{released.AUDIO}/preprocessor_config.json")],
    ids=lambda value: getattr(value, "__name__", ""),
)  # fmt: skip
def test_every_place_of_a_config_file(whole, tmp_path, schema, name):
    source = ASSETS / "tiny" / "config.json" if name == "tiny" else whole / name
    values = json.loads(source.read_text())
    path, refused, count = tmp_path / source.name, 0, 0
    for what, text in mutate.json_mutations(values):
        path.write_text(text)
        sentence = said(lambda: validated(schema, read_json(path), path))
        assert sentence is None or path.name in sentence, what
        refused, count = refused + (sentence is not None), count + 1
    assert refused > 0
    if schema is Ours:  # what passes is what makes sense: a number, other names, or a default that is left out
        assert count > 500 and refused > 0.9 * count


@pytest.mark.parametrize("name", mutate.TEXTS)
def test_whole_files_of_nonsense(tiny, name):
    (tiny / "config.json").write_bytes(mutate.TEXTS[name])
    assert said(lambda: load_avatar(str(tiny)))


CROSS = [
    ({"dit.num_layers": 10**18}, "dit.num_layers in .* a whole number from 1 to 1024, found 1000000000000000000"),
    ({"dit.num_layers": 900}, r"dit.safetensors: expected key blocks.6.modulation \[1, 6, 192\], found none"),
    ({"dit.num_layers": 5}, r"dit.safetensors: unexpected key blocks.5\."),
    ({"dit.ffn_dim": 1 << 20}, r"dit.safetensors: expected blocks.0.ffn.0.weight of shape \[1048576, 192\], found"),
    ({"vae.decoder_channels": [8192, 8192]}, r"vae.safetensors: expected dec_coarse.0.weight of shape \[8192, 32"),
    ({"vae.z_dim": 8}, "expected dit.out_dim to be vae.z_dim, found 32 and 8"),
    ({"dit.text_dim": 32}, "expected dit.text_dim in .* to be 64, as its encoder gives, found 32"),
    ({"dit.text_len": 4}, "expected dit.text_len in .* to be 8 or more, found 4"),
    ({"dit.num_heads": 5}, "config.json: dit: config: dim must be num_heads times an even number, got 192 / 5"),
    ({"timesteps": [500.0, 500.0]}, "expected timesteps that fall"),
    ({"dit.typo": 1}, "expected no key dit.typo in .*config.json, found 1"),
]


@pytest.mark.parametrize("changes,words", CROSS, ids=range(len(CROSS)))
def test_sizes_must_fit_each_other_and_the_tensors(tiny, changes, words):
    values = json.loads((tiny / "config.json").read_text())
    for path, value in changes.items():
        inner = values
        for key in path.split(".")[:-1]:
            inner = inner[key]
        inner[path.split(".")[-1]] = value
    (tiny / "config.json").write_text(json.dumps(values))
    with pytest.raises(InputError, match=words):
        load_avatar(str(tiny))


LOADABLE = {"float64", "float16", "other float"}
"""Kinds of tensor that are cast where all is cast."""


@pytest.mark.parametrize("kind", mutate.TENSORS)
def test_every_kind_of_tensor_in_a_pickle(whole, tmp_path, kind):
    path, key = shutil.copy(whole / T5, tmp_path / T5), "blocks.1.attn.q.weight"
    assert mutate.change_tensor(Path(path), key, kind)
    sentence = said(lambda: UMT5TextEncoder.from_released(path, whole / "google/umt5-xxl"))
    assert sentence and T5 in sentence
    assert key in sentence or kind in ("text", "quantised")


@pytest.mark.parametrize("kind", [kind for kind in mutate.TENSORS if kind not in mutate.ONLY_PICKLES])
def test_every_kind_of_tensor_in_safetensors(tiny, kind):
    key = "blocks.0.self_attn.q.weight"
    assert mutate.change_tensor(tiny / "dit.safetensors", key, kind)
    sentence = said(lambda: load_avatar(str(tiny)))
    assert sentence is None if kind in LOADABLE else "dit.safetensors" in sentence and key in sentence


def test_a_stray_huge_layer_is_a_key_too_many(whole, tmp_path):
    state = torch.load(whole / T5, weights_only=True)
    torch.save(state | {"blocks.1000000000.norm1.weight": torch.ones(32).bfloat16()}, tmp_path / T5)
    with pytest.raises(InputError, match=rf"{T5}: expected key blocks.2.norm1.weight \[32\], found none"):
        UMT5TextEncoder.from_released(tmp_path / T5, whole / "google/umt5-xxl")


def test_a_key_in_two_shards_is_refused(whole, tmp_path):
    folder = shutil.copytree(whole, tmp_path / "model")
    (folder / f"{released.STEM}.safetensors.index.json").unlink()
    shards = [folder / f"{released.STEM}-0000{i}-of-00003.safetensors" for i in (1, 2)]
    shutil.copy(*shards)
    with pytest.raises(InputError, match=r"expected each key in one file, found .* again in .*00002-of-00003"):
        load_avatar(str(folder))


def test_memory_is_compared_before_it_is_taken(whole, monkeypatch):
    monkeypatch.setattr(footprint, "available_bytes", lambda: 1 << 20)
    with pytest.raises(InputError, match=r"dit.safetensors in float32 needs 0.02 GiB of memory, and 0.00 GiB are"):
        load_avatar("tiny")
    monkeypatch.setattr(footprint, "available_bytes", lambda: 0)
    with pytest.raises(InputError, match=r"VAE weights \S+Wan2.1_VAE.pth needs"):
        load_avatar(str(whole))
    monkeypatch.setattr(footprint, "available_bytes", lambda: None)
    assert load_avatar("tiny").name == "tiny"


def test_the_least_of_machine_group_and_limit_counts(tmp_path, monkeypatch):
    assert 0 < footprint.available_bytes() < 1 << 50
    (tmp_path / "meminfo").write_text("MemTotal: 9 kB\nMemAvailable:    4096 kB\n")
    (tmp_path / "cgroup").write_text("0::/job\n")
    (tmp_path / "groups" / "job").mkdir(parents=True)
    for name, value in {"max": "3000000", "current": "1000000", "stat": "inactive_file 500\n"}.items():
        (tmp_path / "groups" / "job" / f"memory.{name}").write_text(value)
    for name, file in {"MEMINFO": "meminfo", "GROUP": "cgroup", "GROUPS": "groups"}.items():
        monkeypatch.setattr(footprint, name, tmp_path / file)
    monkeypatch.setattr(footprint, "_address_space", lambda: None)
    assert footprint.available_bytes() == 2_000_500
    (tmp_path / "groups" / "job" / "memory.max").write_text("max")
    assert footprint.available_bytes() == 4 << 20
