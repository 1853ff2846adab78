"""`liveact plan`: bytes predicted without values against torch's own record of allocations, and what follows."""

import gc
import importlib.util
import json
import re
import sys
from dataclasses import replace

import pytest
import released
import small
import torch
from conftest import ROOT
from torch.profiler import ProfilerActivity, profile

from liveact_app.cli import build_parser, main
from liveact_app.plan import fit, ladder, tables
from liveact_kernels.contract import REGISTRY, use
from liveact_kernels.cost import memory
from liveact_model import needs
from liveact_model.checkpoint import footprint
from liveact_model.dry import Silence
from liveact_model.errors import InputError
from liveact_model.loading import load_avatar, named, open_avatar
from liveact_model.session import Session

CPU, GIB = torch.device("cpu"), 1 << 30
WITHIN = 0.05


# ---- what is alive ---------------------------------------------------------------------------------------------------


def test_live_bytes_follow_tensors_and_views_count_once():
    before = torch.empty(7, device="meta")
    with memory.Live([before]) as live:
        a = torch.empty(1000, device="meta")
        b = a.view(10, 100)
        c = torch.empty(500, dtype=torch.int8, device="meta")
        d = before[2:]
        assert live.now == 4500 and d.shape == (5,)
        del c
        assert live.now == 4000
        with live.paused():
            torch.empty(1 << 20, device="meta")
        del a
        assert live.now == 4000  # b still holds it
        live.forget_peaks()
        del b
    assert (live.now, live.peak) == (0, 4000)
    with memory.Live(kind="meta") as live:
        torch.empty(100)
    assert live.peak == 0


def test_what_an_op_holds_besides_its_results_by_hand():
    op = REGISTRY["linear"]
    d = op.dims({"a": torch.empty(8, 16), "w": torch.empty(32, 16), "b": torch.empty(32)})
    assert memory.scratch(op, d, CPU) == 0  # one call of torch's
    op = REGISTRY["attention"]
    q = torch.empty(64, 2, 16)
    d = op.dims({"q": q, "k_new": torch.empty(96, 2, 16), "v_new": torch.empty(96, 2, 16)})
    scores = 2 * 64 * 96 * 4
    assert memory.scratch(op, d, CPU) < scores  # fused: they are never written out
    with use(attention="reference"):
        assert memory.scratch(op, d, CPU) >= 2 * scores  # float64


# ---- accuracy: the small model on the CPU ----------------------------------------------------------------------------


def recorded(work):
    """(what `work` gives, most bytes that torch's allocator had given out meanwhile), by torch's profiler."""
    gc.collect()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as prof:
        made = work()
    events = [e for e in prof.profiler.kineto_results.events() if e.name() == "[memory]"]
    assert len(events) > 1000
    now = peak = 0
    for event in sorted(events, key=lambda e: e.start_ns()):
        now += event.nbytes()
        peak = max(peak, now)
    return made, peak


def hollow(dtype):
    return open_avatar("tiny", dtype).blueprint.avatar()


def storages(avatar):
    return memory.nbytes(t for p in (avatar.dit, avatar.vae) for t in (*p.parameters(), *p.buffers()))


def begun(avatar, size, options):
    picture = torch.rand(3, size[1], size[0], generator=torch.Generator().manual_seed(0)) * 2 - 1
    session = Session(avatar, picture, "happy", **options)
    session.push_audio(small.speech(1.25))
    session.next_block()
    session.push_audio(small.speech(1.6))
    session.next_block()
    session.push_audio(small.speech(1.6))
    return session


def steady(session):
    session.set_prompt("a sad person nodding")
    session.next_block()


@pytest.mark.parametrize(
    "dtype,size,options",
    [
        ("float32", (64, 64), {"audio_cfg": 1.5}), ("bfloat16", (64, 96), {"eight_bit_memory": True}),
        ("fp8", (96, 64), {"eight_bit_attention": True}),
    ],
)  # fmt: skip
def test_within_five_percent_of_what_is_allocated(dtype, size, options):
    said = needs.predict(hollow(dtype), size, place=CPU, **options)
    avatar = load_avatar("tiny", dtype=dtype)
    steady(begun(avatar, size, options))  # what libraries make once is theirs
    weights = storages(avatar)
    assert said.model["denoiser"] + said.model["VAE"] == weights
    session, peak = recorded(lambda: begun(avatar, size, options))
    _, more = recorded(lambda: steady(session))
    held = memory.nbytes(needs.tensors(session)) - memory.nbytes(needs.tensors(avatar))
    ropes = len(session._all_windows) * session._windows[0].rope.nbytes  # one each elsewhere, one for all on a CPU
    assert said.model["memory window"] == session.memory_bytes() + ropes
    work = said.model["working memory, denoise steps"]
    rest = said.model["working memory, VAE and encoders"]
    stays = said.model_bytes - weights - work - rest - (ropes - session._windows[0].rope.nbytes)
    assert stays == pytest.approx(held, rel=WITHIN)
    assert weights + max(peak, held + more) == pytest.approx(said.model_bytes, rel=WITHIN)
    assert max(peak, held + more) == pytest.approx(said.model_bytes - weights, rel=WITHIN)  # the Session alone


def test_working_memory_of_a_steady_block_is_found_apart():
    size = (192, 160)
    said = needs.predict(hollow("float32"), size, place=CPU, captured=True)
    session = begun(load_avatar("tiny"), size, {})
    noise = torch.zeros_like(session._later.latent)
    with torch.no_grad():
        rows = session._hear(False)
        session._later.run(rows, lambda step: noise)
        _, steps = recorded(lambda: session._later.run(rows, lambda step: noise))
    inside = torch.get_num_threads() * 256 * (512 + 2 + 64) * 4  # of torch's fused attention, which no dispatcher sees
    older = memory.nbytes(needs.tensors(session._later._heard))  # freed meanwhile, but made before the record begins
    assert said.model["working memory, denoise steps"] == pytest.approx(steps - inside - older, rel=WITHIN)


# ---- accuracy: the released model on the meta device -----------------------------------------------------------------


@pytest.fixture(scope="module")
def docs():
    before = list(sys.path)
    spec = importlib.util.spec_from_file_location("plan_page", ROOT / "docs" / "plan.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module
    sys.path[:] = before


@pytest.fixture(scope="module")
def models(docs):
    return ladder.Models(docs.arguments(), False)


@pytest.fixture(scope="module")
def plans(docs, models):
    return docs.plans(models)


def test_the_released_model_by_its_parameters_and_by_what_is_alive(models):
    _, avatar = models.of("fp8")
    setting = fit.Setting("fp8", eight_bit_attention=True)
    said = models.needs(setting, (416, 720))
    linear = sum(p.w8.nbytes for p in avatar.dit.modules() if hasattr(p, "w8"))
    assert 18.7e9 < linear < said.model["denoiser"] < 1.01 * linear
    tokens = 416 * 720 // 256
    window = 3 * 40 * 6 * tokens * (2 * 5120 + 2 * 4 * 40)
    ropes = 3 * 14 * tokens * 64 * 2 * 4
    assert said.model["memory window"] == window + ropes
    keys = 40 * 2 * 5120 * 2 * (512 + 257 + (5 + 8) * 32)  # text, picture, and the sound of both kinds of block
    assert said.model["prompt and audio"] == pytest.approx(keys, rel=0.01)
    text = memory.nbytes(avatar.text.parameters())
    assert text == pytest.approx(2 * 5.68e9, rel=0.01) and "text encoder" not in said.model  # freed by then

    session = Session(avatar, torch.empty(3, 720, 416, device="meta"), "", eight_bit_attention=True)
    for _ in range(2):
        session.next_block()
    gc.collect()
    alive = memory.nbytes(t for t in gc.get_objects() if type(t) in (torch.Tensor, torch.nn.Parameter) and t.is_meta)
    others = text + sum(memory.nbytes(needs.tensors(m[1])) for m in models._made.values() if m[1] is not avatar)
    stays = said.model_bytes - sum(v for k, v in said.model.items() if k.startswith("working"))
    assert alive - others == pytest.approx(stays, rel=WITHIN)


def test_a_text_encoder_is_where_it_runs_and_once_freed_counts_as_far_as_it_is_more_than_the_rest(models):
    _, avatar = models.of("fp8")
    own, host, freed, both = (
        needs.predict(avatar, (128, 128), text_on_host=h, text_freed=f) for f in (False, True) for h in (False, True)
    )
    count = own.model["text encoder"]
    assert host.host["text encoder"] == count and "text encoder" not in host.model and not own.host
    assert own.model_bytes - freed.model_bytes >= count and freed.model_bytes == host.model_bytes == both.model_bytes
    assert both.host == {needs.EARLY: host.host_bytes}  # nothing follows it there
    streamed = models.of("fp8", True)[1]
    alone = needs.predict(streamed, (128, 128), text_freed=True)
    rest = alone.model_bytes - alone.model[needs.EARLY]
    assert rest < count < alone.model_bytes < 1.02 * count
    on_host = needs.predict(streamed, (128, 128), text_freed=True, text_on_host=True)
    assert on_host.model_bytes == rest and on_host.host == {needs.BLOCKS: streamed.dit.streamed.host_bytes}


def test_the_allocators_rounding_is_within_what_is_set_aside(models):
    _, avatar = models.of("fp8")
    block = 2 << 20
    sizes = [t.nbytes for t in (*avatar.dit.parameters(), *avatar.dit.buffers())]
    rounded = sum(-(-n // block) * block if n >= 10 << 20 else n for n in sizes)
    assert 0.023 < rounded / sum(sizes) - 1 < 0.025 < fit.ROUNDING


def test_captured_steps_keep_their_temporaries():
    b = open_avatar("tiny").blueprint
    eager, captured = (needs.predict(b.avatar(), (64, 64), captured=c) for c in (False, True))
    steps, rest = needs.WORK
    assert eager.model[steps] == captured.model[steps]
    assert captured.model.get(rest, 0) >= eager.model.get(rest, 0)
    assert eager.model_bytes <= captured.model_bytes <= eager.model_bytes + eager.model[steps]


def test_a_new_prompt_stands_beside_the_old_one(tmp_path, monkeypatch):
    b = open_avatar(str(released.write_released(tmp_path / "model")), "bfloat16").blueprint
    c, avatar = b.dit, b.avatar()
    keys = 2 * 2 * c.num_layers * c.dim * c.text_len
    said = needs.predict(avatar, (16, 16))
    monkeypatch.setattr(Session, "set_prompt", lambda self, prompt: None)
    without = needs.predict(avatar, (16, 16))
    assert said.model_bytes - without.model_bytes > keys / 2 and keys < said.model["prompt and audio"]


# ---- the command -----------------------------------------------------------------------------------------------------


def test_the_page_is_current(docs, plans):
    def alike(committed, made):
        numbers = re.compile(r"\d+\.\d+")
        assert numbers.sub("#", committed) == numbers.sub("#", made), "python docs/plan.py"
        pairs = zip(map(float, numbers.findall(committed)), map(float, numbers.findall(made)))
        assert all(a == pytest.approx(b, rel=0.02, abs=0.03) for a, b in pairs), "python docs/plan.py"

    text = (ROOT / "docs" / "plan.md").read_text(encoding="utf-8")
    alike(text, docs.filled(text, plans))
    alike((ROOT / "docs" / "plan.svg").read_text(encoding="utf-8"), docs.draw(plans))


def test_cards_and_commands(plans):
    assert all(plan.chosen is not None for plan in plans.values())
    for plan in plans.values():
        for rung in plan.rungs:  # no flag is offered that generate does not have
            words = plan.command(rung).split()[1:]
            args = build_parser().parse_args([*words, "--image", "x", "--audio", "y", "--out", "z.mp4"])
            assert (args.dtype, args.size) == (rung.setting.dtype, (416, 720))
            assert args.eight_bit_attention == rung.setting.eight_bit_attention
            assert all(getattr(args, name) == getattr(rung.setting, name) for name in fit.SWITCHES)
    quick = fit.Setting("fp8", eight_bit_attention=True)
    assert plans[8].chosen is plans[8].nearest is plans[8].rungs[-1]
    assert plans[24].chosen.setting == replace(quick, block_offload=True)
    assert plans[32].chosen.setting == replace(quick, offload_cache=True)  # fewer bytes travel
    assert plans[24].nearest.setting == fit.Setting("bfloat16", eight_bit_memory=True, block_offload=True)
    assert plans[80].chosen.setting == fit.Setting("fp8", eight_bit_attention=True)
    assert plans[80].nearest.setting == fit.Setting("bfloat16")


def test_a_smaller_size_that_is_named_does_fit(models):
    plan = ladder.climb(models, "a GPU of 7 GB", 7 << 30)
    w, h = plan.smaller
    assert plan.chosen is None and plan.least.setting.text_on_cpu and abs(w / h - 416 / 720) < 0.05
    assert plan.sentence.endswith(f"available; --size {w}*{h} fits")
    assert models.needs(plan.least.setting, plan.smaller).model_bytes <= plan.left < plan.least.needs.model_bytes


def test_forms_of_the_output(capsys):
    arguments = ["plan", "--model", "tiny", "--host-memory", "4GB"]
    assert main(arguments) == 0
    table = capsys.readouterr().out
    assert max(map(len, table.splitlines())) <= 100
    assert "MiB, predicted, not measured" in table and "--model tiny --device cpu --size 64*64" in table
    assert main([*arguments, "--format", "json"]) == 0
    found = json.loads(capsys.readouterr().out)
    first = found["settings"][0]
    assert found["label"] == "predicted, not measured" and first["fits"] and first["ms_per_video_frame"] is None
    assert first["model_bytes_sum"] == sum(first["model_bytes"].values())
    assert f"{first['model_bytes_sum'] / (1 << 20):.2f}" in table
    assert main([*arguments, "--format", "markdown"]) == 0
    assert "| denoiser | 20.00 |" in capsys.readouterr().out
    assert main([*arguments, "--precision", "fp8", "--audio-cfg", "1.5", "--ranks", "2", "--format", "json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [s["flags"] for s in found["settings"]] == ["--dtype fp8 --audio-cfg 1.5"]
    assert found["command"].startswith("torchrun --nproc_per_node 2 -m liveact_app generate --model tiny --device cpu")


def test_the_time_of_a_video_frame_is_predicted_where_the_chip_is_known(plans, monkeypatch, capsys):
    from liveact_app.predict import command

    asked = []

    class Frame:
        def total_ms(self):
            return 41.5

    monkeypatch.setattr(command, "frame_of", lambda *args: asked.append(args) or Frame())
    plan = replace(plans[141])
    plan.times, plan.untimed = ladder.milliseconds("h200", plan)
    assert asked == [("liveact-18b", (416, 720), precision, "h200") for precision in ("bfloat16", "fp8")]
    text = tables.terminal(plan)
    assert re.search(r"\nms per video frame +41\.5 +- +- +41\.5 +41\.5 +52\.8( +63\.8){3}\n", text)  # the longer
    assert re.search(r"\nms of copies per video frame +- +- +105\.4 +- +11\.0 +52\.8( +63\.8){3}\n", text)
    assert "copies: 25 GB/s to the GPU, 80% of its PCIe link (assumed), beside the computing" in text
    assert main(["plan", "--model", "tiny", "--chip", "h200"]) == 0
    assert "predicted for liveact-18b on one GPU alone" in capsys.readouterr().out


@pytest.mark.parametrize(
    "arguments,words",
    [
        (["--gpu-memory", "24lb"], "--gpu-memory: expected an amount of memory such as 24GB, got '24lb'"),
        (["--gpu-memory", "0"], "--gpu-memory: expected an amount of memory"),
        ([], "--gpu-memory: expected the memory of a GPU, or --host-memory for a run on the CPU, got none"),
        (["--chip", "b200"], "--chip: expected one of h100, h200, got 'b200'"),
        (["--chip", "h200", "--precision", "nvfp4"], "--chip: expected one that multiplies FP4 (b200 or rtx5090)"),
        (["--gpu-memory", "24", "--precision", "int3"], "--precision: expected one of auto, float32, bfloat16, fp8"),
        (["--gpu-memory", "24", "--model", "nope"], "--model: expected one of liveact-18b, tiny, or a checkpoint"),
        (["--model", "tiny", "--gpu-memory", "1", "--ranks", "17"], "--ranks: expected at most one per token"),
    ],
)
def test_bad_input_is_one_sentence(arguments, words, capsys):
    assert main(["plan", *arguments]) == 2
    err = capsys.readouterr().err
    assert words in err and err.count("\n") == 1


# ---- generate refuses with the same sentence -------------------------------------------------------------------------


def test_generate_refuses_with_the_sentence_of_plan_before_it_reads_a_weight(monkeypatch, capsys, tmp_path):
    def never(*args, **kwargs):
        raise AssertionError("a weight was read")

    monkeypatch.setattr("liveact_model.loading.keymap.fill", never)
    monkeypatch.setattr(footprint, "available_bytes", lambda: GIB // 2)
    size = ["--model", "tiny", "--size", "512*512", "--eight-bit-memory"]
    files = ["--image", str(ROOT / "examples/face.png"), "--audio", str(ROOT / "examples/speech.wav")]
    out = tmp_path / "x.mp4"
    asked = ["--dtype", "float32", "--device", "cpu", "--out", str(out)]
    assert main(["generate", *size, *asked, *files]) == 2
    refused = capsys.readouterr().err.splitlines()[-1]
    assert main(["plan", *size, "--precision", "float32", "--host-memory", "512MB"]) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert re.sub("; --size .* fits$", "", said) == refused and not out.exists()
    assert re.match(
        r"liveact: error: tiny at 512x512 with --dtype float32 --eight-bit-memory needs [\d.]+ GiB of memory "
        r"\(working memory, .* [\d.]+ GiB, .*; predicted, not measured\), and 0.50 GiB are available$",
        refused,
    )


def test_what_is_small_is_not_predicted(monkeypatch):
    from liveact_app.generate import loading
    from liveact_app.generate.job import Job

    blueprint = open_avatar("tiny").blueprint
    monkeypatch.setattr(fit, "needs_of", lambda *args, **more: (_ for _ in ()).throw(AssertionError("predicted")))
    job = Job("a", "b", "", "out.mp4")
    loading.must_fit(blueprint, job, "cpu")
    with pytest.raises(AssertionError, match="predicted"):
        loading.must_fit(blueprint, replace(job, size=(512, 512)), "cpu")


def test_every_part_that_lacks_is_told():
    said = needs.Needs({"a": 5 * GIB, "b": GIB}, {"c": 4 * GIB})
    assert fit.lacking(said, "x", "a GPU", 6 * GIB, 4 * GIB) is None
    assert fit.lacking(said, "x", "a GPU", None, None) is None
    assert fit.lacking(said, "x", "a GPU", 5 * GIB).startswith("x needs 6.00 GiB on a GPU (a 5.00 GiB, b 1.00 GiB;")
    assert "needs 8.00 GiB of host memory (c" in fit.lacking(said, "x", "a GPU", 6 * GIB, 7 * GIB, ranks=2)
    assert "needs 12.00 GiB of memory" in fit.lacking(said, "x", "cpu", 7 * GIB, ranks=2)
    with pytest.raises(InputError, match="eight_bit_attention: expected a process that keeps every head"):
        setting = fit.Setting(eight_bit_attention=True, parallel="ulysses")
        fit.needs_of(open_avatar("tiny").blueprint, setting, (64, 64), "gpu", 2)


def test_an_encoder_with_a_network_is_counted():
    assert Silence(1, 2).network is None
    said = needs.weights(named("liveact-18b", "bfloat16").avatar())
    assert said["audio encoder"] == pytest.approx(4 * 94.4e6, rel=0.01)
    assert said["VAE"] == pytest.approx(2 * 126.9e6, rel=0.01)
