"""What is mended in the bytes of a picture before it is decoded, and in its colours after."""

import io
import os
import zlib

from PIL import Image, ImageCms

MAX_PROFILE_BYTES = 16 << 20
_TEXT = (b"tEXt", b"zTXt", b"iTXt")
_PNG = b"\x89PNG\r\n\x1a\n"


def open_bytes(path: str) -> io.BufferedIOBase:
    """The file, less what nobody needs: a PNG without its texts and without a profile that cannot be right."""
    file = open(path, "rb")  # noqa: SIM115 - the caller closes what it gets
    if file.read(8) != _PNG:
        file.seek(0)
        return file
    with file:
        return io.BytesIO(_PNG + b"".join(_chunks(file, os.path.getsize(path))))


def _chunks(file: io.BufferedIOBase, size: int) -> list[bytes]:
    kept = []
    while len(head := file.read(8)) == 8:
        length, name = int.from_bytes(head[:4], "big"), head[4:]
        if name in _TEXT and length <= size:
            file.seek(length + 4, os.SEEK_CUR)
            continue
        body = file.read(min(length, size) + 4)
        if name != b"iCCP" or _is_profile(body[:-4]):
            kept += [head, body]
    return kept


def _is_profile(body: bytes) -> bool:
    try:
        unpack = zlib.decompressobj()
        unpack.decompress(body[body.index(b"\0") + 2 :], MAX_PROFILE_BYTES)
        return not unpack.unconsumed_tail
    except (ValueError, zlib.error):
        return False


def to_srgb(image: Image.Image) -> Image.Image:
    """The picture in sRGB, if it carries a colour profile that can be used; transparency is kept."""
    profile = image.info.get("icc_profile")
    if not profile:
        return image
    alpha = None
    if image.mode in ("P", "PA") or "transparency" in image.info:
        image = image.convert("RGBA")
    if image.mode in ("RGBA", "LA"):
        alpha, image = image.getchannel("A"), image.convert(image.mode[:-1])
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        image = ImageCms.profileToProfile(image, source, ImageCms.createProfile("sRGB"), outputMode="RGB")
    except (ImageCms.PyCMSError, OSError, ValueError):
        pass  # of another kind of colours, or damaged: the picture alone says more than a refusal
    if alpha is not None:
        image = image.convert("RGB")
        image.putalpha(alpha)
    return image
