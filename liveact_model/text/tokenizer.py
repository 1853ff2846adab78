"""The text encoder's tokenizer, from `tokenizer.json` alone; nothing else in its folder can name code to run.

The file is a program for the tokenizers library: it may hold regular expressions that take for ever and replacements
that grow without end. What umT5's tokenizer is made of, and what SentencePiece models of its kind are converted to, is
a short list of parts that take time and room in proportion to the text; nothing else is accepted. The library gets
what was checked, written anew, not the file: two readers of one text might not agree on what it says.
"""

from __future__ import annotations

import base64
import contextlib
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from liveact_model.checkpoint.jsonfile import read_json
from liveact_model.errors import InputError
from liveact_model.inputs import shown

Tokenizer = Callable[[str], list[int]]
WHAT, FILE = "tokenizer_dir", "tokenizer.json"
MAX_BYTES = 64 << 20  # umT5's own has a quarter of that
BLANKS = ({"Regex": " {2,}"}, {"String": " "})
"""What a Replace may look for."""
LONGEST = 256
"""Bytes that one character may become; the longest ligature of Unicode becomes 33."""

PARTS: dict[str, dict[str, tuple[str, ...]]] = {
    "normalizer": {
        "Precompiled": ("precompiled_charsmap",), "Strip": ("strip_left", "strip_right"), "Nmt": (), "NFKC": (),
        "Replace": ("pattern", "content"),
    },
    "pre_tokenizer": {
        "Metaspace": ("replacement", "prepend_scheme", "add_prefix_space", "str_rep", "split"), "WhitespaceSplit": (),
    },
    "post_processor": {"TemplateProcessing": ("single", "pair", "special_tokens")},
    "model": {"Unigram": ("unk_id", "vocab", "byte_fallback")},
}  # fmt: skip
"""Per place in the file: the types that are accepted there, and their options."""
IN_ORDER = {"normalizer": "normalizers", "pre_tokenizer": "pretokenizers"}
"""Where several parts may follow each other, in a Sequence with this list."""


def load_tokenizer(directory: str | Path, text_len: int) -> Tokenizer:
    """The tokenizer of a local directory: text -> ids with the end token, cut to `text_len` tokens.

    Raises InputError for a file that is missing, damaged, or made of other parts than umT5's.
    """
    from tokenizers import Tokenizer as Fast

    path = Path(directory) / FILE
    if not Path(directory).is_dir():
        raise InputError(f"{WHAT}: expected a directory with a tokenizer, got {directory}")
    if not path.exists():
        raise InputError(f"{WHAT}: expected a {FILE} in {directory}, found none")
    given = read_json(path, WHAT, MAX_BYTES)
    for place in PARTS:
        _check(place, given.get(place), path)
    kept = {key: given.get(key) for key in ("version", "added_tokens", *PARTS)}  # cut by us, never padded or decoded
    with _refusing(path):
        fast = Fast.from_str(json.dumps(kept | {"truncation": None, "padding": None, "decoder": None}))
        fast.enable_truncation(text_len)
        if not fast.encode("", add_special_tokens=True).ids:
            raise ValueError("one that puts no end token behind a text")

    def tokenize(text: str) -> list[int]:
        with _refusing(path):
            return fast.encode(text, add_special_tokens=True).ids

    return tokenize


def _check(place: str, given: Any, path: Path) -> None:
    """Raise InputError for a part that is not accepted, or that comes twice: each may multiply what it is given."""
    known = PARTS[place]
    parts: Any = [given]
    if place in IN_ORDER and isinstance(given, dict) and given.get("type") == "Sequence":
        parts = given.get(IN_ORDER[place])
    seen: set[str] = set()
    for part in parts if isinstance(parts, list) else [parts]:
        if part is None and place != "model":
            continue
        kind = part.get("type") if isinstance(part, dict) else None
        if not isinstance(kind, str) or kind not in known or kind in seen:
            wanted = f"{' or '.join(known)}{', each once' if place in IN_ORDER else ''}"
            raise InputError(f"{WHAT}: expected the {place} in {path} to be {wanted}, got {shown(kind or part)}")
        seen.add(kind)
        odd = next((key for key in part if key not in ("type", *known[kind])), None) or _out_of_bounds(kind, part)
        if odd:
            got = f"{odd} {shown(part.get(odd))}"
            raise InputError(f"{WHAT}: expected the {kind} of the {place} in {path} to be umT5's, got {got:.200}")


def _out_of_bounds(kind: str, part: Mapping[str, Any]) -> str | None:
    """The option that would let a text grow, or take time that is not in proportion to it."""
    if kind == "Replace" and part.get("pattern") not in BLANKS:
        return "pattern"
    if kind == "Replace" and len(str(part.get("content"))) > 1:
        return "content"
    if kind == "Precompiled" and _longest_replacement(part.get("precompiled_charsmap")) > LONGEST:
        return "precompiled_charsmap"
    if kind == "TemplateProcessing" and json.dumps(part.get("single")).count('"Sequence"') != 1:
        return "single"
    return None


def _longest_replacement(charsmap: Any) -> int:
    """Bytes of the longest text that a compiled map puts for a character: a trie's size, the trie, then the texts."""
    try:
        data = base64.b64decode(charsmap)
    except (TypeError, ValueError):
        return 0  # the library says what is wrong
    texts = data[4 + int.from_bytes(data[:4], "little") :]
    return max(map(len, texts.split(b"\0")))


@contextlib.contextmanager
def _refusing(path: Path) -> Iterator[None]:
    """Whatever the library raises of a damaged tokenizer, a panic of its Rust code included, is one sentence."""
    try:
        yield
    except BaseException as error:
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        reason = " ".join(str(error).split())
        raise InputError(f"{WHAT}: expected a loadable tokenizer in {path}, got: {reason:.200}") from error
