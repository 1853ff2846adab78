"""Measures of the picture alone: identity, colour drift, flicker, the pulse of the latent frames, sharpness.

Each takes video frames in order and keeps sums: memory does not depend on the length of a video. Grey levels and
colours count from 0 to 255.
"""

from __future__ import annotations

import numpy as np

from liveact_app.evaluate.picture import GRID, Picture
from liveact_app.evaluate.series import Tenths, plain

SHIFT = 3  # cells that a head may have moved since the reference
LATENT = 4  # video frames of a latent frame; the first one is a latent frame of its own


class Identity:
    """How much the low-frequency structure of the face is that of the reference.

    With c(F) the 32x32 mean colours of the face's box, each channel less its mean over the window,

        identity(F) = max over shifts s of  <c(F)[3:29, 3:29], c(R)[3+s: 29+s]> / (|c(F)| |c(R)|),

    s = (dx, dy) up to 3 cells each way: Pearson's correlation at the shift that fits best, 1 for the same picture,
    near 0 for pictures that have nothing in common. A mean brightness or tint plays no part (that is `ColourDrift`),
    nor does detail below a cell. It sees faces of one pose: a turned head lowers it as another person does.

    Args:
        total: video frames of the video.
        reference: cells [32, 32, 3] of the reference's face; None takes the first video frame's.
    """

    def __init__(self, total: int, reference: np.ndarray | None = None):
        self._known = None if reference is None else self._windows(reference)
        self._over_time = Tenths(total)

    @staticmethod
    def _windows(reference: np.ndarray) -> np.ndarray:
        """Every shifted window of the reference, centred and of norm 1: [49, 26 * 26 * 3]."""
        side = GRID - 2 * SHIFT
        views = np.lib.stride_tricks.sliding_window_view(reference.astype(np.float64), (side, side), (0, 1))
        return np.stack([_unit(v.reshape(3, -1)) for v in views.reshape(-1, 3, side, side)])

    def take(self, picture: Picture) -> None:
        """Compare a video frame."""
        if self._known is None:
            self._known = self._windows(picture.face)
        inner = picture.face[SHIFT:-SHIFT, SHIFT:-SHIFT].transpose(2, 0, 1).reshape(3, -1)
        self._over_time.add(picture.number, float((self._known @ _unit(inner.astype(np.float64))).max()))

    def result(self) -> dict[str, object]:
        """`identity`: the mean; `identity_tenths`."""
        return {"identity": plain(self._over_time.mean()), "identity_tenths": plain(self._over_time.means())}


def _unit(channels: np.ndarray) -> np.ndarray:
    """[3, n] less each row's mean, as one vector of norm 1 (of 0 where nothing differs)."""
    centred = (channels - channels.mean(1, keepdims=True)).ravel()
    norm = np.linalg.norm(centred)
    return centred / norm if norm > 1e-6 else centred * 0


class ColourDrift:
    """How far the mean colour has moved since the first tenth of the video.

        drift(k) = mean over R, G, B of |m(k) - m(1)|,   m(k) the mean colour of all pixels in tenth k,

    in levels of 255; `colour_drift` is that of the last tenth.
    """

    def __init__(self, total: int):
        self._over_time = Tenths(total)

    def take(self, picture: Picture) -> None:
        """Add a video frame."""
        self._over_time.add(picture.number, picture.pixels.mean((0, 1), dtype=np.float64))

    def result(self) -> dict[str, object]:
        """`colour_drift` and `colour_drift_tenths`."""
        means = self._over_time.means()
        first = next((m for m in means if m is not None), None)
        drift = [None if m is None or first is None else float(np.abs(m - first).mean()) for m in means]
        return {"colour_drift": plain(drift[-1]), "colour_drift_tenths": plain(drift)}


class Flicker:
    """What changes from one video frame to the next and back again, and how much of it beats at latent frames.

    With Y(t) the grey levels of video frame t and means over pixels:

        flicker = mean over t of  mean |Y(t+1) - 2 Y(t) + Y(t-1)|      (levels; 0 for a still or a steady fade)
        step(t) = mean |Y(t+1) - Y(t)|
        pulse   = mean of step(t) at t = 4, 8, 12, ...  /  mean of step(t) at all other t >= 1

    The VAE turns a latent frame into four video frames (the first into one), so video frame 4n is the last one of
    latent frame n and step(4n) crosses a border: at 20 video frames per second a pulse above 1 beats at 5 Hz.
    `pulse_phases` has the same ratio for the borders at t = 4n, 4n+1, 4n+2, 4n+3, for videos that were cut.
    """

    def __init__(self) -> None:
        self._last: list[np.ndarray] = []
        self._second, self._count = 0.0, 0
        self._steps, self._counts = np.zeros(LATENT), np.zeros(LATENT)

    def take(self, picture: Picture) -> None:
        """Add a video frame."""
        grey = picture.grey
        if self._last:
            t = picture.number - 1
            step = float(np.abs(grey - self._last[-1]).mean())
            if t >= 1:
                self._steps[t % LATENT] += step
                self._counts[t % LATENT] += 1
        if len(self._last) == 2:
            self._second += float(np.abs(grey - 2 * self._last[1] + self._last[0]).mean())
            self._count += 1
        self._last = [*self._last[-1:], grey]

    def result(self) -> dict[str, object]:
        """`flicker`, `pulse` (None where nothing moves) and `pulse_phases`."""
        phases = [self._ratio(p) for p in range(LATENT)]
        flicker = self._second / self._count if self._count else None
        return {"flicker": plain(flicker), "pulse": plain(phases[0]), "pulse_phases": plain(phases)}

    def _ratio(self, phase: int) -> float | None:
        others = np.arange(LATENT) != phase
        if not self._counts[phase] or not self._steps[others].sum():
            return None
        return (self._steps[phase] / self._counts[phase]) / (self._steps[others].sum() / self._counts[others].sum())


class Sharpness:
    """Fine detail: the mean of |Y - mean of Y over the 3x3 pixels around| over all inner pixels, in levels.

    It compares videos of one content and size alone: beside a reference video, it is the share of detail that is
    kept.
    """

    def __init__(self, total: int):
        self._over_time = Tenths(total)

    def take(self, picture: Picture) -> None:
        """Add a video frame."""
        grey = picture.grey
        if min(grey.shape) < 3:
            return
        rows = grey[:-2] + grey[1:-1] + grey[2:]
        mean = (rows[:, :-2] + rows[:, 1:-1] + rows[:, 2:]) / 9
        self._over_time.add(picture.number, float(np.abs(grey[1:-1, 1:-1] - mean).mean()))

    def result(self) -> dict[str, object]:
        """`sharpness` and `sharpness_tenths`."""
        found = self._over_time
        return {"sharpness": plain(found.mean()), "sharpness_tenths": plain(found.means())}
