"""Made-up talking videos of which everything is known: the mouth, how late the sound is, drift, pulse, who is seen."""

from pathlib import Path

import numpy as np
import soundfile

from liveact_app.evaluate.picture import Picture
from liveact_app.media.audio import AudioReader
from liveact_app.media.video import VideoWriter

RATE = 16000
MOUTH = (0.375, 0.625, 0.25, 0.125)  # x, y, width, height


def envelope(seconds, seed=0):
    """A function of time: loudness between 0 and 1 that comes and goes like syllables."""
    rng = np.random.default_rng(seed)
    knots = rng.uniform(0, 1, int((seconds + 6) * 8)) ** 1.5
    return lambda t: np.interp((np.asarray(t) + 3) * 8, np.arange(len(knots)), knots)


def voice(seconds, loud, late=0.0, seed=1):
    """Noise whose loudness follows `loud` of a time that is `late` seconds earlier: float32 [n] at 16 kHz."""
    t = np.arange(int(seconds * RATE)) / RATE
    noise = np.random.default_rng(seed).standard_normal(len(t))
    return (noise * 10 ** (2 * loud(t - late) - 3)).astype(np.float32)


def face(seed=0, side=64):
    """A picture with structure of all sizes: uint8 [side, side, 3]."""
    rng = np.random.default_rng(seed)
    out = np.full((side, side, 3), 128.0)
    for cells in (4, 8, 16):
        grid = rng.uniform(-1, 1, (cells, cells, 3))
        out += 30 * grid.repeat(side // cells, 0).repeat(side // cells, 1)
    return out.clip(0, 255).astype(np.uint8)


def talking(seconds, loud, fps=20.0, person=None, noise=1.0):
    """Pictures [n, 64, 64, 3] of a face whose mouth darkens with the loudness at the middle of each video frame."""
    picture = (face() if person is None else person).astype(float)
    rng, side = np.random.default_rng(9), picture.shape[0]
    n = round(seconds * fps)
    out = np.repeat(picture[None], n, 0) + noise * rng.standard_normal((n, side, side, 3))
    x, y, w, h = (round(v * side) for v in MOUTH)
    out[:, y : y + h, x : x + w] -= 60 * loud((np.arange(n) + 0.5) / fps)[:, None, None, None]
    return out.clip(0, 255).astype(np.uint8)


def fed(measure, pictures, fps=20.0):
    """The measure after all pictures."""
    for number, pixels in enumerate(pictures):
        measure.take(Picture(number, number / fps, pixels))
    return measure


def written(path, pictures, sound, fps=20.0):
    """A video file of pictures and sound; its path as text."""
    wav = Path(path).with_suffix(".wav")
    soundfile.write(wav, sound, RATE, subtype="FLOAT")
    with AudioReader(wav) as audio:
        writer = VideoWriter(str(path), "mp4", pictures.shape[2:0:-1], fps, audio)
        writer.write(pictures)
        writer.close()
    wav.unlink()
    return str(path)
