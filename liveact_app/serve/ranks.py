"""Several processes behind one server: rank 0 serves, the others make the blocks of its session with it."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

from liveact_model.session import Session

if TYPE_CHECKING:
    from liveact_model.avatar import Avatar
    from liveact_model.parallel import SeqParallel

WAIT, END = "wait", "end"
KEEP_ALIVE_S = 300.0  # a collective that nobody answers gives up in the end


class Group:
    """What the leading process tells the others between sessions; one session at a time."""

    def __init__(self, ranks: SeqParallel):
        self.ranks, self._told = ranks, time.monotonic()

    def open(self, **options: Any) -> SeqParallel:
        """The others make a Session with these options and follow it; so must this process."""
        self._tell(json.dumps(options))
        return self.ranks

    def keep_alive(self) -> None:
        """Between sessions, called every now and then: let the others know that there is nothing to do."""
        if time.monotonic() - self._told > KEEP_ALIVE_S:
            self._tell(WAIT)

    def end(self) -> None:
        """The others go home."""
        self._tell(END)

    def _tell(self, order: str) -> None:
        self.ranks.share(lambda: order)
        self._told = time.monotonic()


def follow(ranks: SeqParallel, avatar: Avatar) -> None:
    """All that a process does that does not lead, until the server ends."""
    avatar.text = avatar.image = avatar.audio = None  # type: ignore[assignment] # the leading process encodes
    while (order := ranks.share(str)) != END:
        if order != WAIT:
            Session(avatar, None, "", parallel=ranks, **json.loads(order)).follow()
