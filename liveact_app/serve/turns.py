"""Several sessions on one model: one block at a time, the most urgent first."""

import heapq
import itertools
import math
import threading
from collections.abc import Iterator
from contextlib import contextmanager

WHENEVER = math.inf
"""Due time of work that nobody waits for: a file."""


class Turns:
    """Whose block the model makes next: the one that is due first.

    A device runs one block at a time whoever asks; taking turns keeps a block's kernels together, makes the order
    that of the deadlines, and lets a Session be captured while nothing else runs.
    """

    def __init__(self) -> None:
        self._free, self._taken = threading.Condition(), False
        self._waiting: list[tuple[float, int]] = []
        self._count = itertools.count()

    @contextmanager
    def take(self, due: float = WHENEVER) -> Iterator[None]:
        """Wait for the model, and have it inside; `due` is when the result is wanted, on any common clock."""
        ticket = (due, next(self._count))
        with self._free:
            heapq.heappush(self._waiting, ticket)
            self._free.wait_for(lambda: not self._taken and self._waiting[0] == ticket)
            heapq.heappop(self._waiting)
            self._taken = True
        try:
            yield
        finally:
            with self._free:
                self._taken = False
                self._free.notify_all()

    @property
    def waiting(self) -> int:
        """How many wait."""
        return len(self._waiting)
