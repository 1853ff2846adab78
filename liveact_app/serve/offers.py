"""The route of WebRTC's offers: who gets a session, and the sentence for who does not."""

from __future__ import annotations

import asyncio
import logging
from typing import Any, Literal

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field

from liveact_app.serve import protocol
from liveact_app.serve.guard import OFFERS
from liveact_app.serve.hall import Wish
from liveact_app.serve.protocol import Open, Refused
from liveact_app.serve.socket import picture_of
from liveact_app.serve.uploads import Fault
from liveact_app.serve.webrtc import Peer
from liveact_model.errors import InputError

log = logging.getLogger("liveact.live")
MOST_FPS = 30  # of aiortc's encoder
LONGEST_SDP = 48_000  # characters


class Offer(BaseModel):
    """An offer with a microphone's track, a video track and a data channel, and what the session shall be."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    type: Literal["offer"]
    sdp: str = Field(max_length=LONGEST_SDP)
    open: Open


class Answer(BaseModel):
    """The answer, and the session's id, fps and size (W, H)."""

    type: Literal["answer"]
    sdp: str
    id: str
    fps: float
    size: tuple[int, int]


def add_webrtc(app: FastAPI, state: Any) -> None:
    """Register the route of offers."""
    for name in ("aioice", "aiortc"):  # they log the addresses of clients
        logging.getLogger(name).setLevel(logging.WARNING)

    @app.exception_handler(Refused)
    async def refused(request: Request, error: Refused) -> JSONResponse:
        return JSONResponse({"error": error.sentence}, error.code - protocol.HTTP)

    @app.post(OFFERS, response_model=Answer, summary="An offer of WebRTC to a session and its answer",
              responses={code: {"model": Fault} for code in (401, 403, 413, 422, 429)})  # fmt: skip
    async def offer(offer: Offer) -> Answer:
        first, hall = offer.open, state.hall
        wish = Wish(first.prompt, first.size, first.fps, first.seed, first.scale)
        hall.room()
        size, fps = hall.check(wish)
        if fps > MOST_FPS:
            raise InputError(f"fps: expected at most {MOST_FPS} over WebRTC, got {fps:g}")
        image = await asyncio.to_thread(picture_of, first.image, size, state)
        peer = Peer(state, first, size, fps)
        try:
            sdp = await peer.answer(offer.sdp)
            peer.open(image, wish)
        except BaseException:
            await peer.close()
            raise
        peer.task = asyncio.create_task(peer.serve())
        state.peers[peer.number] = peer
        peer.task.add_done_callback(lambda task: state.peers.pop(peer.number, None))
        log.info("session %s... opened over WebRTC, %d of %d", peer.number[:4], len(hall.live), state.settings.sessions)
        if state.settings.log_prompts:
            log.info("session %s... prompt: %s", peer.number[:4], first.prompt)
        return Answer(type="answer", sdp=sdp, id=peer.number, fps=fps, size=peer.size)
