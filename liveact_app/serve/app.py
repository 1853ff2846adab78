"""The web application: one page, one socket a session, uploads, and what machines ask a server."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request, WebSocket
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, PlainTextResponse
from fastapi.staticfiles import StaticFiles
from starlette.exceptions import HTTPException

from liveact_app.serve import socket
from liveact_app.serve.faces import FACES, STATIC
from liveact_app.serve.files import Files
from liveact_app.serve.guard import Guard
from liveact_app.serve.hall import Busy, Hall
from liveact_app.serve.metrics import Metrics
from liveact_app.serve.settings import Settings
from liveact_app.serve.uploads import add_uploads
from liveact_app.serve.viewers import Broadcast
from liveact_app.serve.workdir import Workdir
from liveact_model.errors import InputError

log = logging.getLogger("liveact.live")
SWEEP_S = 1.0
PROMETHEUS = "text/plain; version=0.0.4; charset=utf-8"


@dataclass
class State:
    """What the routes share."""

    hall: Hall
    files: Files
    workdir: Workdir
    settings: Settings
    metrics: Metrics
    shows: dict[str, Broadcast] = field(default_factory=dict)
    peers: dict[str, Any] = field(default_factory=dict)


def build(hall: Hall, files: Files, workdir: Workdir, webrtc: bool = False) -> FastAPI:
    """The application on a hall that is warm; its shutdown ends all sessions and removes all files.

    webrtc  take offers of WebRTC, too; needs the extra of that name
    """
    settings = hall.settings
    state = State(hall, files, workdir, settings, Metrics(hall, files))

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        sweeper = asyncio.create_task(_sweep(hall, files))
        yield
        sweeper.cancel()
        await asyncio.to_thread(hall.close)
        await asyncio.gather(*(peer.task for peer in state.peers.values()), return_exceptions=True)
        await asyncio.to_thread(files.close)
        await asyncio.to_thread(workdir.close)

    app = FastAPI(title="LiveAct", version="1", lifespan=lifespan, docs_url=None, redoc_url=None,
                  description="Live sessions are WebSockets: docs/live.md has their messages.")  # fmt: skip
    app.state.live = state
    app.add_middleware(Guard, settings=settings)
    _add_errors(app)
    _add_health(app, state)
    add_uploads(app, state)
    if webrtc:
        from liveact_app.serve.offers import add_webrtc

        add_webrtc(app, state)

    @app.websocket("/api/live")
    async def live(ws: WebSocket) -> None:
        await socket.talk(ws, state)

    @app.websocket("/api/live/{number}")
    async def watch(ws: WebSocket, number: str) -> None:
        await socket.watch(ws, state, number)

    app.mount("/", StaticFiles(directory=Path(STATIC), html=True), name="page")
    return app


async def _sweep(hall: Hall, files: Files) -> None:
    while True:
        await asyncio.sleep(SWEEP_S)
        hall.sweep()
        await asyncio.to_thread(files.sweep)
        if hall.group is not None:
            await asyncio.to_thread(hall.keep_alive)


def _add_health(app: FastAPI, state: State) -> None:
    hall = state.hall

    @app.get("/health", summary="Whether the process answers")
    async def health() -> dict[str, str]:
        return {"status": "ok"}

    @app.get("/ready", summary="Whether a session can be opened",
             responses={503: {"description": "The server is about to stop."}})  # fmt: skip
    async def ready() -> JSONResponse:
        free = max(0, hall.settings.sessions - len(hall.live))
        if hall.draining:
            return JSONResponse({"error": "the server is about to stop"}, 503)
        return JSONResponse({"status": "ready", "sessions": len(hall.live), "free": free})

    @app.get("/metrics", summary="Numbers for Prometheus", response_class=PlainTextResponse)
    async def metrics() -> PlainTextResponse:
        return PlainTextResponse(await asyncio.to_thread(state.metrics.text), media_type=PROMETHEUS)

    @app.get("/api/about", summary="The model, and what the page offers")
    async def about() -> dict[str, Any]:
        avatar, s = hall.avatar, hall.settings
        return {
            "model": avatar.name, "size": list(hall.size), "fps": avatar.default_fps, "faces": list(FACES),
            "sessions": s.sessions, "picture_bytes": s.picture_bytes, "recording_s": s.recording_s,
            "small": avatar.most_lost is not None,
        }  # fmt: skip


def _add_errors(app: FastAPI) -> None:
    """Every error is {"error": one sentence}."""

    @app.exception_handler(HTTPException)
    async def http(request: Request, error: HTTPException) -> JSONResponse:
        return JSONResponse({"error": str(error.detail)}, error.status_code, headers=error.headers)

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        fault = error.errors()[0]
        where = ".".join(map(str, fault["loc"]))
        return JSONResponse({"error": f"{where}: {fault['msg']}, got {fault.get('input')!r:.60}"}, 422)

    @app.exception_handler(InputError)
    async def unusable(request: Request, error: InputError) -> JSONResponse:
        return JSONResponse({"error": str(error)}, 422)

    @app.exception_handler(Busy)
    async def busy(request: Request, error: Busy) -> JSONResponse:
        return JSONResponse({"error": str(error)}, 429, headers={"Retry-After": "10"})

    @app.exception_handler(Exception)
    async def failed(request: Request, error: Exception) -> JSONResponse:
        log.error("%s failed", request.url.path)
        return JSONResponse({"error": f"the server failed ({type(error).__name__})"}, 500)
