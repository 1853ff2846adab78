"""The released layout with one part spoilt: configurations, pickles of tensors, shards, the tokenizer."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from .case import Case, Draw, Place
from .common import damage, dump, generate, mutate, no_file, put, spoil_text
from .weights import spoil

AUDIO, TOKENIZER = "chinese-wav2vec2-base", "google/umt5-xxl"
PICKLES = ("models_t5_umt5-xxl-enc-bf16.pth", "Wan2.1_VAE.pth",
    "models_clip_open-clip-xlm-roberta-large-vit-huge-14.pth",
           f"{AUDIO}/pytorch_model.bin")  # fmt: skip
JSONS = ("config.json", "config.json", f"{AUDIO}/config.json", f"{AUDIO}/config.json",
    f"{AUDIO}/preprocessor_config.json",
         "diffusion_pytorch_model.safetensors.index.json")  # fmt: skip
SIZE = "--size=48*32"


def copy(place: Place) -> Path:
    """A copy of the miniature below `in`, every file its own."""
    folder = place.inputs / "model"
    shutil.copytree(place.released, folder)
    return folder


def command(place: Place, *more: str) -> list[str]:
    """Generate with the model below `in`."""
    return generate(place, "--model=../in/model", SIZE, *more)


def make(draw: Draw, place: Place) -> Case:
    folder = copy(place)
    about = draw.choice((_json, _json, _json, _pickle, _pickle, _pickle, _tokenizer, _tokenizer, _shard, _file))(
        draw, folder
    )
    more = [f"--dtype={draw.choice(('float32', 'fp8', 'bfloat16'))}"] if draw.random() < 0.2 else []
    return Case(command(place, *more), about)


def _json(draw: Draw, folder: Path, names: tuple[str, ...] = JSONS) -> str:
    name = draw.choice(names)
    path = folder / name
    if draw.random() < 0.8:
        value, about = mutate(draw, json.loads(path.read_text()))
        put(path, dump(value))
    else:
        data, about = spoil_text(draw, path.read_text())
        put(path, data)
    return f"{name}: {about}"


def _tokenizer(draw: Draw, folder: Path) -> str:
    names = (f"{TOKENIZER}/tokenizer.json", f"{TOKENIZER}/tokenizer.json", f"{TOKENIZER}/tokenizer_config.json")
    if draw.random() < 0.8:
        return _json(draw, folder, names)
    name = draw.choice(
        ("special_tokens_map.json", "added_tokens.json", "spiece.model", "config.json", "vocab.json", "tokenizer.json")
    )
    put(
        folder / TOKENIZER / name,
        draw.choice((b"", b"{}", b"[1]", b"null", draw.randbytes(400), b'{"eos_token": 7}', b"[" * 50_000)),
    )
    if draw.random() < 0.5:
        (folder / TOKENIZER / "tokenizer.json").unlink()
    return f"{TOKENIZER}/{name} made up"


def _shard(draw: Draw, folder: Path) -> str:
    return spoil(draw, draw.choice(sorted(folder.glob("*.safetensors"))))


def _file(draw: Draw, folder: Path) -> str:
    files = sorted(p for p in folder.rglob("*") if p.is_file())
    path = draw.choice(files)
    name = path.relative_to(folder)
    if draw.random() < 0.4:
        return f"{name}: {no_file(draw, path)}"
    put(path, damage(draw, path.read_bytes()))
    return f"{name}: damaged"


def _pickle(draw: Draw, folder: Path) -> str:
    import torch

    name = draw.choice((PICKLES[0], *PICKLES))
    state = torch.load(folder / name, weights_only=True)
    keys = list(state)
    chosen = draw.choice((keys, [draw.choice(keys)], draw.sample(keys, len(keys) // 2)))
    if "clip" in name and len(chosen) < len(keys):
        chosen = [draw.choice([k for k in keys if k.startswith("visual.")])]
    how = draw.choice(list(WAYS))
    for key in chosen:
        try:
            state[key] = WAYS[how](draw, state[key])
        except (RuntimeError, IndexError, NotImplementedError):
            state[key] = torch.zeros(1, dtype=torch.int64)
    state = draw.choice((lambda s: s,) * 6 + tuple(WHOLES))(state)
    torch.save(
        state, folder / name, _use_new_zipfile_serialization=draw.random() < 0.8 or how in ("sparse", "meta", "csr")
    )
    return f"{name}: {how} in {len(chosen)} of {len(keys)} tensors of a {type(state).__name__}"


def _typed(name: str) -> Any:
    def change(draw: Draw, t: Any) -> Any:
        import torch

        return t.to(getattr(torch, name))

    return change


def _odd(draw: Draw, t: Any) -> Any:
    return draw.choice((None, 1, 1.5, "x", [1], t.tolist() if t.numel() < 100 else [t], {"a": t}, b"bytes", (t,)))


def _scramble(draw: Draw, t: Any) -> Any:
    return draw.choice(
        (
            t.flatten(),
            t.transpose(0, -1),
            t[:0],
            t[..., :1],
            t.unsqueeze(0),
            t.flatten()[:1],
            t.sum(),
            t.repeat(2, *[1] * (t.ndim - 1)),
        )
    )


def _expanded(draw: Draw, t: Any) -> Any:
    import torch

    return torch.zeros(1, dtype=t.dtype).expand(draw.choice((tuple(t.shape), (10**9, 10**9))))


def _quantised(draw: Draw, t: Any) -> Any:
    import torch

    return torch.quantize_per_tensor(t.float(), 0.1, 0, torch.qint8)


def _parameter(draw: Draw, t: Any) -> Any:
    import torch

    return torch.nn.Parameter(t, requires_grad=t.is_floating_point())


WAYS = {
    **{name: _typed(name) for name in ("int64", "bfloat16", "float16", "float64", "bool", "uint8", "complex64",
        "float8_e4m3fn")},
    "meta": lambda draw, t: t.to("meta"), "sparse": lambda draw, t: t.to_sparse(),
    "csr": lambda draw, t: t.reshape(len(t) if t.ndim else 1, -1).to_sparse_csr(),
    "nan": lambda draw, t: t * float("nan"), "scrambled": _scramble, "odd": _odd, "expanded": _expanded,
    "quantised": _quantised,
    "parameter": _parameter, "conjugate": lambda draw, t: t.to(_complex()).conj(), "one byte": lambda draw,
    t: t[..., :1].clone() if t.ndim else t.clone(),
}  # fmt: skip
WHOLES = (
    lambda s: list(s.values()), lambda s: dict(enumerate(s.values())), lambda s: {"state_dict": s},
    lambda s: None,
    lambda s: {}, lambda s: next(iter(s.values())), lambda s: {None: 1, (1, 2): 3} | s,
)  # fmt: skip


def _complex() -> Any:
    import torch

    return torch.complex64
