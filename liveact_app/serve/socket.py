"""A session over a WebSocket: it is there while its connection is, and gone with it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from typing import Any

from starlette.websockets import WebSocket, WebSocketDisconnect

from liveact_app.media.audio import MODEL_RATE_HZ
from liveact_app.media.image import fit_image
from liveact_app.media.video import frame_rate
from liveact_app.serve import protocol
from liveact_app.serve.faces import given, shipped
from liveact_app.serve.guard import same_token
from liveact_app.serve.hall import Busy, Wish
from liveact_app.serve.live import Live
from liveact_app.serve.mux import Fragment, Muxer
from liveact_app.serve.owner import Owner
from liveact_app.serve.protocol import CLOSE_CODES, Open, Refused, Watch
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
        return picture_of(first.image, size, state), Muxer(size, frame_rate(fps), first.scale)

    picture, muxer = await asyncio.to_thread(prepare)
    broadcast = Broadcast(muxer, fps, state.metrics.watch)
    number, live = hall.open(picture, wish, broadcast)
    state.shows[number] = broadcast
    log.info("session %s... opened, %d of %d", number[:4], len(hall.live), settings.sessions)
    if settings.log_prompts:
        log.info("session %s... prompt: %s", number[:4], first.prompt)
    try:
        await ws.send_text(json.dumps(opened(number, live, muxer.size, fps, mime=muxer.mime)))
        await ws.send_bytes(muxer.init)
        end = await _both(_send(ws, broadcast.join()), _receive(ws, Owner(live, first.audio, settings)), broadcast.over)
    finally:
        live.close("its client has left")
        await asyncio.shield(broadcast.over)
        state.shows.pop(number, None)
        log.info("session %s... ended: %s", number[:4], broadcast.over.result().reason)
    return end


def picture_of(image: protocol.Face | protocol.Upload, size: tuple[int, int], state: Any) -> Any:
    """The picture of an opening, fitted: float32 [3, H, W] in [-1, 1]. Raises Refused and InputError."""
    if isinstance(image, protocol.Face):
        picture = shipped(image.face)
    else:
        picture = given(protocol.picture_bytes(image, state.settings.picture_bytes), state.workdir.path)
    return fit_image(picture, size)


def opened(number: str, live: Live, size: tuple[int, int], fps: float, **more: Any) -> dict[str, Any]:
    """The event of a session that has begun; `size` (W, H) is that of the video."""
    return {"type": "opened", "id": number, "fps": fps, "size": list(size), "budget_ms": round(1e3 / fps, 3),
            "room_ms": round(1e3 * live.speech.room / MODEL_RATE_HZ), **more}  # fmt: skip


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


async def _receive(ws: WebSocket, owner: Owner) -> None:
    """All that a session's owner sends, until it closes. Raises Refused, InputError, WebSocketDisconnect."""
    while True:
        message = await ws.receive()
        if message["type"] == "websocket.disconnect":
            raise WebSocketDisconnect(message.get("code", 1000))
        text, data = message.get("text"), message.get("bytes")
        if data is not None:
            owner.sound(data)
        elif not owner.text(text):
            return


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
