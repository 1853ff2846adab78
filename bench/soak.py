"""Does a live server stay as it is? Sessions opened and closed by the thousand, and one that lasts for hours.

    python bench/soak.py sessions [--count 1000] [--out bench/results/cpu/soak.jsonl]
    python bench/soak.py long [--hours 2] [--rate 10] [--out bench/results/cpu/soak.jsonl]

The server is a process of its own, with the clock of its sessions `--rate` times as fast as real; rows have its
resident memory, threads and file descriptors as the kernel counts them, read from outside.

sessions  three ends in turn: the message, a closed socket, a connection that breaks. Two at a time.
long      speech all the time, another prompt every 30 s, an interrupt every 10 minutes, a viewer every 5 who leaves
          after 5 s. Sound against picture: by the decode times in the fragments, and by the lag at which mouth and
          loudness agree best, of the first and the last two minutes.
"""

import argparse
import asyncio
import base64
import contextlib
import io
import json
import os
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Sequence

import av
import numpy as np
from fragments import Sync
from manifest import manifest
from root import ROOT
from rows import Rows

from liveact_app.arguments import real_number, whole_number
from liveact_app.cli import answer, build_parser
from liveact_app.media.audio import AudioReader, model_audio
from liveact_model.errors import InputError

PROMPTS = ("a happy person", "a sad person", "an angry person nodding", "a surprised person", "a calm person waving")
SAMPLE_EVERY = 50  # sessions
ROW_EVERY_S, ENDS_S = 300.0, 120.0
PROMPT_EVERY_S, INTERRUPT_EVERY_S, VIEWER_EVERY_S, VIEWER_STAYS_S = 30, 600, 300, 5
RATE_HZ, PUSH_S = 16_000, 4.0


def serve(args: argparse.Namespace) -> int:
    """The server's process; prints its port."""
    from liveact_app.serve.clock import Clock
    from liveact_app.serve.run import listen
    from liveact_app.serve.run import serve as answer_all
    from liveact_app.serve.start import opened

    flags = ["serve", "--sessions", "4", "--idle", "86400", "--longest", "86400", "--drain", "1"]
    listening = listen("127.0.0.1", 0)
    with opened(build_parser().parse_args(flags), Clock(args.rate)) as app:
        print(listening.getsockname()[1], flush=True)
        answer_all(app, listening, {})
    return 0


class Server:
    """A child process, and what the kernel says of it."""

    def __init__(self, rate: float):
        command = [sys.executable, __file__, "serve", "--rate", str(rate)]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        port = self._process.stdout.readline().strip()
        if not port:
            raise InputError(f"server: expected it to start, it ended with code {self._process.wait()}")
        self.url = f"ws://127.0.0.1:{port}/api/live"

    def numbers(self) -> dict:
        """Memory, threads and descriptors of this moment."""
        proc = f"/proc/{self._process.pid}"
        with open(f"{proc}/status", encoding="ascii") as status:
            rss = next(int(line.split()[1]) / 1024 for line in status if line.startswith("VmRSS:"))
        return {"rss_mib": round(rss, 2), "server_threads": len(os.listdir(f"{proc}/task")),
                "descriptors": len(os.listdir(f"{proc}/fd"))}  # fmt: skip

    async def metric(self, name: str) -> float:
        """A number of the page for Prometheus."""
        import httpx

        async with httpx.AsyncClient() as client:
            page = (await client.get(self.url.replace("ws://", "http://").replace("/api/live", "/metrics"))).text
        return next(float(line.split()[1]) for line in page.splitlines() if line.split()[0] == name)

    def stop(self) -> int:
        """SIGTERM; returns the exit code."""
        self._process.send_signal(signal.SIGTERM)
        try:
            return self._process.wait(60)
        except subprocess.TimeoutExpired:
            self._process.kill()
            return self._process.wait()


@contextlib.contextmanager
def server(rate: float):
    """A server that is gone afterwards."""
    child = Server(rate)
    try:
        yield child
    finally:
        child.stop()


def voice() -> np.ndarray:
    """The example's speech, int16 at 16 kHz."""
    parts = [np.asarray(c) for c in model_audio(AudioReader(str(ROOT / "examples/speech.wav")))]
    return (np.concatenate(parts) * 32767).astype("<i2")


# ---- sessions opened and closed -------------------------------------------------------------------------------------


async def one(url: str, number: int, speech: bytes) -> None:
    """Open, speak, see ten video frames, and leave in one of three ways."""
    import websockets

    async with websockets.connect(url, max_size=None, ping_interval=None) as ws:
        image = {"face": ("first", "second", "third")[number % 3]}
        await ws.send(json.dumps({"type": "open", "image": image, "prompt": PROMPTS[number % 5]}))
        if json.loads(await ws.recv())["type"] != "opened":  # those who vanished are not all noticed yet
            await asyncio.sleep(0.2)
            return await one(url, number, speech)
        await ws.send(speech)
        seen = 0
        while seen < 11:  # the first is the init segment
            seen += isinstance(await ws.recv(), bytes)
        way = number % 3
        if way == 0:
            await ws.send(json.dumps({"type": "close"}))
            with contextlib.suppress(websockets.ConnectionClosed):
                while True:
                    await ws.recv()
        elif way == 1:
            ws.transport.abort()  # as if the network were gone


async def many(child: Server, count: int, rows: Rows) -> None:
    """`count` sessions, a row every SAMPLE_EVERY when all are over."""
    speech, began = voice()[:RATE_HZ].tobytes(), time.monotonic()
    for first in range(0, count, SAMPLE_EVERY):
        todo = iter(range(first, min(count, first + SAMPLE_EVERY)))

        async def worker(todo=todo):
            for number in todo:
                await one(child.url, number, speech)

        await asyncio.gather(worker(), worker())
        while await child.metric("liveact_sessions"):
            await asyncio.sleep(0.1)
        ended = min(count, first + SAMPLE_EVERY)
        row = {"what": "sessions", "sessions": ended, "seconds": round(time.monotonic() - began, 1), **child.numbers()}
        print(json.dumps(rows.add(manifest() | row)), flush=True)


# ---- one that lasts -------------------------------------------------------------------------------------------------


class Long:
    """A client that speaks all the time and looks at everything that comes."""

    def __init__(self, child: Server, hours: float, rate: float, rows: Rows):
        self._child, self._until, self._rate, self._rows = child, 3600 * hours, rate, rows
        self._voice, self._at, self._room_s = voice(), 0, 0.0
        self._began, self._late = time.monotonic(), 0
        self._prompts = self._interrupts = self._viewers = 0
        self._told = {"prompt": 0, "interrupted": 0}
        self._first, self._last = [], deque()
        self._seen: set = set()

    async def run(self) -> None:
        """Until the picture has lasted as long as asked."""
        import websockets

        async with websockets.connect(self._child.url, max_size=None, ping_interval=None) as ws:
            picture = base64.b64encode((ROOT / "examples/face.png").read_bytes()).decode()
            await ws.send(json.dumps({"type": "open", "image": {"base64": picture}, "prompt": PROMPTS[0],
                                      "audio": {"source": "stored"}}))  # fmt: skip
            opened = json.loads(await ws.recv())
            init = await ws.recv()
            self._id, self._init, self._fps = opened["id"], init, opened["fps"]
            self._sync, self._room_s, due = Sync(init, opened["fps"]), opened["room_ms"] / 1e3, ROW_EVERY_S
            while self._sync.seconds < self._until:
                item = await ws.recv()
                if isinstance(item, str):
                    await self._event(ws, json.loads(item))
                    continue
                self._sync.take(item)
                self._keep(item)
                if self._sync.seconds >= due:
                    self._row()
                    due += ROW_EVERY_S
            await ws.send(json.dumps({"type": "close"}))
        await asyncio.gather(*self._seen)
        self._summary()

    def _keep(self, fragment: bytes) -> None:
        """Both ends of the session, to be looked at when it is over."""
        if self._sync.seconds <= ENDS_S:
            self._first.append(fragment)
        self._last.append(fragment)
        if len(self._last) > ENDS_S * self._fps:
            self._last.popleft()

    async def _event(self, ws, event: dict) -> None:
        if event["type"] in self._told:
            self._told[event["type"]] += 1
        if event["type"] != "block":
            return
        self._late, self._room_s = event["late_video_frames"], event["room_ms"] / 1e3
        while self._room_s > 45 + PUSH_S:  # of 60: a quarter of a minute waits
            part = np.take(self._voice, range(self._at, self._at + int(PUSH_S * RATE_HZ)), mode="wrap")
            await ws.send(part.tobytes())
            self._at, self._room_s = self._at + len(part), self._room_s - PUSH_S
        at = self._sync.seconds
        if at // PROMPT_EVERY_S > self._prompts:
            self._prompts = int(at // PROMPT_EVERY_S)
            prompt = PROMPTS[self._prompts % len(PROMPTS)]
            await ws.send(json.dumps({"type": "prompt", "prompt": prompt, "number": self._prompts}))
        if at // INTERRUPT_EVERY_S > self._interrupts:
            self._interrupts = int(at // INTERRUPT_EVERY_S)
            await ws.send(json.dumps({"type": "interrupt"}))
        if at // VIEWER_EVERY_S > self._viewers:
            self._viewers = int(at // VIEWER_EVERY_S)
            task = asyncio.create_task(self._view())
            self._seen.add(task)

    async def _view(self) -> None:
        import websockets

        async with websockets.connect(f"{self._child.url}/{self._id}", max_size=None, ping_interval=None) as ws:
            await ws.send(json.dumps({"type": "watch"}))
            for _ in range(int(VIEWER_STAYS_S * self._fps)):
                await ws.recv()

    def _row(self) -> None:
        low, high = self._sync.lead_ms
        wall = time.monotonic() - self._began
        row = {
            "what": "long", "seconds_of_video": round(self._sync.seconds, 2), "seconds": round(wall, 1),
            "rate": self._rate, "lead_min_ms": round(low, 3), "lead_max_ms": round(high, 3), "holes": self._sync.holes,
            "late_video_frames": self._late, **self._child.numbers(),
        }  # fmt: skip
        self._sync.turn()
        print(json.dumps(self._rows.add(manifest() | row)), flush=True)

    def _summary(self) -> None:
        long = [r for r in self._rows.all if r["what"] == "long"]
        hours = np.array([r["seconds_of_video"] for r in long]) / 3600
        slope = float(np.polyfit(hours, [r["rss_mib"] for r in long], 1)[0]) if len(long) > 1 else None
        lags = [agreement(self._init, part) for part in (self._first, list(self._last))]
        row = {
            "what": "long, whole", "seconds_of_video": round(self._sync.seconds, 2), "holes": self._sync.holes,
            "seconds": round(time.monotonic() - self._began, 1), "rate": self._rate,
            "rss_mib_per_hour": None if slope is None else round(slope, 3),
            "mouth_lag_ms": [lag for lag, _ in lags], "mouth_correlation": [r for _, r in lags],
            "prompts": self._told["prompt"], "interrupts": self._told["interrupted"], "viewers": len(self._seen),
        }  # fmt: skip
        print(json.dumps(self._rows.add(manifest() | row)), flush=True)


def agreement(init: bytes, fragments: list[bytes]) -> tuple[int, float]:
    """(lag in ms, correlation) where the open mouth and the loudness agree best; a positive lag: the sound is late."""
    times, mouth, sound, start = [], [], [], None
    with av.open(io.BytesIO(init + b"".join(fragments))) as file:
        for packet in file.demux():
            for frame in packet.decode():
                if isinstance(frame, av.VideoFrame):
                    pixels = frame.to_ndarray(format="rgb24").astype(np.float32)
                    times.append(frame.time)
                    mouth.append((pixels[38:54, 22:42].mean(-1) < 90).mean())  # dark pixels between the lips
                else:
                    start = frame.time if start is None else start
                    sound.append(frame.to_ndarray()[0])
    heard = np.concatenate(sound)
    energy = np.concatenate([[0.0], np.cumsum(heard.astype(np.float64) ** 2)])
    lags = range(-300, 301, 10)
    scores = []
    for lag in lags:
        middle = ((np.array(times) + lag / 1e3 + 0.025 - start) * RATE_HZ).astype(int)
        inside = (middle > 800) & (middle < len(heard) - 800)
        loud = np.log((energy[middle[inside] + 800] - energy[middle[inside] - 800]) / 1600 + 1e-5)
        scores.append(float(np.corrcoef(np.array(mouth)[inside], loud)[0, 1]))
    best = int(np.argmax(scores))
    return lags[best], round(scores[best], 3)


def run(argv: Sequence[str] | None) -> int:
    """Serve, or measure, print and append."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("sessions", "long", "serve"))
    parser.add_argument("--count", type=whole_number(1, 10**6), default=1000)
    parser.add_argument("--hours", type=real_number(0.01, 100), default=2)
    parser.add_argument("--rate", type=real_number(0.1, 100), default=10)
    parser.add_argument("--out", metavar="FILE", help="append the rows to this .jsonl file")
    args = parser.parse_args(argv)
    if args.what == "serve":
        return serve(args)
    rows = Rows(args.out)
    with server(args.rate) as child:
        if args.what == "sessions":
            asyncio.run(many(child, args.count, rows))
        else:
            asyncio.run(Long(child, args.hours, args.rate, rows).run())
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    return answer(lambda: run(argv), "soak.py")


if __name__ == "__main__":
    sys.exit(main())
