"""Does it drift? Many minutes of the example voice over and over, the prompt changing, measured in tenths.

    python bench/long_run.py [--blocks 376] [--out bench/results/cpu/long_run.jsonl]

376 blocks are ten minutes. Mouth: dark pixels between the lips against the log loudness of the 100 ms around each video
frame. Background: mean colour (0..255) of a corner no head reaches, first and last block.
"""

import argparse
import json
import sys
from collections.abc import Sequence

import numpy as np
import torch
from manifest import manifest
from root import ROOT
from rows import Rows

from liveact_app.cli import answer
from liveact_app.media.audio import AudioReader, model_audio
from liveact_app.media.image import load_image
from liveact_model.loading import load_avatar
from liveact_model.session import Session

PROMPTS = ("a happy person", "a sad person", "an angry person nodding", "a surprised person", "a calm person waving")


def run(argv: Sequence[str] | None) -> int:
    """Generate, measure, print, append."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--blocks", type=int, default=376)
    parser.add_argument("--out", metavar="FILE", help="append the row to this .jsonl file")
    args = parser.parse_args(argv)
    rows = Rows(args.out)
    torch.set_num_threads(1)
    avatar = load_avatar("tiny")
    voice = torch.cat([torch.from_numpy(c) for c in model_audio(AudioReader(str(ROOT / "examples/speech.wav")))])
    session = Session(avatar, load_image(str(ROOT / "examples/face.png"), avatar.default_size), PROMPTS[0])
    mouth, corner = [], []
    for block in range(args.blocks):
        while not session.ready():
            session.push_audio(voice)
        session.set_prompt(PROMPTS[block // 8 % len(PROMPTS)])
        frames = session.next_block().numpy().astype(np.float32)
        mouth.append((frames[:, 38:54, 22:42].mean(-1) < 90).mean((1, 2)))
        corner.append(frames[:, :8, :6].mean((0, 1, 2)))
    seen = np.concatenate(mouth)
    heard = np.tile(voice.numpy(), 2 + len(seen) * 800 // len(voice))
    starts = np.arange(len(seen)) * 800
    loud = np.array([np.log((heard[max(0, s - 400) : s + 1200] ** 2).mean() + 1e-5) for s in starts])
    tenths = [float(np.corrcoef(a, b)[0, 1]) for a, b in zip(np.array_split(seen, 10), np.array_split(loud, 10))]
    first, last = (c.astype(float).round(1).tolist() for c in (corner[0], corner[-1]))
    row = manifest() | {
        "what": "long run", "video_frames": len(seen), "mouth_correlation_by_tenth": [round(r, 3) for r in tenths],
        "background_first": first, "background_last": last, "memory_bytes": session.memory_bytes(),
    }  # fmt: skip
    print(json.dumps(rows.add(row)))
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    return answer(lambda: run(argv), "long_run.py")


if __name__ == "__main__":
    sys.exit(main())
