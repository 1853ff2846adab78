"""Pictures: every mode and format, damaged files, headers that lie, and things that are no files."""

from __future__ import annotations

import struct
import zlib

import numpy as np
from PIL import Image

from .case import Case, Draw, Place
from .common import damage, generate, good_picture, odd_path, saved

FORMATS = (
    "PNG",
    "JPEG",
    "WEBP",
    "BMP",
    "GIF",
    "TIFF",
    "AVIF",
    "JPEG2000",
    "PPM",
    "TGA",
    "ICO",
    "PCX",
    "SGI",
    "PDF",
    "EPS",
    "DDS",
)
MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr", "LAB", "HSV", "I", "I;16", "F")


def make(draw: Draw, place: Place) -> Case:
    path, about = draw.choice((_common, _common, _damaged, _damaged, _damaged, _png, _png, _jpeg, _tiff, _path))(
        draw, place
    )
    return Case(generate(place, image=path), f"picture: {about}")


def _put(place: Place, data: bytes, name: str = "p.png") -> str:
    (place.inputs / name).write_bytes(data)
    return f"../in/{name}"


def _picture(draw: Draw) -> tuple[bytes, str]:
    """Any mode in any format that takes it, of any size."""
    w, h = draw.choice(
        ((64, 64), (16, 16), (15, 16), (1, 1), (300, 20), (16384, 16), (16, 16384), (16385, 16), (64, 48), (999, 777))
    )
    rng = np.random.default_rng(draw.randrange(2**32))
    rgb = Image.fromarray(rng.integers(0, 256, (h, w, 3), dtype=np.uint8))
    while True:
        mode, form = draw.choice(MODES), draw.choice(FORMATS)
        try:
            image = Image.fromarray(rng.integers(0, 2**31, (h, w), dtype=np.int32)) if mode == "I" else _as(rgb, mode)
            options = {"exif": _exif(draw)} if form in ("JPEG", "PNG", "WEBP", "TIFF") and draw.random() < 0.3 else {}
            if mode == "P" and draw.random() < 0.5:
                options["transparency"] = draw.choice((0, 255, b"\0\x80\xff"))
            if form in ("GIF", "TIFF", "WEBP", "PNG") and draw.random() < 0.3:
                options |= {"save_all": True, "append_images": [rgb.resize((w, h)).convert(image.mode)] * 3}
            return saved(image, form, **options), f"{form} {image.mode} {w}x{h} {list(options)}"
        except Exception:  # not every format takes every mode
            continue


def _as(rgb: Image.Image, mode: str) -> Image.Image:
    if mode == "I;16":
        return Image.fromarray(np.asarray(rgb.convert("L")).astype(np.uint16) * 257)
    if mode == "LAB":
        from PIL import ImageCms

        return ImageCms.profileToProfile(
            rgb, ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), outputMode="LAB"
        )
    return rgb.convert("RGBA").convert(mode) if mode in ("LA", "PA") else rgb.convert(mode)


def _exif(draw: Draw) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = draw.choice((0, 1, 3, 6, 8, 9, 65535))
    data = exif.tobytes()
    return damage(draw, data)[:60_000] if draw.random() < 0.5 else data


def _common(draw: Draw, place: Place) -> tuple[str, str]:
    data, about = _picture(draw)
    return _put(place, data, draw.choice(("p.png", "p.jpg", "p", "p.mp4"))), about


def _damaged(draw: Draw, place: Place) -> tuple[str, str]:
    data, about = _picture(draw)
    return _put(place, damage(draw, data)), f"damaged {about}"


def _chunk(name: bytes, data: bytes, crc: int | None = None) -> bytes:
    return (
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data) if crc is None else crc)
    )


def _png(draw: Draw, place: Place) -> tuple[str, str]:
    """A PNG whose chunks disagree, or are huge once unpacked."""
    kind = draw.choice(("header", "header", "chunk", "chunk", "chunk", "bomb", "big", "no data"))
    w, h, depth, colour, lace = 64, 64, 8, 2, 0
    pixels, extra = b"", b""
    if kind == "header":
        w, h = draw.choice(((0, 64), (2**31 - 1, 2**31 - 1), (2**32 - 1, 1), (10000, 10000), (64, 10**6), (64, 64)))
        depth, colour, lace = (
            draw.choice((1, 3, 8, 16, 255)),
            draw.choice((0, 1, 2, 3, 4, 6, 7)),
            draw.choice((0, 1, 2)),
        )
    elif kind == "big":  # 100 megapixels of 16 bits
        w, h, depth, colour = 10000, 10000, 16, draw.choice((0, 2, 6))
    if kind != "no data":
        row = 1 + (w * depth * {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}.get(colour, 1) + 7) // 8
        pixels = bytes(min(row * h, 200_000_000 if kind == "big" else 100_000))
        if kind == "bomb":
            pixels = bytes(50_000_000)
    if kind == "chunk":
        name = draw.choice(
            (
                b"tRNS",
                b"iCCP",
                b"iTXt",
                b"zTXt",
                b"eXIf",
                b"acTL",
                b"fcTL",
                b"gAMA",
                b"cHRM",
                b"PLTE",
                b"IHDR",
                b"pHYs",
                b"tEXt",
                b"XXXX",
            )
        )
        body = draw.choice(
            (
                b"",
                draw.randbytes(13),
                b"x\0\0" + zlib.compress(bytes(30_000_000)),
                b"a\0\1\0\0\0" + zlib.compress(bytes(90_000_000)),
                bytes(70000),
            )
        )
        extra = _chunk(name, body, draw.choice((None, None, 0)))
    head = _chunk(b"IHDR", struct.pack(">IIBBBBB", w, h, depth, colour, 0, 0, lace))
    palette = _chunk(b"PLTE", bytes(draw.choice((3, 30, 768, 5)))) if colour == 3 and draw.random() < 0.7 else b""
    data = zlib.compress(pixels, 1)
    return _put(place, b"\x89PNG\r\n\x1a\n" + head + extra + palette + _chunk(b"IDAT", data) + _chunk(b"IEND", b"")), (
        f"PNG {kind} {w}x{h} {depth} bits colour {colour} {extra[4:8].decode()}"
    )


def _jpeg(draw: Draw, place: Place) -> tuple[str, str]:
    """A JPEG with odd segments."""
    image = Image.open(place.run / good_picture(place)).convert(draw.choice(("RGB", "CMYK", "L")))
    data = saved(image, "JPEG", progressive=draw.random() < 0.5, quality=draw.choice((1, 75, 100)))
    marker = draw.choice((0xE0, 0xE1, 0xE2, 0xED, 0xEE, 0xFE, 0xDD, 0xDB, 0xC4, 0xC0, 0xD9, 0xDA))
    body = draw.choice(
        (
            b"",
            b"Exif\0\0" + draw.randbytes(40),
            b"ICC_PROFILE\0\x09\x01" + bytes(99),
            b"Adobe\0d\0\0\0\0\x07",
            b"http://ns.adobe.com/xap/1.0/\0<x",
            b"MPF\0" + draw.randbytes(60),
        )
    )
    size = draw.choice((len(body) + 2, 0, 1, 65535))
    at = draw.choice((2, 2, 20, len(data) - 2))
    return _put(place, data[:at] + bytes((0xFF, marker)) + struct.pack(">H", size) + body + data[at:], "p.jpg"), (
        f"JPEG {image.mode} segment {marker:#x} of {size} at {at}"
    )


def _tiff(draw: Draw, place: Place) -> tuple[str, str]:
    """A TIFF of unusual pixels or with one tag changed."""
    arrays = {
        "int32": np.full((40, 40), draw.choice((0, -5, 70000)), np.int32),
        "float": np.full((40, 40), draw.choice((0.5, np.nan)), np.float32),
        "uint16": np.full((40, 40), 999, np.uint16), "bits": np.zeros((40, 40), bool),
        "rgb": np.zeros((40, 40, 3), np.uint8),
    }  # fmt: skip
    kind = draw.choice(list(arrays))
    compression = draw.choice((None, "tiff_lzw", "tiff_deflate", "packbits", "tiff_adobe_deflate", "zstd"))
    data = bytearray(
        saved(Image.fromarray(arrays[kind]), "TIFF", **({"compression": compression} if compression else {}))
    )
    if draw.random() < 0.6:
        start = struct.unpack("<I", data[4:8])[0]
        count = struct.unpack("<H", data[start : start + 2])[0]
        tag = start + 2 + 12 * draw.randrange(count)
        where = draw.choice((0, 2, 4, 8))
        size = 2 if where < 4 else 4
        data[tag + where : tag + where + size] = draw.choice((0, 1, 2**16 - 1, start, 7)).to_bytes(4, "little")[:size]
        if draw.random() < 0.2:
            data[start + 2 + 12 * count : start + 6 + 12 * count] = struct.pack("<I", start)
        kind += " with a changed tag"
    return _put(place, bytes(data), "p.tif"), f"TIFF {kind} {compression}"


def _path(draw: Draw, place: Place) -> tuple[str, str]:
    if draw.random() < 0.3:
        text = draw.choice((b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 64 64\n",
            b"<svg xmlns='http://www.w3.org/2000/svg'/>", b"hello" * 99,
                            b"GIF89a", b"\xff\xd8\xff", b"RIFF\xff\xff\xff\xffWEBPVP8X", b"BM" + bytes(60),
                            b"P6 99999 99999 255 ", b"P7\n",
                            b"\0\0\0\x0cjP  \r\n\x87\n", b"\0\0\0\x18ftypavif" + bytes(40),
                            b"\0\0\0\x18ftypheic" + bytes(40), b"\0" * 5000))  # fmt: skip
        return _put(place, text), f"only {text[:20]!r}"
    return odd_path(draw, place, good_picture(place))
