"""From a session's threads to the sockets that watch it: encoded once, bounded for each."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections import deque
from collections.abc import Callable
from typing import NamedTuple

from liveact_app.serve.live import Event, Moment
from liveact_app.serve.mux import Fragment, Muxer

BEHIND_S = 4.0
"""What a viewer may be behind; it then goes on at the next key frame."""


class Over(NamedTuple):
    """The last thing that a viewer is told."""

    code: str
    reason: str


class Viewer:
    """One socket's queue."""

    def __init__(self, most: int):
        self._items: deque[Fragment | str | Over] = deque()
        self._there, self._most = asyncio.Event(), most
        self._needs_key, self._fragments, self.skipped = True, 0, 0

    def put(self, item: Fragment | str | Over) -> None:
        """Append; fragments that nobody fetches in time go, and those after them up to a key frame."""
        if isinstance(item, Fragment):
            if self._fragments >= self._most:
                kept = [i for i in self._items if not isinstance(i, Fragment)]
                self.skipped += self._fragments
                self._items, self._fragments, self._needs_key = deque(kept), 0, True
            if self._needs_key and not item.key:
                self.skipped += 1
                return
            self._needs_key = False
            self._fragments += 1
        self._items.append(item)
        self._there.set()

    async def get(self) -> Fragment | str | Over:
        """The next thing to send."""
        while not self._items:
            self._there.clear()
            await self._there.wait()
        item = self._items.popleft()
        self._fragments -= isinstance(item, Fragment)
        return item


class Broadcast:
    """The listener of one session: encodes on its thread, and hands out on the event loop.

    watch  is told every event, for metrics
    """

    def __init__(self, muxer: Muxer, fps: float, watch: Callable[[Event], None] = lambda event: None):
        self.muxer, self._most, self._watch = muxer, max(2, round(BEHIND_S * fps)), watch
        self._loop = asyncio.get_running_loop()
        self.viewers: set[Viewer] = set()
        self.over: asyncio.Future[Over] = self._loop.create_future()

    def join(self) -> Viewer:
        """A queue for one more socket. On the event loop, like all that has no thread of its own."""
        viewer = Viewer(self._most)
        if self.over.done():
            viewer.put(self.over.result())
        self.viewers.add(viewer)
        return viewer

    def leave(self, viewer: Viewer) -> None:
        """That socket is gone."""
        self.viewers.discard(viewer)

    def moment(self, moment: Moment) -> None:
        """As `Listener`."""
        self._spread(self.muxer.write(moment))

    def event(self, event: Event) -> None:
        """As `Listener`."""
        self._watch(event)
        self._spread(json.dumps(event))

    def ended(self, code: str, reason: str) -> None:
        """As `Listener`."""
        try:
            self.muxer.close()
        finally:  # whoever waits for the end must hear of it
            self._spread(Over(code, reason))

    def _spread(self, item: Fragment | str | Over) -> None:
        with contextlib.suppress(RuntimeError):  # the loop has been closed: nobody watches
            self._loop.call_soon_threadsafe(self._put, item)

    def _put(self, item: Fragment | str | Over) -> None:
        if isinstance(item, Over) and not self.over.done():
            self.over.set_result(item)
        for viewer in self.viewers:
            viewer.put(item)
