"""A tokenizer.json made of umT5's parts gives the library's ids; one that could take for ever or grow is refused."""

import base64
import json
import struct

import mutate
import pytest
import released
from tokenizers import Tokenizer

from liveact_model.checkpoint.jsonfile import read_json
from liveact_model.errors import InputError
from liveact_model.text.tokenizer import load_tokenizer

TEXTS = ["", "a person", "the man nods, waves  and talks é <x>", " a " * 600, "</s> a <pad> ", "a\tperson\n"]


def charsmap(text):
    """A compiled map that maps nothing, with the texts it could put for a character."""
    trie = struct.pack("<I", 1024) + bytes(1024)
    return base64.b64encode(trie + text + b"\0").decode()


@pytest.fixture
def path(tmp_path):
    released.write_tokenizer(tmp_path)
    return tmp_path / "google/umt5-xxl/tokenizer.json"


def change(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


LIKE_UMT5 = [
    {"normalizer": {"type": "Precompiled", "precompiled_charsmap": charsmap(b"x")}},
    {"normalizer": {"type": "Sequence", "normalizers": [
        {"type": "Strip", "strip_left": False, "strip_right": True},
        {"type": "Precompiled", "precompiled_charsmap": charsmap(b"fi")},
        {"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": "▁"}]}},
    {"normalizer": {"type": "Sequence", "normalizers": [{"type": "Nmt"}, {"type": "NFKC"},
        {"type": "Replace", "pattern": {"String": " "}, "content": " "}]}},
    {"pre_tokenizer": {"type": "Sequence", "pretokenizers": [{"type": "WhitespaceSplit"},
        {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True}]}},
    {"decoder": {"type": "Replace", "pattern": {"Regex": "(a*)*$"}, "content": ""}},  # never used
]  # fmt: skip


@pytest.mark.parametrize("changes", LIKE_UMT5, ids=range(len(LIKE_UMT5)))
def test_the_parts_of_umt5_give_the_ids_of_the_library(path, changes):
    change(path, **changes)
    ours, theirs = load_tokenizer(path.parent, 100), Tokenizer.from_file(str(path))
    theirs.enable_truncation(100)
    for text in TEXTS:
        assert ours(text) == theirs.encode(text).ids


def sequence(*parts):
    return {"type": "Sequence", "normalizers": list(parts)}


def replace(pattern, content):
    return {"type": "Replace", "pattern": pattern, "content": content}


FOREVER = r"((a+)*)*\1$"
BOTH_PARTS = [{"type": "WhitespaceSplit"}, {"type": "Punctuation"}]
SPLIT = {"type": "Split", "pattern": {"Regex": FOREVER}, "behavior": "Isolated", "invert": False}
TWICE = sequence(replace({"String": " "}, "a"), replace({"String": " "}, "b"))
NINE = {
    "type": "TemplateProcessing", "pair": [], "special_tokens": {},
    "single": [{"Sequence": {"id": "A", "type_id": 0}}] * 9,
}  # fmt: skip
HOSTILE = {
    "a regex to split by": ("pre_tokenizer", SPLIT, "Metaspace or WhitespaceSplit, each once, got 'Split'"),
    "within a sequence": ("pre_tokenizer", {"type": "Sequence", "pretokenizers": BOTH_PARTS}, "got 'Punctuation'"),
    "a regex to replace": ("normalizer", replace({"Regex": FOREVER}, "b"), "umT5's, got pattern {'Regex': "),
    "among others": ("normalizer", sequence({"type": "NFKC"}, replace({"Regex": FOREVER}, "b")), "got pattern {"),
    "growth": ("normalizer", replace({"String": " "}, "ab"), "umT5's, got content 'ab'"),
    "growth of growth": ("normalizer", TWICE, "Replace, each once, got 'Replace'"),
    "a sequence of sequences": ("normalizer", sequence(sequence()), "got 'Sequence'"),
    "a map that grows": ("normalizer", {"type": "Precompiled", "precompiled_charsmap": charsmap(b"x" * 257)},
                         "umT5's, got precompiled_charsmap '"),
    "the text many times": ("post_processor", NINE, r"umT5's, got single \["),
    "another model": ("model", {"type": "BPE", "vocab": {}, "merges": []}, "Unigram, got 'BPE'"),
    "no model": ("model", None, "Unigram, got None"),
    "a list": ("normalizer", ["NFKC"], r"each once, got \['NFKC'\]"),
    "a word": ("pre_tokenizer", "Metaspace", "got 'Metaspace'"),
    "an unknown option": ("pre_tokenizer", {"type": "Metaspace", "replacement": "▁", "regex": FOREVER}, "got regex '"),
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_other_parts_are_refused_before_the_library_sees_them(path, name, monkeypatch):
    place, part, words = HOSTILE[name]
    change(path, **{place: part})
    monkeypatch.delattr(Tokenizer, "from_str", raising=False)
    monkeypatch.delattr(Tokenizer, "from_file", raising=False)
    expected = rf"tokenizer_dir: expected .* in \S+tokenizer.json to be (.* )?{words}"
    with pytest.raises(InputError, match=expected) as error:
        load_tokenizer(path.parent, 8)
    assert "\n" not in str(error.value) and len(str(error.value)) < 600


def test_every_place_of_the_file(path):
    values, refused, count = json.loads(path.read_text()), 0, 0
    values["model"]["vocab"] = values["model"]["vocab"][:5]
    values["added_tokens"] = values["added_tokens"][:1]
    for what, text in mutate.json_mutations(values):
        path.write_text(text)
        count += 1
        try:
            ids = load_tokenizer(path.parent, 8)("a person")
            assert 0 < len(ids) <= 8, what
        except InputError as error:
            refused += 1
            assert "tokenizer_dir: " in str(error) and "tokenizer.json" in str(error) and "\n" not in str(error), what
    assert count > 500 and refused > 0.6 * count


def test_a_key_twice_among_very_many_is_found_at_once(tmp_path):
    """Looking for it among all others, key by key, would take hours."""
    keys = ",".join(f'"{i}":0' for i in range(10**6))
    (tmp_path / "config.json").write_text(f'{{{keys},"999999":1}}')
    with pytest.raises(InputError, match="key '999999' twice"):
        read_json(tmp_path / "config.json")
