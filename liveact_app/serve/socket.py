"""A session over a WebSocket: it is there while its connection is, and gone with it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from typing import Any

from starlette.websockets import WebSocket, WebSocketDisconnect

from liveact_app.media.image import fit_image
from liveact_app.media.video import frame_rate
from liveact_app.serve import protocol
from liveact_app.serve.faces import given, shipped
from liveact_app.serve.guard import same_token
from liveact_app.serve.hall import Busy, Wish
from liveact_app.serve.live import Live
from liveact_app.serve.mux import Fragment, Muxer
from liveact_app.serve.protocol import CLOSE_CODES, Open, Refused, Watch
from liveact_app.serve.speech import Pcm
from liveact_app.serve.viewers import Broadcast, Over, Viewer
from liveact_model.errors import InputError

log = logging.getLogger("liveact.live")
REASON_BYTES = 120  # of a close frame


async def talk(ws: WebSocket, state: Any) -> None:
    """The owner's socket: opens a session, feeds it, shows it."""
    await _answering(ws, _own(ws, state))


async def watch(ws: WebSocket, state: Any, number: str) -> None:
    """A viewer's socket: shows a session that another owns."""
    await _answering(ws, _view(ws, state, number))


async def _answering(ws: WebSocket, work: Any) -> None:
    """Turn whatever ends a connection into an event with one sentence, and a close code."""
    try:
        await ws.accept()
        code, word, sentence = await work
    except Refused as error:
        code, word, sentence = error.code, "refused", error.sentence
    except Busy as error:
        code, word, sentence = protocol.BUSY, "busy", str(error)
    except InputError as error:
        code, word, sentence = protocol.BAD_INPUT, "input", str(error)
    except WebSocketDisconnect:
        return
    except Exception as error:
        log.exception("a connection failed")
        code, word, sentence = protocol.INTERNAL, "failed", f"the server failed ({type(error).__name__})"
    finally:
        work.close()
    with contextlib.suppress(RuntimeError, WebSocketDisconnect):  # it is gone already
        await ws.send_text(json.dumps({"type": "closed", "code": word, "reason": sentence}))
        await ws.close(code, sentence.encode()[:REASON_BYTES].decode(errors="ignore"))


async def _first(ws: WebSocket, state: Any, kind: type[Open] | type[Watch]) -> Any:
    """The opening message, with the token looked at. Raises Refused and InputError."""
    within = state.settings.open_within_s
    try:
        message = await asyncio.wait_for(ws.receive(), within)
    except asyncio.TimeoutError:
        raise Refused(protocol.TIMEOUT, f"expected an opening message within {within:g} s, got none") from None
    if message["type"] == "websocket.disconnect":
        raise WebSocketDisconnect(message.get("code", 1000))
    text = message.get("text")
    if text is None:
        raise InputError("message: expected an opening in JSON, got bytes")
    first = protocol.first_message(text, kind)
    if not same_token(first.token, state.settings):
        raise Refused(protocol.NO_TOKEN, "token: expected this server's token in the opening message")
    return first


async def _own(ws: WebSocket, state: Any) -> tuple[int, str, str]:
    first: Open = await _first(ws, state, Open)
    hall, settings = state.hall, state.settings
    wish = Wish(first.prompt, first.size, first.fps, first.seed, first.scale)
    hall.room()
    size, fps = hall.check(wish)

    def prepare() -> tuple[Any, Muxer]:
        image = first.image
        if isinstance(image, protocol.Face):
            picture = shipped(image.face)
        else:
            picture = given(protocol.picture_bytes(image, settings.picture_bytes), state.workdir.path)
        return fit_image(picture, size), Muxer(size, frame_rate(fps), first.scale)

    picture, muxer = await asyncio.to_thread(prepare)
    broadcast = Broadcast(muxer, fps, state.metrics.watch)
    number, live = hall.open(picture, wish, broadcast)
    state.shows[number] = broadcast
    log.info("session %s... opened, %d of %d", number[:4], len(hall.live), settings.sessions)
    if settings.log_prompts:
        log.info("session %s... prompt: %s", number[:4], first.prompt)
    try:
        live.speech.live = first.audio.source == "live"
        await ws.send_text(json.dumps(_opened(number, live, muxer, size, fps, first.scale)))
        await ws.send_bytes(muxer.init)
        end = await _both(
            _send(ws, broadcast.join()), _Owner(ws, live, first.audio, settings).receive(), broadcast.over
        )
    finally:
        live.close("its client has left")
        await asyncio.shield(broadcast.over)
        state.shows.pop(number, None)
        log.info("session %s... ended: %s", number[:4], broadcast.over.result().reason)
    return end


def _opened(number: str, live: Live, muxer: Muxer, size: tuple[int, int], fps: float, scale: int) -> dict[str, Any]:
    return {
        "type": "opened", "id": number, "mime": muxer.mime, "fps": fps, "size": [side * scale for side in size],
        "budget_ms": round(1e3 / fps, 3), "room_ms": round(1e3 * live.speech.room / 16000),
    }  # fmt: skip


async def _both(sending: Any, receiving: Any, over: asyncio.Future) -> tuple[int, str, str]:
    """Run a connection's two halves until one of them ends; returns close code, word and sentence."""
    tasks = [asyncio.ensure_future(sending), asyncio.ensure_future(receiving)]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    for task in (t for t in tasks if t in done):
        if error := task.exception():
            raise error
    end = over.result() if over.done() else Over("closed", "its client has closed it")
    return CLOSE_CODES[end.code], end.code, end.reason


async def _send(ws: WebSocket, viewer: Viewer) -> None:
    """All that a session tells, until it is over."""
    while not isinstance(item := await viewer.get(), Over):
        if isinstance(item, Fragment):
            await ws.send_bytes(item.data)
        else:
            await ws.send_text(item)


class _Owner:
    """What comes from a session's owner."""

    def __init__(self, ws: WebSocket, live: Live, audio: protocol.Audio, settings: Any):
        self._ws, self._live, self._settings = ws, live, settings
        self._pcm = Pcm(audio.rate, audio.coding)
        self._audio = audio

    async def receive(self) -> None:
        """Until it closes. Raises Refused, InputError, WebSocketDisconnect."""
        while True:
            message = await self._ws.receive()
            if message["type"] == "websocket.disconnect":
                raise WebSocketDisconnect(message.get("code", 1000))
            text, data = message.get("text"), message.get("bytes")
            if data is not None:
                self._sound(data)
            elif len(text) > self._settings.json_bytes:
                most = self._settings.json_bytes
                raise Refused(protocol.TOO_LARGE, f"message: expected at most {most} characters, got {len(text)}")
            elif not self._told(protocol.later_message(text)):
                return

    def _sound(self, data: bytes) -> None:
        if len(data) > self._settings.sound_bytes:
            most = self._settings.sound_bytes
            raise Refused(protocol.TOO_LARGE, f"audio: expected at most {most} bytes a message, got {len(data)}")
        self._live.push(self._pcm.take(data))

    def _told(self, message: Any) -> bool:
        """Do what a message asks; False when that is the end."""
        live = self._live
        if isinstance(message, protocol.Audio):
            live.push(self._pcm.end())
            self._pcm = Pcm(message.rate, message.coding)
            self._audio, live.speech.live = message, message.source == "live"
        elif isinstance(message, protocol.Prompt):
            if self._settings.log_prompts:
                log.info("prompt: %s", message.prompt)
            live.prompt(message.prompt, message.number)
        elif isinstance(message, protocol.Interrupt):
            self._pcm = Pcm(self._audio.rate, self._audio.coding)
            live.interrupt()
        elif isinstance(message, protocol.End):
            live.push(self._pcm.end())
        return not isinstance(message, protocol.Close)


async def _view(ws: WebSocket, state: Any, number: str) -> tuple[int, str, str]:
    await _first(ws, state, Watch)
    broadcast, live = state.shows.get(number), state.hall.live.get(number)
    if broadcast is None or live is None:
        raise Refused(protocol.UNKNOWN, "session: expected one that runs, got an id of none")
    if len(broadcast.viewers) > state.settings.viewers:  # its owner is one, too
        most = state.settings.viewers
        raise Refused(protocol.BUSY, f"session: expected at most {most} viewers, all places are taken")
    viewer, muxer = broadcast.join(), broadcast.muxer
    try:
        await ws.send_text(json.dumps({"type": "watching", "mime": muxer.mime, "fps": float(live.fps)}))
        await ws.send_bytes(muxer.init)
        return await _both(_send(ws, viewer), _mute(ws), broadcast.over)
    finally:
        broadcast.leave(viewer)


async def _mute(ws: WebSocket) -> None:
    """A viewer has nothing to say; what it says is read and thrown away, so that its leaving is seen."""
    while (message := await ws.receive())["type"] != "websocket.disconnect":
        pass
    raise WebSocketDisconnect(message.get("code", 1000))
