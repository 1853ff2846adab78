"""A server of live sessions on loopback with the small model, and a client for it."""

import asyncio
import contextlib
import http.client
import io
import json
import tempfile
import threading
import time
from pathlib import Path

import av
import pytest

pytest.importorskip("fastapi", reason="the extra 'serve' is not installed: pip install liveact[serve]")
pytest.importorskip("uvicorn", reason="the extra 'serve' is not installed: pip install liveact[serve]")
pytest.importorskip("prometheus_client", reason="the extra 'serve' is not installed: pip install liveact[serve]")
client = pytest.importorskip("websockets.sync.client", reason="the extra 'serve' is not installed")

from websockets.exceptions import ConnectionClosed  # noqa: E402

from liveact_app.generate.job import Job  # noqa: E402
from liveact_app.generate.loading import Shelf  # noqa: E402
from liveact_app.serve.app import build  # noqa: E402
from liveact_app.serve.clock import Clock  # noqa: E402
from liveact_app.serve.files import Files  # noqa: E402
from liveact_app.serve.hall import Hall  # noqa: E402
from liveact_app.serve.run import Server, config, listen  # noqa: E402
from liveact_app.serve.settings import Settings  # noqa: E402
from liveact_app.serve.workdir import Workdir  # noqa: E402

OPEN = {"type": "open", "image": {"face": "first"}}
PATIENCE_S = 120
SHELF = Shelf()


def until(what, seconds=PATIENCE_S):
    """Wait for something that happens on other threads; what hangs fails after minutes."""
    end = time.monotonic() + seconds
    while not (found := what()):
        assert time.monotonic() < end, "it never happened"
        time.sleep(0.02)
    return found


class Served:
    """A server in a thread. `hall` is its inside."""

    def __init__(self, rate, parent, **settings):
        self.workdir = Workdir(parent)
        job = Job(image="", audio="", prompt="", out=str(self.workdir.path / "model.mp4"))
        avatar, size = SHELF.load(job, "cpu")
        self.hall = Hall(avatar, size, Settings(**settings), Clock(rate))
        self.files = Files(self.hall, self.workdir.path, job, SHELF, "cpu")
        self.app = build(self.hall, self.files, self.workdir)
        self.socket = listen("127.0.0.1", 0)
        self.port = self.socket.getsockname()[1]
        self.server = Server(config(self.app), self.app)
        self.thread = threading.Thread(target=self._run, name="server")
        self.thread.start()
        until(lambda: self.server.started)

    def _run(self):
        asyncio.run(self.server.serve(sockets=[self.socket]))

    def stop(self):
        self.server.should_exit = True
        self.thread.join(PATIENCE_S)
        self.socket.close()
        assert not self.thread.is_alive() and not self.hall.live and not self.workdir.path.exists()

    def connect(self, path="/api/live", **options):
        found = client.connect(f"ws://127.0.0.1:{self.port}{path}", max_size=None, open_timeout=PATIENCE_S,
                               compression=None, **options)  # fmt: skip
        return found.__enter__()

    def ask(self, method, path, body=None, headers=None):
        """(status, headers, body) of a request; a JSON body is parsed."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE_S)
        with contextlib.closing(connection):
            connection.request(method, path, body, headers or {})
            answer = connection.getresponse()
            data, kind = answer.read(), answer.headers.get("content-type", "")
            return answer.status, answer.headers, json.loads(data) if kind == "application/json" and data else data


@contextlib.contextmanager
def serving(rate=8.0, **settings):
    with tempfile.TemporaryDirectory() as parent:
        served = Served(rate, parent, **settings)
        try:
            yield served
        finally:
            served.stop()


class Talk:
    """A session as its owner sees it."""

    def __init__(self, served, opening=OPEN, path="/api/live", **options):
        self.ws = served.connect(path, **options)
        self.ws.send(json.dumps(opening) if isinstance(opening, dict) else opening)
        self.events, self.parts, self.closed = [], [], None

    def tell(self, **message):
        self.ws.send(json.dumps(message))

    def next(self):
        """The next message is taken in; False when there is none more."""
        try:
            message = self.ws.recv(timeout=PATIENCE_S)
        except ConnectionClosed as error:
            self.closed = error.rcvd.code, error.rcvd.reason
            return False
        (self.parts if isinstance(message, bytes) else self.events).append(
            message if isinstance(message, bytes) else json.loads(message)
        )
        return True

    def wait(self, kind):
        """Go on until an event of that type; returns it."""
        seen = 0
        while True:
            for event in self.events[seen:]:
                if event["type"] == kind:
                    return event
            seen = len(self.events)
            assert self.next(), (kind, self.closed, self.events[-1:])

    def rest(self):
        """All that still comes; returns (code, reason)."""
        while self.next():
            pass
        return self.closed

    def decoded(self):
        """Video frames and sound [n] of what has come."""
        data = b"".join(self.parts)
        with av.open(io.BytesIO(data)) as file:
            frames = list(file.decode(video=0))
        with av.open(io.BytesIO(data)) as file:
            return frames, list(file.decode(audio=0))

    def leave(self):
        self.tell(type="close")
        end = self.rest()
        self.ws.close()
        return end


def form(fields, files):
    """(body, headers) of a multipart form; files: name -> (file name, bytes)."""
    mark, out = b"xxMARKxx", b""
    for name, value in fields.items():
        head = f'Content-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'
        out += b"--" + mark + b"\r\n" + head.encode()
    for name, (file, data) in files.items():
        head = f'Content-Disposition: form-data; name="{name}"; filename="{file}"\r\nContent-Type: text/plain\r\n\r\n'
        out += b"--" + mark + b"\r\n" + head.encode() + data + b"\r\n"
    return out + b"--" + mark + b"--\r\n", {"Content-Type": f"multipart/form-data; boundary={mark.decode()}"}


ROOT = Path(__file__).parent.parent
