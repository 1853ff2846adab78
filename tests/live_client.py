"""A client of a live server for tests: opens a session, sees its video frames, and a server in a process of its own."""

import contextlib
import json
import os
import queue
import socket
import subprocess
import sys
import threading
from pathlib import Path

from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

ROOT = Path(__file__).parent.parent
PATIENCE_S = 240  # of everything that comes from elsewhere


def environment(**more):
    """This checkout first, one thread."""
    return os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"} | more


def free_port():
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


class Client:
    """A session over a socket; `id` is its name. A thread reads all the time, as a browser does."""

    def __init__(self, base, **opening):
        self._items = queue.Queue()
        self._open = connect(f"{base}/api/live", max_size=None, open_timeout=PATIENCE_S, proxy=None)
        self.ws = self._open.__enter__()
        threading.Thread(target=self._read, daemon=True).start()
        self.say({"type": "open", "image": {"face": "first"}, **opening})
        self.opened = json.loads(self._items.get(timeout=PATIENCE_S))
        self.id = self.opened.get("id")
        self.frames = -1  # the init segment is none

    def _read(self):
        try:
            while True:
                self._items.put(self.ws.recv())
        except ConnectionClosed as closed:
            self._items.put(closed)

    def say(self, message):
        self.ws.send(json.dumps(message))

    def see(self, count):
        """Take what comes until `count` more video frames are there; returns the events between them."""
        until, events = self.frames + count, []
        while self.frames < until:
            item = self._items.get(timeout=PATIENCE_S)
            if isinstance(item, ConnectionClosed):
                raise item
            if isinstance(item, bytes):
                self.frames += 1
            else:
                events.append(json.loads(item))
        return events

    def end(self):
        """Take what comes until the other side closes; returns (close code, last event)."""
        last = None
        while not isinstance(item := self._items.get(timeout=PATIENCE_S), ConnectionClosed):
            last = item if isinstance(item, str) else last
        return item.rcvd.code if item.rcvd else None, json.loads(last) if last else None

    def close(self):
        self.say({"type": "close"})
        return self.end()

    def vanish(self):
        """Break the connection, as a machine does that is switched off."""
        self.ws.socket.shutdown(socket.SHUT_RDWR)


def watched(base, number):
    """What a viewer of a session is first told."""
    with connect(f"{base}/api/live/{number}", max_size=None, open_timeout=PATIENCE_S, proxy=None) as ws:
        ws.send(json.dumps({"type": "watch"}))
        return json.loads(ws.recv(PATIENCE_S))


@contextlib.contextmanager
def served(*flags, **env):
    """(process, address as ws://) of `liveact serve`; killed at the end if it is still there."""
    port = free_port()
    command = [sys.executable, "-m", "liveact_app", "serve", "--port", str(port), "--device", "cpu", *flags]
    child = subprocess.Popen(command, env=environment(**env), cwd=ROOT, stderr=subprocess.PIPE, text=True)
    try:
        said = []
        for line in child.stderr:
            said.append(line)
            if line.startswith("liveact: serving "):
                break
        else:
            raise AssertionError(f"it did not start: {''.join(said)}")
        yield child, f"ws://127.0.0.1:{port}"
    finally:
        child.kill()
        child.wait()
        child.stderr.close()
