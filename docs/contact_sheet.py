"""Draw a generated video as one picture: its frames in order, and the loudness of the speech under each.

    python docs/contact_sheet.py out/demo.mp4 examples/speech.wav docs/demo.png
"""

import sys

import av
import numpy as np
from PIL import Image, ImageDraw

from liveact_app.media.audio import AudioReader, model_audio

COLUMNS, ROWS, CELL, BAR = 12, 4, 112, 26
BACK, INK, VOICE = (250, 250, 248), (60, 60, 60), (30, 110, 190)


def frames_of(path: str, count: int) -> list[tuple[float, Image.Image]]:
    """`count` evenly spaced (seconds, picture) of a video."""
    with av.open(path) as container:
        stream = container.streams.video[0]
        total = stream.frames
        wanted = set(np.linspace(0, total - 1, count).round().astype(int).tolist())
        rate = float(stream.average_rate)
        return [(i / rate, f.to_image()) for i, f in enumerate(container.decode(stream)) if i in wanted]


def loudness(path: str, rate: int = 100) -> np.ndarray:
    """Root mean square of the speech in 1/rate s steps, 0..1."""
    samples = np.concatenate(list(model_audio(AudioReader(path))))
    step = 16000 // rate
    rms = np.sqrt((samples[: len(samples) // step * step].reshape(-1, step) ** 2).mean(1))
    return rms / max(rms.max(), 1e-9)


def sheet(video: str, audio: str) -> Image.Image:
    """COLUMNS x ROWS pictures with a time stamp and the loudness of the quarter second around each."""
    cells, voice = frames_of(video, COLUMNS * ROWS), loudness(audio)
    out = Image.new("RGB", (COLUMNS * CELL, ROWS * (CELL + BAR)), BACK)
    draw = ImageDraw.Draw(out)
    for i, (seconds, picture) in enumerate(cells):
        x, y = i % COLUMNS * CELL, i // COLUMNS * (CELL + BAR)
        out.paste(picture.resize((CELL - 2, CELL - 2), Image.Resampling.LANCZOS), (x + 1, y + 1))
        around = voice[max(0, int(seconds * 100) - 12) : int(seconds * 100) + 13]
        for k, v in enumerate(around):
            left = x + 36 + k * 3
            draw.rectangle((left, y + CELL + 21 - round(18 * float(v)), left + 1, y + CELL + 21), fill=VOICE)
        draw.text((x + 3, y + CELL + 8), f"{seconds:4.1f}s", fill=INK)
    return out


if __name__ == "__main__":
    sheet(sys.argv[1], sys.argv[2]).save(sys.argv[3], optimize=True)
    print(f"wrote {sys.argv[3]}")
