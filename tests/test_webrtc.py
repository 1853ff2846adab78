"""Sessions over WebRTC with two peers of aiortc on loopback: ours in the server, the client's here."""

import asyncio
import contextlib
import fractions
import importlib.util
import itertools
import json
import time

import numpy as np
import pytest
from voices import hall, noise, run

pytest.importorskip("aiortc", reason="aiortc is not installed (Python 3.11 or newer): pip install liveact[webrtc]")
pytest.importorskip("fastapi", reason="the extra 'serve' is not installed: pip install liveact[serve]")
pytest.importorskip("uvicorn", reason="the extra 'serve' is not installed: pip install liveact[serve]")
pytest.importorskip("prometheus_client", reason="the extra 'serve' is not installed: pip install liveact[serve]")

import aioice.ice
import av
from aiortc import MediaStreamTrack, RTCConfiguration, RTCPeerConnection, RTCSessionDescription
from aiortc.mediastreams import MediaStreamError

from liveact_app.cli import main
from liveact_app.serve import run as run_module
from liveact_app.serve.app import build
from liveact_app.serve.live import Moment
from liveact_app.serve.tracks import Pictures, Sound
from liveact_app.serve.webrtc import addresses_of
from liveact_app.serve.workdir import Workdir

OPEN = {"type": "open", "image": {"face": "first"}, "prompt": "happy"}


HERE, NOWHERE = ["127.0.0.1"], ["192.0.2.1"]  # RFC 5737: no machine's
machine = []


@pytest.fixture(autouse=True)
def on_loopback(monkeypatch):
    """The client's aioice has to take an address that it leaves out by itself; the server must not ask it for any."""
    machine[:] = HERE
    monkeypatch.setattr(aioice.ice, "get_host_addresses", lambda use_ipv4, use_ipv6: list(machine))


class NoFiles:
    """Uploads, of which this has none."""

    def counts(self):
        return {}

    def sweep(self):
        pass

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
        return self

    async def __aexit__(self, *_):
        await self._life.__aexit__(None, None, None)
        assert not self.hall.live and not self.state.peers

    async def offer(self, body, headers=()):
        """(status, JSON) of an offer."""
        content, answer = json.dumps(body).encode(), []
        names = {"host": "127.0.0.1", "content-type": "application/json", **dict(headers)}
        scope = {"type": "http", "method": "POST", "path": "/webrtc/offer", "raw_path": b"/webrtc/offer",
                 "query_string": b"", "scheme": "http", "http_version": "1.1", "root_path": "",
                 "headers": [(k.lower().encode(), v.encode()) for k, v in names.items()]}  # fmt: skip

        async def receive():
            return {"type": "http.request", "body": content}

        async def send(message):
            answer.append(message)

        machine[:] = NOWHERE
        await self.app(scope, receive, send)
        machine[:] = HERE
        return answer[0]["status"], json.loads(b"".join(part.get("body", b"") for part in answer))

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
        status, answer = await server.offer({**await self.offer(), "open": {**OPEN, **more}})
        assert status == 200, answer
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
    assert dict(server.hall.ended) == {"closed": 1}
    # As much sound as picture, by RTP's clocks; their places exactly: the test below.
    seconds = [float((frames[-1][1] - frames[0][1]) * frames[0][2]) for frames in (client.seen, client.heard)]
    assert seconds[0] == pytest.approx(seconds[1], abs=1)


def moments(fps, count, first=0):
    """Moments whose sound counts its samples."""
    edges = [int((first + k) * 16_000 / fps) for k in range(count + 1)]
    for k, (begin, end) in enumerate(itertools.pairwise(edges)):
        yield Moment(first + k, np.zeros((16, 16, 3), np.uint8), end - begin, np.arange(begin, end) / 32_768)


@pytest.mark.parametrize("fps", [fractions.Fraction(20), fractions.Fraction(2997, 100)])
def test_sound_is_due_at_its_place_between_the_video_frames(fps):
    async def main():
        sound, pictures = Sound(fps), Pictures(fps)
        packets, shown = [], []
        for moment in moments(fps, 30, first=3):  # the first one that somebody was connected for
            sound.put(moment, 100.0)
            pictures.put(moment.index, av.VideoFrame(16, 16, "yuv420p"))
            while not sound._waiting.empty():
                due, frame = sound._waiting.get_nowait()
                packets.append((frame.pts, due - 100, moment.index, frame.to_ndarray()[0]))
            shown.append(pictures._waiting.get_nowait()[1])
        return packets, shown

    packets, shown = run(main())
    first = int(3 * 16_000 / fps)
    assert [pts for pts, *_ in packets] == [first + 320 * k for k in range(len(packets))]  # no hole, 20 ms each
    assert len(packets) == (int(33 * 16_000 / fps) - first) // 320
    assert all(np.array_equal(samples, pts + np.arange(320)) for pts, _, _, samples in packets)
    for pts, wait, index, _ in packets:
        behind = pts / 16_000 - float(index / fps)  # its first sample, from the video frame it left with
        assert -0.02 <= behind < 1 / fps and wait == pytest.approx(max(0, behind), abs=1e-3)
    assert [frame.pts * frame.time_base for frame in shown] == [k / fps for k in range(3, 33)]


def test_a_slow_connection_loses_the_oldest():
    async def main():
        sound, pictures = Sound(fractions.Fraction(20)), Pictures(fractions.Fraction(20))
        for moment in moments(20, 400):
            sound.put(moment, 0.0)
            pictures.put(moment.index, av.VideoFrame(16, 16, "yuv420p"))
        kept = sound._waiting.qsize(), pictures._waiting.qsize()
        return kept, (await sound.recv()).pts, (await pictures.recv()).pts

    kept, heard, seen = run(main())
    assert kept == (25, 10) and heard == 320 * (1000 - 25) and seen == 390


def test_a_client_that_vanishes_frees_all(monkeypatch):
    monkeypatch.setattr(aioice.ice, "CONSENT_INTERVAL", 0.1)
    monkeypatch.setattr(aioice.ice, "CONSENT_FAILURES", 2)

    async def main():
        async with Server() as server:
            client = Client()
            await client.connect(server)
            await client.until(lambda: len(client.seen) > 2)
            ice = client.connection.getTransceivers()[0].receiver.transport.transport._connection
            for protocol in ice._protocols:  # as if its machine had gone: not a word more
                protocol.send_stun, protocol.send_data = (lambda *_: None), (lambda *_: asyncio.sleep(0))
            await server.empty()
            assert dict(server.hall.ended) == {"closed": 1}
            await client.close()

    run(main())


def test_an_offer_that_nobody_follows_up_frees_all():
    async def main():
        async with Server(open_within_s=0.3) as server:
            client = Client()
            assert (await server.offer(await client.offer()))[0] == 200
            assert len(server.hall.live) == 1
            await server.empty()
            assert dict(server.hall.ended) == {"idle": 1}
            await client.close()

    run(main())


@pytest.mark.parametrize(
    "said, word, reason",
    [
        ('{"type": "close"}', "closed", "its client has closed it"),
        ('{"type": "prompt"}', "input", "prompt.prompt: field required"),
        ("no JSON", "input", "message: expected JSON, got 'no JSON'"),
        (b"123", "input", "message: expected JSON, got 3 bytes"),
        ("x" * 70_000, "input", "message: expected at most 65536 characters, got 70000"),
    ],
)
def test_what_a_client_says_may_end_the_session_with_one_sentence(said, word, reason):
    async def main():
        async with Server() as server:
            client = Client()
            await client.connect(server)
            await client.until(lambda: client.of("opened"))
            client.channel.send(said)
            await client.until(lambda: client.of("closed"))
            await server.empty()
            await client.close()
            return client.of("closed")

    (told,) = run(main())
    assert told["code"] == word and told["reason"].startswith(reason)


def test_a_server_that_stops_says_so_and_why_it_ends(monkeypatch):
    monkeypatch.setattr(run_module, "note", lambda text: None)

    async def main():
        async with Server(drain_s=0.5) as server:
            client, web = Client(), run_module.Server(run_module.config(server.app), server.app)
            await client.connect(server)
            await client.until(lambda: client.of("opened"))
            web.handle_exit(15, None)  # SIGTERM
            ticks = 0
            while not web.should_exit:
                await web.on_tick(ticks := ticks + 1)
                await asyncio.sleep(0.02)
        await client.until(lambda: client.of("closed"))
        await client.close()
        return [event for event in client.told if event["type"] in ("draining", "closed")]

    draining, closed = run(main())
    assert draining["type"] == "draining"
    assert closed == {"type": "closed", "code": "drained", "reason": "the server stops"}


def test_what_cannot_be_answered_is_refused_and_the_server_goes_on():
    async def main():
        async with Server(token="a secret of ours") as server:
            client, other = Client(), Client()
            good, second = await client.offer(), await other.offer()
            sdp = good["sdp"]
            door = {"Authorization": "Bearer a secret of ours"}

            async def refused(status, words, headers=door, **more):
                found, told = await server.offer({**good, **more}, headers)
                assert found == status and words in told["error"], told
                assert not server.state.peers

            await refused(401, "token: expected", headers={})
            await refused(403, "origin: expected", headers={**door, "Origin": "https://elsewhere.example"})
            await refused(422, "sdp: expected one audio, one video and at most one data section, got none", sdp="")
            await refused(422, "got audio", sdp=sdp.split("m=video")[0])
            await refused(422, "got audio video application audio", sdp=sdp + "m=audio" + sdp.split("m=audio")[1])
            await refused(422, "sdp: expected an offer with Opus and H.264", sdp=sdp.replace("H264", "H263"))
            await refused(422, "sdp: expected an offer with Opus and H.264", sdp=sdp.replace("ice-pwd", "ice-"))
            await refused(422, "at most 64 candidates, got", sdp=sdp + "a=candidate:1\r\n" * 64)
            await refused(422, "body.type", type="answer")
            await refused(422, "body.sdp", sdp="v" * 50_000)
            await refused(413, "body: expected at most", sdp="v" * 20_000_000)
            await refused(422, "image.face: expected one of", open={**OPEN, "image": {"face": "of a friend"}})
            await refused(422, "fps: expected at most 30 over WebRTC, got 50", open={**OPEN, "fps": 50})
            await refused(422, "size: expected multiples of 16", open={**OPEN, "size": [20, 20]})
            assert not server.hall.live
            assert (await server.offer(good, door))[0] == 200
            assert await server.offer(second, door) == (429, {"error": "the one session is taken, try again later"})
            server.hall.close()
            await server.empty()
            await client.close()
            await other.close()

    run(main())


def test_media_goes_where_the_host_option_says():
    assert addresses_of("127.0.0.1") == ["127.0.0.1"] and addresses_of("0.0.0.0") is None and addresses_of("::") is None
    assert "127.0.0.1" in addresses_of("localhost")


def test_the_command_without_aiortc_says_what_to_install(monkeypatch, capsys):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "aiortc" else find(name))
    assert main(["serve", "--webrtc", "--port", "0"]) == 2
    assert "--webrtc: expected its extra, but aiortc is missing; pip install liveact[webrtc]" in capsys.readouterr().err
