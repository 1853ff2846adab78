"""Live sessions over loopback: latency, a thousand openings, and two hours as fast as they go.

    python bench/live.py latency [--openings 20] [--out bench/results/cpu/live.jsonl]
    python bench/live.py openings [--count 1000] [--out ...]
    python bench/live.py soak [--seconds 7200] [--out ...]

One JSON line each, with commit, date, machine and versions. Server and client share the process and so its memory. In
`latency` time is real; the other two count video frames, not seconds: a session is paced by a clock that runs faster
than the machine can follow, so every block is made at once after the one before.
"""

import argparse
import gc
import json
import os
import statistics
import sys
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

UNPACED = 1000.0
SAMPLES = 10  # of memory


def rss_mib() -> float:
    """Memory of this process that is in use."""
    gc.collect()
    with open("/proc/self/statm", encoding="ascii") as file:
        return round(int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20, 1)


def voice() -> np.ndarray:
    """The example's speech, 16-bit at 16 kHz."""
    samples = np.concatenate(list(model_audio(AudioReader(str(ROOT / "examples/speech.wav")))))
    return (samples * 32767).astype("<i2")


def latency(openings: int) -> dict:
    """Milliseconds from the opening to the first video frame, and from speech to the face, counted by the server."""
    first, stored, live, made, late = [], [], [], [], 0
    speech = voice()
    with serving(rate=1, sessions=1) as served:
        for source, into in (("stored", stored), ("live", live)):
            for _ in range(openings):
                talk = Talk(served, OPEN | {"scale": 6, "audio": {"source": source}})
                first.append(talk.wait("first_frame")["latency_ms"])
                began, at = time.monotonic(), 0
                while not (block := talk.events[-1]).get("latency_ms") or block["type"] != "block":
                    due = int((time.monotonic() - began) * 16_000) if source == "live" else 2 * 16_000
                    if due > at:
                        talk.ws.send(speech[at:due].tobytes())
                        at = due
                    talk.next()
                into.append(block["latency_ms"])
                made.append(block["ms_per_video_frame"])
                late += block["late_video_frames"]
                talk.leave()
                until(lambda: not served.hall.live)
    return {
        "what": "live latency", "openings": 2 * openings, "first_frame_ms": spread(first),
        "speech_to_face_ms_stored": spread(stored), "speech_to_face_ms_live": spread(live),
        "ms_per_video_frame": spread(made), "late_video_frames": late, "written": "384x384",
    }  # fmt: skip


def spread(values: list) -> dict:
    """Median and the ends."""
    return {"median": round(statistics.median(values), 1), "least": min(values), "most": max(values)}


def openings(count: int) -> dict:
    """Memory, threads and files while sessions are opened and closed, each after its first video frame."""
    memory = []
    with serving(rate=1, sessions=1) as served:
        for number in range(count + 1):
            if number % (count // SAMPLES) == 0:
                memory.append(rss_mib())
            talk = Talk(served)
            talk.wait("first_frame")
            talk.leave()
            until(lambda: not served.hall.live)
        files = len(os.listdir("/proc/self/fd"))
        ended = dict(served.hall.ended)
    return {"what": "live openings", "count": count, "rss_mib_by_tenth": memory, "open_files": files, "ended": ended}


def soak(seconds: float) -> dict:
    """Memory, and the distance of sound and picture, of one session of that many seconds of video."""
    speech, memory, apart, began = voice(), [], [], time.monotonic()
    with serving(rate=UNPACED, sessions=1, longest_s=1e9, idle_s=1e9) as served:
        talk = Talk(served, OPEN | {"audio": {"source": "stored"}})
        talk.wait("opened")
        at, block, fragment = 0.0, {"room_ms": 60_000}, b""
        while at < seconds:
            if block["room_ms"] > 30_000:
                talk.ws.send(speech.tobytes())
                block["room_ms"] -= 1000 * len(speech) // 16_000
            if not talk.next():
                raise RuntimeError(f"the session ended: {talk.closed}")
            if talk.parts:
                fragment, talk.parts = talk.parts[-1], []
            if talk.events and talk.events[-1]["type"] == "block":
                block, talk.events = talk.events[-1], []
                at = block["at"]
                if len(memory) <= at / seconds * SAMPLES:
                    memory.append(rss_mib())
                    apart.append(distance_ms(fragment))
                    print(f"{at:.0f} s of {seconds:.0f}, {memory[-1]} MiB", file=sys.stderr, flush=True)
        talk.leave()
        frames = served.hall.totals()["video_frames"]
    took = time.monotonic() - began
    return {
        "what": "live soak", "video_frames": frames, "video_seconds": round(at), "took_s": round(took),
        "times_real_time": round(at / took, 1), "rss_mib_by_tenth": memory, "sound_minus_picture_ms_by_tenth": apart,
    }  # fmt: skip


def distance_ms(fragment: bytes) -> float:
    """End of the sound less end of the picture in a fragment with both, by its decode times."""
    ends, at = [], 0
    while (at := fragment.find(b"tfdt", at)) >= 0:
        ends.append(int.from_bytes(fragment[at + 8 : at + 16], "big"))
        at += 4
    if len(ends) < 2:
        return float("nan")
    video, sound = ends
    count = int.from_bytes(fragment[fragment.rfind(b"trun") + 8 :][:4], "big")
    return round(1e3 * ((sound + 1024 * count) / 16_000 - (video / 20_000 + 1 / 20)), 1)


def run(argv: Sequence[str] | None) -> int:
    """Measure, print, append."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("latency", "openings", "soak"))
    parser.add_argument("--openings", type=int, default=20)
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--seconds", type=float, default=7200)
    parser.add_argument("--out", metavar="FILE", help="append the row to this .jsonl file")
    args = parser.parse_args(argv)
    rows, about = Rows(args.out), manifest()
    torch.set_num_threads(1)
    found = {"latency": lambda: latency(args.openings), "openings": lambda: openings(args.count),
             "soak": lambda: soak(args.seconds)}[args.what]()  # fmt: skip
    about["threads"] = torch.get_num_threads()
    load = {"load_average": round(os.getloadavg()[0], 1), "cores": os.cpu_count()}
    print(json.dumps(rows.add(about | found | load)))
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    return answer(lambda: run(argv), "live.py")


if __name__ == "__main__":
    sys.exit(main())
