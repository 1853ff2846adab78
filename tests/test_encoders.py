"""Text, image and audio encoders against the released model's recorded tensors, and against files they must refuse."""

import math
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from liveact_app.verify.encoders import REPLAYS
from liveact_app.verify.golden import load, rel_l2
from liveact_model.audio.wav2vec2 import Wav2Vec2AudioEncoder
from liveact_model.audio.windows import latent_rows
from liveact_model.errors import InputError
from liveact_model.image.clip import CLIPImageEncoder, CLIPShape
from liveact_model.text.umt5 import UMT5Shape, UMT5TextEncoder, clean_prompt

GOLDEN = Path(__file__).parent / "golden"
CASES = ("t5_tiny", "clip_tiny", "wav2vec2_tiny", "audio_window")
WEIGHTED = CASES[:3]
# softmax does not see a constant added to all keys' scores, and the rest is never run: spoiling these changes nothing
UNUSED = ("k_proj.bias", "masked_spec_embed", "transformer.2.", "post_norm", "head")


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def replay(path):
    golden = load(path)
    return {row.variant: row.verdict for row in REPLAYS[golden.kind](golden)}


def spoiled(tmp_path, case, name, change):
    """A copy of the golden whose tensor `name` went through `change`."""
    tensors = load_file(GOLDEN / f"{case}.safetensors")
    tensors[name] = change(tensors[name].clone())
    save_file(tensors, tmp_path / f"{case}.safetensors")
    shutil.copy(GOLDEN / f"{case}.json", tmp_path)
    return tmp_path / f"{case}.json"


def build(case, state, **options):
    golden = load(GOLDEN / f"{case}.json")
    if golden.kind == "t5":
        return UMT5TextEncoder(state, **options)
    if golden.kind == "clip":
        return CLIPImageEncoder(state, int(golden.number("heads")))
    return Wav2Vec2AudioEncoder(state, golden.config)


@pytest.mark.parametrize("case", CASES)
def test_every_recorded_tensor_is_replayed(case):
    verdicts = replay(GOLDEN / f"{case}.json")
    recorded = {name.removeprefix("out.") for name in load(GOLDEN / f"{case}.json").tensors.names("out.")}
    assert {name.replace(" ", ".") for name in verdicts} == recorded
    assert [name for name, verdict in verdicts.items() if verdict != "pass"] == ["all_blocks"] * (case == "clip_tiny")


@pytest.mark.parametrize("case", CASES)
def test_a_spoiled_expectation_is_seen_and_only_that(tmp_path, case):
    for variant, verdict in replay(GOLDEN / f"{case}.json").items():
        if verdict == "skip":
            continue

        def bump(tensor):
            flat = tensor.view(-1)
            flat[flat.numel() // 2] += 1 if not tensor.is_floating_point() else tensor.norm() * 1e-3
            return tensor

        verdicts = replay(spoiled(tmp_path, case, f"out.{variant.replace(' ', '.')}", bump))
        assert [name for name, found in verdicts.items() if found == "FAIL"] == [variant]


@pytest.mark.parametrize("case", WEIGHTED)
def test_a_spoiled_weight_is_seen(tmp_path, case):
    noise = torch.Generator().manual_seed(0)
    for name in load(GOLDEN / f"{case}.json").tensors.names("weights."):
        path = spoiled(tmp_path, case, name, lambda t: t + 0.1 * torch.randn(t.shape, generator=noise))
        assert ("FAIL" in replay(path).values()) != any(part in name for part in UNUSED), name


@pytest.mark.parametrize("case", WEIGHTED)
@pytest.mark.parametrize("damage", ("missing", "extra", "shape"))
def test_a_wrong_key_is_named(case, damage):
    state = load(GOLDEN / f"{case}.json").weights()
    key = next(key for key in state if key.endswith(("norm2.weight", "final_layer_norm.weight")))
    if damage == "missing":
        del state[key]
    elif damage == "extra":
        state[key := "blocks.0.surprise"] = torch.zeros(3)
    else:
        state[key] = torch.zeros(31)
    with pytest.raises(InputError) as error:
        build(case, state)
    expected = {"missing": ("[32]", "found none"), "extra": ("unexpected", "[3]"), "shape": ("[32]", "[31]")}[damage]
    assert all(part in str(error.value) for part in (key, *expected))


@pytest.mark.parametrize("case, bound", [("t5_tiny", 0.02), ("clip_tiny", 0.02), ("wav2vec2_tiny", 0.03)])
def test_bfloat16_follows_the_parameters(case, bound):
    golden = load(GOLDEN / f"{case}.json")
    encoder = build(case, golden.weights()).to(torch.bfloat16)
    assert not any(t.is_meta for t in (*encoder.parameters(), *encoder.buffers()))
    if golden.kind == "t5":
        got, want = encoder.encode_ids(golden.get("in.ids")[golden.get("in.mask").bool()]), golden.get("out.context")
    elif golden.kind == "clip":
        got, want = encoder.encode(golden.get("in.image")[0, :, 0]), golden.get("out.visual")[0]
    else:
        got, want = encoder.embed(golden.get("in.waveform")), golden.get("out.embedding")
    assert got.dtype == torch.float32
    assert 1e-4 < rel_l2(got, want) < bound  # about 1e-2 each; float32 would be far below the lower bound


@pytest.mark.parametrize(
    "prompt, cleaned",
    [
        ("  a\t dog\n\n barks ", "a dog barks"),
        ("Tom &amp;amp; Jerry &lt;3", "Tom & Jerry <3"),
        ("&amp;amp;amp; is one too many", "&amp; is one too many"),
        ("it’s “fine”", 'it\'s "fine"'),
        ("cafe\u0301", "café"),
    ],
)
def test_prompt_cleaning(prompt, cleaned):
    assert clean_prompt(prompt) == cleaned


def test_gain_does_not_matter():
    golden = load(GOLDEN / "wav2vec2_tiny.json")
    encoder = build("wav2vec2_tiny", golden.weights())
    loud = encoder.embed(golden.get("in.waveform") * 3)
    assert rel_l2(loud, golden.get("out.embedding")) < 2e-5
    with pytest.raises(InputError, match="n >= 640"):
        encoder.embed(torch.zeros(639))


def test_stable_layer_norm_networks_normalise_last():
    golden = load(GOLDEN / "wav2vec2_tiny.json")
    encoder = Wav2Vec2AudioEncoder(golden.weights(), golden.config | {"do_stable_layer_norm": True})
    from transformers import Wav2Vec2Config, Wav2Vec2Model

    settings = {key: value for key, value in golden.config.items() if key not in ("seconds", "samples", "seq_len")}
    theirs = Wav2Vec2Model(Wav2Vec2Config(**settings | {"do_stable_layer_norm": True})).eval()
    theirs.load_state_dict(golden.weights())
    with torch.no_grad():
        features = encoder.at_frames(golden.get("out.conv_features"), 18)
        states = encoder.hidden_states(features)
        want = theirs.encoder(theirs.feature_projection(features)[0])[0]
    assert rel_l2(states[-1], want) < 2e-5


# (video frame within its latent frame, offset) of the 8 rows: offsets -2 .. 0 of the first video frame, the two
# middle ones themselves, offsets 0 .. 2 of the last
GROUP = ((0, -2), (0, -1), (0, 0), (1, 0), (2, 0), (3, 0), (3, 1), (3, 2))


def test_latent_rows_are_the_released_windows():
    """Block by block, from the released 53-video-frame window grouped as its audio projection groups it."""
    total = 137
    rows = torch.arange(total, dtype=torch.float32)[:, None, None].expand(total, 2, 3).contiguous()
    asked = []

    def fetch(start, stop):
        asked.append((start, stop))
        return rows[start:stop]

    for block in range(5):
        first_latent, n, start = (0, 6, 0) if block == 0 else (6 + 8 * (block - 1), 8, 32 * (block - 1))
        local = range(1, 6) if block == 0 else range(6, 14)
        heard = [[start + 4 * j - 3 + k + o for k, o in GROUP] for j in local]
        want = rows[torch.tensor(heard).clamp(0, total - 1)]
        for source in (rows, fetch):
            first, latter = latent_rows(source, first_latent, n, total)
            assert torch.equal(latter, want)
            assert (first is None) == (block > 0)
            if block == 0:
                assert torch.equal(first, rows[[0, 0, 0, 1, 2]])
    assert asked[0] == (0, 23) and asked[1] == (19, 55)  # what a block asks an audio stream for
    assert latent_rows(rows, 0, 1)[1].shape == (0, 8, 2, 3)
    for first_latent, n, frames in ((-1, 1, 5), (0, 0, 5), (0, 1, 0)):
        with pytest.raises(InputError, match="latent frames"):
            latent_rows(rows, first_latent, n, frames)


def test_released_sizes():
    """Tensor and parameter counts of the released files, from the shapes the loaders insist on."""
    text = UMT5Shape(256384, 4096, 4096, 10240, 64, 24).released_keys()
    image = CLIPShape(1280, 5120, 1024, 32, 14, 257).released_keys()
    assert (len(text), len(image)) == (242, 392)
    assert sum(map(math.prod, text.values())) == 5_680_910_336
    assert CLIPShape(1280, 5120, 1024, 32, 14, 257).image_size == 224
    encoder = UMT5TextEncoder({key: torch.empty(shape, device="meta") for key, shape in text.items()})
    assert encoder.shape == UMT5Shape(256384, 4096, 4096, 10240, 64, 24)
    tower = CLIPImageEncoder({key: torch.empty(shape, device="meta") for key, shape in image.items()})
    assert (tower.clip_tokens, tower.clip_dim, len(tower.tower.encoder.layers)) == (257, 1280, 31)
