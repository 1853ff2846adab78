"""Sessions over WebRTC with two peers of aiortc on loopback: ours in the server, the client's here."""

import asyncio
import contextlib
import fractions
import json
import time

import numpy as np
import pytest
import small
from talking import hall, noise, run

pytest.importorskip("aiortc", reason="aiortc is not installed: pip install liveact[webrtc]")
pytest.importorskip("fastapi", reason="FastAPI is not installed: pip install liveact[serve]")
pytest.importorskip("httpx", reason="httpx is not installed: pip install liveact[test]")

import aioice.ice
import av
import httpx
from aiortc import MediaStreamTrack, RTCConfiguration, RTCPeerConnection, RTCSessionDescription
from aiortc.mediastreams import MediaStreamError

from liveact_app.serve.app import build
from liveact_app.serve.workdir import Workdir

OPEN = {"type": "open", "image": {"face": "first"}, "prompt": "happy"}


@pytest.fixture(autouse=True)
def on_loopback(monkeypatch):
    """The client's aioice, too, has to take an address that it leaves out by itself."""
    monkeypatch.setattr(aioice.ice, "get_host_addresses", lambda use_ipv4, use_ipv6: ["127.0.0.1"])


class NoFiles:
    """Uploads, of which this has none."""

    def counts(self):
        return {}

    def close(self):
        pass


class Server:
    """The application without a network of its own: requests by ASGI, media by UDP."""

    def __init__(self, rate=1.0, **settings):
        self.hall = hall(rate, **settings)
        self.app = build(self.hall, NoFiles(), Workdir(), webrtc=True)
        self.state = self.app.state.live

    async def __aenter__(self):
        self._life = self.app.router.lifespan_context(self.app)
        await self._life.__aenter__()
        self.http = httpx.AsyncClient(transport=httpx.ASGITransport(self.app), base_url="http://127.0.0.1")
        return self

    async def __aexit__(self, *_):
        await self._life.__aexit__(None, None, None)
        await self.http.aclose()
        assert not self.hall.live and not self.state.peers

    async def empty(self):
        while self.hall.live or self.state.peers:
            await asyncio.sleep(0.02)


class Voice(MediaStreamTrack):
    """A microphone: noise in real time."""

    kind = "audio"

    def __init__(self, seconds=60):
        super().__init__()
        self._sound, self._at, self._began = noise(seconds, rate=48_000), 0, time.monotonic()

    async def recv(self):
        if self._at >= len(self._sound):
            raise MediaStreamError
        await asyncio.sleep(self._began + self._at / 48_000 - time.monotonic())
        frame = av.AudioFrame.from_ndarray(self._sound[None, self._at : self._at + 960], "s16", "mono")
        frame.sample_rate, frame.pts, frame.time_base = 48_000, self._at, fractions.Fraction(1, 48_000)
        self._at += 960
        return frame


class Client:
    """The other peer: keeps what it sees, hears and is told."""

    def __init__(self, microphone=None):
        self.connection = RTCPeerConnection(RTCConfiguration(iceServers=[]))
        self.connection.addTrack(microphone or Voice())
        self.connection.addTransceiver("video", "recvonly")
        self.channel = self.connection.createDataChannel("liveact")
        self.channel.on("message", lambda text: self.told.append(json.loads(text)))
        self.connection.on("track", lambda track: self._tasks.append(asyncio.ensure_future(self._take(track))))
        self.seen, self.heard, self.told, self._tasks = [], [], [], []

    async def _take(self, track):
        with contextlib.suppress(MediaStreamError):
            while True:
                frame = await track.recv()
                where = self.seen if track.kind == "video" else self.heard
                shape = {"format": "rgb24"} if track.kind == "video" else {}
                where.append((time.monotonic(), frame.pts, frame.time_base, frame.to_ndarray(**shape)))

    async def offer(self):
        await self.connection.setLocalDescription(await self.connection.createOffer())
        return {"type": "offer", "sdp": self.connection.localDescription.sdp, "open": OPEN}

    async def connect(self, server, **more):
        reply = await server.http.post("/webrtc/offer", json={**await self.offer(), "open": {**OPEN, **more}})
        assert reply.status_code == 200, reply.text
        answer = reply.json()
        await self.connection.setRemoteDescription(RTCSessionDescription(answer["sdp"], "answer"))
        return answer

    async def until(self, true):
        while not true():
            await asyncio.sleep(0.02)

    def of(self, kind):
        return [event for event in self.told if event["type"] == kind]

    async def close(self):
        await self.connection.close()
        await asyncio.gather(*self._tasks)


def test_a_client_speaks_sees_hears_and_steers():
    async def main():
        async with Server() as server:
            client = Client()
            answer = await client.connect(server, scale=2)
            assert answer["size"] == [64, 64] and answer["fps"] == 20 and answer["id"] in server.hall.live
            await client.until(lambda: len(client.seen) > 20 and len(client.heard) > 40 and client.of("opened"))
            client.channel.send(json.dumps({"type": "prompt", "prompt": "a sad person", "number": 7}))
            client.channel.send(json.dumps({"type": "interrupt"}))
            await client.until(lambda: client.of("prompt") and client.of("interrupted"))
            loud = lambda: max(np.abs(sound).max() for *_, sound in client.heard) > 500  # noqa: E731
            await client.until(loud)  # its own speech, back with the video frames it moved
            await client.close()
            await server.empty()
            return server, client, answer["sdp"]

    server, client, sdp = run(main())
    section = sdp.split("m=video")[1].split("m=")[0]
    assert "H264/90000" in section and "VP8" not in section  # H.264 and nothing else
    assert "a=sendonly" in section
    candidates = [line for line in sdp.splitlines() if line.startswith("a=candidate")]
    assert candidates and all(" 127.0.0.1 " in line for line in candidates)
    # Pictures that move, of the size that was asked for; sound of Opus.
    assert {image.shape for *_, image in client.seen} == {(64, 64, 3)}
    assert np.abs(client.seen[-1][3].astype(int) - client.seen[0][3]).mean() > 1
    assert (client.of("prompt")[0]["number"], client.of("opened")[0]["size"]) == (7, [64, 64])
    assert client.of("block")[0]["late_video_frames"] == 0
    assert dict(server.hall.ended) == {"closed": 1} and not server.hall.live
    # In sync by RTP's own clocks: as much sound as picture, from the same first moment on.
    seconds = [float((frames[-1][1] - frames[0][1]) * frames[0][2]) for frames in (client.seen, client.heard)]
    assert seconds[0] == pytest.approx(seconds[1], abs=0.3)
