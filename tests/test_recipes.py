"""bench/recipes.py on a minute model, its reader of colours, and the page that docs/recipes.py makes of its rows."""

import importlib.util
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from liveact_model.vae.tiny import TinyVAE
from liveact_train.data import clips
from liveact_train.data.identity import SECRETS
from liveact_train.dit import Latents
from liveact_train.probe import Probe
from liveact_train.vae import save_vae

ROOT = Path(__file__).resolve().parent.parent
SMALL = ["--start-steps", "1", "--steps", "2", "--memory-steps", "2", "--batch", "1", "--dim", "16", "--num-heads", "1",
         "--num-layers", "1", "--ffn-dim", "16", "--audio-hidden", "8", "--audio-dim", "8", "--clips", "1",
         "--blocks", "2", "--returning", "2", "--marks", "1", "--seeds", "1"]  # fmt: skip


@pytest.fixture
def recipes(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "bench"))
    monkeypatch.delitem(sys.modules, "recipes", raising=False)
    monkeypatch.setattr(clips, "random_speech", lambda seconds, rng: np.sin(np.arange(int(seconds * 16000)) * 0.1))
    import recipes

    yield recipes
    sys.modules.pop("recipes", None)


def load_page():
    spec = importlib.util.spec_from_file_location("recipes_page", ROOT / "docs" / "recipes.py")
    page = importlib.util.module_from_spec(spec)
    sys.path.insert(0, str(ROOT / "bench"))
    spec.loader.exec_module(page)
    return page


@pytest.fixture
def data(tmp_path):
    """What the stages would have left: random latents, a VAE and a probe with random weights."""
    folder, g = tmp_path / "data", np.random.default_rng(0)
    for name in ("train", "val"):
        part = folder / "latents" / name
        part.mkdir(parents=True)
        arrays = {"z": (2, 30, 8, 8, 8), "y": (2, 3, 8, 8, 8), "mel": (2, 119, 128)}
        for array, shape in arrays.items():
            np.save(part / f"{array}.npy", g.standard_normal(shape).astype(np.float16))
        np.save(part / "prompt_ids.npy", np.array([[0, 2, 0, 2], [3, 0, 3, 0]], np.uint8))
        (part / "prompts.json").write_text(json.dumps([["a person waving"] * 4] * 2))
    (folder / "vae").mkdir()
    (folder / "probe").mkdir()
    torch.manual_seed(0)
    save_vae(TinyVAE(8, (8, 8), (8, 8), overlap=True), str(folder / "vae" / "vae.safetensors"))
    save_file(Probe().state_dict(), folder / "probe" / "probe.safetensors")
    return folder


def start(recipes, data, *more):
    paths = ["--data", str(data), "--work", str(data.parent / "work"), "--out", str(data.parent / "rows.jsonl")]
    return recipes.main([*paths, *SMALL, *more])


def test_every_recipe_is_measured_once(recipes, data, capfd, monkeypatch):
    out = data.parent / "rows.jsonl"
    assert start(recipes, data) == 0, capfd.readouterr().err
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    found = [(r["kind"], r["what"]) for r in rows]
    forcings = [("forcing", name) for name in ("neighbor", "diffusion", "teacher", "self")]
    slots = [("memory", f"{t}, {g}") for t in ("learnt", "mean") for g in ("temporal", "raster")]
    sizes = [("sizes", "6/6"), ("sizes", "8/8")]
    assert found == [("ruler", "truth"), ("start", "start"), *forcings, *slots, ("memory", "off"), *sizes]
    assert set(rows[3]["blocks"]) == {"step", "clean"} and len(rows[2]["blocks"]["step"]["mouth"]) == 2
    assert all(r["curve"][-1]["step"] == r["settings"]["steps"] for r in rows[1:])
    # a row that is lost is measured again, from the weights that are there, and is the same; the others are not
    lines = out.read_text().splitlines(keepends=True)
    out.write_text("".join(lines[:2] + lines[3:]))
    measured = []
    plain = recipes.measure
    monkeypatch.setattr(recipes, "measure", lambda r, *rest: (measured.append(r.what), plain(r, *rest))[1])
    assert start(recipes, data) == 0
    again = json.loads(out.read_text().splitlines()[-1])
    assert measured == ["neighbor"]
    assert all(again[k] == rows[2][k] for k in ("what", "seed", "settings", "blocks", "curve"))
    # other settings are other rows
    assert start(recipes, data, "--only", "sizes", "--steps", "1") == 0
    assert measured == ["neighbor", "6/6", "8/8"]
    # the page and the picture of these rows
    page = load_page()
    drawn = page.draw(page.read(out))
    assert drawn.count("<polyline") > 30 and "teacher, memory: finished blocks" in drawn and "nan" not in drawn
    text = page.filled("<!-- sizes from docs/recipes.py --><!-- end sizes -->", page.read(out))
    assert [line.split(" |")[0] for line in text.splitlines() if line.startswith("| ")] == [
        "| ", "| ---", "| truth", "| VAE alone", "| 6/8", "| 6/6", "| 8/8"
    ]  # fmt: skip


def test_weights_are_measured_with_slots_hidden(recipes, data, capfd):
    from liveact_model.dit import DiT
    from liveact_train.dit import save_dit
    from liveact_train.sizes import tiny
    from liveact_train.start import initialise

    save_dit(initialise(DiT(tiny(8))), data / "dit.safetensors")
    assert start(recipes, data, "--only", "sizes", "--weights", str(data / "dit.safetensors")) == 0
    (row,) = (
        r for r in map(json.loads, (data.parent / "rows.jsonl").read_text().splitlines()) if r["kind"] == "weights"
    )
    assert list(row["colour"]) == ["nothing", "long-term", "long- and short-term", "all"]


@pytest.mark.parametrize("more,said", [
    (["--only", "sizes,colour"], "--only: expected kinds out of forcing, memory, sizes, got 'colour'"),
    (["--seeds", "0"], "--seeds: expected a whole number from 1 on, got 0"),
    (["--marks", "-1"], "--marks: expected a whole number from 1 on, got -1"),
    (["--data", "nowhere"], "--data: expected a folder in which the stages of training have run"),
    (["--batch", "9"], "--data: expected 9 clips or more to train on, found 2"),
])  # fmt: skip
def test_bad_input_is_one_sentence(recipes, data, capfd, more, said):
    assert start(recipes, data, *more) == 2
    error = capfd.readouterr().err.strip().splitlines()[-1]
    assert said in error and "Traceback" not in error


def test_a_block_in_which_something_comes_back(recipes):
    # emotion * 4 + action; actions: none, nod, wave, shake
    ids = np.array([[6, 0, 4, 2], [0, 1, 0, 5], [3, 0, 3, 0], [2, 2, 2, 2], [0, 0, 1, 1], [4, 0, 0, 0]])
    assert recipes.comes_back(ids).tolist() == [3, 3, 2, 0, 0, 0]
    assert recipes.first_seen(ids[:3]).tolist() == [0, 1, 0]


def test_the_reader_of_colours_reads_rendered_clips(recipes):
    of, names = {1: "bow", 2: "mitten", 3: "mark"}, {c: n for n, c in SECRETS.items()}
    read = []
    for index in range(24):
        clip = clips.make_clip(5, index, returning=1.0)
        b = int(recipes.comes_back(np.array([clip.prompt_ids]))[0])
        frames = slice(*clips.block_starts(b + 2)[-2:])
        secret = getattr(clip.identity, of[clip.prompt_ids[b] % 4])
        drawn = recipes.drawn_colours(clip, b)
        if secret is None:  # no bow under a hat
            continue
        name = names[secret[0] if isinstance(secret[0], tuple) else secret]
        video = clip.video[frames]
        colour, pixels = recipes.read_colour(video, drawn)
        assert colour == name or not pixels, index
        soft = torch.nn.functional.avg_pool2d(video.float(), 5, 1, 2)
        noisy = soft + 20 * torch.randn(soft.shape, generator=torch.Generator().manual_seed(index))
        if pixels >= recipes.LEAST_PIXELS:
            assert recipes.read_colour(noisy, drawn)[0] == name, (index, pixels)
            read.append(name)
    assert len(read) > 12 and set(read) == set(SECRETS)
    nothing = clip.video[:5].expand(6, -1, -1, -1, -1)
    assert recipes.read_colour(clip.video[:5], nothing)[1] == 0


def test_weights_of_tokens(recipes, data):
    held = Latents(data / "latents" / "train")
    w = recipes.weights(held, np.array([[0, 2, 0, 0]]), 4.0).view(30, 4, 4)
    assert w.mean().item() == pytest.approx(1.0)
    assert torch.allclose(w[6:14, 1:, 2:], 5 * w[0, 0, 0])
    assert (w[:6] == w[0, 0, 0]).all() and (w[14:] == w[0, 0, 0]).all() and (w[6:14, 0] == w[0, 0, 0]).all()


def test_made_blocks_use_the_true_past(recipes, data, monkeypatch):
    """A denoiser that knows the answer gives the block back; another past is another block."""
    held = Latents(data / "latents" / "train")
    z, _ = held.batch([0, 1])
    seen = []

    class Knows:
        dit = type("D", (), {"config": held.config})

        def run(self, noisy, t, audible):
            seen.append((noisy.clone(), t[0, 0].item(), audible))
            sigma = t[0, 0] / 1000
            v = torch.vmap(recipes.tokens_of)((noisy - z) / sigma)  # the velocity that leads to z
            return type("P", (), {"tokens": v})

    frames = held.blocks[2]
    made, errors = recipes.block_again(Knows(), z, frames, torch.ones(2, 480))
    assert torch.allclose(made, z[:, :, frames], atol=1e-4)
    assert all(e[0] < 1e-8 for e in errors)
    assert [(t, a) for _, t, a in seen] == [(1000.0, False), (850.0, True), (850.0, True), (550.0, True)]
    past = (seen[-1][0] - 0.45 * z)[:, :, : frames.start] / 0.55
    assert abs(past.std().item() - 1) < 0.05 and abs(past.mean().item()) < 0.05


def test_a_bands_edges_are_the_seeds():
    page = load_page()
    seeds = [[(1, 0.0), (2, 1.0)], [(1, 1.0), (2, 5.0), (3, 9.0)]]
    assert page.panels.mean(seeds) == [(1, 0.5, 0.0, 1.0), (2, 3.0, 1.0, 5.0)]
    assert page.spread([0.5]) == "0.500" and page.spread([1.0, 2.0, 6.0], 1) == "3.0 (1.0 to 6.0)"
    assert page.third([1, 2, 3, 4, 5, 6], False) == 1.5 and page.third([1, 2, 3, 4, 5, 6], True) == 5.5


def test_the_page_and_its_picture_are_those_of_the_rows():
    page = load_page()
    rows = page.read(page.ROWS)
    text = (ROOT / "docs" / "training.md").read_text(encoding="utf-8")
    assert "from docs/recipes.py -->" in text
    assert page.filled(text, rows) == text, "python docs/recipes.py"
    assert page.draw(rows) == (ROOT / "docs" / "recipes.svg").read_text(encoding="utf-8"), "python docs/recipes.py"
