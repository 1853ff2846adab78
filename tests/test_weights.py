"""Checkpoints: the released keys, what a broken file is told, and our own format."""

import json

import pytest
import small
import torch
from safetensors.torch import load_file, save_file

from liveact_model.checkpoint.files import Tensors, dit_files
from liveact_model.config import DiTConfig
from liveact_model.dit import DiT
from liveact_model.errors import InputError
from liveact_model.loading import load_avatar, save_ours
from liveact_model.loading.keymap import UNUSED, export, infer_config, load, targets


def reload(state, config, precision="float32"):
    with torch.device("meta"):
        dit = DiT(config)
    return load(dit, state, precision)


def test_the_full_model_has_the_released_keys_and_parameter_count():
    c = DiTConfig()
    shapes = {k: s for t in targets(c) for k, s in zip(t.keys, t.shapes)}
    unused = 40 * 5120 * 5 + 46080 * 512 + 512  # memory_proj_v and proj1 are stored but never read
    assert len(shapes) == 1713 - 40 - 2
    assert sum(torch.Size(s).numel() for s in shapes.values()) == 18_884_094_784 - unused
    with torch.device("meta"):
        dit = DiT(c)
    assert sum(p.numel() for p in dit.parameters()) == 18_884_094_784 - unused
    assert shapes["audio_proj.proj1_vf.weight"] == (512, 73728)
    assert shapes["blocks.39.self_attn.memory_proj_k.weight"] == (5120, 1, 5)


@pytest.mark.parametrize("separate", [False, True])
def test_export_and_load_are_inverse(separate):
    config = small.CONFIG.with_(separate_v_taps=separate)
    dit = small.dit(config)
    again = reload(export(dit), config)
    theirs = dict(again.named_parameters())
    assert all(torch.equal(p, theirs[n]) for n, p in dit.named_parameters())
    values = {"num_heads": 2, "text_len": 8, "clip_tokens": 4, "audio_channels": 128, "separate_v_taps": separate}
    assert infer_config(export(dit), values) == config


def test_unused_released_tensors_are_ignored_and_others_are_not():
    state = export(small.dit())
    state["blocks.0.self_attn.memory_proj_v.weight"] = torch.zeros(32, 1, 5)
    state["audio_proj.proj1.weight"] = torch.zeros(16, 640)
    assert all(any(u in k for u in UNUSED) for k in list(state)[-2:])
    reload(state, small.CONFIG)
    state["blocks.0.surprise"] = torch.zeros(3)
    with pytest.raises(InputError, match=r"unexpected key blocks.0.surprise \[3\]"):
        reload(state, small.CONFIG)


def test_the_first_wrong_key_is_named_with_both_shapes():
    state = export(small.dit())
    state["blocks.1.ffn.0.weight"] = torch.zeros(48, 31)
    with pytest.raises(InputError, match=r"expected blocks.1.ffn.0.weight of shape \[48, 32\], found \[48, 31\]"):
        reload(state, small.CONFIG)
    del state["blocks.0.cross_attn.k_img.bias"]
    with pytest.raises(InputError, match=r"expected key blocks.0.cross_attn.k_img.bias \[32\], found none"):
        reload(state, small.CONFIG)


def test_precisions_of_a_load():
    state = export(small.dit())
    half, eight = reload(state, small.CONFIG, "bfloat16"), reload(state, small.CONFIG, "fp8")
    assert half.patch.weight.dtype == torch.bfloat16 and half.blocks[0].self_attn.norm_q.dtype == torch.float32
    linear = eight.blocks[1].ffn.up
    assert linear.format.name == "fp8" and linear.w8.dtype == torch.float8_e4m3fn and eight.dtype == torch.bfloat16
    back = linear.w8.float() * linear.w_scale[:, None]
    want = state["blocks.1.ffn.0.weight"]
    assert (back - want).norm() / want.norm() < 0.04


@pytest.fixture
def ours(tmp_path):
    """A folder in our own format."""
    avatar = small.avatar()
    arguments = {"z_dim": small.Z, "encoder_channels": [8, 8], "decoder_channels": [8, 8]}
    save_ours(tmp_path, "small", avatar.dit, arguments, small.SIZE, 20.0)
    save_file(avatar.vae.state_dict(), tmp_path / "vae.safetensors")
    return tmp_path


def test_our_format_round_trips(ours):
    avatar = load_avatar(str(ours))
    assert avatar.name == "small" and avatar.default_size == small.SIZE and avatar.default_fps == 20.0
    want = small.dit().blocks[0].ffn.up.weight.bfloat16().float()
    assert torch.equal(avatar.dit.blocks[0].ffn.up.weight, want)
    assert avatar.dit.config == small.CONFIG
    assert load_avatar(str(ours), dtype="fp8").dit.blocks[0].ffn.up.format.name == "fp8"


def test_broken_folders(ours, tmp_path):
    with pytest.raises(InputError, match="model: expected one of tiny, or a checkpoint directory, got 'nope'"):
        load_avatar("nope")
    with pytest.raises(InputError, match="dtype: expected one of auto, float32"):
        load_avatar(str(ours), dtype="int3")
    data = (ours / "dit.safetensors").read_bytes()
    (ours / "dit.safetensors").write_bytes(data[: len(data) // 2])
    with pytest.raises(InputError, match=r"expected a complete safetensors file .*dit.safetensors"):
        load_avatar(str(ours))
    (ours / "dit.safetensors").write_bytes(data)
    vae = load_file(ours / "vae.safetensors")
    key = sorted(vae)[0]
    save_file({**vae, key: torch.zeros(1, 2, 3)}, ours / "vae.safetensors")
    with pytest.raises(InputError, match=rf"vae.safetensors: expected {key} of shape .* found \[1, 2, 3\]"):
        load_avatar(str(ours))
    (ours / "config.json").write_text("[1]")
    with pytest.raises(InputError, match="expected a JSON object"):
        load_avatar(str(ours))


def test_sharded_released_files(tmp_path):
    state = export(small.dit())
    keys, stem = sorted(state), "diffusion_pytorch_model"
    halves = {f"{stem}-00001-of-00002.safetensors": keys[::2], f"{stem}-00002-of-00002.safetensors": keys[1::2]}
    for name, part in halves.items():
        save_file({k: state[k] for k in part}, tmp_path / name)
    index = {"weight_map": {k: name for name, part in halves.items() for k in part}}
    (tmp_path / f"{stem}.safetensors.index.json").write_text(json.dumps(index))
    tensors = Tensors(dit_files(tmp_path))
    assert set(tensors) == set(state) and torch.equal(tensors[keys[3]], state[keys[3]])
    reload(tensors, small.CONFIG)
    (tmp_path / f"{stem}-00002-of-00002.safetensors").unlink()
    with pytest.raises(InputError, match="00002-of-00002"):
        Tensors(dit_files(tmp_path))
