"""Safetensors files that lie: headers, offsets, dtypes, shapes, values."""

from __future__ import annotations

import json
import struct
from pathlib import Path

from .case import Case, Draw, Place
from .common import NESTED, ODD, damage, dump, generate, no_file, put, tiny

DTYPES = ("F16", "BF16", "F64", "I64", "I32", "I8", "U8", "BOOL", "F8_E4M3", "F8_E5M2", "C64", "X99", "", "f32")


def make(draw: Draw, place: Place) -> Case:
    folder = tiny(place)
    about = spoil(draw, folder / draw.choice(("dit.safetensors", "vae.safetensors")))
    return Case(generate(place, "--model=../in/model"), about)


def spoil(draw: Draw, path: Path) -> str:
    """Spoil one safetensors file and say how."""
    ways = (header, header, header, values, values, retyped, retyped, whole, whole)
    return f"{path.name}: {draw.choice(ways)(draw, path)}"


def header(draw: Draw, path: Path) -> str:
    """One fact of the header is wrong, the data stay."""
    data = path.read_bytes()
    size = struct.unpack("<Q", data[:8])[0]
    head, body = json.loads(data[8 : 8 + size]), data[8 + size :]
    key = draw.choice([k for k in head if k != "__metadata__"])
    entry, odd = head[key], draw.choice(ODD)
    match draw.randrange(10):
        case 0:
            entry["dtype"], about = draw.choice(DTYPES), "dtype"
        case 1:
            entry["shape"], about = (
                draw.choice(([0], [10**18], [-1], [], [1, *entry["shape"]], entry["shape"][::-1], odd)),
                "shape",
            )
        case 2:
            begin, end = entry["data_offsets"]
            entry["data_offsets"] = draw.choice(
                ([end, begin], [begin, end + 2], [0, 2**63], [-2, end], [begin, begin], odd)
            )
            about = "offsets"
        case 3:
            del head[key]
            about = "a key is missing"
        case 4:
            head[key + "x"] = head.pop(key)
            about = "a key has another name"
        case 5:
            head["__metadata__"], about = draw.choice((1, {"a": 1}, {"format": "x" * 10**6}, odd)), "metadata"
        case 6:
            head[key], about = odd, "an entry is no entry"
        case 7:
            entry["extra"], about = odd, "an entry has more"
        case 8:
            head["blocks.99.x"], about = entry, "two keys share data"
        case _:
            about = "a header of its own"
            text = draw.choice(
                (b"", b"{}", b"[]", b"null", b"[" * NESTED, b'{"a":' * NESTED, b"\xff" * 100, b" " * 100)
            )
            put(path, struct.pack("<Q", len(text)) + text + body)
            return about
    text = dump(head).encode()
    put(path, struct.pack("<Q", len(text)) + text + body)
    return f"{key} {about}"


def values(draw: Draw, path: Path) -> str:
    """Values that no training makes; the shapes are right."""
    import torch
    from safetensors.torch import load_file, save_file

    state = load_file(path)
    keys = draw.choice((list(state), draw.sample(list(state), 1), draw.sample(list(state), min(5, len(state)))))
    value = draw.choice((float("nan"), float("inf"), -float("inf"), 0.0, 1e30, -1e30, 1e-40))
    for key in keys:
        state[key] = torch.full_like(state[key], value)
    path.unlink()
    save_file(state, path)
    return f"{value} in {len(keys)} tensors"


def retyped(draw: Draw, path: Path) -> str:
    """Tensors of another dtype or shape, written properly."""
    import torch
    from safetensors.torch import load_file, save_file

    state = load_file(path)
    key = draw.choice(list(state))
    types = (torch.int64, torch.bool, torch.float64, torch.bfloat16, torch.float16, torch.uint8, torch.complex64,
             torch.float8_e4m3fn)  # fmt: skip
    match draw.randrange(5):
        case 0:
            dtype = draw.choice(types)
            state, about = {k: v.to(dtype) for k, v in state.items()}, f"all {dtype}"
        case 1:
            dtype = draw.choice(types)
            state[key], about = state[key].to(dtype), f"{key} {dtype}"
        case 2:
            state[key], about = state[key].flatten(), f"{key} flat"
        case 3:
            state[key], about = state[key][:0].clone(), f"{key} without rows"
        case _:
            state[key], about = torch.zeros(draw.choice(((), (1,), (3, 3, 3, 3, 3, 3)))), f"{key} another shape"
    path.unlink()
    save_file({k: v.contiguous() for k, v in state.items()}, path)
    return about


def whole(draw: Draw, path: Path) -> str:
    """The file as bytes."""
    data = path.read_bytes()
    if draw.random() < 0.2:
        return no_file(draw, path)
    ways = {
        "damaged": damage(draw, data), "truncated": data[: draw.randrange(len(data))], "longer": data + b"x" * 9,
        "header length": struct.pack("<Q", draw.choice((0, 1, 2**63, 2**64 - 1, 10**8, len(data)))) + data[8:],
        "7 bytes": data[:7], "8 zeros": bytes(8), "text": b"hello" * 99, "zip": b"PK\x03\x04" + data[4:400],
    }  # fmt: skip
    name = draw.choice(list(ways))
    put(path, ways[name])
    return name
