"""The server's process: its socket, its signals, and an end that running sessions are told of."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import sys
import time
from types import FrameType
from typing import Any

import uvicorn
from fastapi import FastAPI

from liveact_app.say import note
from liveact_model.errors import InputError

log = logging.getLogger("liveact.live")
BACKLOG = 128
TELL_S = 2.0
PING_S = 10.0  # a client that does not answer for as long again is gone


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens. Raises InputError for an address that cannot be had."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        sock = socket.socket(family, kind, protocol)
    except (OSError, UnicodeError) as error:
        raise InputError(f"--host: expected a name or address of this machine, got {host!r:.80} ({error})") from error
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(address)
        sock.listen(BACKLOG)
    except OSError as error:
        sock.close()
        raise InputError(f"--port: cannot listen on {host!r:.80} port {port} ({error.strerror})") from error
    return sock


class Server(uvicorn.Server):
    """Uvicorn that lets sessions end: the first signal drains, the second one does not wait."""

    def __init__(self, config: uvicorn.Config, app: FastAPI):
        super().__init__(config)
        self._hall = app.state.live.hall
        self._shows = app.state.live.shows
        self._asked, self._until = False, 0.0

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Called in the main thread, between two callbacks of the loop or inside one."""
        if self._asked:
            self.should_exit = True
            return
        self._asked = True
        self._hall.drain()
        note(f"stopping; {len(self._hall.live)} sessions run, for {self._hall.settings.drain_s:g} s at most")

    async def on_tick(self, counter: int) -> bool:
        """Ten times a second: whether the process ends."""
        if self._hall.broken and not self._asked:
            self.handle_exit(0, None)
        if self._asked and not self.should_exit:
            if not self._until:
                self._until = time.monotonic() + self._hall.settings.drain_s
                for show in self._shows.values():
                    show.event({"type": "draining", "reason": "The server stops soon; this session may still end."})
            if not self._hall.live or time.monotonic() > self._until:
                await asyncio.to_thread(self._hall.close)
                with contextlib.suppress(asyncio.TimeoutError):
                    await asyncio.wait_for(self._told(), TELL_S)
                self.should_exit = True
        return await super().on_tick(counter)

    async def _told(self) -> None:
        """Wait until every client has been told why."""
        while self._shows:
            await asyncio.sleep(0.02)


def config(app: FastAPI, tls: dict[str, Any] | None = None) -> uvicorn.Config:
    """How uvicorn runs the application."""
    s = app.state.live.settings
    logging.getLogger("uvicorn").setLevel(logging.WARNING)  # finer levels write messages, and with them prompts
    return uvicorn.Config(
        app, log_config=None, access_log=False, server_header=False, ws_max_size=s.message_bytes,
        ws_ping_interval=PING_S, ws_ping_timeout=PING_S, ws_per_message_deflate=False, limit_concurrency=None,
        timeout_graceful_shutdown=5, timeout_keep_alive=10, h11_max_incomplete_event_size=64 << 10, **(tls or {}),
    )  # fmt: skip


def serve(app: FastAPI, listening: socket.socket, tls: dict[str, Any]) -> None:
    """Answer until a signal comes."""
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="liveact: %(message)s")
    host, port = listening.getsockname()[:2]
    settings = app.state.live.settings
    shown = f"[{host}]" if ":" in host else host
    path = f"/#token={settings.token}" if settings.token else "/"
    note(f"serving {app.state.live.hall.avatar.name!r} on {'https' if tls else 'http'}://{shown}:{port}{path}")
    with contextlib.closing(listening):
        Server(config(app, tls), app).run(sockets=[listening])
