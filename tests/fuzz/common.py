"""What the generators share: good input, damage, and values of the wrong kind."""

from __future__ import annotations

import io
import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from PIL import Image

from .case import Draw, Place

TINY = "liveact_model/assets/tiny"
NESTED = 50_000


def good_picture(place: Place, name: str = "face.png") -> str:
    """A small picture below `in`, named as the command sees it."""
    x = np.arange(64)
    pixels = np.stack([x[:, None] + 2 * x[None], 3 * x[:, None] + x[None], x[:, None] ^ x[None]], -1) % 256
    Image.fromarray(pixels.astype(np.uint8)).save(place.inputs / name)
    return f"../in/{name}"


def good_sound(place: Place, name: str = "talk.wav", seconds: float = 0.2) -> str:
    """A short recording below `in`, named as the command sees it."""
    t = np.arange(int(16000 * seconds)) / 16000
    soundfile.write(place.inputs / name, (0.3 * np.sin(700 * t) * np.sin(30 * t)).astype(np.float32), 16000)
    return f"../in/{name}"


def generate(place: Place, *more: str, image: str | None = None, audio: str | None = None, out: str = "v.mp4") -> list:
    """Arguments of a run that works but for what is handed in."""
    image = good_picture(place) if image is None else image
    audio = good_sound(place) if audio is None else audio
    return ["generate", f"--image={image}", f"--audio={audio}", f"--out={out}", *more]


def damage(draw: Draw, data: bytes) -> bytes:
    """Bytes of a file with a few of them wrong."""
    data, n = bytearray(data), len(data)
    for _ in range(draw.choice((1, 1, 2, 5))):
        n = max(1, len(data))
        at = draw.randrange(n) if draw.random() < 0.5 else draw.randrange(min(n, 200))
        size = draw.choice((1, 2, 4, 16, 300))
        match draw.randrange(7):
            case 0:
                data = data[:at]
            case 1:
                data[at : at + size] = draw.randbytes(size)
            case 2:
                data[at : at + size] = bytes(len(data[at : at + size]))
            case 3:
                data[at : at + size] = b"\xff" * len(data[at : at + size])
            case 4:
                del data[at : at + size]
            case 5:
                data[at:at] = draw.randbytes(size)
            case 6:
                data[at:at] = data[at : at + size]
    return bytes(data)


ODD = [
    None, "", "x", "64", "١", "\x00", "\ud800", "a" * 5000, True, False, float("nan"), float("inf"), -float("inf"), -1,
    0, 1, 2,
    3, 7, -64, 0.5, 1.5, 64.0, 1e-9, 1e308, 10**6, 10**18, -(10**18), 2**31, 2**63, 2**64, 10**400, [], {}, [1], [None],
    ["x", 2], [[64]], {"a": 1}, [10**18, 1], [0, 0], [-1, 8], [float("nan")] * 3, [1.5, 2], [True, False], [1] * 1000,
]  # fmt: skip
"""What may stand in JSON where something else belongs."""


def spots(value: Any, path: tuple = ()) -> list[tuple]:
    """Paths of every node below the root."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [p for key, v in inner for p in ((*path, key), *spots(v, (*path, key)))]


def mutate(draw: Draw, value: Any, under: tuple[str, ...] = ()) -> tuple[Any, str]:
    """JSON with one to three nodes replaced, deleted, added or scaled, and what was done; prefers keys in `under`."""
    value, said = json.loads(json.dumps(value)), []
    for _ in range(draw.choice((1, 1, 1, 2, 3))):
        paths = spots(value)
        if under and draw.random() < 0.7:
            paths = [p for p in paths if p[0] in under] or paths
        if not paths:
            break
        path = draw.choice(paths)
        holder = value
        for key in path[:-1]:
            holder = holder[key]
        key, old = path[-1], holder[path[-1]]
        action = draw.choice(("replace",) * 7 + ("delete", "add", "scale", "wrap"))
        if action == "delete":
            del holder[key]
        elif action == "add" and isinstance(holder, dict):
            holder[draw.choice(("extra", "dim", "__class__", "self", "", "a" * 300))] = draw.choice(ODD)
        elif action == "scale" and isinstance(old, (int, float)):
            holder[key] = draw.choice((-old, old * 2, old + 1, old - 1, old * 10**6, str(old), float(old)))
        elif action == "wrap":
            holder[key] = draw.choice(([old], {"value": old}, [old, old]))
        else:
            holder[key] = draw.choice(ODD)
        said.append(
            f"{'.'.join(map(str, path))} {action} {json.dumps(holder.get(key)) if isinstance(holder, dict) else ''}"[
                :80
            ]
        )
    return value, "; ".join(said)


def spoil_text(draw: Draw, text: str) -> tuple[bytes, str]:
    """A JSON file that is wrong as a whole, and how."""
    data = text.encode()
    ways = {
        "nested lists": b"[" * NESTED + b"]" * NESTED, "nested objects": b'{"a":' * NESTED + b"1" + b"}" * NESTED,
        "unclosed lists": b"[" * NESTED,
        "nested value": data.replace(b": ", b": " + b"[" * NESTED + b"]" * NESTED + b", \"q\": ", 1),
        "empty": b"", "byte order mark": b"\xef\xbb\xbf" + data, "UTF-16": text.encode("utf-16"), "list": b"[1]",
        "number": b"7", "null": b"null", "string": b'"x"', "truncated": data[: draw.randrange(max(1, len(data)))],
        "NUL": data[:5] + b"\0" + data[5:], "not UTF-8": data[:-1] + b"\xff\xfe",
        "long digits": b'{"dim": ' + b"9" * 10**5 + b"}",
        "twice": data + data, "comment": b"// hi\n" + data,
        "duplicate keys": b"{" + data.strip()[1:-1] + b"," + data.strip()[1:],
        "damaged": damage(draw, data), "object": b"{}",
    }  # fmt: skip
    name = draw.choice(list(ways))
    return ways[name], name


def no_file(draw: Draw, path: Path) -> str:
    """Something that is no regular file of its own at `path`; returns what."""
    if path.exists() or path.is_symlink():
        path.unlink()
    kind = draw.choice(("missing", "folder", "fifo", "loop", "dangling", "/dev/zero", "/dev/null", "/dev/full",
        "socket",
                        "/dev/random", "/proc/kmsg", "/proc/self/mem", "/dev/tty", "/proc/self/environ",
                        "empty"))  # fmt: skip
    if kind == "folder":
        path.mkdir()
    elif kind == "fifo":
        os.mkfifo(path)
    elif kind == "loop":
        path.symlink_to(path.name)
    elif kind == "dangling":
        path.symlink_to("nowhere")
    elif kind == "socket":
        import socket
        import stat

        os.mknod(path, stat.S_IFSOCK | 0o600) if hasattr(os, "mknod") else socket.socket(socket.AF_UNIX).bind(str(path))
    elif kind == "empty":
        path.touch()
    elif kind.startswith("/"):
        path.symlink_to(kind)
    return kind


def odd_path(draw: Draw, place: Place, good: str) -> tuple[str, str]:
    """A path that names no ordinary file, as the command sees it, and what it is; `good` is a file that works."""
    link = place.inputs / "odd"
    name = {
        "new line": "a\nb.bin", "not UTF-8": os.fsdecode(b"\xff\xfe.bin"), "unicode": "лицо 😀.bin", "spaces": "  .bin",
        "escape": "\x1b[31m.bin", "dash": "-x.bin", "quote": "'\".bin", "percent": "%d%s.bin",
    }  # fmt: skip
    kind = draw.choice(
        (*name, "special", "special", "special", "empty", "dash alone", "url", "long", "slash", "stdin", "braces")
    )
    if kind in name:
        shutil.copy(place.run / good, place.inputs / name[kind])
        return f"../in/{name[kind]}", f"{kind} in its name"
    if kind == "special":
        return "../in/odd", no_file(draw, link)
    odd = {
        "empty": "", "dash alone": "-", "url": "http://127.0.0.1:9/x", "long": "a" * draw.choice((256, 5000)),
        "slash": f"{good}/", "stdin": "/dev/stdin", "braces": "concat:a|b",
    }  # fmt: skip
    return odd[kind], kind


def saved(image: Image.Image, form: str, **options: Any) -> bytes:
    """An image as bytes."""
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def tiny(place: Place, name: str = "model") -> Path:
    """A copy of the shipped model below `in`; its weights are links until somebody replaces them."""
    from . import ROOT

    folder = place.inputs / name
    folder.mkdir()
    for file in (ROOT / TINY).iterdir():
        if file.suffix == ".json":
            shutil.copy(file, folder)
        else:
            (folder / file.name).symlink_to(file)
    return folder


def put(path: Path, data: bytes | str) -> None:
    """Replace a file, never the original behind a link."""
    path.unlink(missing_ok=True)
    path.write_bytes(data if isinstance(data, bytes) else data.encode("utf-8", "surrogatepass"))


def dump(value: Any) -> str:
    """JSON, its odd numbers included."""
    return json.dumps(value)
