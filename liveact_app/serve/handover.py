"""One place between two threads: what is made waits there until it is shown."""

import threading
from typing import Generic, TypeVar

T = TypeVar("T")


class Handover(Generic[T]):
    """Holds one item; `close` wakes both sides and what is there is forgotten."""

    def __init__(self) -> None:
        self._changed, self._closed = threading.Condition(), False
        self._item: list[T] = []

    def put(self, item: T) -> bool:
        """Wait until the place is free and lay the item there; False once closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or not self._item)
            if not self._closed:
                self._item.append(item)
                self._changed.notify_all()
            return not self._closed

    def get(self) -> T | None:
        """Wait for an item and take it; None once closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or bool(self._item))
            if self._closed:
                return None
            self._changed.notify_all()
            return self._item.pop()

    def close(self) -> None:
        """Let both sides go."""
        with self._changed:
            self._closed = True
            self._item.clear()
            self._changed.notify_all()
