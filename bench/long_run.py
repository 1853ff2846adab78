"""Does it drift? Many minutes of the example voice over and over, the prompt changing, measured in tenths and minutes.

    python bench/long_run.py [--minutes 10] [--probe probe.safetensors] [--out bench/results/cpu/long_run.jsonl]

Mouth: dark pixels between the lips, or with the probe of `liveact_train` the opening it reads, against the log loudness
of the 100 ms around each video frame; of every tenth, and of the first and the last minute. Background: mean colour
(0..255) of a corner no head reaches, in every tenth. Identity: PSNR of a tenth's mean picture to the first tenth's. The
prompts go round in one order, so tenths that hold whole rounds can be compared.
"""

import argparse
import json
import resource
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from manifest import manifest
from root import ROOT
from rows import Rows

from liveact_app.cli import answer
from liveact_app.media.audio import AudioReader, model_audio
from liveact_app.media.image import load_image
from liveact_model.config import BLOCK_VIDEO_FRAMES, FIRST_BLOCK_VIDEO_FRAMES
from liveact_model.errors import InputError
from liveact_model.loading import load_avatar
from liveact_model.schedule import blocks_for
from liveact_model.session import Session
from liveact_train.data.faces import POSE
from liveact_train.evaluate import blinks
from liveact_train.probe import load_probe

PROMPTS = ("a happy person", "a sad person", "an angry person nodding", "a surprised person", "a calm person waving")


ROUND = 8 * len(PROMPTS)  # blocks in which every prompt has its turn


def run(argv: Sequence[str] | None) -> int:
    """Generate, measure, print, append."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10.0, help="of video (default: %(default)s)")
    parser.add_argument("--model", default="tiny", help="name or directory (default: %(default)s)")
    parser.add_argument("--probe", metavar="FILE", help="weights of liveact_train's probe: reads mouth and eyelids")
    parser.add_argument("--out", metavar="FILE", help="append the row to this .jsonl file")
    args = parser.parse_args(argv)
    if not args.minutes > 0:
        raise InputError(f"--minutes: expected a number above 0, got {args.minutes:g}")
    rows, probe = Rows(args.out), load_probe(args.probe) if args.probe else None
    torch.set_num_threads(1)
    avatar = load_avatar(args.model)
    blocks = blocks_for(round(args.minutes * 60 * avatar.default_fps))
    voice = torch.cat([torch.from_numpy(c) for c in model_audio(AudioReader(str(ROOT / "examples/speech.wav")))])
    session = Session(avatar, load_image(str(ROOT / "examples/face.png"), avatar.default_size), PROMPTS[0])
    corner, began = np.zeros((blocks, 3)), time.process_time()
    # whole from the start: what is kept block by block, between large arrays, keeps their memory from going back
    seen, lids = np.zeros((2, FIRST_BLOCK_VIDEO_FRAMES + (blocks - 1) * BLOCK_VIDEO_FRAMES), np.float32)
    end = 0
    pictures = np.zeros((10, *avatar.default_size[::-1], 3))  # sums of the blocks of each tenth
    first_rss = 0
    for block in range(blocks):
        while not session.ready():
            session.push_audio(voice)
        session.set_prompt(PROMPTS[block // 8 % len(PROMPTS)])
        made = session.next_block()
        frames = made.numpy().astype(np.float32)
        now = slice(end, end := end + len(frames))
        seen[now] = (frames[:, 38:54, 22:42].mean(-1) < 90).mean((1, 2))
        if probe is not None:
            with torch.no_grad():
                read = probe(made.permute(0, 3, 1, 2).float() / 127.5 - 1).numpy()
            seen[now], lids[now] = read[:, POSE.index("open")], read[:, POSE.index("blink")]
        corner[block] = frames[:, :8, :6].mean((0, 1, 2))
        pictures[block * 10 // blocks] += frames.mean(0)
        if block == min(blocks - 1, ROUND):
            first_rss = _rss()
        if block % ROUND == ROUND - 1:
            print(f"{block + 1} of {blocks} blocks", file=sys.stderr, flush=True)
    seconds, last_rss = time.process_time() - began, _rss()  # before this script looks at an hour at once
    seen, lids = seen[:end], lids[:end]
    heard = np.tile(voice.numpy(), 2 + len(seen) * 800 // len(voice))
    starts = np.arange(len(seen)) * 800
    loud = np.array([np.log((heard[max(0, s - 400) : s + 1200] ** 2).mean() + 1e-5) for s in starts])

    def follows(part: slice) -> float:
        return round(float(np.corrcoef(seen[part], loud[part])[0, 1]), 3)

    minute, tenths = round(60 * avatar.default_fps), np.array_split(np.arange(len(seen)), 10)
    colours = [np.mean(c, 0).round(1).tolist() for c in np.array_split(corner, 10)]
    count = np.bincount(np.arange(blocks) * 10 // blocks, minlength=10).clip(1)
    faces = pictures / count[:, None, None, None]
    like_first = [round(10 * float(np.log10(255**2 / np.square(f - faces[0]).mean())), 1) for f in faces[1:]]
    row = manifest() | {
        "what": "long run", "model": args.model, "video_frames": len(seen), "process_s": round(seconds, 1),
        "mouth": "probe" if probe is not None else "dark pixels",
        "mouth_correlation_by_tenth": [follows(slice(t[0], t[-1] + 1)) for t in tenths],
        "mouth_correlation_first_minute": follows(slice(0, minute)),
        "mouth_correlation_last_minute": follows(slice(max(0, len(seen) - minute), None)),
        "background_by_tenth": colours, "face_psnr_to_first_tenth": like_first,
        "blinks_per_minute": round(blinks(lids) / (len(seen) / minute), 2) if probe is not None else None,
        "rss_mib_first_round": first_rss, "rss_mib_end": last_rss, "memory_bytes": session.memory_bytes(),
    }  # fmt: skip
    print(json.dumps(rows.add(row)))
    return 0


def _rss() -> int:
    """MiB of memory this process holds; where there is no /proc, the most it ever held."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return pages * resource.getpagesize() >> 20
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    return answer(lambda: run(argv), "long_run.py")


if __name__ == "__main__":
    sys.exit(main())
