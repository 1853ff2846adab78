"""Pictures in: every common format, orientation, transparency, and the crop."""

import numpy as np
import pytest
import torch
from PIL import Image

from liveact_app.media.image import load_image


def quadrants(w=48, h=32):
    """Red, green / blue, white quarters."""
    pixels = np.zeros((h, w, 3), np.uint8)
    pixels[: h // 2, : w // 2] = (255, 0, 0)
    pixels[: h // 2, w // 2 :] = (0, 255, 0)
    pixels[h // 2 :, : w // 2] = (0, 0, 255)
    pixels[h // 2 :, w // 2 :] = 255
    return Image.fromarray(pixels)


def corners(tensor):
    """The colours near the four corners as 0/1 triples: top left, top right, bottom left, bottom right."""
    h, w = tensor.shape[1:]
    at = [(h // 6, w // 6), (h // 6, w - 1 - w // 6), (h - 1 - h // 6, w // 6), (h - 1 - h // 6, w - 1 - w // 6)]
    return [tuple(int(v > 0) for v in tensor[:, y, x]) for y, x in at]


RGBW = [(1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 1, 1)]
SAVES = [("png", "RGB"), ("jpg", "RGB"), ("jpg", "CMYK"), ("webp", "RGB"), ("bmp", "RGB"), ("gif", "P"), ("png", "P"),
         ("tiff", "RGB"), ("ppm", "RGB"), ("tga", "RGB")]  # fmt: skip


@pytest.mark.parametrize(("suffix", "mode"), SAVES)
def test_common_formats(tmp_path, suffix, mode):
    path = tmp_path / f"face.{suffix}"
    quadrants().convert(mode).save(path)
    image = load_image(path, (48, 32))
    assert image.shape == (3, 32, 48) and image.dtype == torch.float32 and image.is_contiguous()
    assert corners(image) == RGBW


def test_first_frame_of_an_animation(tmp_path):
    black = Image.new("RGB", (48, 32))
    quadrants().save(tmp_path / "face.gif", save_all=True, append_images=[black])
    assert corners(load_image(tmp_path / "face.gif", (48, 32))) == RGBW


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(tmp_path, orientation):
    transpose = {
        2: "FLIP_LEFT_RIGHT", 3: "ROTATE_180", 4: "FLIP_TOP_BOTTOM", 5: "TRANSPOSE", 6: "ROTATE_90", 7: "TRANSVERSE",
        8: "ROTATE_270",
    }  # fmt: skip
    stored = quadrants()
    if orientation > 1:  # what a camera held that way stores
        stored = stored.transpose(Image.Transpose[transpose[orientation]])
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored.save(tmp_path / "face.png", exif=exif)
    assert corners(load_image(tmp_path / "face.png", (48, 32))) == RGBW


def test_transparent_parts_are_white(tmp_path):
    rgba = quadrants().convert("RGBA")
    rgba.paste((0, 0, 0, 0), (0, 0, 24, 16))
    rgba.save(tmp_path / "rgba.png")
    palette = quadrants().convert("P", palette=Image.Palette.ADAPTIVE, colors=4)
    palette.save(tmp_path / "p.png", transparency=palette.getpixel((0, 0)))
    grey = Image.new("LA", (48, 32), (0, 255))
    grey.paste((0, 0), (0, 0, 24, 16))
    grey.save(tmp_path / "la.png")
    assert corners(load_image(tmp_path / "rgba.png", (48, 32))) == [(1, 1, 1), *RGBW[1:]]
    assert corners(load_image(tmp_path / "p.png", (48, 32))) == [(1, 1, 1), *RGBW[1:]]
    assert corners(load_image(tmp_path / "la.png", (48, 32))) == [(1, 1, 1), *[(0, 0, 0)] * 3]


def test_grey_levels(tmp_path):
    ramp = np.tile(np.arange(48) * 5, (32, 1))
    Image.fromarray(ramp.astype(np.uint8)).save(tmp_path / "8.png")
    Image.fromarray((ramp * 257).astype(np.uint16)).save(tmp_path / "16.png")
    Image.fromarray(ramp > 119).save(tmp_path / "1.png")
    expected = torch.tensor(ramp / 127.5 - 1, dtype=torch.float32).expand(3, -1, -1)
    torch.testing.assert_close(load_image(tmp_path / "8.png", (48, 32)), expected, atol=1e-6, rtol=0)
    torch.testing.assert_close(load_image(tmp_path / "16.png", (48, 32)), expected, atol=1e-6, rtol=0)
    assert load_image(tmp_path / "1.png", (48, 32)).unique().tolist() == [-1.0, 1.0]


@pytest.mark.parametrize(("w", "h"), [(301, 200), (200, 301), (33, 500), (640, 480), (64, 48), (17, 16), (5000, 16)])
@pytest.mark.parametrize("size", [(64, 48), (48, 64), (160, 16)])
def test_scales_to_cover_and_cuts_the_centre(tmp_path, w, h, size):
    pixels = np.random.default_rng(w).integers(0, 256, (h, w, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "face.png")
    W, H = size
    scale = max(W / w, H / h)
    full = Image.fromarray(pixels).resize((round(w * scale), round(h * scale)), Image.Resampling.BICUBIC)
    left, top = (full.width - W) // 2, (full.height - H) // 2
    expected = np.asarray(full.crop((left, top, left + W, top + H))).transpose(2, 0, 1) / 127.5 - 1
    got = load_image(tmp_path / "face.png", size).numpy()
    assert got.shape == (3, H, W)
    np.testing.assert_allclose(got, expected, atol=1e-6)


def test_a_thin_strip_is_scaled_without_building_all_of_it(tmp_path, monkeypatch):
    wave = 127 + 100 * np.sin(np.arange(3000) / 40)
    Image.fromarray(np.tile(wave, (16, 1)).astype(np.uint8)).save(tmp_path / "face.png")
    whole = load_image(tmp_path / "face.png", (160, 160))
    monkeypatch.setattr("liveact_app.media.image.MAX_PIXELS", 16 * 3000)  # it would be 30000x160
    torch.testing.assert_close(load_image(tmp_path / "face.png", (160, 160)), whole, atol=1.01 / 127.5, rtol=0)
