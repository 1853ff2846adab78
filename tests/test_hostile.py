"""Nothing in a checkpoint directory runs, and nothing asks, even where standard input would say yes."""

import io
import json
import pickle
import shutil
import zipfile

import pytest
import released
import torch

from liveact_model.errors import InputError
from liveact_model.loading import load_avatar
from liveact_model.text.tokenizer import load_tokenizer

T5, CLIP = "models_t5_umt5-xxl-enc-bf16.pth", "models_clip_open-clip-xlm-roberta-large-vit-huge-14.pth"
PICKLES = (T5, CLIP, "Wan2.1_VAE.pth", f"{released.AUDIO}/pytorch_model.bin")
TOKENIZER = "google/umt5-xxl"


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return released.write_released(tmp_path_factory.mktemp("released") / "model")


@pytest.fixture
def folder(whole, tmp_path):
    return shutil.copytree(whole, tmp_path / "model")


@pytest.fixture
def yes(monkeypatch):
    """A standard input that agrees to everything, and must not be asked."""
    stdin = io.StringIO("y\n" * 1000)
    monkeypatch.setattr("sys.stdin", stdin)
    yield
    assert stdin.tell() == 0


@pytest.fixture
def marker(tmp_path):
    """A file that hostile code would make."""
    path = tmp_path / "executed"
    yield path
    assert not path.exists()


def add_code(folder, marker, **auto_map):
    """Python files beside the configs that name them."""
    for place in (folder, folder / TOKENIZER, folder / released.AUDIO):
        (place / "evil.py").write_text(
            f"open({str(marker)!r}, 'w')\nfrom transformers import *\n"
            "class Evil(PreTrainedTokenizerFast): pass\nclass EvilConfig(Wav2Vec2Config): model_type = 'evil'\n"
            "class EvilModel(Wav2Vec2Model): pass\nclass EvilExtractor(Wav2Vec2FeatureExtractor): pass\n"
        )


def edit(path, **changes):
    values = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps(values | changes))


AUTO = {
    "AutoConfig": "evil.EvilConfig", "AutoModel": "evil.EvilModel", "AutoFeatureExtractor": "evil.EvilExtractor",
    "AutoProcessor": "evil.EvilExtractor", "AutoTokenizer": ["evil.Evil", "evil.Evil"],
}  # fmt: skip


def test_configs_that_name_code_are_data(folder, yes, marker):
    add_code(folder, marker)
    edit(folder / TOKENIZER / "tokenizer_config.json", auto_map=AUTO, tokenizer_class="Evil")
    edit(folder / TOKENIZER / "config.json", auto_map=AUTO, model_type="evil")
    edit(folder / "config.json", auto_map=AUTO)
    edit(folder / released.AUDIO / "config.json", auto_map=AUTO, model_type="evil")
    for name in ("preprocessor_config.json", "processor_config.json", "tokenizer_config.json"):
        edit(folder / released.AUDIO / name, auto_map=AUTO, processor_class="Evil", feature_extractor_type="Evil")
    avatar = load_avatar(str(folder))
    assert avatar.text.encode("a happy person").shape == (4, 32)


class Evil:
    """Unpickling it makes the marker."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return open, (self.path, "w")


@pytest.mark.parametrize("name", PICKLES)
@pytest.mark.parametrize("form", ["zip", "old", "plain", "script"])
def test_pickles_run_nothing(folder, yes, marker, name, form):
    path = folder / name
    state = torch.load(path, weights_only=True)
    hostile = {**state, next(iter(state)): Evil(marker)}
    if form == "plain":
        path.write_bytes(pickle.dumps(hostile))
    elif form == "script":
        torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), path)
    else:
        torch.save(hostile, path, _use_new_zipfile_serialization=form == "zip")
    with pytest.raises(InputError, match=rf"expected \S+{path.name} to be a torch weight file") as error:
        load_avatar(str(folder))
    assert "\n" not in str(error.value)


def test_the_hostile_pickle_would_run(tmp_path):
    pickle.loads(pickle.dumps(Evil(tmp_path / "ran")))
    assert (tmp_path / "ran").exists()


def test_a_compressed_archive_is_refused(folder):
    """torch maps what it takes for stored values, and would unpack what is not."""
    source, target = folder / "Wan2.1_VAE.pth", folder / "packed"
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as new:
        for entry in old.infolist():
            new.writestr(entry.filename, old.read(entry))
    target.replace(source)
    with pytest.raises(InputError, match=r"Wan2.1_VAE.pth to be a torch weight file, found .* is compressed"):
        load_avatar(str(folder))


def test_tokens_are_those_of_the_library_that_wrote_them(whole):
    from transformers import PreTrainedTokenizerFast

    theirs = PreTrainedTokenizerFast.from_pretrained(str(whole / TOKENIZER))
    for limit in (512, 4):
        ours = load_tokenizer(whole / TOKENIZER, limit)
        for text in ("", "a person", "the man nods, waves and talks é <x>", "a " * 600, "</s> a <pad>"):
            assert ours(text) == theirs(text, truncation=True, max_length=limit).input_ids


def test_padding_and_truncation_of_the_file_do_not_count(folder):
    path = folder / TOKENIZER / "tokenizer.json"
    want = load_tokenizer(path.parent, 8)("a person")
    edit(
        path, truncation={"direction": "Left", "max_length": 2, "strategy": "LongestFirst", "stride": 0},
        padding={"strategy": {"Fixed": 10**12}, "direction": "Left", "pad_to_multiple_of": None, "pad_id": 0,
                 "pad_type_id": 0, "pad_token": "<pad>"},
    )  # fmt: skip
    assert load_tokenizer(path.parent, 8)("a person") == want


def test_a_tokenizer_without_an_end_token_is_refused(folder):
    edit(folder / TOKENIZER / "tokenizer.json", post_processor=None)
    with pytest.raises(InputError, match=r"tokenizer_dir: .*tokenizer.json, got: one that puts no end token"):
        load_avatar(str(folder))
