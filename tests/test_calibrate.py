"""`liveact calibrate`: what it measures, what it chooses, what it writes; one run of the command serves most tests."""

import itertools
import json
import math
import re
import xml.dom.minidom
from types import SimpleNamespace

import pytest
import small
import torch
from conftest import ROOT

from liveact_app.calibrate import command
from liveact_app.calibrate.measure import ONCE, Errors, Runner
from liveact_app.calibrate.search import WINDOW, Search, ordered, plan_of, units_of
from liveact_app.cli import main
from liveact_app.generate import loading
from liveact_kernels.contract import STATE
from liveact_kernels.ops.fp8_linear.reference import fp8_linear
from liveact_kernels.ops.modulate.reference import modulate_quant
from liveact_model.dit import Linear, Precision
from liveact_model.errors import InputError
from liveact_model.loading import read_plan

BOUND, BLOCKS = 0.02, 2


def model(spoilt=None):
    """The small avatar in bf16; `spoilt` is a block whose feed-forward e4m3 destroys and bf16 does not."""
    avatar = small.avatar()
    if spoilt is not None:
        ffn = avatar.dit.blocks[spoilt].ffn
        ffn.up.weight[0] = ffn.up.bias[0] = 0  # GELU(0) = 0: what multiplies it is never seen,
        ffn.down.weight[:, 0] = 1e6  # but sets the scale of every row
    avatar.dit.to_precision("bfloat16")
    return avatar


def arguments(folder, *more):
    found = ["--out", folder / "plan.json", "--formats", "fp8", "--cost", "floor", "--blocks", BLOCKS, *more]
    return ["calibrate", *map(str, found)]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A run of the command on the small model: its folder, its search and what that found."""
    folder, kept = tmp_path_factory.mktemp("calibrate"), SimpleNamespace(folder=None)
    run = Search.run

    def keeping(self, bound):
        kept.search, kept.found = self, run(self, bound)
        return kept.found

    with pytest.MonkeyPatch.context() as patch, torch.no_grad():
        patch.setattr(command, "_load", lambda args, device: (model(), small.SIZE))
        patch.setattr(Search, "run", keeping)
        more = ("--bound", BOUND, "--svg", folder / "p.svg", "--json", folder / "all.json", "--device", "cpu")
        assert main(arguments(folder, *more)) == 0
    kept.folder = folder
    return kept


@torch.no_grad()
def test_what_it_writes(made):
    plan, told = json.loads((made.folder / "plan.json").read_text()), json.loads((made.folder / "all.json").read_text())
    assert plan["format"] == "liveact-plan-1" and plan["sizes"]["dim"] == 32 and plan["model"] == "small"
    assert (plan["bound"], plan["measured"]["blocks"], plan["measured"]["dtype"]) == (BOUND, BLOCKS, "bfloat16")
    assert set(told["linears"]) == set(model().dit.linears()) and told["runs"][0]["error"] == 0
    assert {"0", "1", "2"} == set(told["linears"]["blocks.0.ffn.up"]["error"]["fp8"])
    assert set(told["linears"]["text.fc1"]["error"]["fp8"]) == {ONCE}
    picture = xml.dom.minidom.parse(str(made.folder / "p.svg"))
    assert len(picture.getElementsByTagName("polyline")) == 1 and "bound 0.02" in picture.toxml()
    assert sorted(p.name for p in made.folder.iterdir()) == ["all.json", "p.svg", "plan.json"]


@torch.no_grad()
def test_the_chosen_plan_is_within_the_bound_and_cheaper_and_what_a_load_of_it_does(made):
    chosen, wide = made.found.chosen, made.found.wide
    assert 0 < chosen.error <= BOUND and chosen.ms < wide.ms and wide.error == 0
    plan = read_plan(made.folder / "plan.json")
    assert plan.linears and plan == Precision(**{**vars(chosen.plan), "model": plan.model, "sizes": plan.sizes})
    avatar, runner = model(), made.search.runner
    avatar.dit.to_precision(plan)  # for good, not tried out
    bits = {"eight_bit_memory": plan.eight_bit_memory, "eight_bit_attention": plan.eight_bit_attention}
    again = Runner(avatar, runner.picture, runner.prompt, runner.sound, BLOCKS, runner.seed)
    got, want = (torch.cat([x.flatten() for x in r]) for r in (again.latents(**bits), runner.wide))
    assert small.relative(got, want) == pytest.approx(chosen.error, rel=1e-9)
    assert json.loads((made.folder / "plan.json").read_text())["reached"] == chosen.error


@torch.no_grad()
def test_a_lower_bound_is_never_cheaper(made):
    found = [made.search.choose(made.found, bound) for bound in (0.005, 0.01, BOUND, 1.0)]
    assert all(a.ms >= b.ms for a, b in itertools.pairwise(found)) and found[0].ms > found[-1].ms
    assert all(f.error <= bound for f, bound in zip(found, (0.005, 0.01, BOUND, 1.0)))
    search, orders = made.search, made.found.orders
    last = [search.at(made.found, search._last(made.found, BOUND, which), which).ms for which in orders]
    assert found[2].ms == min(last) < max(last)


@torch.no_grad()
def test_a_layers_error_is_what_float64_says(made, monkeypatch):
    seen, norm = [], Linear.norm

    def watched(self, x, mul, add):
        if self is up and (step := next((s for s in STATE.scopes if s.startswith("step[")), None)):
            seen.append((step[5:-1], x.clone(), mul, add))
        return norm(self, x, mul, add)

    runner = Runner(model(), *(getattr(made.search.runner, n) for n in ("picture", "prompt", "sound")), BLOCKS, 42)
    up = runner.avatar.dit.blocks[1].ffn.up
    monkeypatch.setattr(Linear, "norm", watched)
    for _ in runner.latents():
        pass
    w, b, off, whole = up.weight.double(), up.bias.double(), {}, {}
    scale = (w.abs().amax(1) / 448).float()
    w8 = (w / scale[:, None]).clamp(-448, 448).to(torch.float8_e4m3fn)
    for step, x, mul, add in seen:
        x8, x_scale = modulate_quant(x, mul, add)
        rows = torch.nn.functional.layer_norm(x.double(), x.shape[1:], eps=1e-6) * mul.double() + add.double()
        want = (rows.bfloat16().double() @ w.T + b).bfloat16().double()
        got = fp8_linear(x8.to(torch.float8_e4m3fn), x_scale.float(), w8, scale, b.float()).bfloat16().double()
        off[step] = off.get(step, 0) + (got - want).square().sum()
        whole[step] = whole.get(step, 0) + want.square().sum()
    measured = made.found.errors.of("blocks.1.ffn.up", "fp8")
    assert measured.keys() == off.keys() == {"0", "1", "2"}
    for step, error in measured.items():
        assert error == pytest.approx((off[step] / whole[step]).sqrt().item(), rel=0.02) and error > 0.01


@torch.no_grad()
def test_a_layer_that_is_made_bad_stays_wide(made):
    old = made.search.runner
    runner = Runner(model(spoilt=1), old.picture, old.prompt, old.sound, BLOCKS, old.seed)
    search = Search(runner, made.search.costs, ("fp8",))
    found = search.measure()
    assert found.errors.square("blocks.1.ffn.down", "fp8") > 0.2 > 0.1 > found.errors.square("blocks.0.ffn.down", "fp8")
    plan = search.choose(found, BOUND).plan
    assert (plan.of("blocks.1.ffn.up"), plan.of("blocks.1.ffn.down")) == ("bfloat16", "bfloat16")
    assert plan.of("blocks.0.ffn.down") == "fp8" and plan.of("blocks.1.self_attn.qkv") == "fp8"


def test_the_order_drops_what_is_dominated():
    options = {
        "a": {"cheap": (1.0, 1.0), "cheaper": (2.0, 1.5), "silly": (1.5, 9.0)}, "b": {"x": (4.0, 0.4)},
        "c": {"loses": (-1.0, 0.0)},
    }  # fmt: skip
    assert ordered(options) == [("b", "x"), ("a", "cheaper")]
    options["a"]["cheap"] = (1.0, 0.1)
    assert ordered(options) == [("a", "cheap"), ("b", "x"), ("a", "cheaper")] or ordered(options)[0] == ("b", "x")
    plan = plan_of({"blocks.0.ffn": "fp8", "blocks.1.ffn": "fp8", "patch": "fp8-128", WINDOW: "eight_bit_memory"})
    assert plan.linears == (("blocks.0-1.ffn", "fp8"), ("patch", "fp8-128")) and plan.eight_bit_memory
    assert units_of(["patch", "blocks.0.ffn.up", "blocks.0.ffn.down"])["blocks.0.ffn"][1] == "blocks.0.ffn.down"


def test_energies_add_up_by_step():
    errors, want = Errors(), torch.tensor([3.0, 4.0])
    errors.add("p", "fp8", want + 1, want)
    errors.add("p", "fp8", want, want)
    assert errors.of("p", "fp8") == {ONCE: pytest.approx(math.sqrt(2 / 50))}
    errors.add("q", "fp8", want, want * 0)
    assert errors.of("q", "fp8") == {ONCE: 1.0} and errors.square("never", "fp8") == 0


def test_bad_input_is_one_sentence_and_nothing_is_written(made, tmp_path, monkeypatch, capsys):
    for more, said in (
        (("--bound", "0"), "--bound: expected a number above 0, got 0"),
        (("--bound", "x"), "--bound: expected a number from 0 to 10, got 'x'"),
        (("--chip", "z80"), "--chip: expected one of h200"), (("--formats", "fp8,int3"), "got 'int3'"),
        (("--cost", "predicted", "--chip", "b200"), "--cost: expected floor here"),
        (("--blocks", "60"), "--blocks: expected at most"), (("--json", tmp_path / "plan.json"), "different names"),
        (("--out", tmp_path / "plan.txt"), "--out: "), (("--audio", tmp_path / "no.wav"), "--audio: "),
    ):  # fmt: skip
        monkeypatch.setattr(command, "_load", lambda args, device: (model(), small.SIZE))
        assert main(arguments(tmp_path, "--device", "cpu", *more)) == 2
        err = [line for line in capsys.readouterr().err.splitlines() if line.startswith("liveact: error")]
        assert len(err) == 1 and said in err[0], more
        assert list(tmp_path.iterdir()) == []
    with pytest.raises(InputError, match=r"--bound: expected one that .* got 1e-09: the least change \(\S+ in \S+\)"):
        made.search.choose(made.found, 1e-9)


def test_a_format_that_some_layers_do_not_take_has_no_error_there_and_is_no_plan_of_all(tmp_path, monkeypatch, capsys):
    """Blocks of 16 channels do not divide the sound's 8: nvfp4 is for the other layers."""
    monkeypatch.setattr(command, "_load", lambda args, device: (model(), small.SIZE))
    more = ("--chip", "b200", "--formats", "nvfp4,fp8", "--device", "cpu", "--bound", 1, "--svg", tmp_path / "p.svg")
    assert main(arguments(tmp_path, *more)) == 0
    table = capsys.readouterr().out
    assert re.search(r"^blocks\.\*\.audio_attn\.kv +- +\d\.\d\de-\d\d ", table, re.M) and "all fp8" in table
    assert "all nvfp4" not in table and "nan" not in table
    plan = read_plan(tmp_path / "plan.json")
    assert {plan.of("blocks.0.ffn.up"), plan.of("blocks.1.ffn.down")} == {"nvfp4"}
    assert plan.of("blocks.0.audio_attn.kv") != "nvfp4"
    assert small.avatar().dit.to_precision(plan) is not None


def test_formats_that_the_gpu_cannot_multiply_are_refused_in_a_sentence(tmp_path, monkeypatch, capsys):
    seen = []
    monkeypatch.setattr(loading, "must_multiply", lambda name, device, flag: seen.append((name, device, flag)) or 1 / 0)
    monkeypatch.setattr(command, "_load", lambda args, device: (model(), small.SIZE))
    with pytest.raises(ZeroDivisionError):
        main(arguments(tmp_path, "--chip", "b200", "--formats", "nvfp4", "--device", "cpu"))
    assert seen == [("nvfp4", "cpu", "--formats")] and list(tmp_path.iterdir()) == []


def test_the_text_encoder_goes_as_the_prediction_of_memory_says(tmp_path, monkeypatch):
    """And where the chip has FP4, what multiplies it is tested beforehand."""
    seen = {}

    def load(*args, **options):
        seen.update(options)
        raise InputError("model: enough")

    monkeypatch.setattr(loading, "self_test", lambda device, dtypes: seen.update(dtypes=dtypes))
    monkeypatch.setattr("liveact_model.loading.load_avatar", load)
    assert main(arguments(tmp_path, "--device", "cpu", "--prompt", "a happy person", "--chip", "b200")) == 2
    assert seen["prompts"] == ("a happy person",) and torch.uint8 in seen["dtypes"]


def test_an_interrupted_run_leaves_nothing(tmp_path, monkeypatch, capsys):
    def stopped(self, bound):
        raise KeyboardInterrupt

    monkeypatch.setattr(command, "_load", lambda args, device: (model(), small.SIZE))
    monkeypatch.setattr(Search, "runs", lambda self: 1)
    monkeypatch.setattr(Search, "run", stopped)
    assert main(arguments(tmp_path, "--device", "cpu", "--svg", tmp_path / "p.svg")) == 130
    assert list(tmp_path.iterdir()) == []


def test_the_page_says_what_the_committed_run_found():
    import importlib.util

    spec = importlib.util.spec_from_file_location("docs_calibrate", ROOT / "docs" / "calibrate.py")
    page = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(page)
    told = json.loads((ROOT / "docs" / "calibrate.json").read_text(encoding="utf-8"))
    text = (ROOT / "docs" / "calibrate.md").read_text(encoding="utf-8")
    assert page.filled(text, told) == text
    assert (ROOT / "docs" / "calibrate.svg").read_text(encoding="utf-8") == page.draw(told)
    plan = json.loads((ROOT / "docs" / "calibrate-plan.json").read_text(encoding="utf-8"))
    assert plan["linears"] == told["chosen"]["plan"]["linears"] and plan["reached"] == told["chosen"]["error"]
    assert plan["reached"] <= plan["bound"] == told["bound"]
