"""Pictures of any mode as 8-bit RGB, the large ones in strips so that few copies of them exist."""

import math

import numpy as np
from PIL import Image

STRIP_ROWS = 256
_ORIENTATION = 0x0112


def to_rgb(image: Image.Image) -> Image.Image:
    """8-bit RGB; transparent parts become white.

    Raises:
        ValueError: floating-point pixels, or grey values outside 16 bits.
    """
    image = _eight_bits(image)
    if image.mode in ("RGBA", "LA", "RGBa", "La"):
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


def smaller(image: Image.Image, most: int) -> Image.Image:
    """A picture of over `most` pixels reduced by the least whole number (box filter), 8 bits a channel."""
    (w, h), factor = image.size, math.ceil(math.sqrt(image.width * image.height / most))
    if factor <= 1:
        return image
    small, step = None, STRIP_ROWS * factor
    for y in range(0, h, step):
        strip = _eight_bits(image.crop((0, y, w, min(h, y + step)))).reduce(factor)
        small = small or Image.new(strip.mode, (strip.width, math.ceil(h / factor)))
        small.paste(strip, (0, y // factor))
    small.info = {name: value for name, value in image.info.items() if name == "icc_profile"}
    orientation = Image.Exif()
    orientation[_ORIENTATION] = image.getexif().get(_ORIENTATION, 1)
    small.info["exif"] = orientation.tobytes()
    return small


def _eight_bits(image: Image.Image) -> Image.Image:
    """A mode of 8 bits a channel, without a palette."""
    if image.mode.startswith("I"):
        strips = (image.crop((0, y, image.width, min(image.height, y + STRIP_ROWS)))
                  for y in range(0, image.height, STRIP_ROWS))  # fmt: skip
        return Image.fromarray(np.concatenate([_grey(np.asarray(strip)) for strip in strips]))
    if image.mode == "F":
        raise ValueError("floating-point pixels have no agreed white level; save it as 8 or 16 bit")
    if image.mode == "PA" or "transparency" in image.info:
        return image.convert("RGBA")
    return image.convert({"P": "RGB", "1": "L"}.get(image.mode, image.mode))


def _grey(levels: np.ndarray) -> np.ndarray:
    # Pillow's own conversion of 16 bits clips at 255 in some versions.
    if levels.min() < 0 or levels.max() > 65535:
        raise ValueError("grey values outside 16 bits")
    return np.rint(levels / 257.0).astype(np.uint8)
