"""How fast the shipped tiny model runs on this machine's CPU: model alone, and a whole `liveact generate`.

    python bench/tiny.py [--blocks 40] [--out bench/results/cpu/tiny.jsonl]

One JSON line per measurement, with commit, date, machine and versions; medians over blocks. The processor's time beside
the clock's is what can be compared where others use the machine too.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from manifest import manifest
from root import ROOT
from rows import Rows

from liveact_app.cli import answer, build_parser
from liveact_app.generate import command as generate
from liveact_app.media.audio import AudioReader, model_audio
from liveact_app.media.image import load_image
from liveact_kernels.contract import record
from liveact_kernels.cost.budget import Tally
from liveact_model.loading import load_avatar
from liveact_model.session import Session


def model_speed(dtype: str, blocks: int) -> dict:
    """Median video frames per second of steady blocks, denoising and decoding, one thread."""
    avatar = load_avatar("tiny", dtype=dtype)
    session = Session(avatar, load_image(str(ROOT / "examples/face.png"), avatar.default_size), "happy")
    speech = torch.cat([torch.from_numpy(c) for c in model_audio(AudioReader(str(ROOT / "examples/speech.wav")))])
    seconds, spent, tally = [], [], Tally()
    with record(tally):
        for _ in range(blocks + 2):
            while not session.ready():
                session.push_audio(speech)
            began, charged = time.perf_counter(), time.process_time()
            session.next_block()
            seconds.append(time.perf_counter() - began)
            spent.append(time.process_time() - charged)
    steady = sorted(seconds[2:])
    median = statistics.median(steady)
    return {
        "what": "model", "dtype": dtype, "threads": torch.get_num_threads(), "blocks": blocks,
        "backends": sorted(set(tally.backends.values())), "video_frames_per_second": round(32 / median, 1),
        "p20_p80": [round(32 / steady[int(len(steady) * q)], 1) for q in (0.8, 0.2)],
        "times_real_time": round(32 / median / avatar.default_fps, 2),
        "cpu_ms_per_video_frame": round(1e3 * statistics.median(spent[2:]) / 32, 4),
    }  # fmt: skip


def generation_speed(scale: int) -> dict:
    """A whole `liveact generate` of the example, encoding included."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        args = build_parser().parse_args([
            "generate", "--image", str(ROOT / "examples/face.png"), "--audio", str(ROOT / "examples/speech.wav"),
            "--out", str(Path(folder) / "a.mp4"), "--report", str(report), "--scale", str(scale),
        ])  # fmt: skip
        generate.run(args)
        summary = json.loads(report.read_text())
    return {
        "what": f"liveact generate --scale {scale}", "dtype": "float32", "threads": torch.get_num_threads(),
        "video_frames_per_second": round(summary["video_frames_per_second"], 1),
        "times_real_time": round(1 / summary["real_time_factor"], 2),
        "encode_share": round(summary["encode_seconds"] / summary["generate_seconds"], 3),
        "peak_rss_mib": round(summary["peak_rss_bytes"] / 2**20),
    }  # fmt: skip


def run(argv: Sequence[str] | None) -> int:
    """Measure, print, append."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--blocks", type=int, default=40)
    parser.add_argument("--out", metavar="FILE", help="append the rows to this .jsonl file")
    args = parser.parse_args(argv)
    rows = Rows(args.out)
    about = manifest()
    torch.set_num_threads(1)
    for dtype in ("float32", "bfloat16"):
        rows.add(about | model_speed(dtype, args.blocks))
    for scale in (1, 6):
        rows.add(about | generation_speed(scale))
    for row in rows.all:
        print(json.dumps(row))
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    return answer(lambda: run(argv), "tiny.py")


if __name__ == "__main__":
    sys.exit(main())
