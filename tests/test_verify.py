"""Recorded runs of the released model: all pass, and each kind fails when its recording or its weights are spoiled."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from liveact_app.cli import main
from liveact_app.verify.cases import REPLAYS, find, replay
from liveact_app.verify.dit import Replay
from liveact_app.verify.golden import load
from liveact_model.errors import InputError

CORE = ("dit_tiny", "dit_tiny_sp2", "memory", "rope", "sampler")


@pytest.mark.parametrize("case", CORE)
def test_recorded_case_passes(golden, case):
    rows = list(replay(golden / f"{case}.json"))
    assert len(rows) >= 4
    assert [r for r in rows if r.verdict != "pass"] == []


def spoiled(golden, tmp_path, case, name, change, extra=()):
    """A copy of a case with one tensor changed."""
    for stem in (case, *extra):
        for suffix in (".json", ".safetensors"):
            shutil.copy(golden / f"{stem}{suffix}", tmp_path / f"{stem}{suffix}")
    path = tmp_path / f"{case}.safetensors"
    tensors = load_file(path)
    tensors[name] = change(tensors[name])
    save_file(tensors, path)
    return [r for r in replay(tmp_path / f"{case}.json") if r.verdict == "FAIL"]


@pytest.mark.parametrize(
    "case,name",
    [
        ("memory", "out.single.conv.update.y"),
        ("memory", "weights.memory_proj_k.weight"),
        ("memory", "out.sp.index_schedule.rank0"),
        ("rope", "out.k_roped"),
        ("rope", "out.freqs_sin"),
        ("sampler", "out.latent.1"),
        ("sampler", "out.audio_range_per_iteration"),
        ("sampler", "out.msk"),
    ],
)
def test_a_spoiled_case_fails(golden, tmp_path, case, name):
    def change(t):
        t = t.clone()
        t.view(-1)[t.numel() // 2] += 1
        return t

    assert spoiled(golden, tmp_path, case, name, change)


def test_other_iteration_counts_and_wrong_outputs_of_the_denoiser(golden, tmp_path):
    """A shorter recording still replays; one wrong velocity in it is found."""
    meta, tensors = json.loads((golden / "dit_tiny.json").read_text()), load_file(golden / "dit_tiny.safetensors")
    keep = {n: t for n, t in tensors.items() if not n.startswith("out.") or n.startswith("out.conv.noise_pred.")}
    keep = {n: t for n, t in keep.items() if not n.startswith("out.") or int(n.split(".")[3]) < 3}
    meta |= {"variants": {"conv": "float32"}, "tensor_list": {}}
    (tmp_path / "short.json").write_text(json.dumps(meta))
    save_file(keep, tmp_path / "short.safetensors")
    rows = {r.variant: r for r in replay(tmp_path / "short.json")}
    assert rows["conv noise_pred"].verdict == "pass"
    keep["out.conv.noise_pred.2.1"] = keep["out.conv.noise_pred.2.1"] * 1.001
    save_file(keep, tmp_path / "short.safetensors")
    rows = {r.variant: r for r in replay(tmp_path / "short.json")}
    assert rows["conv noise_pred"].verdict == "FAIL" and rows["conv noise_pred"].note.endswith("2.1")


def test_every_recorded_kind_has_a_replay(golden):
    assert {json.loads(p.read_text())["kind"] for p in find(golden)} == set(REPLAYS)


def test_unknown_kind_is_a_failure_not_a_silent_pass(golden, tmp_path):
    meta = json.loads((golden / "rope.json").read_text()) | {"kind": "riddle"}
    (tmp_path / "rope.json").write_text(json.dumps(meta))
    shutil.copy(golden / "rope.safetensors", tmp_path)
    assert [r.verdict for r in replay(tmp_path / "rope.json")] == ["FAIL"]


def test_command_line_verdicts(golden, tmp_path, capsys):
    for suffix in (".json", ".safetensors"):
        shutil.copy(golden / f"rope{suffix}", tmp_path)
    assert main(["verify", "--golden", str(tmp_path)]) == 0
    assert "4 passed, 0 failed" in capsys.readouterr().out
    assert main(["verify", "--golden", str(tmp_path), "--backend", "nope"]) == 2
    assert "torch" in capsys.readouterr().err
    tensors = load_file(tmp_path / "rope.safetensors")
    tensors["out.q_roped"] = tensors["out.q_roped"] + 1e-3 * torch.ones_like(tensors["out.q_roped"])
    save_file(tensors, tmp_path / "rope.safetensors")
    assert main(["verify", "--golden", str(tmp_path)]) == 1


def test_no_folder_and_an_empty_one(tmp_path):
    for folder in (tmp_path, tmp_path / "missing"):
        with pytest.raises(InputError, match="--golden"):
            find(folder)


def test_a_recording_of_one_block_replays(golden, tmp_path):
    """Its caches have fourteen slots of which six are filled."""
    meta, tensors = json.loads((golden / "dit_tiny.json").read_text()), load_file(golden / "dit_tiny.safetensors")
    keep = {n: t for n, t in tensors.items() if not n.startswith("out.") or n.startswith("out.conv.noise_pred.0.")}
    meta |= {"variants": {"conv": "float32"}, "tensor_list": {}}
    (tmp_path / "one.json").write_text(json.dumps(meta))
    save_file(keep, tmp_path / "one.safetensors")
    seen = Replay(load(tmp_path / "one.json"), load(tmp_path / "one.json"), "conv", "conv").run().windows[1].unroped()
    for name, t in zip("kv", seen):
        cache = torch.zeros(1, t.shape[1] // 6 * 14, *t.shape[2:])
        cache[:, : t.shape[1]] = t
        keep[f"out.conv.cache.{name}.step1.layer0"] = cache
    save_file(keep, tmp_path / "one.safetensors")
    assert {r.variant: r.verdict for r in replay(tmp_path / "one.json")} == {
        "conv noise_pred": "pass", "conv cache": "pass",
    }  # fmt: skip
    keep["out.conv.cache.k.step1.layer0"] *= 1.001
    save_file(keep, tmp_path / "one.safetensors")
    assert "FAIL" in {r.verdict for r in replay(tmp_path / "one.json")}
