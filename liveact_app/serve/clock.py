"""The clock that a live session is paced by."""

import threading
import time


class Clock:
    """Monotonic seconds, `rate` times as fast as real ones: 1 for people, more for soaks and tests."""

    def __init__(self, rate: float = 1.0):
        self.rate, self._start = rate, time.monotonic()

    def now(self) -> float:
        """Seconds since the clock was made."""
        return (time.monotonic() - self._start) * self.rate

    def wait(self, until: float, stop: threading.Event) -> bool:
        """Sleep until the clock shows `until` or `stop` is set; returns whether it is."""
        while (left := until - self.now()) > 0:
            if stop.wait(left / self.rate):
                return True
        return stop.is_set()
