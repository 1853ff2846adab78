"""Released encoder files and golden files: what loads, and what is refused with one clear sentence."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from liveact_app.verify.encoders import REPLAYS
from liveact_app.verify.golden import load, mismatches, rel_l2
from liveact_model.audio.wav2vec2 import Wav2Vec2AudioEncoder
from liveact_model.errors import InputError
from liveact_model.image.clip import CLIPImageEncoder
from liveact_model.text.umt5 import UMT5TextEncoder

GOLDEN = Path(__file__).parent / "golden"


@pytest.fixture
def tokenizer_dir(tmp_path):
    tokenizers = pytest.importorskip("tokenizers")
    from transformers import PreTrainedTokenizerFast

    words = [(word, 0.0) for word in ("<pad>", "</s>", "<unk>", "a", "dog", "&", "cat")]
    inner = tokenizers.Tokenizer(tokenizers.models.Unigram(words, unk_id=2))
    inner.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    inner.post_processor = tokenizers.processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    fast = PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="</s>", pad_token="<pad>", unk_token="<unk>")
    fast.save_pretrained(tmp_path / "tokenizer")
    return tmp_path / "tokenizer"


def test_text_encoder_from_released_files(tmp_path, tokenizer_dir):
    torch.save(load(GOLDEN / "t5_tiny.json").weights(), tmp_path / "t5.pth")
    encoder = UMT5TextEncoder.from_released(tmp_path / "t5.pth", tokenizer_dir, text_len=6)
    assert (encoder.text_dim, encoder.text_len) == (32, 6)
    rows = encoder.encode(" a dog\n&amp;amp; a cat ")  # six words and the end token: the end token replaces the last
    assert torch.equal(rows, encoder.encode_ids(torch.tensor([3, 4, 5, 3, 6, 1])))
    assert torch.equal(encoder.encode(""), encoder.encode_ids(torch.tensor([1])))
    with pytest.raises(InputError, match="prompt: expected text, got int"):
        encoder.encode(5)
    with pytest.raises(InputError, match=r"\[0, 64\)"):
        encoder.encode_ids(torch.tensor([64]))
    with pytest.raises(InputError, match="tokenizer_dir"):
        UMT5TextEncoder.from_released(tmp_path / "t5.pth", tmp_path / "nowhere")
    with pytest.raises(InputError, match="expected a weight file"):
        UMT5TextEncoder.from_released(tmp_path / "no.pth", tokenizer_dir)
    (tmp_path / "bad.pth").write_bytes(b"not a pickle")
    with pytest.raises(InputError, match=r"bad\.pth to be a torch weight file"):
        UMT5TextEncoder.from_released(tmp_path / "bad.pth", tokenizer_dir)


def test_image_encoder_from_released_file(tmp_path):
    golden = load(GOLDEN / "clip_tiny.json")
    whole = {f"visual.{key}": value for key, value in golden.weights().items()}
    torch.save(whole | {"textual.embedding": torch.zeros(9), "log_scale": torch.zeros(())}, tmp_path / "clip.pth")
    encoder = CLIPImageEncoder.from_released(tmp_path / "clip.pth", heads=4)
    assert (encoder.clip_dim, encoder.clip_tokens) == (32, 17)
    rows = encoder.encode(golden.get("in.image")[0, :, 0], torch.zeros(16, 1, 1))
    assert rel_l2(rows, golden.get("out.visual")[0]) < 2e-5
    with pytest.raises(InputError, match=r"image: expected a tensor \[3, H, W\]"):
        encoder.encode(torch.zeros(1, 8, 8))
    with pytest.raises(InputError, match="heads must divide"):
        CLIPImageEncoder.from_released(tmp_path / "clip.pth", heads=5)


def old_names(state):
    return {
        key.replace("parametrizations.weight.original0", "weight_g").replace(
            "parametrizations.weight.original1", "weight_v"
        ): value
        for key, value in state.items()
    }


@pytest.mark.parametrize("layout", ("safetensors", "old names", "pre-training", "legacy pickle"))
def test_audio_encoder_from_directory(tmp_path, layout):
    golden = load(GOLDEN / "wav2vec2_tiny.json")
    state = golden.weights()
    (tmp_path / "config.json").write_text(json.dumps(golden.config | {"architectures": ["Wav2Vec2ForPreTraining"]}))
    if layout == "safetensors":
        save_file(state, tmp_path / "model.safetensors")
    elif layout == "old names":
        save_file(old_names(state), tmp_path / "model.safetensors")
    else:
        heads = {"quantizer.codevectors": torch.zeros(2), "project_q.bias": torch.zeros(2)}
        state = {f"wav2vec2.{key}": value for key, value in old_names(state).items()} | heads
        torch.save(state, tmp_path / "pytorch_model.bin", _use_new_zipfile_serialization=layout == "pre-training")
    encoder = Wav2Vec2AudioEncoder.from_directory(tmp_path)
    assert (encoder.blocks, encoder.channels, encoder.sample_rate) == (3, 32, 16000)
    assert rel_l2(encoder.embed(golden.get("in.waveform")), golden.get("out.embedding")) < 2e-5


@pytest.mark.parametrize(
    "files, complaint",
    [
        ({}, "config.json"),
        ({"config.json": "[]"}, "expected a JSON object"),
        ({"config.json": "{}"}, "expected a weight file"),
        ({"config.json": "{}", "model.safetensors": "junk"}, "expected a safetensors file"),
        ({"config.json": "{}", "preprocessor_config.json": '{"sampling_rate": 8000}'}, "to be 16000, found 8000"),
        ({"config.json": '{"hidden_size": 30, "num_attention_heads": 4}', "model.safetensors": None}, "config"),
    ],
)
def test_audio_encoder_refuses_a_broken_directory(tmp_path, files, complaint):
    for name, text in files.items():
        if text is None:
            save_file(load(GOLDEN / "wav2vec2_tiny.json").weights(), tmp_path / name)
        else:
            (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match=complaint):
        Wav2Vec2AudioEncoder.from_directory(tmp_path)


@pytest.fixture
def copy(tmp_path):
    for name in ("t5_tiny", "audio_window"):
        for ending in ("json", "safetensors"):
            shutil.copyfile(GOLDEN / f"{name}.{ending}", tmp_path / f"{name}.{ending}")
    return tmp_path


def edited(path, **changes):
    meta = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({key: value for key, value in meta.items() if value is not None}))
    return path


@pytest.mark.parametrize(
    "damage, complaint",
    [
        (lambda d: (d / "t5_tiny.json").unlink(), "expected a readable JSON file"),
        (lambda d: (d / "t5_tiny.json").write_text('{"kind": "t5"'), "expected a readable JSON file"),
        (lambda d: (d / "t5_tiny.json").write_bytes(b"\xff\xfe\x00"), "expected a readable JSON file"),
        (lambda d: (d / "t5_tiny.json").write_text("[1]"), "a string 'kind'"),
        (lambda d: edited(d / "t5_tiny.json", kind=7), "a string 'kind'"),
        (lambda d: edited(d / "t5_tiny.json", tensor_list=[1]), "tensor_list to be an object"),
        (lambda d: edited(d / "t5_tiny.json", tensor_list={"out.none": ["float32", [1]]}), "lists 'out.none'"),
        (lambda d: edited(d / "t5_tiny.json", tensor_list={"in.ids": ["int64", [1, 41]]}), r"\[1, 41\], got \[1, 40\]"),
        (lambda d: (d / "t5_tiny.safetensors").unlink(), "readable safetensors"),
        (lambda d: (d / "t5_tiny.safetensors").write_bytes(b"12345678910"), "readable safetensors"),
        (lambda d: edited(d / "t5_tiny.json", config=None), "object 'config'"),
        (lambda d: edited(d / "t5_tiny.json", config={"max_dist": "far"}), "number config.max_dist, got 'far'"),
        (lambda d: save_file({"in.ids": torch.ones(1, 40)}, d / "t5_tiny.safetensors"), "lists 'in.mask'"),
    ],
)
def test_a_damaged_golden_is_refused(copy, damage, complaint):
    damage(copy)
    with pytest.raises(InputError, match=complaint) as error:
        golden = load(copy / "t5_tiny.json")
        list(REPLAYS[golden.kind](golden))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("cases", ([], "all", [{"start": 0}], [{"start": 0.5, "end": 53, "T": 9, "latent_frames": 14}]))
def test_windows_without_cases_are_refused(copy, cases):
    golden = load(edited(copy / "audio_window.json", cases=cases))
    with pytest.raises(InputError, match=r"audio_window\.json"):
        list(REPLAYS[golden.kind](golden))


def test_weights_come_from_the_sibling(copy):
    want = load(copy / "t5_tiny.json").weights()
    for key in ("weights_from", "weights_and_inputs_from"):
        borrowed = load(edited(copy / "audio_window.json", **{key: "t5_tiny.safetensors"}))
        got = borrowed.weights()
        assert list(got) == list(want) and len(got) == 22
        assert torch.equal(got["norm.weight"], want["norm.weight"])
    with pytest.raises(InputError, match="holds none"):
        borrowed.get("in.ids")
    assert load(edited(copy / "t5_tiny.json", weights_from="t5_tiny")).weights().keys() == want.keys()


def test_distances():
    want = torch.tensor([3.0, 4.0])
    assert rel_l2(want + torch.tensor([0.0, 0.5]), want) == 0.1
    assert rel_l2(torch.zeros(2), torch.zeros(2)) == 0.0
    assert rel_l2(want.bfloat16(), want) == 0.0
    infinite = float("inf")
    assert rel_l2(want, torch.zeros(2)) == infinite
    assert rel_l2(want[:1], want) == infinite
    for bad in (float("nan"), infinite):
        assert rel_l2(torch.tensor([3.0, bad]), want) == rel_l2(want, torch.tensor([3.0, bad])) == infinite
    assert mismatches(torch.tensor([1, 2, 3]), torch.tensor([1.0, 0.0, 0.0])) == 2
    assert mismatches(torch.zeros(2), torch.zeros(1, 2)) == infinite
    row = load(GOLDEN / "t5_tiny.json").row
    assert row("x", float("nan"), 1.0).verdict == "FAIL" and row("x", 1.0, 1.0).verdict == "pass"
