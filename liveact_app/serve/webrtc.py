"""A session over WebRTC: a microphone's track in, sound and pictures out, messages on a data channel."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import json
import logging
import socket
from collections import deque
from collections.abc import Callable
from typing import Any

from aiortc import (
    MediaStreamTrack,
    RTCConfiguration,
    RTCDataChannel,
    RTCPeerConnection,
    RTCRtpSender,
    RTCSessionDescription,
)
from aiortc.mediastreams import MediaStreamError
from aiortc.rtcconfiguration import RTCBundlePolicy
from av.video.reformatter import Colorspace

from liveact_app.media.video import frame_rate
from liveact_app.serve import picture
from liveact_app.serve.hall import Wish
from liveact_app.serve.live import Moment
from liveact_app.serve.maker import Event
from liveact_app.serve.owner import Owner
from liveact_app.serve.protocol import Audio, Open, Refused
from liveact_app.serve.socket import opened
from liveact_app.serve.tracks import Pictures, Sound
from liveact_app.serve.viewers import Over
from liveact_model.errors import InputError

log = logging.getLogger("liveact.live")
MICROPHONE = Audio(rate=48_000)  # Opus decodes to it
CODECS = {"audio": ("audio/opus",), "video": ("video/h264", "video/rtx")}
MOST_CANDIDATES = 64
UNSENT_BYTES, EVENTS, FLUSH_S = 1 << 18, 64, 0.5
FIRST = asyncio.FIRST_COMPLETED


def addresses_of(host: str) -> list[str] | None:
    """Where media may come and go: the addresses of --host, or None for all there are."""
    found = sorted({str(info[4][0]) for info in socket.getaddrinfo(host, None, type=socket.SOCK_DGRAM)})
    return None if any(ipaddress.ip_address(a.partition("%")[0]).is_unspecified for a in found) else found


class Peer:
    """One connection and its session: a Listener; both end together."""

    def __init__(self, state: Any, first: Open, size: tuple[int, int], fps: float):
        self._state, self._first, rate = state, first, frame_rate(fps)
        self._loop = asyncio.get_running_loop()
        # No servers: aiortc would ask one of Google's for this machine's address.
        self._connection = RTCPeerConnection(RTCConfiguration(iceServers=[], bundlePolicy=RTCBundlePolicy.MAX_BUNDLE))
        self._pictures, self._sound = Pictures(rate), Sound(rate, state.hall.clock.rate)
        self._picture = picture.Pictures(size, first.scale, "yuv420p", Colorspace.ITU601)  # what a browser assumes
        self._microphone: MediaStreamTrack | None = None
        self._channel: RTCDataChannel | None = None
        self._events: deque[str] = deque(maxlen=EVENTS)
        self._connected: asyncio.Future[None] = self._loop.create_future()
        self._gone: asyncio.Future[None] = self._loop.create_future()
        self._over: asyncio.Future[Over] = self._loop.create_future()
        self._listening: asyncio.Task | None = None
        self.size, self.fps, self.number = self._picture.size, fps, ""

    async def answer(self, sdp: str) -> str:
        """The answer to an offer. Raises InputError for one that cannot be answered."""
        kinds = [line[2:].split(" ")[0] for line in sdp.splitlines() if line.startswith("m=")]
        if sorted(kinds) not in (["audio", "video"], ["application", "audio", "video"]):
            raise InputError(
                f"sdp: expected one audio, one video and at most one data section, got {' '.join(kinds)[:80] or 'none'}"
            )
        if (count := sdp.count("a=candidate")) > MOST_CANDIDATES:
            raise InputError(f"sdp: expected at most {MOST_CANDIDATES} candidates, got {count}")
        connection = self._connection
        connection.on("track", self._heard_of)
        connection.on("datachannel", self._channel_opened)
        connection.on("connectionstatechange", self._changed)
        for track, direction in ((self._sound, "sendrecv"), (self._pictures, "sendonly")):
            known = RTCRtpSender.getCapabilities(track.kind).codecs
            transceiver = connection.addTransceiver(track, direction)
            transceiver.setCodecPreferences([c for c in known if c.mimeType.lower() in CODECS[track.kind]])
        try:
            await connection.setRemoteDescription(RTCSessionDescription(sdp, "offer"))
            self._gather_on(addresses_of(self._state.settings.host))
            await connection.setLocalDescription(await connection.createAnswer())
        except Exception as error:  # whatever a parser trips over
            raise InputError(f"sdp: expected an offer with Opus and H.264, got one that fails ({error})") from error
        return connection.localDescription.sdp

    def _gather_on(self, mine: list[str] | None) -> None:
        """Have aioice bind to these addresses alone; by itself it takes all of the machine's but loopback's."""
        ice = self._connection.getTransceivers()[0].receiver.transport.transport.iceGatherer._connection
        gather = ice.get_component_candidates

        async def ours(component: int, addresses: list[str], timeout: int = 5) -> Any:
            return await gather(component, mine or addresses, timeout)

        ice.get_component_candidates = ours

    def open(self, image: Any, wish: Wish) -> None:
        """Begin the session. Raises Busy and InputError."""
        state = self._state
        self.number, self.live = state.hall.open(image, wish, self)
        audio = MICROPHONE.model_copy(update={"source": self._first.audio.source})
        self._owner = Owner(self.live, audio, state.settings, fixed=True)
        self._tell(opened(self.number, self.live, self.size, self.fps))
        if self._microphone is not None:
            self._listening = asyncio.create_task(self._listen(self._microphone))

    async def serve(self) -> None:
        """Until the session or the connection is over; then neither is there."""
        within = self._state.settings.open_within_s
        try:
            await asyncio.wait({self._connected, self._gone, self._over}, timeout=within, return_when=FIRST)
            if not self._connected.done():
                self.live.close(f"expected a connection within {within:g} s, none came about", "idle")
            await asyncio.wait({self._gone, self._over}, return_when=FIRST)
        finally:
            self.live.close("its client has left")
            code, reason = await asyncio.shield(self._over)
            self._tell({"type": "closed", "code": code, "reason": reason})
            await self.close()
            log.info("session %s... ended: %s", self.number[:4], reason)

    async def close(self) -> None:
        """Close the connection when what was told has gone out."""
        if self._listening is not None:
            self._listening.cancel()
        until = self._loop.time() + FLUSH_S
        while self._channel is not None and self._channel.bufferedAmount and self._loop.time() < until:
            await asyncio.sleep(0.01)
        await self._connection.close()

    # ---- from the connection ----------------------------------------------------------------------------------------

    def _heard_of(self, track: MediaStreamTrack) -> None:
        if track.kind == "audio":
            self._microphone = track

    def _changed(self) -> None:
        state = self._connection.connectionState
        if state == "connected":
            _settle(self._connected)
        elif state in ("failed", "closed"):
            _settle(self._gone)

    def _channel_opened(self, channel: RTCDataChannel) -> None:
        if self._channel is not None:
            return channel.close()
        self._channel = channel
        channel.on("message", lambda message: self._guarded(self._text, message))
        self._flush()

    def _text(self, message: str | bytes) -> None:
        if isinstance(message, bytes):
            raise InputError(f"message: expected JSON, got {len(message)} bytes")
        if not self._owner.text(message):
            self.live.close("its client has closed it")

    async def _listen(self, track: MediaStreamTrack) -> None:
        with contextlib.suppress(MediaStreamError):
            while True:
                frame: Any = await track.recv()
                samples = frame.to_ndarray().reshape(-1, len(frame.layout.channels)).mean(1)
                self._guarded(self._owner.sound, samples.astype("<i2").tobytes())

    def _guarded(self, work: Callable[[Any], None], given: Any) -> None:
        """Do what a client asks; what cannot be done ends the session with a sentence."""
        try:
            work(given)
        except Refused as error:
            self.live.close(error.sentence, "input")
        except InputError as error:
            self.live.close(str(error), "input")

    # ---- a Listener, on the session's threads -----------------------------------------------------------------------

    def moment(self, moment: Moment) -> None:
        """As `Listener`; what nobody is there to see is not made."""
        if self._connected.done():
            frame = self._picture.frame(moment.pixels)
            self._later(self._play, moment, frame)

    def event(self, event: Event) -> None:
        """As `Listener`."""
        self._state.metrics.watch(event)
        self._later(self._tell, event)

    def ended(self, code: str, reason: str) -> None:
        """As `Listener`."""
        self._later(lambda: self._over.done() or self._over.set_result(Over(code, reason)))

    def _later(self, call: Callable[..., Any], *args: Any) -> None:
        with contextlib.suppress(RuntimeError):  # the loop has been closed: nobody is there
            self._loop.call_soon_threadsafe(call, *args)

    def _play(self, moment: Moment, frame: Any) -> None:
        self._pictures.put(moment.index, frame)
        self._sound.put(moment, self._loop.time())

    def _tell(self, event: Event) -> None:
        self._events.append(json.dumps(event))
        self._flush()

    def _flush(self) -> None:
        """Send what was told; the oldest go where a client does not take it."""
        channel = self._channel
        while channel is not None and self._events and channel.readyState == "open":
            if channel.bufferedAmount > UNSENT_BYTES:
                break
            channel.send(self._events.popleft())


def _settle(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
