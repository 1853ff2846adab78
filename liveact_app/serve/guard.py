"""The door of the server: who may come in, how much they may bring, and what every answer says to a browser."""

from __future__ import annotations

import hmac
import json
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any
from urllib.parse import urlsplit

from starlette.exceptions import HTTPException

from liveact_app.serve.settings import Settings, is_loopback

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

SAFE_METHODS = ("GET", "HEAD", "OPTIONS")
GUARDED = ("/api/", "/metrics", "/webrtc/")
UPLOADS, OFFERS = "/api/videos", "/webrtc/offer"
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; "
    "media-src 'self' blob:; connect-src 'self'; manifest-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "microphone=(self), camera=(), geolocation=()",
    "Cache-Control": "no-store",
}
_RAW = [(name.lower().encode(), value.encode()) for name, value in HEADERS.items()]


def same_token(given: str | None, settings: Settings) -> bool:
    """Whether a client may come in; compared in constant time."""
    wanted = settings.token
    return wanted is None or hmac.compare_digest((given or "").encode(), wanted.encode())


class Guard:
    """ASGI middleware: host, origin, token and size of every request, and headers of every answer.

    The token of a socket is in its first message, since browsers give a socket no headers; `socket` looks at it.
    """

    def __init__(self, app: Any, settings: Settings):
        self._app, self._settings = app, settings

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let it in, or answer."""
        if scope["type"] not in ("http", "websocket"):
            return await self._app(scope, receive, send)
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        send = _with_headers(send)
        refusal = self._refusal(scope, headers)
        if refusal is not None:
            return await _answer(scope, receive, send, *refusal)
        if scope["type"] == "http":
            receive = _bounded(receive, self._most(_route(scope)))
        await self._app(scope, receive, send)

    def _most(self, path: str) -> int:
        s = self._settings
        if path == UPLOADS:
            return s.upload_bytes + s.picture_bytes + s.json_bytes
        return s.message_bytes + s.json_bytes if path == OFFERS else s.json_bytes

    def _refusal(self, scope: Scope, headers: dict[str, str]) -> tuple[int, str] | None:
        """(status, sentence) for what may not come in."""
        host, origin, s = headers.get("host", ""), headers.get("origin"), self._settings
        route = _route(scope)
        try:
            name = urlsplit(f"//{host}").hostname or ""
        except ValueError:  # "[" without its end
            name = ""
        if s.loopback and not is_loopback(name):  # another name for this machine is another site's doing
            return 403, f"host: expected localhost or a loopback address, got {name!r:.80}"
        risky = scope["type"] == "websocket" or scope["method"] not in SAFE_METHODS
        if risky and origin is not None and origin not in s.origins and not _same(origin, host):
            return 403, f"origin: expected this server's own pages, got {origin!r:.80}"
        if scope["type"] == "http" and route.startswith(GUARDED):
            kind, _, token = headers.get("authorization", "").partition(" ")
            if not same_token(token if kind.lower() == "bearer" else None, s):
                return 401, "token: expected 'Authorization: Bearer TOKEN' with this server's token"
        length = headers.get("content-length", "0")
        if scope["type"] == "http" and length.isdecimal() and int(length) > self._most(route):
            return 413, f"body: expected at most {self._most(route)} bytes, got {length[:20]}"
        return None


def _route(scope: Scope) -> str:
    """The path that routes are matched with: without the prefix that a proxy or a fleet has put in front."""
    prefix, path = scope.get("root_path", ""), scope["path"]
    return path[len(prefix) :] if path.startswith(f"{prefix}/") else path


def _same(origin: str, host: str) -> bool:
    """Whether a page of `origin` came from `host`."""
    try:
        return bool(host) and urlsplit(origin).netloc == host
    except ValueError:
        return False


def _with_headers(send: Send) -> Send:
    async def out(message: MutableMapping[str, Any]) -> None:
        if message["type"] in ("http.response.start", "websocket.http.response.start"):
            own = list(message.get("headers", []))
            there = {name.lower() for name, _ in own}
            message["headers"] = own + [(name, value) for name, value in _RAW if name not in there]
        await send(message)

    return out


def _bounded(receive: Receive, most: int) -> Receive:
    """A body of at most `most` bytes, whatever its header says."""
    got = 0

    async def inward() -> MutableMapping[str, Any]:
        nonlocal got
        message = await receive()
        got += len(message.get("body", b""))
        if got > most:
            raise HTTPException(413, f"body: expected at most {most} bytes, got more")
        return message

    return inward


async def _answer(scope: Scope, receive: Receive, send: Send, status: int, sentence: str) -> None:
    body = json.dumps({"error": sentence}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    if status == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    kind = "http.response"
    if scope["type"] == "websocket":
        await receive()  # the request to connect
        if "websocket.http.response" not in scope.get("extensions", {}):
            return await send({"type": "websocket.close", "code": 1008, "reason": sentence[:120]})
        kind = "websocket.http.response"
    await send({"type": f"{kind}.start", "status": status, "headers": headers})
    await send({"type": f"{kind}.body", "body": body})
