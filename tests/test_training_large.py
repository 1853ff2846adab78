"""The commands for a model with encoders of its own, in the released layout and with its classes, but small."""

import subprocess
import sys

import numpy as np
import pytest
import released
import torch
import torch.distributed as dist
from conftest import ROOT
from safetensors.torch import load_file, save_file
from test_training_folder import library

from liveact_model.avatar import conditioning
from liveact_model.config import NAMED
from liveact_model.dit import DiT, rope_table
from liveact_model.loading import load_avatar
from liveact_train.__main__ import main
from liveact_train.alive import Alive
from liveact_train.batches import Latents
from liveact_train.shards import local, pretended
from liveact_train.sizes import MODELS
from liveact_train.start import first_values, made

NAME, WINDOW = "liveact-18b", {"grouping": "raster", "memory_slots": 6, "block_latent_frames": 8, "memory": "conv"}
CONFIG = released.CONFIG
SCRIPT = """
import sys
sys.path[:0] = [{root!r}, {tests!r}]
import test_training_large as t
t.NAMED[t.NAME] = t.MODELS[t.NAME] = t.CONFIG
from liveact_train.__main__ import main
sys.exit(main({arguments!r}))
"""


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return released.write_released(tmp_path_factory.mktemp("released") / "model")


@pytest.fixture(scope="module")
def latents(tmp_path_factory, model):
    """A folder of three generated videos of 32x32 pixels, through the model's own encoders."""
    root = tmp_path_factory.mktemp("own")
    library(root / "videos")
    assert main(["folder", "--videos", str(root / "videos"), "--out", str(root / "clips"), "--pixels", "32"]) == 0
    assert main(["latents", "--data", str(root / "clips"), "--model", str(model), "--out", str(root / "latents")]) == 0
    return root


@pytest.fixture
def small(monkeypatch):
    """The small model in the place of the large one."""
    monkeypatch.setitem(NAMED, NAME, CONFIG)
    monkeypatch.setitem(MODELS, NAME, CONFIG)


def without(folder, model, *parts):
    """Another directory with the model's denoiser, but no key in which one of `parts` is."""
    folder.mkdir()
    state = {}
    for file in model.glob("*.safetensors"):
        state |= load_file(file)
    save_file(
        {k: v for k, v in state.items() if not any(p in k for p in parts)}, folder / f"{released.STEM}.safetensors"
    )
    return folder


def test_its_encoders_give_what_a_session_would_ask_them(latents, model, small):
    data = Latents(latents / "latents/train", NAME, **WINDOW)
    z, x = data.batch([0])
    avatar = load_avatar(str(model), "float32")
    video = np.load(latents / "clips/train/video.npy")[0]
    frame = torch.from_numpy(video[0]).float() / 127.5 - 1
    sound = torch.from_numpy(np.load(latents / "clips/train/sound.npy")[0]).float() / 32767
    assert z.shape == (1, 16, 30, 4, 4)
    pictures = torch.from_numpy(video).float().transpose(0, 1) / 127.5 - 1
    assert released.relative(z[0], avatar.vae.encode(pictures)) < 1e-3
    assert released.relative(x.y[0], conditioning(avatar.vae, frame)) < 1e-3
    text = avatar.text.encode("a happy person waving")
    assert released.relative(x.text[0, 0, : len(text)], text) < 0.02  # the file's encoder is bf16
    assert not x.text[0, :, len(text) :].any()
    assert released.relative(x.image[0], avatar.image.encode(frame)) < 1e-3
    stream = avatar.audio.stream(20.0, avatar.audio.measure([sound], 20.0))
    stream.push(sound)
    stream.close()
    rows = stream.embeddings(0, 119)
    assert released.relative(x.audio[0, 3], rows[7:15]) < 1e-2  # latent frame 3 hears video frames 4 * 3 - 5 ..


def test_values_come_from_wan_from_liveact_or_are_drawn(tmp_path, model, small, capsys):
    config = CONFIG.with_(grouping="temporal", separate_v_taps=True)
    wan = without(tmp_path / "wan", model, "audio", "norm_x", "memory_proj")
    avatar = load_avatar(str(model), "float32").dit
    own = {name: p.float() for name, p in avatar.named_parameters()}
    wan_only, both = (first_values(NAME, config, str(wan), audio, 3) for audio in ("", str(model)))
    every = first_values(NAME, CONFIG, str(model), "", 3)
    audio = [n for n in own if n.startswith("audio.") or ".audio_attn." in n]
    for name, value in own.items():
        taps = name.endswith("taps")
        assert torch.equal(every.values(name).float(), value), name
        assert taps or torch.equal(both.values(name).float(), value), name
        drawn = wan_only.values(name).float()
        assert torch.equal(drawn, value) != (name in audio or taps), name
        assert not taps or (drawn == 0.2).all()
        assert torch.equal(drawn, wan_only.values(name)) and drawn.shape == value.shape
    assert not wan_only.values("blocks.1.audio_attn.proj.weight").any()
    assert wan_only.values("audio.proj2.weight").std() == pytest.approx(CONFIG.audio_hidden**-0.5, rel=0.2)
    assert len(every.said) == 1 and len(wan_only.said) == len(both.said) == 3 and "taps" in both.said[-1]


@pytest.mark.parametrize(
    "lacking,said",
    [
        (("blocks.1.ffn.0.weight",), "--start: expected key blocks.1.ffn.0.weight [64, 48], found none"),
        (("audio_proj.proj2.bias",), "--start: expected key audio_proj.proj2.bias [16], found none"),
        (("",), None),
    ],
)
def test_what_is_missing_is_named(tmp_path, model, latents, small, capsys, lacking, said):
    start = tmp_path / "start"
    if said:
        without(start, model, *lacking)
    else:
        start.mkdir()
        said = f"--start: expected {released.STEM}*.safetensors in {str(start)!r}, found none"
    files = ["--latents", str(latents / "latents"), "--out", str(tmp_path / "run"), "--start", str(start)]
    assert main(["dit", "--model", NAME, "--batch", "1", *files]) == 2
    assert capsys.readouterr().err == f"error: {said}\n" and not (tmp_path / "run").exists()


def test_wrong_combinations_are_named(tmp_path, model, latents, small, capsys):
    files = ["--latents", str(latents / "latents"), "--out", str(tmp_path / "run")]
    own, mine = [*files, "--batch", "2"], ["--start", "x.safetensors", "--start-audio", str(model)]
    for arguments, said in (
        (["--model", "huge"], "--model: expected one of tiny, liveact-18b, got 'huge'"),
        (["--model", NAME, *own], "--start: expected a directory with Wan2.1's or LiveAct's"),
        ([*files, "--model", NAME], "--batch: expected at most the 2 clips in"),
        (own, "--latents: expected latents for tiny in"),
        (["--device", "tpu", *own], "--device: expected what torch has here, cpu"),
        (["--dry-run", "3"], "--dry-run: expected processes that share --batch 8 evenly, got 3"),
        (["--model", NAME, *own, *mine], "--start-audio: expected it beside a directory"),
    ):
        assert main(["dit", *arguments]) == 2
        assert capsys.readouterr().err.startswith(f"error: {said}"), said
    assert main(["latents", "--data", str(latents / "clips"), "--model", str(tmp_path / "none")]) == 2
    assert capsys.readouterr().err.startswith("error: --model: expected a directory")


@pytest.mark.slow
def test_two_processes_train_it_and_its_weights_generate(tmp_path, model, latents):
    script = tmp_path / "two.py"
    wan = without(tmp_path / "wan", model, "audio", "norm_x", "memory_proj")
    arguments = ["dit", "--model", NAME, "--latents", str(latents / "latents"), "--out", str(tmp_path / "run")]
    arguments += ["--start", str(wan), "--start-audio", str(model), "--rate", "1e-3"]
    arguments += ["--batch", "2", "--steps", "2", "--checkpoint-activations"]
    script.write_text(SCRIPT.format(root=str(ROOT), tests=str(ROOT / "tests"), arguments=arguments))
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", str(script)]
    done = subprocess.run(launch, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count(f"values from {wan}") == 1 and f"values of the audio from {model}" in done.stdout
    trained, began = load_file(tmp_path / "run/dit.safetensors"), load_avatar(str(model), "float32").dit.state_dict()
    assert {k: v.shape for k, v in trained.items()} == {k: v.shape for k, v in began.items()}
    publish = ["publish", "--dit", str(tmp_path / "run/dit.safetensors"), "--model", str(model), "--out"]
    assert main([*publish, str(tmp_path / "new")]) == 0 and main([*publish, str(tmp_path / "new")]) == 2
    new = load_avatar(str(tmp_path / "new"), "float32")
    assert all(torch.equal(v, trained[k].bfloat16().float()) for k, v in new.dit.state_dict().items())
    assert new.dit.config.grouping == "temporal" and new.text.text_dim == CONFIG.text_dim
    moved = {k: (trained[k] - began[k]).abs().max() for k in began if not k.endswith("taps")}
    assert all(0 < m < 1e-2 for m in moved.values()), moved


def test_a_dry_run_of_all_of_it_allocates_nothing_and_counts_shares(model, latents, small, capsys):
    arguments = ["dit", "--model", NAME, "--latents", str(latents / "latents"), "--start", str(model), "--batch", "4"]
    arguments += ["--optimiser", "adam"]
    assert main([*arguments, "--dry-run", "4", "--checkpoint-activations", "--grouping", "raster"]) == 0
    out = capsys.readouterr().out
    size = sum(p.numel() for p in load_avatar(str(model), "float32").dit.parameters())
    assert f"dit: {size:,} values from {model}\n" in out and "shared by 4 processes; 1 clip of 117" in out
    rows = out.partition("counted\n")[2].splitlines()[:5]
    figures = {line[:50].strip(): [float(x) for x in line[50:].split()] for line in rows}
    assert figures["weights"][0] == pytest.approx(size * 4 / 4 / 2**30, rel=1e-3)
    assert figures["weights"][1] == pytest.approx(figures["weights"][0], rel=0.1)  # rows do not divide by four
    assert figures["optimiser"][1] == pytest.approx(2 * figures["weights"][1], rel=1e-3)
    assert main([*arguments, "--dry-run", "4", "--grouping", "raster"]) == 0
    more = capsys.readouterr().out
    left = [float(text.rpartition("leaves behind")[2].split()[0]) for text in (out, more)]
    assert left[0] < 0.5 * left[1]


def test_a_dry_run_leaves_nothing_without_values_behind(latents, small):
    rope_table.cache_clear()
    arguments = ["dit", "--model", NAME, "--latents", str(latents / "latents"), "--batch", "2", "--dry-run", "2"]
    assert main(arguments) == 0 and not dist.is_initialized()
    assert rope_table(CONFIG.head_dim, CONFIG.window_slots, 2, 2, CONFIG.rope_theta)[0, 0, 0].item() == 1.0


def test_alive_counts_shares_and_not_what_they_are_of():
    with pretended(4) as group:
        shapes = {name: p.shape for name, p in DiT(CONFIG).named_parameters()}
        with Alive() as memory:
            dit, _ = made(CONFIG, group, lambda name: torch.zeros(shapes[name]))
            held = 2 * sum(local(p).nbytes for p in dit.parameters())
            assert memory.now == pytest.approx(held, rel=0.1)
