"""Draw generated videos side by side as one moving picture: what README shows.

    python docs/preview.py docs/preview.webp

Three faces say the beginning of examples/speech.wav, each with a prompt of its own that changes in the middle. 64x64
pixels are drawn three times as large, 20 a second.
"""

import sys

import numpy as np
import torch
from PIL import Image

from liveact_app.media.audio import AudioReader, model_audio
from liveact_app.media.image import load_image
from liveact_model.loading import load_avatar
from liveact_model.session import Session

FACES = ("examples/face.png", "examples/faces/second.png", "examples/faces/third.png")
PROMPTS = (
    ("a happy person talking",) * 2 + ("a surprised person talking",) * 2,
    ("a person talking nodding",) * 2 + ("a sad person talking",) * 2,
    ("a person talking waving",) * 2 + ("an angry person talking",) * 2,
)
SCALE, GAP, FPS, QUALITY = 3, 6, 20, 80


def videos(model: str = "tiny") -> list[torch.Tensor]:
    """Video frames uint8 [F, H, W, 3] of every face, a block a prompt."""
    avatar = load_avatar(model)
    voice = torch.cat([torch.from_numpy(c) for c in model_audio(AudioReader("examples/speech.wav"))])
    out = []
    for face, prompts in zip(FACES, PROMPTS):
        session = Session(avatar, load_image(face, avatar.default_size), prompts[0])
        session.push_audio(voice)
        session.close_audio()
        blocks = []
        for prompt in prompts:
            session.set_prompt(prompt)
            blocks.append(session.next_block())
        out.append(torch.cat(blocks))
    return out


def side_by_side(found: list[torch.Tensor]) -> list[Image.Image]:
    """One large picture per video frame."""
    side = found[0].shape[1] * SCALE
    gap = np.full((side, GAP, 3), 250, np.uint8)
    pictures = []
    for frames in zip(*found):
        large = [np.asarray(Image.fromarray(f.numpy()).resize((side, side), Image.Resampling.BICUBIC)) for f in frames]
        row = [part for picture in large for part in (picture, gap)][:-1]
        pictures.append(Image.fromarray(np.concatenate(row, 1)))
    return pictures


if __name__ == "__main__":
    first, *rest = side_by_side(videos(*sys.argv[2:]))
    first.save(sys.argv[1], save_all=True, append_images=rest, duration=1000 // FPS, loop=0, quality=QUALITY, method=6)
    print(f"wrote {sys.argv[1]}: {1 + len(rest)} video frames")
