"""Values over time in tenths of a video: ten sums, however long it is."""

from __future__ import annotations

import numpy as np

PARTS = 10


class Tenths:
    """Means of a value (or of values of one shape) over each tenth of `total` video frames."""

    def __init__(self, total: int):
        self._total = max(1, total)
        self._sums: list[np.ndarray | float] = [0.0] * PARTS
        self._counts = [0] * PARTS

    def part(self, number: int) -> int:
        """The tenth, 0..9, of video frame `number` (from 0)."""
        return min(PARTS - 1, PARTS * number // self._total)

    def add(self, number: int, value: np.ndarray | float) -> None:
        """Take the value of a video frame."""
        part = self.part(number)
        self._sums[part] = self._sums[part] + np.asarray(value, np.float64)
        self._counts[part] += 1

    def means(self) -> list[np.ndarray | None]:
        """One mean a tenth; None where it has no video frame."""
        return [np.asarray(s / n) if n else None for s, n in zip(self._sums, self._counts)]

    def mean(self) -> np.ndarray | None:
        """The mean over all video frames; None without any."""
        count = sum(self._counts)
        return np.asarray(sum(self._sums) / count) if count else None


def plain(value: object, digits: int = 4) -> object:
    """A number or a list of them for a report: rounded, None for what is none or not finite."""
    if isinstance(value, list):
        return [plain(v, digits) for v in value]
    if value is None or not np.isfinite(value):  # type: ignore[call-overload]
        return None
    return round(float(value), digits)  # type: ignore[arg-type]
