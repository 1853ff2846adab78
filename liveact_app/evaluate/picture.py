"""What the measures see of a video frame: grey levels of its pixels, and mean colours of a grid of cells."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

GRID = 32
LUMA = np.array([0.2126, 0.7152, 0.0722], np.float32)  # ITU-R BT.709

Box = tuple[float, float, float, float]
"""x, y, width, height as shares of the picture, from its upper left corner."""


def cells(pixels: np.ndarray, grid: int = GRID) -> np.ndarray:
    """Mean colour of each of grid x grid cells: uint8 [H, W, 3] -> float32 [grid, grid, 3], 0 to 255.

    Cell i covers pixels floor(i H / grid) to floor((i + 1) H / grid), at least one: any size of picture will do.
    """
    sums = pixels.astype(np.float32)
    for axis in (0, 1):
        side = sums.shape[axis]
        first = np.arange(grid) * side // grid
        if side >= grid:
            counts = np.diff(np.append(first, side)).astype(np.float32)
            sums = np.add.reduceat(sums, first, axis=axis) / np.expand_dims(counts, tuple({0, 1, 2} - {axis}))
        else:
            sums = sums.take(first, axis=axis)
    return sums


def cut(pixels: np.ndarray, box: Box | None) -> np.ndarray:
    """The part of a picture [H, W, 3] in the box, at least one pixel; all of it for None."""
    if box is None:
        return pixels
    (h, w), (x, y, bw, bh) = pixels.shape[:2], box
    left, top = min(w - 1, int(x * w)), min(h - 1, int(y * h))
    return pixels[top : max(top + 1, round((y + bh) * h)), left : max(left + 1, round((x + bw) * w))]


def centre_square(size: tuple[int, int]) -> Box:
    """The largest square in the middle of a picture of size (W, H), as a box."""
    w, h = size
    side = min(w, h)
    return ((w - side) / 2 / w, (h - side) / 2 / h, side / w, side / h)


@dataclass(frozen=True)
class Picture:
    """One video frame of number `number` (from 0), `at` seconds: `pixels` uint8 [H, W, 3], the face in `box`."""

    number: int
    at: float
    pixels: np.ndarray
    box: Box | None = None

    @cached_property
    def grey(self) -> np.ndarray:
        """Luma of every pixel, float32 [H, W], 0 to 255."""
        return self.pixels.astype(np.float32) @ LUMA

    @cached_property
    def cells(self) -> np.ndarray:
        """Cells of the whole picture, [GRID, GRID, 3]."""
        return cells(self.pixels)

    @cached_property
    def face(self) -> np.ndarray:
        """Cells of the face's box, [GRID, GRID, 3]."""
        return self.cells if self.box is None else cells(cut(self.pixels, self.box))
