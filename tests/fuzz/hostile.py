"""Files that would execute code: pickles, tokenizers and configurations. Standard input agrees to everything."""

from __future__ import annotations

import json
import pickle
import struct
import zipfile
from pathlib import Path
from typing import Any

from .case import Case, Draw, Place
from .common import good_picture, good_sound, put
from .released import AUDIO, PICKLES, TOKENIZER, command, copy

EVIL = """
from pathlib import Path
Path({canary!r}).touch()
class Evil:
    @classmethod
    def from_pretrained(cls, *args, **kwargs):
        Path({canary!r}).touch()
        return cls()
    def __init__(self, *args, **kwargs):
        Path({canary!r}).touch()
    def __call__(self, *args, **kwargs):
        Path({canary!r}).touch()
        return [1]
"""


class Payload:
    """Pickles as a call."""

    def __init__(self, call: Any, *args: Any):
        self.call = call, args

    def __reduce__(self) -> tuple:
        return self.call


def make(draw: Draw, place: Place) -> Case:
    folder = copy(place)
    about = draw.choice((_pickles, _pickles, _tokenizer, _tokenizer, _audio, _elsewhere))(draw, place, folder)
    return Case(command(place), about, stdin="yes")


def _payload(draw: Draw, place: Place) -> tuple[bytes, str]:
    import os
    import subprocess

    canary, protocol = str(place.canary), draw.randrange(6)
    made = {
        "os.system": Payload(os.system, f"touch {canary}"), "open": Payload(open, canary, "w"),
        "exec": Payload(exec, f"open({canary!r}, 'w')"), "eval": Payload(eval, f"open({canary!r}, 'w')"),
        "subprocess": Payload(subprocess.call, ["touch", canary]), "mkdir": Payload(os.mkdir, canary),
        "path": Payload(Path.touch, Path(canary)),
        "in a list": [Payload(os.system, f"touch {canary}")], "in a dict": {"a": Payload(os.system, f"touch {canary}")},
    }  # fmt: skip
    name = draw.choice((*made, "by hand"))
    if name == "by hand":
        return b"cposix\nsystem\n(S'touch " + canary.encode() + b"'\ntR.", name
    return pickle.dumps(made[name], protocol), f"{name}, protocol {protocol}"


def _pickles(draw: Draw, place: Place, folder: Path) -> str:
    """A pickle in place of a weight file: bare, as a zip, as an inner pickle that torch itself would open."""
    import torch

    data, about = _payload(draw, place)
    path = folder / draw.choice(PICKLES)
    form = draw.choice(("bare", "zip", "zip", "inner", "legacy", "storage"))
    if form == "bare":
        put(path, data)
    elif form == "legacy":
        head = (
            pickle.dumps(0x1950A86A20F9469CFC6C, 2),
            pickle.dumps(1001, 2),
            pickle.dumps({"little_endian": True}, 2),
        )
        put(path, b"".join(head) + data)
    else:
        inner = data if form == "zip" else pickle.dumps(
            Payload(torch.storage._load_from_bytes,
                data) if form == "inner" else {"a": Payload(torch.load, str(path))}
        )  # fmt: skip
        with zipfile.ZipFile(path, "w") as file:
            root = draw.choice(("archive", "../../evil", "a"))
            file.writestr(f"{root}/data.pkl", inner)
            file.writestr(f"{root}/version", "3\n")
            file.writestr(f"{root}/byteorder", "little")
    return f"{path.name}: {form} pickle, {about}"


def _module(place: Place, folder: Path, name: str = "evil") -> None:
    put(folder / f"{name}.py", EVIL.format(canary=str(place.canary)))


def _edit(path: Path, **changes: Any) -> None:
    put(path, json.dumps((json.loads(path.read_text()) if path.exists() else {}) | changes))


def _tokenizer(draw: Draw, place: Place, folder: Path) -> str:
    """auto_map and its relatives."""
    where = folder / TOKENIZER
    _module(place, where)
    kind = draw.choice(
        ("auto_map", "auto_map list", "config", "class", "trust", "template", "remote", "module name", "only")
    )
    path = where / "tokenizer_config.json"
    auto = {"AutoTokenizer": ["evil.Evil", "evil.Evil"]}
    if kind == "auto_map":
        _edit(path, auto_map=auto, tokenizer_class="Evil")
    elif kind == "auto_map list":
        _edit(path, auto_map=["evil.Evil", None])
    elif kind == "config":
        _edit(where / "config.json", model_type="evil", auto_map={"AutoConfig": "evil.Evil", **auto})
    elif kind == "class":
        _edit(
            path,
            tokenizer_class=draw.choice(
                ("Evil", "evil.Evil", "os.system", "PreTrainedTokenizer", "BertTokenizer", "", None, 7)
            ),
        )
    elif kind == "trust":
        _edit(path, auto_map=auto, trust_remote_code=True, tokenizer_class=None)
    elif kind == "template":
        _edit(path, chat_template="{{ ''.__class__.__mro__[1].__subclasses__() }}")
    elif kind == "remote":
        _edit(path, auto_map={"AutoTokenizer": ["nobody/evil--evil.Evil", None]}, tokenizer_class="Evil")
    elif kind == "module name":
        _module(place, where, "tokenization_evil")
        _edit(path, auto_map={"AutoTokenizer": ["../evil.Evil", "tokenization_evil.Evil"]}, tokenizer_class="Evil")
    else:
        (where / "tokenizer.json").unlink()
        put(where / "spiece.model", _payload(draw, place)[0])
        _edit(path, auto_map=auto, tokenizer_class="Evil")
    return f"tokenizer: {kind}"


def _audio(draw: Draw, place: Place, folder: Path) -> str:
    """The same for the audio encoder."""
    where = folder / AUDIO
    _module(place, where)
    name = draw.choice(("config.json", "preprocessor_config.json"))
    auto = dict.fromkeys(("AutoConfig", "AutoModel", "AutoFeatureExtractor", "AutoProcessor"), "evil.Evil")
    _edit(where / name, auto_map=auto, **draw.choice((
        {}, {"model_type": "evil"}, {"feature_extractor_type": "Evil", "processor_class": "Evil"},
        {"architectures": ["Evil"]},
        {"trust_remote_code": True}, {"attn_implementation": "evil/kernel"}, {"_attn_implementation": "nobody/evil"},
    )))  # fmt: skip
    return f"{name} of the audio encoder with auto_map"


def _elsewhere(draw: Draw, place: Place, folder: Path) -> str:
    """Payloads where no pickle belongs."""
    data, about = _payload(draw, place)
    name = draw.choice(("config.json", "diffusion_pytorch_model-00001-of-00003.safetensors",
        f"{TOKENIZER}/tokenizer.json",
                        f"{AUDIO}/model.safetensors", f"{TOKENIZER}/spiece.model", "face.png", "talk.wav"))  # fmt: skip
    if name in ("face.png", "talk.wav"):
        good_picture(place), good_sound(place)
        _module(place, folder, "sitecustomize")
        put(folder / "conftest.py", EVIL.format(canary=str(place.canary)))
        return "modules beside the weights"
    put(
        folder / name,
        struct.pack("<Q", len(data)) + data if name.endswith("safetensors") and draw.random() < 0.5 else data,
    )
    return f"{name}: a pickle, {about}"
