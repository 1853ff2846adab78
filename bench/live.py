"""How long live sessions take to the first video frame and from speech to the face, over loopback, in real time.

    python bench/live.py [--openings 10] [--sessions 1 2 4] [--out bench/results/cpu/live.jsonl]

A JSON line per number of sessions at a time, with commit, date, machine, versions and the machine's load. Server and
clients share the process. Speech comes all at once ("stored"), and as it is spoken ("live").
"""

import argparse
import json
import os
import statistics
import sys
import threading
import time
from collections.abc import Sequence

import numpy as np
import torch
from manifest import manifest
from root import ROOT
from rows import Rows

sys.path.insert(0, str(ROOT / "tests"))
from serving import OPEN, Talk, serving, until

from liveact_app.cli import answer
from liveact_app.media.audio import AudioReader, model_audio

BURST_S = 2
SCALE = 6


def voice() -> np.ndarray:
    """The example's speech, 16-bit at 16 kHz."""
    samples = np.concatenate(list(model_audio(AudioReader(str(ROOT / "examples/speech.wav")))))
    return (samples * 32767).astype("<i2")


def visit(served, source: str, speech: np.ndarray) -> dict:
    """One session until a block has told of its speech: that block's event, and the first frame's latency."""
    talk = Talk(served, OPEN | {"scale": SCALE, "audio": {"source": source}})
    first = talk.wait("first_frame")["latency_ms"]
    began, at, block = time.monotonic(), 0, {}
    while block.get("latency_ms") is None:
        due = int((time.monotonic() - began) * 16_000) if source == "live" else BURST_S * 16_000
        if due > at:
            talk.ws.send(speech[at:due].tobytes())
            at = due
        talk.next()
        block = talk.events[-1] if talk.events[-1]["type"] == "block" else block
    talk.leave()
    return block | {"first": first}


def latency(openings: int, sessions: int) -> dict:
    """Milliseconds as the server counts them, over `openings` sessions of each kind by each of `sessions` clients."""
    found, speech = {"stored": [], "live": []}, voice()

    def client() -> None:
        for source, into in found.items():
            for _ in range(openings):
                into.append(visit(served, source, speech))

    with serving(rate=1, sessions=2 * sessions) as served:  # one that leaves is there a little longer than its client
        clients = [threading.Thread(target=client) for _ in range(sessions)]
        for one in clients:
            one.start()
        for one in clients:
            one.join()
        until(lambda: not served.hall.live)
    both = found["stored"] + found["live"]
    return {
        "what": "live latency", "sessions_at_a_time": sessions, "openings": len(both),
        "first_frame_ms": spread([b["first"] for b in both]),
        "speech_to_face_ms_stored": spread([b["latency_ms"] for b in found["stored"]]),
        "speech_to_face_ms_live": spread([b["latency_ms"] for b in found["live"]]),
        "ms_per_video_frame": spread([b["ms_per_video_frame"] for b in both]),
        "late_video_frames": sum(b["late_video_frames"] for b in both), "written": f"{64 * SCALE}x{64 * SCALE}",
    }  # fmt: skip


def spread(values: list) -> dict:
    """Median and the ends."""
    return {"median": round(statistics.median(values), 1), "least": min(values), "most": max(values)}


def run(argv: Sequence[str] | None) -> int:
    """Measure, print, append."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--openings", type=int, default=10)
    parser.add_argument("--sessions", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--out", metavar="FILE", help="append the rows to this .jsonl file")
    args = parser.parse_args(argv)
    rows = Rows(args.out)
    torch.set_num_threads(1)
    for sessions in args.sessions:
        load = {"load_average_before": round(os.getloadavg()[0], 1), "cores": os.cpu_count()}
        print(json.dumps(rows.add(manifest() | load | latency(args.openings, sessions))))
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    return answer(lambda: run(argv), "live.py")


if __name__ == "__main__":
    sys.exit(main())
