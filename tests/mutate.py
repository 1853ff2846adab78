"""Ways in which the files of a checkpoint go wrong, and what a load of the result says."""

import copy
import json

import torch
from safetensors.torch import load_file, save_file

WRONG = (None, "x", "", True, float("nan"), float("inf"), -1, 0, 10**18, 0.5, [], {}, [1, "x"], {"a": None})
"""What stands where another value belongs."""
REMOVE = object()


def paths(value, at=()):
    """Every place in a JSON value: keys of objects and the first and last item of lists, each before its inside."""
    items = value.items() if isinstance(value, dict) else ()
    if isinstance(value, list) and value:
        items = {0: value[0], len(value) - 1: value[-1]}.items()
    for key, inner in items:
        yield (*at, key)
        yield from paths(inner, (*at, key))


def replaced(value, path, wrong):
    """A copy with another value, or none, in one place."""
    out = inner = copy.deepcopy(value)
    for key in path[:-1]:
        inner = inner[key]
    if wrong is REMOVE:
        del inner[path[-1]]
    else:
        inner[path[-1]] = wrong
    return out


def json_mutations(value, wrong=(*WRONG, REMOVE)):
    """(name, text) of the value with one place changed, for every place and every wrong value."""
    for path in paths(value):
        for w in wrong:
            changed = replaced(value, path, w)
            yield f"{'.'.join(map(str, path))}={'REMOVE' if w is REMOVE else repr(w)}", json.dumps(changed)


TEXTS = {
    "empty": b"", "garbage": b"\x00\xff\xfe", "a list": b"[1]", "a number": b"5", "null": b"null",
    "cut": b'{"format": "li',
    "deep": b'{"format":' + b"[" * 50_000 + b"]" * 50_000 + b"}", "deep and cut": b"[" * 50_000,
    "twice": b'{"format": "liveact-1", "format": "liveact-1"}', "order mark": b"\xef\xbb\xbf{}",
    "latin-1": b'{"n": "\xe9"}',
    "long number": b'{"fps": ' + b"9" * 6000 + b"}", "NaN": b'{"fps": NaN}', "huge": b'{"fps": 1e999}',
    "surrogate": b'{"format": "liveact-1", "name": "\\ud800"}',
}  # fmt: skip
"""Whole files instead of a JSON file."""


def _scrambled(t):
    g = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (t.numel() * t.element_size(),), generator=g, dtype=torch.uint8).view(t.dtype).view(
        t.shape
    )


TENSORS = {
    "int64": lambda t: t.long(),
    "bool": lambda t: t.bool(),
    "complex": lambda t: t.to(torch.complex64),
    "float8": lambda t: t.to(torch.float8_e4m3fn),
    "float64": lambda t: t.double(),
    "float16": lambda t: t.half(),
    "other float": lambda t: t.float() if t.dtype == torch.bfloat16 else t.bfloat16(),
    "meta": lambda t: t.to("meta"),
    "sparse": lambda t: t.to_sparse(),
    "quantised": lambda t: torch.quantize_per_tensor(t.float(), 0.1, 0, torch.qint8),
    "one byte": lambda t: torch.zeros(1, dtype=t.dtype).expand(t.shape),
    "huge from one": lambda t: torch.zeros(1, dtype=t.dtype).expand(10**9, *t.shape[1:]),
    "scalar": lambda t: t.flatten()[0].clone(),
    "empty": lambda t: t[:0].clone(),
    "flat": lambda t: t.flatten().clone(),
    "cut": lambda t: t[:-1].clone(),
    "one more dimension": lambda t: t[None].clone(),
    "NaN": lambda t: torch.full_like(t, float("nan")),
    "scrambled": _scrambled,
    "text": lambda t: "x",
    "gone": lambda t: REMOVE,
}
"""Another tensor instead of one."""
ONLY_PICKLES = ("meta", "sparse", "quantised", "one byte", "huge from one", "text")


def change_tensor(path, key, kind):
    """Rewrite a weight file with one tensor changed. Returns False where the kind cannot be stored there."""
    pickled = path.suffix != ".safetensors"
    if not pickled and kind in ONLY_PICKLES:
        return False
    state = torch.load(path, weights_only=True) if pickled else load_file(path)
    changed = TENSORS[kind](state[key])
    if changed is REMOVE:
        del state[key]
    else:
        state[key] = changed
    torch.save(state, path) if pickled else save_file(state, path)
    return True
