"""What is mended in the bytes of a picture before it is decoded, and in its colours after."""

import bisect
import io
import itertools
import os
import zlib

from PIL import Image, ImageCms

MAX_PROFILE_BYTES = 16 << 20
_TEXT = (b"tEXt", b"zTXt", b"iTXt")
_PNG = b"\x89PNG\r\n\x1a\n"


def open_bytes(path: str) -> io.BufferedIOBase:
    """The file, less what nobody needs: a PNG without its texts and without a profile that cannot be right."""
    file = open(path, "rb")  # noqa: SIM115 - the caller closes what it gets
    kept = _kept(file, os.path.getsize(path)) if file.read(8) == _PNG else []
    file.seek(0)
    return io.BufferedReader(_Spans(file, [(0, 8), *kept])) if kept else file


def _kept(file: io.BufferedIOBase, size: int) -> list[tuple[int, int]]:
    """The byte ranges (first, one past the last) of the chunks that a picture needs."""
    kept, at = [], 8
    while len(head := file.read(8)) == 8:
        length, name = int.from_bytes(head[:4], "big"), head[4:]
        end = min(at + length + 12, size)
        wrong = name == b"iCCP" and (length > MAX_PROFILE_BYTES or not _is_profile(file.read(length)))
        if name not in _TEXT and not wrong:
            kept.append((at, end))
        at = file.seek(end)
    return kept


class _Spans(io.RawIOBase):
    """Byte ranges of a file, read as one."""

    def __init__(self, file: io.BufferedIOBase, spans: list[tuple[int, int]]):
        self._file, self._spans, self._at = file, spans, 0
        self._ends = list(itertools.accumulate(end - first for first, end in spans))

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._at = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._ends[-1]}[whence]
        return self._at

    def readinto(self, buffer: memoryview) -> int:
        i = bisect.bisect_right(self._ends, self._at)
        if i == len(self._ends):
            return 0
        left = self._ends[i] - self._at
        self._file.seek(self._spans[i][1] - left)
        got = self._file.readinto(memoryview(buffer)[:left])
        self._at += got
        return got

    def close(self) -> None:
        self._file.close()
        super().close()


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
