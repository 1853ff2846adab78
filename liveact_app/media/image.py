"""Read a portrait of any common format into the tensor the model is conditioned on."""

import os
import warnings

import numpy as np
import pillow_heif
import torch
from PIL import Image, ImageFile, ImageOps, PngImagePlugin
from torch import Tensor

from liveact_app.media.files import require_file
from liveact_app.media.picture_file import MAX_PROFILE_BYTES, open_bytes, to_srgb
from liveact_app.media.pixels import smaller, to_rgb
from liveact_app.say import note
from liveact_app.streams import libraries_silenced
from liveact_model.errors import InputError

MIN_SIDE_PX = 16
MAX_SIDE_PX = 16384
MAX_PIXELS = 100_000_000
# Named formats only: some of Pillow's other plugins start external programs (EPS) or are not pictures at all.
FORMATS = ("PNG", "JPEG", "MPO", "WEBP", "BMP", "GIF", "TIFF", "AVIF", "JPEG2000", "PPM", "TGA", "ICO", "HEIF")
LARGE_PIXELS = 1 << 24  # from here on a JPEG is made smaller while it is decoded
MOST_PIXELS = 1 << 25  # what is larger is made smaller right after
# Formats whose decoders hold several copies of the whole picture: at most these many pixels.
WHOLE_COPIES = {"WEBP": 40_000_000, "JPEG2000": 30_000_000, "AVIF": 60_000_000}


def load_image(path: str | os.PathLike, size: tuple[int, int], argument: str = "--image") -> Tensor:
    """Read an image and fit it: `fit_image(read_image(path), size)`.

    Args:
        path: image file.
        size: (W, H) of the result in pixels, width first.
        argument: name used in error messages.

    Returns:
        float32 [3, H, W] in [-1, 1].

    Raises:
        InputError: as `read_image`.
    """
    return fit_image(read_image(path, argument), size)


def read_image(path: str | os.PathLike, argument: str = "--image") -> Image.Image:
    """Decode a picture to 8-bit RGB: first frame of an animation, EXIF orientation applied, transparent parts white.

    Raises:
        InputError: no such file, not a readable picture, a side outside 16..16384 pixels or over 100 megapixels.
    """
    path = require_file(path, argument)
    with warnings.catch_warnings(), libraries_silenced():
        # Sizes are checked below, and what else Pillow warns of either stops the decoding or changes nothing.
        warnings.simplefilter("ignore")
        image, fact = _decode(path, argument)
    if fact:
        note(fact)
    return image


def fit_image(image: Image.Image, size: tuple[int, int]) -> Tensor:
    """Scale an RGB picture by max(W/w, H/h) with antialiased bicubic and cut the centre (floor offsets).

    Args:
        image: 8-bit RGB picture.
        size: (W, H) of the result in pixels, width first.

    Returns:
        float32 [3, H, W] in [-1, 1].
    """
    (w, h), (W, H) = image.size, size
    scale = max(W / w, H / h)
    # Rounding can fall one pixel short of the target, never more.
    full_w, full_h = max(W, round(w * scale)), max(H, round(h * scale))
    left, top = (full_w - W) // 2, (full_h - H) // 2
    if full_w * full_h <= MAX_PIXELS:
        fitted = image.resize((full_w, full_h), Image.Resampling.BICUBIC).crop((left, top, left + W, top + H))
    else:
        # A long thin strip: make only the part that stays, at the price of other roundings inside Pillow.
        box = (left * w / full_w, top * h / full_h, (left + W) * w / full_w, (top + H) * h / full_h)
        fitted = image.resize(size, Image.Resampling.BICUBIC, box=box)
    pixels = np.array(fitted, dtype=np.float32)
    return torch.from_numpy(pixels / 255.0 * 2.0 - 1.0).permute(2, 0, 1).contiguous()


def _decode(path: str, argument: str) -> tuple[Image.Image, str]:
    Image.init()
    pillow_heif.register_heif_opener()
    PngImagePlugin.MAX_TEXT_CHUNK = MAX_PROFILE_BYTES  # the limit of a profile too
    try:
        formats = [name for name in FORMATS if name in Image.OPEN]
        with open_bytes(path) as file:
            image = Image.open(file, formats=formats)
            _check_size(image, path, argument)
            if image.width * image.height > LARGE_PIXELS:
                image.draft(None, (4096, 4096))
            fact = _load(image, path)
            image = smaller(image, MOST_PIXELS)
            return to_rgb(to_srgb(ImageOps.exif_transpose(image))), fact
    except (InputError, MemoryError):
        raise
    except Image.DecompressionBombError:
        raise InputError(
            f"{argument}: expected at most {MAX_PIXELS // 1_000_000} megapixels, {path!r} has far more"
        ) from None
    except Exception as error:  # a broken file makes the decoders raise anything from SyntaxError to struct.error
        raise InputError(f"{argument}: expected a readable image, cannot decode {path!r} ({_reason(error)})") from error


def _load(image: Image.Image, path: str) -> str:
    """Decode the pixels; a JPEG that only lacks its end is taken while most of it is there, and a line says so."""
    try:
        image.load()
        return ""
    except OSError:
        if image.format != "JPEG":
            raise
        ImageFile.LOAD_TRUNCATED_IMAGES = True
        try:
            image.load()
        finally:
            ImageFile.LOAD_TRUNCATED_IMAGES = False
        missing = _flat_rows(image)
        if missing > image.height / 2:
            raise
        lost = f"; {missing} of {image.height} rows may be missing" if missing > image.height / 16 else ""
        return f"{path!r} has no end marker{lost}"


def _flat_rows(image: Image.Image) -> int:
    """Equal rows at the bottom: what a JPEG decoder makes of data that is not there."""
    for end in range(image.height, 1, -255):  # in pieces that share a row
        rows = np.asarray(image.crop((0, max(0, end - 256), image.width, end)))
        same = (rows[1:] == rows[:-1]).reshape(len(rows) - 1, -1).all(axis=1)[::-1]
        if not same.all():
            return image.height - end + int(np.argmin(same))
    return image.height


def _reason(error: Exception) -> str:
    if isinstance(error, Image.UnidentifiedImageError):
        return "unknown image format"
    return f"{type(error).__name__}: {error}".rstrip(": ")


def _check_size(image: Image.Image, path: str, argument: str) -> None:
    (w, h), most = image.size, WHOLE_COPIES.get(image.format, MAX_PIXELS)
    if min(w, h) < MIN_SIDE_PX:
        raise InputError(f"{argument}: expected both sides of at least {MIN_SIDE_PX} pixels, {path!r} is {w}x{h}")
    if max(w, h) > MAX_SIDE_PX or w * h > most:
        kind = f" in {image.format}" if most < MAX_PIXELS else ""
        raise InputError(
            f"{argument}: expected at most {MAX_SIDE_PX} pixels a side and {most // 1_000_000} megapixels{kind}, "
            f"{path!r} is {w}x{h}"
        )
