"""What a load tells and takes: keys that are passed over, progress, seconds by component, memory while quantising."""

import io
import json
import re
import warnings

import pytest
import released
import soundfile
import torch
from conftest import ROOT
from safetensors.torch import load_file, save_file
from small import speech

from liveact_app import say
from liveact_app.cli import main
from liveact_kernels.cost.memory import Live, nbytes
from liveact_model.checkpoint import files
from liveact_model.checkpoint.statedict import idle
from liveact_model.dit import Linear, formats
from liveact_model.errors import CheckpointWarning, InputError
from liveact_model.loading import keymap, load_avatar, open_avatar

T5, VAE = "models_t5_umt5-xxl-enc-bf16.pth", "Wan2.1_VAE.pth"
CLIP = "models_clip_open-clip-xlm-roberta-large-vit-huge-14.pth"
SHARD = f"{released.STEM}-00001-of-00003.safetensors"


@pytest.fixture
def folder(tmp_path):
    return released.write_released(tmp_path / "model")


def with_keys(path, **keys):
    """Put more tensors into a file of weights."""
    keys = {name.replace("__", "."): value for name, value in keys.items()}
    if path.suffix == ".safetensors":
        save_file(load_file(path) | keys, path)
    else:
        torch.save(torch.load(path, weights_only=True) | keys, path)


# ---- keys that nothing reads -----------------------------------------------------------------------------------------


def test_what_is_no_weight_is_passed_over_once_and_named(folder):
    step, table = torch.tensor(7), torch.zeros(4, 3)
    with_keys(folder / SHARD, step=step, version=torch.tensor(1.0), rope__freqs=table, blocks__0__seen=step.clone())
    for name in (T5, VAE, f"{released.AUDIO}/pytorch_model.bin"):
        with_keys(folder / name, step=step)
    with_keys(folder / CLIP, visual__position_ids=torch.arange(257))
    plain = released.write_released(folder.parent / "plain")
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        avatar = load_avatar(str(folder), dtype="float32")
    mine = [str(w.message) for w in said if w.category is CheckpointWarning]
    assert len(mine) == 5  # one a file of weights
    [denoiser] = [text for text in mine if text.startswith("denoiser: ")]
    assert re.fullmatch(r"denoiser: passed over what is no weight: (\S+, ){2}\S+ and 1 more", denoiser)
    assert any("VAE weights" in text and text.endswith("no weight: step") for text in mine)
    want = load_avatar(str(plain), dtype="float32")
    for part in ("dit", "vae", "text", "image", "audio"):
        a, b = (getattr(model, part).state_dict() for model in (avatar, want))
        assert a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


@pytest.mark.parametrize(
    "name,key,value",
    [
        (SHARD, "blocks.0.self_attn.norm_extra.weight", torch.zeros(48)),  # inside a layer
        (SHARD, "blocks.0.gate", torch.zeros(1)),  # one value, but of a layer
        (SHARD, "control_adapter.conv.weight", torch.zeros(4, 4)),  # another network beside
        (SHARD, "vace_blocks.0.bias", torch.zeros(2)),
        (T5, "blocks.0.attn.q.bias", torch.zeros(32)), (VAE, "ema", torch.zeros(2)),
    ],
)  # fmt: skip
def test_what_another_architecture_would_read_is_an_error(folder, name, key, value):
    with_keys(folder / name, **{key.replace(".", "__"): value.bfloat16() if name == T5 else value})
    with pytest.raises(InputError, match=rf"unexpected key {re.escape(key)} \["):
        load_avatar(str(folder))


def test_which_tensors_can_be_no_weight():
    heads = {"blocks", "head"}
    one = torch.zeros(1)
    assert idle("blocks.0.attn.inv_freq", torch.zeros(8), heads) and idle("freqs", torch.zeros(8, 2), heads)
    assert idle("blocks.0.mask", torch.zeros(8, 8, dtype=torch.bool), heads) and idle("ema.decay", one, heads)
    assert not idle("blocks.0.scale", one, heads) and not idle("head.freq", torch.zeros(8), heads)
    assert not idle("freq.weight", torch.zeros(2), heads)
    assert not idle("blocks.0.table", torch.zeros(2, dtype=torch.complex64), heads)


def test_the_command_says_it_as_a_note(folder, tmp_path, capsys):
    with_keys(folder / VAE, step=torch.tensor(7))
    soundfile.write(tmp_path / "a.wav", speech(1.2).numpy(), 16000)
    report = tmp_path / "x.json"
    args = ["generate", "--model", str(folder), "--size", "32*32", "--device", "cpu", "--report", str(report)]
    args += ["--image", str(ROOT / "examples/face.png"), "--audio", str(tmp_path / "a.wav")]
    args += ["--out", str(tmp_path / "x.mp4")]
    assert main(args) == 0
    said = capsys.readouterr()
    notes = [line for line in said.err.splitlines() if "passed over" in line]
    assert len(notes) == 1 and notes[0].startswith("liveact: VAE weights ") and "Warning" not in said.err
    assert main(["convert", str(folder), str(tmp_path / "eight")]) == 0
    assert main(["plan", "--model", str(folder), "--size", "32*32", "--host-memory", "4GB"]) == 0
    told = capsys.readouterr().err
    assert told.count("liveact: VAE weights ") == 3 and "Warning" not in told  # plan opens it in two precisions
    seconds = json.loads(report.read_text())["load_seconds"]
    assert list(seconds) == ["files", "text encoder", "denoiser"] and all(s >= 0 for s in seconds.values())
    assert re.search(r"; loaded in [\d.]+ s( \(.*\))?\n", said.out)


# ---- progress --------------------------------------------------------------------------------------------------------


def test_a_load_tells_how_far_it_is(folder):
    heard = []
    avatar = load_avatar(str(folder), dtype="fp8", watch=lambda *told: heard.append(told))
    total = keymap.stored_bytes(avatar.dit.config, "fp8")
    assert {(name, whole) for name, _, whole in heard} == {("denoiser", total)}
    done = [n for _, n, _ in heard]
    assert done[0] == 0 and done[-1] == total and done == sorted(done) and len(set(done)) > 50
    assert nbytes([*avatar.dit.parameters(), *avatar.dit.buffers()]) == total
    heard.clear()
    load_avatar(str(folder), device="meta", watch=lambda *told: heard.append(told))
    names = list(dict.fromkeys(name for name, _, _ in heard))
    assert names == ["denoiser", "VAE", "text encoder", "image encoder", "audio encoder"]
    assert [done > 0 for name, done, _ in heard if name == "VAE"] == [False, True]
    heard.clear()
    load_avatar(str(folder), device="meta", text_on_host=True, watch=lambda *told: heard.append(told))
    assert "text encoder" not in {name for name, _, _ in heard}


def test_seconds_belong_to_the_component_that_was_loading():
    now = iter((0.0, 2.0, 3.0, 6.0, 6.5, 8.5))
    loading = say.Loading(lambda *told: None, lambda: next(now))
    for told in (("denoiser", 0, 9), ("denoiser", 4, 9), ("denoiser", 9, 9), ("VAE", 0, 1), ("VAE", 1, 1)):
        loading.watch(*told)
    assert loading.seconds == {"files": 2.0, "denoiser": 4.5, "VAE": 2.0}


def test_a_bar_on_a_terminal_and_lines_elsewhere(monkeypatch, capsys):
    from rich.console import Console

    monkeypatch.setattr(say, "LOG_EVERY_S", 0.0)
    with say.show_loading() as loading:
        loading.watch("denoiser", 2 * 10**9, 4 * 10**9)
    assert capsys.readouterr().err == "liveact: denoiser: 2.00 of 4.00 GB\n"
    out = io.StringIO()
    with say._loading_bar(Console(file=out, force_terminal=True, width=80)) as show:
        show("denoiser", 0, 4 * 10**9)
        show("denoiser", 4 * 10**9, 4 * 10**9)
        show("VAE", 10**6, 10**6)
    text = out.getvalue()
    assert "denoiser" in text and "VAE" in text and "4.0/4.0 GB" in text


# ---- memory while quantising -----------------------------------------------------------------------------------------


def test_an_fp8_load_holds_its_codes_and_one_tensor_at_a_time(tmp_path, monkeypatch):
    """Every byte that is read counts as if it were copied at once; what stays mapped in its file otherwise does not."""
    c = released.CONFIG.with_(dim=384, ffn_dim=1536, num_layers=3)
    folder = tmp_path / "model"
    folder.mkdir()
    released.write_dit(folder, c)
    for write in (released.write_clip, released.write_t5, released.write_tokenizer, released.write_vae):
        write(folder)
    released.write_wav2vec2(folder)
    piece = 1 << 13
    monkeypatch.setattr(formats, "PIECE", piece)
    with torch.no_grad():
        opened = open_avatar(str(folder), "fp8")
        read, live = files.Tensors._read, Live(kind="cpu")

        def copied(self, *args):
            with live.paused():
                value = read(self, *args)
            return value.clone()

        monkeypatch.setattr(files.Tensors, "_read", copied)
        with live:
            avatar = opened.load(lambda *told: None)
    stored = keymap.stored_bytes(c, "fp8")
    largest = 2 * 3 * c.dim * c.dim  # q, k and v in bf16
    assert max(2 * c.ffn_dim * c.dim, largest) == 2 * c.ffn_dim * c.dim
    assert avatar.dit.blocks[0].ffn.up.format.name == "fp8"
    # joined from three: the pieces and the whole; then the float32 copies of the values quantised at a time
    margin = largest + 16 * piece
    bf16 = keymap.stored_bytes(c, "bfloat16")
    assert stored <= live.peak <= stored + 2 * c.ffn_dim * c.dim + margin < bf16
    assert live.now == pytest.approx(stored, rel=0.01)


def test_pieces_quantise_to_the_same_bits(monkeypatch):
    g = torch.Generator().manual_seed(0)
    weight = torch.randn(37, 48, generator=g)

    def layer():
        made = Linear(48, 37)
        made.weight.data, made.bias.data = weight.clone(), torch.zeros(37)
        made.to_precision("fp8")
        return made

    whole = layer()
    monkeypatch.setattr(formats, "PIECE", 100)
    cut = layer()
    assert torch.equal(whole.w8.view(torch.uint8), cut.w8.view(torch.uint8)) and torch.equal(whole.w_scale, cut.w_scale)
