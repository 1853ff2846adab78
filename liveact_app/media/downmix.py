"""From any channels to the ones that are wanted: stereo by the standard coefficients, mono that cannot cancel."""

from collections.abc import Iterable, Iterator

import numpy as np

# ITU-R BS.775: what a channel adds to left and right; the low-frequency channels add nothing.
_HALF = 0.5**0.5
_SIDES = {
    "FL": (1, 0), "FR": (0, 1), "FC": (_HALF, _HALF), "BL": (_HALF, 0), "BR": (0, _HALF), "SL": (_HALF, 0),
    "SR": (0, _HALF), "BC": (0.5, 0.5), "FLC": (1, 0), "FRC": (0, 1), "DL": (1, 0), "DR": (0, 1), "LFE": (0, 0),
    "LFE2": (0, 0),
}  # fmt: skip
STEREO = ("FL", "FR")
BLOCK_SECONDS, MEMORY_SECONDS, SURE = 0.05, 0.5, 0.1


def to_stereo(samples: np.ndarray, layout: tuple[str, ...]) -> np.ndarray:
    """Samples [n, channels] -> [n, 2]; mono and the mean of channels without names go to both sides."""
    channels = samples.shape[1]
    if layout == STEREO or channels == 2:
        return samples
    if channels == 1 or not layout:
        return np.repeat(samples.mean(axis=1, keepdims=True), 2, axis=1)
    return samples @ np.array([_SIDES.get(name, (_HALF, _HALF)) for name in layout], np.float32)


def mono_weights(channels: int, layout: tuple[str, ...]) -> np.ndarray:
    """What each channel adds to mono: the mean of mono, stereo and unnamed channels, else BS.775 (centre 1)."""
    if channels <= 2 or not layout:
        return np.full(channels, 1 / channels, np.float32)
    return np.array([sum(_SIDES.get(name, (_HALF, _HALF))) * _HALF for name in layout], np.float32)


def to_mono(chunks: Iterable[np.ndarray], rate: int, layout: tuple[str, ...]) -> Iterator[np.ndarray]:
    """Weighted sum of the channels [n, c] -> [n, 1], in which a channel of opposite phase is turned over first.

    Channel by channel, in blocks of 50 ms on a fixed grid (so that chunks of any size give the same): where the
    correlation with the sum so far over the last half second is clearly negative the sign changes, in a linear fade.
    """
    size, held, signs = max(1, int(rate * BLOCK_SECONDS)), None, None
    for chunk in chunks:
        if chunk.shape[1] == 1:
            yield chunk
            continue
        signs = signs or _Signs(mono_weights(chunk.shape[1], layout))
        held = chunk if held is None or not len(held) else np.concatenate([held, chunk])
        whole = len(held) // size * size
        if whole:
            yield np.concatenate([signs.mix(held[at : at + size]) for at in range(0, whole, size)])
            held = held[whole:]
    if held is not None and len(held):
        yield signs.mix(held)


class _Signs:
    def __init__(self, weights: np.ndarray):
        self._weights, count = weights, len(weights)
        self._sign = np.ones(count, np.float32)
        self._cross, self._energy, self._sum = np.zeros(count), np.zeros(count), np.zeros(count)
        self._fresh = np.ones(count, bool)

    def mix(self, block: np.ndarray) -> np.ndarray:
        """One block [n, c] -> [n, 1]."""
        keep = 1 - BLOCK_SECONDS / MEMORY_SECONDS
        parts = block * self._weights
        total, fade = parts[:, 0].copy(), np.linspace(0, 1, len(block), dtype=np.float32)
        for c in range(1, parts.shape[1]):
            part, sign = parts[:, c], self._sign[c]
            self._cross[c] = keep * self._cross[c] + float(total @ part)
            self._energy[c] = keep * self._energy[c] + float(part @ part)
            self._sum[c] = keep * self._sum[c] + float(total @ total)
            sure = SURE * (self._energy[c] * self._sum[c]) ** 0.5
            if abs(self._cross[c]) > sure > 0:
                self._sign[c] = np.sign(self._cross[c])
            start = self._sign[c] if self._fresh[c] else sign  # the first decision has nothing to fade from
            self._fresh[c] &= not sure > 0
            total += part * (self._sign[c] if start == self._sign[c] else start + (self._sign[c] - start) * fade)
        return total[:, None]
