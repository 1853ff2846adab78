"""Pictures as people have them: colour profiles, HEIC, long or damaged texts, no end marker, very large ones."""

import os
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pillow_heif
import pytest
from PIL import Image, ImageCms, TiffImagePlugin

from liveact_app.media.image import read_image
from liveact_app.media.picture_file import open_bytes
from liveact_app.media.pixels import smaller, to_rgb
from liveact_model.errors import InputError

ROOT = Path(__file__).resolve().parent.parent


def faces(w=64, h=48):
    """A smooth picture in which every pixel differs from its neighbours."""
    y, x = np.mgrid[:h, :w]
    return Image.fromarray(np.stack([40 + 3 * x, 30 + 4 * y, 200 - x - y], 2).astype(np.uint8))


def swapped_profile():
    """sRGB with red and green exchanged."""
    data = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    return data.replace(b"rXYZ", b"?XYZ", 1).replace(b"gXYZ", b"rXYZ", 1).replace(b"?XYZ", b"gXYZ", 1)


def ink_profile():
    """CMYK of which only cyan counts, and takes the light away: Lab (100 - cyan, 0, 0), as a table of 16 corners."""
    corners = b"".join(bytes((0 if i & 8 else 255, 128, 128)) for i in range(16))
    matrix = struct.pack(">9i", 65536, 0, 0, 0, 65536, 0, 0, 0, 65536)
    table = b"mft1\0\0\0\0" + bytes((4, 3, 2, 0)) + matrix + bytes(range(256)) * 4 + corners + bytes(range(256)) * 3
    table += bytes(-len(table) % 4)
    body = struct.pack(">I4sII", 1, b"A2B0", 128 + 16, len(table)) + table
    white = struct.pack(">3i", 63190, 65536, 54061)
    head = struct.pack(">I4sI4s4s4s12s4s", 128 + len(body), b"lcms", 0x02400000, b"prtr", b"CMYK", b"Lab ",
                       struct.pack(">6H", 2020, 1, 1, 0, 0, 0), b"acsp")  # fmt: skip
    return (head.ljust(68, b"\0") + white).ljust(128, b"\0") + body


def pixels(path):
    return np.asarray(read_image(path)).astype(int)


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "tif"])
def test_a_profile_of_rgb_is_applied(tmp_path, suffix):
    path = tmp_path / f"a.{suffix}"
    options = {"quality": 100} | ({"subsampling": 0} if suffix == "jpg" else {})
    faces().save(path, icc_profile=swapped_profile(), **options)
    expected = np.asarray(faces()).astype(int)[..., [1, 0, 2]]
    assert np.abs(pixels(path) - expected).mean() < 3


def test_a_profile_keeps_transparency(tmp_path):
    image = Image.new("RGBA", (32, 32), (200, 40, 10, 255))
    image.paste((200, 40, 10, 0), (0, 0, 16, 32))
    image.save(tmp_path / "a.png", icc_profile=swapped_profile())
    got = pixels(tmp_path / "a.png")
    assert (got[:, :16] == 255).all() and np.abs(got[:, 16:] - (40, 200, 10)).max() <= 4


def test_a_profile_of_inks_is_applied(tmp_path):
    image = Image.new("CMYK", (32, 32), (0, 255, 255, 0))
    image.paste((255, 0, 0, 0), (0, 0, 16, 32))
    image.save(tmp_path / "a.jpg", icc_profile=ink_profile(), quality=95)
    got = pixels(tmp_path / "a.jpg")
    assert got[:, :14].max() < 12 and got[:, 18:].min() > 243


@pytest.mark.parametrize("profile", [b"no profile at all" * 9, ink_profile(), swapped_profile()[:300]])
def test_a_profile_that_cannot_be_used_is_ignored(tmp_path, profile):
    faces().save(tmp_path / "a.png", icc_profile=profile)
    assert (pixels(tmp_path / "a.png") == np.asarray(faces())).all()


@pytest.mark.parametrize("name", ["a.heic", "a.jpg", "a.png"])
def test_heic_opens_under_any_name(tmp_path, name):
    with open(tmp_path / name, "wb") as file:
        pillow_heif.from_pillow(faces()).save(file, quality=95)
    assert np.abs(pixels(tmp_path / name) - np.asarray(faces())).mean() < 4


def chunk(name, body, spoil=0):
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body) ^ spoil)


LONG = zlib.compress(bytes(50_000_000), 1)
CHUNKS = {
    "zTXt": chunk(b"zTXt", b"Comment\0\0" + LONG), "bad zTXt": chunk(b"zTXt", b"Comment\0\0" + LONG, 1),
    "iTXt": chunk(b"iTXt", b"Comment\0\1\0\0\0" + LONG), "plain": chunk(b"tEXt", b"Comment\0" + b"x" * 3_000_000),
    "bad text": chunk(b"tEXt", b"Comment\0hello", 1), "iCCP": chunk(b"iCCP", b"icc\0\0" + LONG),
    "broken iCCP": chunk(b"iCCP", b"icc\0\0" + LONG[5:]), "many": chunk(b"tEXt", b"a\0" + b"x" * 10**6) * 80,
}  # fmt: skip


@pytest.mark.parametrize("place", ["front", "end"])
@pytest.mark.parametrize("kind", CHUNKS)
def test_png_with_long_or_damaged_texts(tmp_path, kind, place):
    faces().save(tmp_path / "a.png")
    data = (tmp_path / "a.png").read_bytes()
    at = 33 if place == "front" else len(data) - 12
    (tmp_path / "a.png").write_bytes(data[:at] + CHUNKS[kind] + data[at:])
    assert (pixels(tmp_path / "a.png") == np.asarray(faces())).all()
    with open_bytes(tmp_path / "a.png") as file:
        assert file.read() == data


def test_png_texts_of_a_size_that_cannot_be_right(tmp_path):
    faces().save(tmp_path / "a.png")
    data = (tmp_path / "a.png").read_bytes()
    (tmp_path / "a.png").write_bytes(data[:33] + struct.pack(">I", 2**31 - 1) + b"tEXt" + data[33:])
    with pytest.raises(InputError, match="--image: expected a readable image"):
        read_image(tmp_path / "a.png")


def test_jpeg_without_its_end(tmp_path, capsys):
    faces(640, 480).save(tmp_path / "a.jpg", quality=90)
    whole, data = pixels(tmp_path / "a.jpg"), (tmp_path / "a.jpg").read_bytes()
    assert data.endswith(b"\xff\xd9") and capsys.readouterr().err == ""
    (tmp_path / "a.jpg").write_bytes(data[:-2])
    assert np.abs(pixels(tmp_path / "a.jpg") - whole)[:464].max() == 0
    assert capsys.readouterr().err == f"liveact: '{tmp_path}/a.jpg' has no end marker\n"
    (tmp_path / "a.jpg").write_bytes(data[: len(data) * 8 // 10])
    assert np.abs(pixels(tmp_path / "a.jpg") - whole)[:320].max() == 0
    assert "of 480 rows may be missing" in capsys.readouterr().err
    (tmp_path / "a.jpg").write_bytes(data[: len(data) * 3 // 10])
    with pytest.raises(InputError, match="cannot decode"):
        read_image(tmp_path / "a.jpg")


MODES = ["RGB", "RGBA", "L", "LA", "P", "1", "CMYK", "I;16", "I"]


@pytest.mark.parametrize("mode", MODES)
def test_a_large_picture_is_made_smaller_in_strips(mode, monkeypatch):
    monkeypatch.setattr("liveact_app.media.pixels.STRIP_ROWS", 16)
    if mode.startswith("I"):
        levels = np.asarray(faces(301, 200).convert("L")).astype(np.uint16 if mode == "I;16" else np.int32) * 257
        image = Image.fromarray(levels)
        assert image.mode == mode
    else:
        image = faces(301, 200).convert(mode)
    if mode in ("RGBA", "LA"):
        image.putalpha(Image.linear_gradient("L").resize(image.size))
    expected = to_rgb(image).reduce(3)
    got = to_rgb(smaller(image, 301 * 200 // 8))
    assert got.size == expected.size == (101, 67)
    assert np.abs(np.asarray(got).astype(int) - np.asarray(expected)).max() <= 2
    assert smaller(image, 301 * 200) is image


def test_orientation_and_profile_survive_being_made_smaller(tmp_path, monkeypatch):
    exif = Image.Exif()
    exif[0x0112] = 6
    for name in ("a.png", "a.tif", "a.jpg"):
        faces(300, 200).save(tmp_path / name, exif=exif, icc_profile=swapped_profile())
        whole = read_image(tmp_path / name)
        with monkeypatch.context() as patch:
            patch.setattr("liveact_app.media.image.MOST_PIXELS", 300 * 200 // 2)
            half = read_image(tmp_path / name)
        assert whole.size == (200, 300) and half.size == (100, 150)
        assert np.abs(np.asarray(whole.reduce(2)).astype(int) - np.asarray(half)).max() <= 6


def test_a_hundred_megapixels_take_under_one_gigabyte(tmp_path):
    pack, row = zlib.compressobj(1), b"\0" + b"\x40\xff" * 10000
    body = b"".join([*(pack.compress(row) for _ in range(10000)), pack.flush()])
    head = struct.pack(">IIBBBBB", 10000, 10000, 8, 4, 0, 0, 0)
    data = chunk(b"IHDR", head) + chunk(b"IDAT", body) + chunk(b"IEND", b"")
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n" + data)
    code = ("import sys; from liveact_app.media.image import read_image; from liveact_app.generate.summary import"
            " peak_rss_bytes as peak; libraries = peak(); image = read_image(sys.argv[1]);"
            "print(image.getpixel((0, 0))[0], peak() - libraries)")  # fmt: skip
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "a.png")], capture_output=True, text=True,
                          env=os.environ | {"PYTHONPATH": str(ROOT)}, timeout=500)  # fmt: skip
    level, grown = map(int, done.stdout.split())
    assert level == 64 and grown < 1 << 30


@pytest.mark.parametrize("suffix", ["webp", "jp2", "avif"])
def test_formats_that_are_decoded_in_several_copies_stop_earlier(tmp_path, monkeypatch, suffix):
    monkeypatch.setattr("liveact_app.media.image.WHOLE_COPIES", dict.fromkeys(("WEBP", "JPEG2000", "AVIF"), 3000))
    faces().save(tmp_path / f"a.{suffix}")
    with pytest.raises(InputError, match=r"0 megapixels in (WEBP|JPEG2000|AVIF), '[^']*' is 64x48"):
        read_image(tmp_path / f"a.{suffix}")


def test_what_libtiff_warns_of_is_not_printed(tmp_path, capfd):
    odd = TiffImagePlugin.ImageFileDirectory_v2()
    odd[65000], odd.tagtype[65000] = "odd", 2
    faces().save(tmp_path / "a.tif", tiffinfo=odd, compression="tiff_lzw")
    data = (tmp_path / "a.tif").read_bytes()
    (tmp_path / "a.tif").write_bytes(data.replace(struct.pack("<HH", 65000, 2), struct.pack("<HH", 65000, 77)))
    assert (pixels(tmp_path / "a.tif") == np.asarray(faces())).all()
    assert capfd.readouterr().err == ""
    print("still there", file=sys.stderr)
    os.write(2, b"and here")
    assert capfd.readouterr().err == "still there\nand here"
