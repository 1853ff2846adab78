"""Mel-frequency cepstral coefficients as SyncNet was trained on: 100 rows a second of 13 numbers, streaming.

Davis and Mermelstein (1980), with the settings of the published evaluation: samples as 16-bit whole numbers,
pre-emphasis 0.97, windows of 25 ms (rectangular) every 10 ms, 512-point transform, 26 mel bands from 0 to 8 kHz with
edges on whole bins, DCT-II (orthonormal), liftered by 22, the first number replaced by the log of the window's
energy.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np

RATE_HZ, LENGTH, STEP, POINTS = 16_000, 400, 160, 512
BANDS, KEPT, LIFTER = 26, 13, 22
TINY = float(np.finfo(float).eps)


def filters() -> np.ndarray:
    """Triangles between bins that are equally spaced in mel = 2595 log10(1 + f / 700), rounded down: [26, 257]."""
    mel = np.linspace(0, 2595 * np.log10(1 + RATE_HZ / 2 / 700), BANDS + 2)
    edges = np.floor((POINTS + 1) * 700 * (10 ** (mel / 2595) - 1) / RATE_HZ)
    bins = np.arange(POINTS // 2 + 1)
    left, middle, right = edges[:-2, None], edges[1:-1, None], edges[2:, None]
    rising, falling = (bins - left) / (middle - left), (right - bins) / (right - middle)
    return np.where(bins < middle, np.clip(rising, 0, None), np.clip(falling, 0, None)) * (bins < right)


def transform() -> np.ndarray:
    """DCT-II and liftering in one: [13, 26]."""
    row, band = np.arange(KEPT)[:, None], np.arange(BANDS)
    dct = np.cos(np.pi * row * (band + 0.5) / BANDS) * np.sqrt(np.where(row == 0, 1, 2) / BANDS)
    return dct * (1 + LIFTER / 2 * np.sin(np.pi * row / LIFTER))


class Mfcc:
    """Rows of a recording, each made when it is asked for.

    Args:
        chunks: mono at 16 kHz, float in [-1, 1].

    Attributes:
        samples: samples taken so far.
    """

    def __init__(self, chunks: Iterable[np.ndarray]):
        self._chunks, self.samples = iter(chunks), 0
        self._rows = self._make()

    def __iter__(self) -> Iterator[np.ndarray]:
        """Rows float32 [13]."""
        return self._rows

    def _make(self) -> Iterator[np.ndarray]:
        bank, cepstrum = filters().T, transform().T
        held, before = np.zeros(0), 0.0
        for chunk in self._chunks:
            if not len(chunk):
                continue
            x = np.clip(np.round(np.asarray(chunk, np.float64) * 32768), -32768, 32767)
            self.samples += len(x)
            held = np.concatenate([held, x - 0.97 * np.concatenate([[before], x[:-1]])])
            before = x[-1]
            count = max(0, (len(held) - LENGTH) // STEP + 1)
            if count:
                yield from self._of(held, count, bank, cepstrum)
                held = held[count * STEP :]
        if len(held) > LENGTH - STEP or 0 < self.samples < LENGTH:  # the last window ends in silence
            yield from self._of(np.pad(held, (0, max(0, LENGTH - len(held)))), 1, bank, cepstrum)

    @staticmethod
    def _of(x: np.ndarray, count: int, bank: np.ndarray, cepstrum: np.ndarray) -> np.ndarray:
        windows = np.lib.stride_tricks.sliding_window_view(x, LENGTH)[: count * STEP : STEP]
        power = np.abs(np.fft.rfft(windows, POINTS)) ** 2 / POINTS
        energy, mel = power.sum(1), power @ bank
        rows = np.log(np.where(mel == 0, TINY, mel)) @ cepstrum
        rows[:, 0] = np.log(np.where(energy == 0, TINY, energy))
        return rows.astype(np.float32)
