"""bench/run.py: rows, refusals of wrong kernels, peers, comparisons and bad input."""

import json
import os

import ceilings
import frame
import long_run
import measure
import peers
import pytest
import rows
import run
import tiny
import torch
from manifest import SCHEMA, manifest
from peers import PEERS
from safetensors.torch import save_file
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from liveact_kernels import ops
from liveact_kernels.contract import REGISTRY
from liveact_kernels.cost import hw
from liveact_model.errors import InputError
from liveact_train.probe import Probe

QUICK = ["--device", "cpu", "--seconds", "0.001"]


def refused(capsys, main, argv, words):
    """The command exits 2 with one sentence that has these words."""
    assert main(argv) == 2
    err = capsys.readouterr().err.strip()
    assert "\n" not in err and words in err, err


@pytest.fixture
def backend(monkeypatch):
    """Add a backend to ops.quant for one test."""

    def add(name, fn):
        monkeypatch.setitem(ops.quant.backends, name, fn)
        monkeypatch.setattr(measure, "_VERDICTS", {})

    return add


# ---- rows --------------------------------------------------------------------------------------------------------


def test_a_row_says_what_was_measured_where_and_how(tmp_path, capsys):
    out = tmp_path / "deep" / "rows.jsonl"
    assert run.main([*QUICK, "--op", "modulate_quant", "--case", "tiny", "--out", str(out)]) == 0
    found = {r["backend"]: r for r in map(json.loads, out.read_text().splitlines())}
    row, d = found["torch"], found["torch"]["dims"]
    assert set(manifest("cpu")) < set(row) and row["schema"] == SCHEMA
    assert row["device"] == "cpu" and row["how"] == "host"
    assert (d["L"], d["C"], d["A"]) == (7, 96, "f32") and row["samples"] >= 5 and row["copies"] > 1
    assert row["p20_us"] <= row["us"] <= row["p80_us"]
    assert row["tflops"] == pytest.approx(11 * 7 * 96 / row["us"] / 1e6, abs=1e-4)
    assert row["gbps"] == pytest.approx((4 * 7 * 96 + 8 * 96 + 7 * 96 + 28) / row["us"] / 1e3, abs=1e-3)
    assert row["best_peer"] == "eager" and found["eager"]["best_peer"] == "torch"
    assert row["ratio_to_best_peer"] == pytest.approx(found["eager"]["us"] / row["us"], rel=1e-2)
    assert row["percent_of_floor"] is None and found["triton"]["kind"] == "skip" and "GPU" in found["triton"]["why"]
    assert "the host clock" in capsys.readouterr().out


def test_a_floor_follows_the_chip(monkeypatch):
    chip = hw.chip("h200")
    options = measure.Options(torch.device("cpu"), ("torch",), (), 0.001, chip)
    (row,) = measure.measure(ops.quant, ops.quant.cases[0], options)
    assert row["floor_us"] == pytest.approx(1e6 * (7 * 96 * 3 + 28) / 4.8e12)
    assert row["percent_of_floor"] == pytest.approx(100 * row["floor_us"] / row["us"], abs=0.01)
    assert row["ceilings"] == "H200 SXM: datasheet, dense"


# ---- wrong kernels and peers are not timed --------------------------------------------------------------------------


def test_a_wrong_backend_is_red_and_has_no_time(backend, capsys):
    backend("wrong", lambda x8, x_scale, x, groups: (x8.zero_(), x_scale.fill_(1.0)))
    assert run.main([*QUICK, "--op", "quant", "--peers", "none"]) == 1
    lines = [text for text in capsys.readouterr().out.splitlines() if " wrong " in text]
    assert len(lines) == 2 and all("red: tiny: x8: worst" in text for text in lines)


def test_a_backend_that_writes_nothing_is_red(backend):
    backend("silent", lambda *outs, **args: None)
    assert "NaN" in measure.right(ops.quant, "silent", torch.device("cpu"))


def test_a_backend_that_is_wrong_at_the_timed_shape_only_is_red(backend):
    def right_when_small(x8, x_scale, x, groups):
        codes, scale = ops.quant.reference(x, groups)
        x8.copy_(codes.float())
        x_scale.copy_(scale)
        if x.shape[0] > 7:
            x8[-1] = 0

    backend("large", right_when_small)
    case = run.Case("more", L=9, C=96, A=torch.bfloat16)
    found = measure.measure(ops.quant, case, measure.Options(torch.device("cpu"), ("large",), (), 0.001))
    assert [r["kind"] for r in found] == ["red"] and found[0]["why"].startswith("more: x8: worst")


def test_a_backend_that_refuses_a_shape_is_skipped(backend):
    def picky(x8, x_scale, x, groups):
        for out, value in zip((x8, x_scale), ops.quant.implementation("torch")(x, groups)):
            out.copy_(value)

    picky.takes = lambda d: None if d.C == 256 else "it wants C=256"
    backend("picky", picky)
    options = measure.Options(torch.device("cpu"), ("picky",), (), 0.001)
    kinds = [measure.measure(ops.quant, case, options)[0]["kind"] for case in ops.quant.cases[:2]]
    assert kinds == ["skip", "op"]


@pytest.mark.parametrize("name", sorted(peers.PEERS))
def test_peers_compute_the_op(name):
    op = REGISTRY[name]
    for case in (c for c in op.cases if c.rung == "cpu"):
        made = op.make(case)
        want = op.reference(**made)
        assert peers.agrees(peers.PEERS[name], op, made, want) is None, case
        first = want[0] if isinstance(want, tuple) else want
        spoiled = first.clone()
        spoiled[0] = spoiled[0].roll(1, -1) + 0.5 * max(1, spoiled[0].abs().max())
        spoiled = (spoiled, *want[1:]) if isinstance(want, tuple) else spoiled
        assert peers.agrees(peers.PEERS[name], op, made, spoiled) is not None, case


def test_a_peer_with_another_result_is_not_timed(monkeypatch):
    monkeypatch.setitem(peers.PEERS, "quant", peers.Peer(lambda x, groups: (x, x), "no"))
    options = measure.Options(torch.device("cpu"), ("torch",), ("eager",), 0.001)
    found = {r["backend"]: r for r in measure.measure(ops.quant, ops.quant.cases[0], options)}
    assert found["eager"]["kind"] == "skip" and found["torch"]["kind"] == "op"


def test_the_compiled_peer_is_the_chain_or_the_torch_backend(monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda fn, dynamic: ("compiled", fn))
    assert peers.peer_of(ops.norm_silu, "compiled").chain == ("compiled", peers.PEERS["norm_silu"].chain)
    for op in (ops.quant, ops.qkv_norm_rope):  # no chain; a chain with complex numbers
        assert peers.peer_of(op, "compiled").chain == ("compiled", op.implementation("torch"))
    assert peers.peer_of(ops.quant, "eager") is None


def test_a_case_that_does_not_fit_is_told_before_it_is_made(monkeypatch, capsys):
    def never(*args):
        raise AssertionError("it was made")

    monkeypatch.setattr(measure, "free_bytes", lambda device: 1 << 30)
    monkeypatch.setattr(measure.parity, "make", never)
    assert run.main([*QUICK, "--op", "attention", "--case", "live_512x512", "--peers", "none"]) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "skip: attention at live_512x512 needs about" in out and "has 1.0 GiB free: choose --rung cpu" in out


def test_inputs_drawn_with_a_given_generator_are_repeatable():
    case = ops.qkv_norm_rope.cases[0]
    one, two = (ops.qkv_norm_rope.make(case, generator=torch.Generator().manual_seed(3)) for _ in range(2))
    other = ops.qkv_norm_rope.make(case)
    assert torch.equal(one["qkv"], two["qkv"]) and not torch.equal(one["qkv"], other["qkv"])


# ---- files ---------------------------------------------------------------------------------------------------------


def op_row(us, chip="A", backend="triton"):
    return {"schema": SCHEMA, "kind": "op", "op": "quant", "case": "x", "backend": backend, "us": us, "chip": chip}


def write(path, *found):
    path.write_text("".join(json.dumps(r) + "\n" for r in found))
    return str(path)


def test_compare_prints_ratios_and_what_only_one_has(tmp_path, capsys):
    a = write(tmp_path / "a", op_row(10.0), op_row(20.0), op_row(7.0, backend="torch"))
    b = write(tmp_path / "b", op_row(5.0, "B"))
    assert run.main(["--compare", a, b]) == 0
    out = capsys.readouterr().out
    assert "20.0       5.0   0.25" in out and "different chips" in out and "only in A: quant x torch" in out


def test_frames_are_compared_by_model_size_and_window(tmp_path, capsys):
    frame = {"schema": SCHEMA, "kind": "frame", "chip": "A", "model": "tiny", "size": "64*64", "precision": "fp8",
             "memory_slots": 6, "block_latent_frames": 8, "what": "steady", "ms_per_video_frame": 40.0}  # fmt: skip
    shared = frame | {"ranks": 2, "form": "ring", "ms_per_video_frame": 20.0}
    a = write(tmp_path / "a", frame, frame | {"memory_slots": 8, "ms_per_video_frame": 60.0}, shared)
    b = write(tmp_path / "b", frame | {"ms_per_video_frame": 50.0})
    assert run.main(["--compare", a, b]) == 0
    out = capsys.readouterr().out
    assert "64*64 fp8 6/8" in out and "1.25" in out and "only in A: frame steady tiny 64*64 fp8 8/8" in out
    assert "64*64 fp8 6/8 2 ranks ring" in out


def test_unusable_files_are_named(tmp_path, capsys):
    good, newer = write(tmp_path / "good", op_row(1.0)), write(tmp_path / "newer", op_row(1.0) | {"schema": SCHEMA + 1})
    broken, other = tmp_path / "broken", write(tmp_path / "other", op_row(1.0, backend="torch"))
    broken.write_text('{"schema"')
    refused(capsys, run.main, ["--compare", good, newer], f"expected schema {SCHEMA} in line 1 of {newer}")
    refused(capsys, run.main, ["--compare", good, str(broken)], f"line 1 of {broken}")
    refused(capsys, run.main, ["--compare", good, str(tmp_path / "none")], "expected a readable file")
    refused(capsys, run.main, ["--compare", good, other], "expected results in common")
    before = (tmp_path / "newer").read_text()
    refused(capsys, run.main, [*QUICK, "--op", "quant", "--out", newer], f"expected schema {SCHEMA}")
    assert (tmp_path / "newer").read_text() == before


@pytest.mark.parametrize("script", [run, ceilings, long_run, tiny, frame], ids=lambda m: m.__name__)
@pytest.mark.parametrize("name", ["", "folder", "pipe", "/dev/null", "n" * 300])
def test_rows_go_into_a_regular_file(script, name, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    os.mkdir("folder")
    os.mkfifo("pipe")
    cpu = ["--device", "cpu"]
    more = {run: [*QUICK, "--op", "quant"], ceilings: cpu, frame: [*cpu, "--model", "tiny"]}
    assert script.main([*more.get(script, []), "--out", name]) == 2
    error = capsys.readouterr().err
    assert "--out: " in error and error.count("\n") == 1, error
    assert sorted(os.listdir()) == ["folder", "pipe"]


@pytest.mark.parametrize(
    "argv,words",
    [
        (["--op", "qant"], "--op: expected one of attention, "),
        (["--op", "quant", "--case", "live"], "--case: expected one of groups, "),
        (["--op", "quant", "--backend", "cuda9"], "--backend: expected one of "),
        (["--peers", "vendor"], "--peers: expected one of eager, compiled, got 'vendor'"),
        (["--chip", "h300"], "--chip: expected one of h200, "),
        (["--chip", "h200"], "--chip: expected no ceilings of a GPU for times of a CPU"),
        (["--ceilings", "felt"], "--ceilings: expected one of datasheet, measured, got 'felt'"),
        (["--seconds", "0"], "--seconds: expected more than 0"),
        (["--device", "tpu"], "--device: expected"),
    ],
)
def test_bad_input_is_one_sentence(capsys, argv, words):
    refused(capsys, run.main, ["--device", "cpu", *argv], words)


def test_rows_refuse_a_place_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="--out: expected a file that can be written"):
        rows.Rows(tmp_path / "file" / "x.jsonl")


class _Uploads(TorchDispatchMode):
    """Raises where a call reads a tensor that no call before made: it comes from the host, by a copy that waits."""

    def __init__(self, given):
        super().__init__()
        self._known = _tensors(given)

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        for t in _tensors((args, kwargs)):
            if t.ndim and not any(t is known for known in self._known):
                raise RuntimeError(f"{func} reads a tensor of the host")
        out = func(*args, **(kwargs or {}))
        self._known += _tensors(out)
        return out


def _tensors(tree):
    return [t for t in tree_leaves(tree) if isinstance(t, torch.Tensor)]


@pytest.mark.parametrize("op", REGISTRY.values(), ids=str)
@torch.no_grad()
def test_what_is_timed_copies_nothing_from_the_host(op, monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    case = max((c for c in op.cases if c.rung == "cpu"), key=lambda c: len(c.dims))
    made = {k: v.to("meta") if isinstance(v, torch.Tensor) else v for k, v in op.make(case).items()}
    calls = [(op.implementation("torch"), made)]
    if peer := PEERS.get(op.name):
        calls.append((peer.chain, peer.prepare(**made) if peer.prepare else made))
    for call, given in calls:
        with _Uploads(given):
            call(**given)


def test_a_long_run_says_what_it_saw(capsys, tmp_path):
    out, probe = tmp_path / "rows.jsonl", tmp_path / "probe.safetensors"
    torch.manual_seed(0)
    save_file(Probe().state_dict(), probe)
    assert long_run.main(["--minutes", "0.3", "--out", str(out), "--probe", str(probe)]) == 0
    row = json.loads(out.read_text())
    assert row["video_frames"] == 373 and len(row["mouth_correlation_by_tenth"]) == 10
    assert len(row["face_psnr_to_first_tenth"]) == 9 and len(row["background_by_tenth"]) == 10
    assert row["blinks_per_minute"] == 0 and row["mouth"] == "probe" and row["rss_mib_end"] > 50
    capsys.readouterr()
    for arguments, said in (
        (["--minutes", "0"], "--minutes: expected a number above 0, got 0"),
        (["--probe", str(tmp_path / "no")], "to be what the probe stage wrote, found "),
    ):
        assert long_run.main(arguments) == 2
        assert said in capsys.readouterr().err
