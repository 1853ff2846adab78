"""Precision plans: the file, whoever takes one, and that a mixed model is what was asked for, bit for bit."""

import json
import sys
from pathlib import Path

import fake_engine
import pytest
import released
import small
import torch
from test_convert import same
from test_generate import place  # noqa: F401 - a fixture
from test_released_flags import ENTRY, listed

from liveact_app.cli import main
from liveact_kernels import ops
from liveact_model.config import NAMED, PRECISIONS, STORED_PRECISIONS
from liveact_model.dit import FORMATS, DiT, Linear, Precision, patterns, tried
from liveact_model.dit.trial import Trial
from liveact_model.errors import InputError
from liveact_model.loading import converted, file_of, load_avatar, open_avatar, read_plan

MIXED = (("blocks.0.ffn", "fp8"), ("blocks.*.self_attn.qkv", "fp8-128"), ("blocks.1.ffn.down", "fp8"), ("patch", "fp8"))
TINY = open_avatar("tiny", "bfloat16").blueprint.dit


def write(path, config, linears=MIXED, model="m", **more):
    """A plan's file for a model of these sizes."""
    path.write_text(file_of(Precision("bfloat16", tuple(linears), **more), model, config).text())
    return path


def by_hand(dit):
    """MIXED, layer by layer."""
    dit.to_precision("bfloat16")
    for i, block in enumerate(dit.blocks):
        block.self_attn.qkv.to_precision("fp8-128")
        if i == 0:
            block.ffn.up.to_precision("fp8")
        if i < 2:
            block.ffn.down.to_precision("fp8")
    dit.patch.to_precision("fp8")
    return dit


def state(dit):
    return {k: v.view(torch.uint8) if v.itemsize == 1 else v for k, v in dit.state_dict().items()}


def equal(a, b):
    a, b = state(a), state(b)
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def test_names_of_commands_are_names_of_formats():
    assert set(PRECISIONS) == {"auto", *FORMATS}
    assert set(STORED_PRECISIONS) == {name for name, kind in FORMATS.items() if kind.stored}


def test_a_plan_comes_back_from_its_file(tmp_path):
    path = write(tmp_path / "p.json", TINY, eight_bit_memory=True)
    plan = read_plan(path)
    assert plan.linears == MIXED and plan.eight_bit_memory and not plan.eight_bit_attention and str(plan) == str(path)
    assert file_of(plan, "m", TINY).text() == path.read_text() and plan == read_plan(str(path))
    assert json.loads(path.read_text())["sizes"]["num_layers"] == 6
    assert [plan.of(p) for p in ("blocks.0.ffn.up", "blocks.10.ffn.up", "blocks.1.ffn.down", "patch", "head.head")] == [
        "fp8", "bfloat16", "fp8", "fp8", "bfloat16"]  # fmt: skip
    keys = Precision("bfloat16", (("blocks.*.cross_attn.k", "fp8"),))
    assert [keys.of(f"blocks.3.cross_attn.{n}") for n in ("k", "k_img")] == ["fp8", "bfloat16"]
    assert Precision.made("fp8").of("anything") == "fp8" and Precision.made(plan) is plan


def test_paths_become_few_patterns_and_come_back():
    paths = [f"blocks.{i}.ffn.{n}" for i in (0, 1, 2, 5, 12) for n in ("up", "down")] + ["patch", "text.fc1"]
    found = patterns(paths)
    assert found == ["blocks.0-2,5,12.ffn.up", "blocks.0-2,5,12.ffn.down", "patch", "text.fc1"]
    plan = Precision("bfloat16", tuple((p, "fp8") for p in found))
    every = [f"blocks.{i}.ffn.{n}" for i in range(20) for n in ("up", "down")] + ["patch", "text.fc1", "text.fc2"]
    assert [p for p in every if plan.of(p) == "fp8"] == sorted(paths, key=every.index)


def test_a_mixed_model_is_the_one_made_by_hand(tmp_path):
    plan = read_plan(write(tmp_path / "p.json", small.CONFIG))
    want = small.avatar()
    by_hand(want.dit)
    assert equal(small.dit().to_precision("bfloat16").to_precision(plan), want.dit)
    got = small.avatar()
    got.dit.to_precision("bfloat16")
    before = small.latents(got, blocks=2)
    with tried(got.dit, plan):  # quantised when it is called
        assert torch.equal(small.latents(got, blocks=3), small.latents(want, blocks=3))
        trials = [layer.format for layer in got.dit.linears().values() if isinstance(layer.format, Trial)]
        assert len(trials) == 6 and all(t._made is None for t in trials)  # no second model grows
    assert torch.equal(small.latents(got, blocks=2), before) and not torch.equal(small.latents(want, blocks=2), before)


def test_an_eight_bit_window_and_a_plan_tried_out_go_together():
    plan = Precision("bfloat16", (("blocks.*.self_attn", "fp8"), ("blocks.*.cross_attn", "fp8")))
    want, got = small.avatar(), small.avatar()
    want.dit.to_precision("bfloat16").to_precision(plan)
    got.dit.to_precision("bfloat16")
    with tried(got.dit, plan):
        a, b = (small.latents(x, blocks=3, eight_bit_attention=True) for x in (got, want))
    assert torch.equal(a, b)


def test_loading_takes_a_plan(tmp_path):
    plan = read_plan(write(tmp_path / "p.json", TINY))
    want = by_hand(load_avatar("tiny", "bfloat16").dit)
    got = load_avatar("tiny", plan).dit
    assert equal(got, want) and got.dtype == torch.bfloat16
    blueprint = open_avatar("tiny", plan).blueprint
    shapes = {k: (v.dtype, v.shape) for k, v in blueprint.avatar().dit.state_dict().items()}
    assert shapes == {k: (v.dtype, v.shape) for k, v in want.state_dict().items()}


def test_a_converted_directory_holds_a_plan(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(converted, "SHARD_BYTES", 20_000)
    folder, out = released.write_released(tmp_path / "model"), tmp_path / "out"
    path = write(tmp_path / "p.json", load_avatar(str(folder)).dit.config)
    assert main(["convert", str(folder), str(out), "--precision", str(path)]) == 0
    want = load_avatar(str(folder), read_plan(path))
    for dtype in ("auto", read_plan(path)):
        same(load_avatar(str(out), dtype), want)
    config = json.loads((out / "config.json").read_text())
    assert config["precision"] == "plan" and config["plan"]["linears"] == dict(MIXED)
    with pytest.raises(InputError, match=r"dtype: expected auto or its own plan, as .* holds, got 'fp8'"):
        load_avatar(str(out), "fp8")
    other = write(tmp_path / "q.json", load_avatar(str(folder)).dit.config, MIXED[:2])
    assert main(["convert", str(folder), str(tmp_path / "half"), "--precision", str(other)]) == 0
    manifest = tmp_path / "half" / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"complete": true', '"complete": false'))
    assert main(["convert", str(folder), str(tmp_path / "half"), "--precision", str(path)]) == 2  # begun by another
    assert "expected a directory begun from this checkpoint" in capsys.readouterr().err


def test_generate_takes_a_plan_and_what_it_switches_on(place, tmp_path, monkeypatch):  # noqa: F811
    path = write(tmp_path / "p.json", TINY, eight_bit_memory=True)
    monkeypatch.setattr(sys.modules["liveact_model.loading"], "read_plan", read_plan, raising=False)  # a stand-in's
    for flag in ("--precision", "--dtype"):
        fake_engine.loads.clear()
        assert main(listed(ENTRY, more=[flag, str(path)])) == 0
        assert fake_engine.loads[0]["dtype"] == read_plan(path)
        options = fake_engine.Session.last.options
        assert options.eight_bit_memory and not options.eight_bit_attention
    fake_engine.loads.clear()
    assert main(listed(ENTRY, more=["--precision", "bf16"])) == 0 and fake_engine.loads[0]["dtype"] == "bfloat16"


def test_plan_counts_the_bytes_of_a_plan(tmp_path, capsys):
    path = write(tmp_path / "p.json", TINY, [("blocks.*.ffn", "fp8")], eight_bit_memory=True)
    found = {}
    for name in ("bf16", str(path)):
        assert main(["plan", "--model", "tiny", "--host-memory", "4GB", "--precision", name, "--format", "json"]) == 0
        found[name] = json.loads(capsys.readouterr().out)["settings"]
        assert len(found[name]) == 1
    flags, bytes_ = found[str(path)][0]["flags"], {n: s[0]["model_bytes"]["denoiser"] for n, s in found.items()}
    assert flags == f"--precision {path} --eight-bit-memory"
    weights, rows = TINY.num_layers * 2 * TINY.dim * TINY.ffn_dim, TINY.num_layers * (TINY.dim + TINY.ffn_dim)
    assert bytes_["bf16"] - bytes_[str(path)] == weights - 4 * rows - 2 * rows  # codes; scales f32; biases f32


def test_budget_and_predict_take_a_plan(tmp_path, capsys, monkeypatch):
    big = NAMED["liveact-18b"].with_(num_layers=1)
    monkeypatch.setitem(NAMED, "liveact-18b", big)
    path = write(tmp_path / "p.json", big, [("blocks.*.self_attn.qkv", "fp8")])
    assert main(["budget", "--precision", str(path), "--size", "64*64", "--format", "json"]) == 0
    told = json.loads(capsys.readouterr().out)
    ops = told["budgets"][0]["ops"]
    assert ops["fp8_linear"]["launches_per_block"] == 3 and ops["linear_gelu"]["launches_per_block"] == 3
    assert "attention_8bit" not in ops and told["precision"] == str(path)
    from liveact_kernels.compiled.predict import frame

    class Heard(Exception):
        pass

    def listening(calls, *rest):
        raise Heard([call.op.name for call in calls])

    monkeypatch.setattr(frame, "frame", listening)
    with pytest.raises(Heard, match=r"fp8_linear.*linear_gelu"):
        main(["predict", "--precision", str(path), "--size", "64*64"])


def test_bench_takes_a_plan(tmp_path):
    import avatars
    from frame import _bits

    plan = read_plan(write(tmp_path / "p.json", TINY, eight_bit_attention=True))
    made = avatars.avatar("tiny", plan, "cpu")
    assert made.dit.blocks[0].ffn.up.format.name == "fp8" and made.dit.blocks[2].ffn.up.format.name == "bfloat16"
    assert _bits(plan) == (True, False) and _bits("fp8-128") == (True, False) and _bits("bfloat16") == (False, False)


def test_bf16_feeds_e4m3_and_not_the_other_way():
    assert FORMATS["bfloat16"].feeds(FORMATS["fp8"]) and FORMATS["fp8"].feeds(FORMATS["fp8-128"])
    small.dit().to_precision(Precision("bfloat16", (("blocks.*.ffn.down", "fp8"),)))
    with pytest.raises(InputError, match=r"formats of blocks.0.ffn.up and down that go together.*got fp8 and bfloat16"):
        small.dit().to_precision(Precision("bfloat16", (("blocks.*.ffn.up", "fp8"),)))


def test_a_scale_per_128_channels_behind_norms():
    torch.manual_seed(0)
    x, mul, add = torch.randn(5, 256).bfloat16(), torch.rand(256) + 0.5, torch.randn(256)
    made = {}
    for name in ("fp8", "fp8-128"):
        layer = Linear(256, 16)
        with torch.no_grad():
            layer.weight.copy_(torch.randn(16, 256, generator=torch.Generator().manual_seed(1)))
            layer.bias.zero_()
        layer.to_precision(name)
        made[name] = layer.norm(x, mul, add), layer
    (row, one), (grouped, two) = made["fp8"], made["fp8-128"]
    assert row.x_scale.shape == (5, 1) and grouped.x_scale.shape == (5, 2) and torch.equal(one.w_scale, two.w_scale)
    wide = ops.modulate(x=x, mul=mul, add=add).float().unflatten(-1, (2, 128))
    assert torch.allclose(grouped.x_scale, wide.abs().amax(-1) / 448)
    assert small.relative(two(grouped), one(row)) < 0.05


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"default": "int3"}, "expected default to be one of float32, bfloat16"),
        ({"linears": {"patch": "int3"}}, "expected patch to be one of float32, bfloat16"),
        ({"linears": {"patch": "float32"}}, "expected patch in bfloat16, as the activations are, or as codes"),
        ({"linears": {"blocks.*.fnn": "fp8"}}, "expected paths of linear layers"),
        ({"linears": {"blocks.6.ffn": "fp8"}}, "got 'blocks.6.ffn', which names none"),
        ({"linears": {"blocks..ffn": "fp8"}}, "expected paths such as blocks.0,3-5.ffn.up"),
        ({"linears": {"patch": "fp8", "*": "fp8"}}, "expected one format for patch"),
        ({"linears": {"blocks.*.ffn.up": "fp8"}}, "that go together"),
        ({"sizes": {"dim": 192}}, "expected sizes.num_heads in"), ({"format": "liveact-plan-9"}, "'liveact-plan-1'"),
        ({"eight_bit_memory": 1}, "expected eight_bit_memory in"), ({"surprise": 1}, "expected no key surprise"),
        ({"bound": -1.0}, "expected bound in"),
    ],
)  # fmt: skip
def test_a_bad_plan_is_one_sentence(tmp_path, capsys, changes, said):
    path = write(tmp_path / "p.json", TINY)
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    refused(path, said, capsys)


def refused(path, said, capsys):
    assert main(["generate", "--image", "a.png", "--audio", "b.wav", "--out", "c.mp4", "--precision", str(path)]) == 2
    err = capsys.readouterr().err
    assert said in err and err.count("\n") == 1 and err.startswith("liveact: error: --dtype/--precision: expected"), err


def test_a_file_that_is_none(tmp_path, capsys):
    path = write(tmp_path / "p.json", TINY)
    path.write_text(path.read_text().replace('"linears": {', '"linears": {"patch": "bfloat16",'))
    refused(path, "key 'patch' twice", capsys)
    path.write_text("[1]")
    refused(path, "expected a JSON object in", capsys)
    refused(tmp_path / "no.json", "expected a readable JSON file", capsys)


def test_a_plan_for_another_model(tmp_path, capsys):
    path = write(tmp_path / "p.json", small.CONFIG, model="small")
    want = r"precision: expected a plan for a model of dim 192 in '.*p.json', got one for 'small' of dim 32"
    with pytest.raises(InputError, match=want):
        load_avatar("tiny", read_plan(path))
    assert main(["budget", "--precision", str(path)]) == 2
    assert "a plan for a model of dim 5120" in capsys.readouterr().err
    with torch.device("meta"), pytest.raises(InputError, match="a plan for a model of dim 192"):
        DiT(TINY).to_precision(read_plan(path))
    assert main(["plan", "--model", "tiny", "--host-memory", "4GB", "--precision", str(path)]) == 2
    folder = released.write_released(tmp_path / "model")
    assert main(["convert", str(folder), str(tmp_path / "out"), "--precision", str(path)]) == 2
    assert not Path(tmp_path / "out").exists() and "expected a plan for a model" in capsys.readouterr().err
