"""Lip sync without a face detector: how well the loudness of the sound can be told from the picture, and at which lag.

The measure is the one by which an envelope is reconstructed from many channels: a ridge regression finds the spatial
filter over 16x16 cells whose output follows the loudness; it is found on nine tenths of the video and scored on the
tenth that it has not seen, so what fits by chance does not count. Where nothing but the mouth follows the sound, the
filter is the mouth.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

import numpy as np

from liveact_app.evaluate.picture import LUMA, Picture
from liveact_app.evaluate.series import PARTS, Tenths, plain

RATE_HZ = 16_000
HOP, WINDOW = 160, 512  # samples: 100 values a second, each of 32 ms
BAND_HZ = (100.0, 5500.0)
DEPTH_DB = 40.0  # below the loud parts (95th percentile) by more than this is silence
SILENT_DB = -40.0  # noise of one step of 16 bits has -47
SMOOTH = 7  # values of the Hann window that smooths the loudness: 70 ms, a video frame or two
GRID = 16
RIDGE = 0.3  # times the mean variance of a cell
SLOW_S = 1.0  # what is slower than this, each way, is drift or pose
LAG_S = 0.6  # lags looked at, each way
LEAST_S = 2.0


class Loudness:
    """Loudness of a mono recording at 16 kHz, 100 values a second.

        l(n) = max(0, E(n) - max(E95 - 40, -40)),   E(n) = 10 log10 of the power from 100 to 5500 Hz in 32 ms around
                                                    n * 10 ms,

    E95 the 95th percentile of E, then smoothed by a Hann window of 70 ms. What lies 40 dB below the loud parts is
    silence, and so is noise in the last bit of 16. Four bytes a value: 1.4 MB an hour.

    Attributes:
        values: float32 [n], dB above silence, 0 to about 45.
    """

    def __init__(self, chunks: Iterable[np.ndarray]):
        energy = np.concatenate([np.zeros(0, np.float32), *self._energies(chunks)])
        silence = max(np.percentile(energy, 95) - DEPTH_DB, SILENT_DB) if len(energy) else 0.0
        kernel = np.hanning(SMOOTH + 2)[1:-1]
        self.values = np.clip(energy - silence, 0, None)
        if len(energy):
            around = np.pad(self.values, SMOOTH // 2, mode="edge")
            self.values = np.convolve(around, kernel / kernel.sum(), "valid").astype(np.float32)

    @staticmethod
    def _energies(chunks: Iterable[np.ndarray]) -> Iterable[np.ndarray]:
        hz, window = np.fft.rfftfreq(WINDOW, 1 / RATE_HZ), np.hanning(WINDOW)
        band = (hz > BAND_HZ[0]) & (hz < BAND_HZ[1])
        held = np.zeros(WINDOW // 2, np.float32)  # value n is centred on sample n * HOP
        for chunk in chunks:
            held = np.concatenate([held, chunk])
            count = max(0, (len(held) - WINDOW) // HOP + 1)
            if count:
                views = np.lib.stride_tricks.sliding_window_view(held, WINDOW)[: count * HOP : HOP]
                power = np.abs(np.fft.rfft(views * window)) ** 2
                yield (10 * np.log10(power[:, band].sum(1) + 1e-9)).astype(np.float32)
                held = held[count * HOP :]

    def at(self, seconds: np.ndarray) -> np.ndarray:
        """The loudness at these times after the first sound, linear between values; outside, that of the ends."""
        if not len(self.values):
            return np.zeros_like(seconds)
        return np.interp(seconds * RATE_HZ / HOP, np.arange(len(self.values)), self.values)


class LipSync:
    """Correlation of the loudness with what the best spatial filter makes of the picture, held out tenth by tenth.

    For video frame t of middle time T(t), x(t) are the grey levels of 16x16 cells of the face's box and a(t, d) the
    loudness at T(t) + d. Both lose their mean over one second each way. With sums over the other nine tenths (each
    centred),

        w(k, d) = (X + 0.3 tr(X)/256 I)^-1 X_a(d),    X = sum x x^T,  X_a(d) = sum x a(d),
        r(d)    = sum over tenths k of cov_k(w(k, d) x, a(d)) / sqrt(sum var_k(w(k, d) x) * sum var_k(a(d))).

    `lip_sync` is r at the lag d, up to 0.6 s each way, where it is greatest, `lip_sync_lag_ms` that lag from a
    parabola through three values: positive where the sound comes later than the mouth. 1 is perfect; unrelated sound
    gives about 0 (up to 0.4 in a video of 12 s, because the greatest of 25 lags is taken). `mouth` is where it
    looked: the box around cells whose own correlation is at least 0.7 of the strongest, as shares of the picture.

    Args:
        total: video frames.
        fps: video frames per second.
        loudness: of the sound.
        sound_after: seconds from the first video frame to the first sound.
    """

    def __init__(self, total: int, fps: float, loudness: Loudness, sound_after: float = 0.0):
        self._fps, self._loudness, self._after = fps, loudness, sound_after
        self._reach = max(1, round(LAG_S * fps))
        self._lags = np.arange(-self._reach, self._reach + 1) / fps
        self._tenths, self._total = Tenths(total), total
        size = GRID * GRID + len(self._lags)
        self._products = np.zeros((PARTS, size, size))
        self._sums, self._counts = np.zeros((PARTS, size)), np.zeros(PARTS)
        self._slow, self._held = _LessSlow(max(1, round(SLOW_S * fps))), []
        self._done, self._box = 0, None

    def take(self, picture: Picture) -> None:
        """Add a video frame."""
        self._box = picture.box
        fine = picture.face @ LUMA
        coarse = fine.reshape(GRID, 2, GRID, 2).mean((1, 3)).ravel()
        heard = self._loudness.at(picture.at + 0.5 / self._fps - self._after + self._lags)
        self._add(self._slow.push(np.concatenate([coarse, heard])))

    def _add(self, rows: list[np.ndarray]) -> None:
        for row in rows:
            part = self._tenths.part(self._done)
            if self._held and (part != self._held[0][0] or len(self._held) == 64):
                self._flush()
            self._held.append((part, row))
            self._done += 1

    def _flush(self) -> None:
        if self._held:
            part, z = self._held[0][0], np.stack([row for _, row in self._held])
            self._products[part] += z.T @ z
            self._sums[part] += z.sum(0)
            self._counts[part] += len(z)
            self._held = []

    def result(self) -> tuple[dict[str, object], str]:
        """The figures, and why there are none ("" where there are)."""
        self._add(self._slow.finish())
        self._flush()
        none = dict.fromkeys(("lip_sync", "lip_sync_lag_ms", "lip_sync_tenths", "mouth"))
        if self._done < LEAST_S * self._fps:
            return none, f"too short for lip sync ({self._done / self._fps:.1f} s, {LEAST_S:g} s are needed)"
        n, counts = GRID * GRID, np.maximum(1, self._counts)[:, None, None]
        within = self._products - self._sums[:, :, None] * self._sums[:, None, :] / counts
        if float(np.diagonal(within[:, n:, n:], axis1=1, axis2=2).sum()) < 1e-3 * self._done:
            return none, "its sound is the same throughout: no lip sync"
        r, by_part, peak = self._held_out(within, n)
        lag = self._lags[peak] + _vertex(r, peak) / self._fps
        found = {"lip_sync": plain(r[peak]), "lip_sync_lag_ms": plain(1000 * lag, 1)}
        if r[peak] <= 0:
            found["lip_sync_lag_ms"] = None
        long_enough = self._done >= PARTS * self._fps  # a second each
        tenths = plain(by_part[:, peak].tolist()) if long_enough else [None] * PARTS
        return {**none, **found, "lip_sync_tenths": tenths, "mouth": self._mouth(within.sum(0), n, peak)}, ""

    def _held_out(self, within: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray, int]:
        """r of every lag, the same in each tenth [10, lags], and the lag where r is greatest."""
        whole, lags = within.sum(0), within.shape[1] - n
        both, seen, heard = np.zeros((PARTS, lags)), np.zeros((PARTS, lags)), np.zeros((PARTS, lags))
        for k, part in enumerate(within):
            rest = whole - part
            x = rest[:n, :n]
            w = np.linalg.solve(x + (RIDGE * np.trace(x) / n + 1e-9) * np.eye(n), rest[:n, n:])
            both[k] = (w * part[:n, n:]).sum(0)
            seen[k] = (w * (part[:n, :n] @ w)).sum(0)
            heard[k] = np.diagonal(part[n:, n:])
        r = both.sum(0) / np.sqrt(seen.sum(0) * heard.sum(0) + 1e-12)
        return r, both / np.sqrt(seen * heard + 1e-12), int(r.argmax())

    def _mouth(self, whole: np.ndarray, n: int, peak: int) -> list[float] | None:
        """x, y, width, height as shares of the picture."""
        spread = np.sqrt(np.maximum(np.diagonal(whole)[:n] * whole[n + peak, n + peak], 1e-12))
        strength = np.abs(whole[:n, n + peak] / spread).reshape(GRID, GRID)
        if not strength.max() > 0:
            return None
        rows, columns = np.nonzero(strength >= 0.7 * strength.max())
        x, y, w, h = self._box or (0.0, 0.0, 1.0, 1.0)
        left, top = columns.min() / GRID, rows.min() / GRID
        wide, high = (np.ptp(columns) + 1) / GRID, (np.ptp(rows) + 1) / GRID
        return [round(float(v), 4) for v in (x + left * w, y + top * h, wide * w, high * h)]


def _vertex(values: np.ndarray, peak: int) -> float:
    """Where the parabola through three values has its top, in steps from the middle one."""
    if not 0 < peak < len(values) - 1:
        return 0.0
    before, top, after = values[peak - 1 : peak + 2]
    bend = before - 2 * top + after
    return float(np.clip(0.5 * (before - after) / bend, -0.5, 0.5)) if bend < 0 else 0.0


class _LessSlow:
    """Each row less the mean of the rows up to `reach` before and after it, as far as there are any."""

    def __init__(self, reach: int):
        self._reach, self._rows = reach, deque()
        self._sum: np.ndarray | float = 0.0
        self._first, self._next, self._seen = 0, 0, 0  # numbers of the first row kept, of the next out, of all in

    def push(self, row: np.ndarray) -> list[np.ndarray]:
        """Take a row; the rows that are ready."""
        self._rows.append(row)
        self._sum = self._sum + row
        self._seen += 1
        return [self._out()] if self._seen - self._next > self._reach else []

    def finish(self) -> list[np.ndarray]:
        """The rows that waited for more."""
        return [self._out() for _ in range(self._seen - self._next)]

    def _out(self) -> np.ndarray:
        while self._first < self._next - self._reach:
            self._sum = self._sum - self._rows.popleft()
            self._first += 1
        out = self._rows[self._next - self._first] - self._sum / len(self._rows)
        self._next += 1
        return out
