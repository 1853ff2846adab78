"""Stop signals that arrive only where a file can still be finished."""

import contextlib
import signal
import threading
from collections.abc import Iterator


class Interrupted(BaseException):
    """The user asked to stop (Ctrl-C, SIGTERM or SIGHUP); raised at a point where nothing is half-done."""

    def __init__(self, name: str):
        super().__init__(name)
        self.name = name


class Interrupts:
    """Turns stop signals into `Interrupted`, except inside `deferred()`, where it is raised on leaving.

    Encoding and muxing a block must not be cut in the middle, or the container is unusable. Only the first signal is
    raised at once, so an impatient second Ctrl-C cannot spoil the file while it is being finished.
    """

    SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))

    def __init__(self) -> None:
        self._old: dict[int, object] = {}
        self._depth, self._name, self._finishing = 0, "", False

    def __enter__(self) -> "Interrupts":
        if threading.current_thread() is threading.main_thread():  # Python allows handlers nowhere else
            for number in self.SIGNALS:
                # Ignored signals (nohup, background jobs) stay ignored; None is a handler Python cannot restore.
                if signal.getsignal(number) not in (signal.SIG_IGN, None):
                    self._old[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *exc: object) -> None:
        for number, handler in self._old.items():
            signal.signal(number, handler)

    def _handle(self, number: int, _frame: object) -> None:
        first, self._name = not self._name, self._name or signal.Signals(number).name
        if first and not self._depth and not self._finishing:
            raise Interrupted(self._name)

    def ask(self, name: str) -> None:
        """Stop as if a signal of that name had come, from any thread: at the end of the next `deferred`."""
        self._name = self._name or name

    def finishing(self) -> None:
        """Declare that the run is being wound up: nothing is raised from here on."""
        self._finishing = True

    @contextlib.contextmanager
    def deferred(self) -> Iterator[None]:
        """Hold signals back until the block ends; an error inside the block wins over a held signal.

        A signal that arrived earlier but was lost (Python drops exceptions raised in finalisers) is raised here too.
        """
        self._depth += 1
        try:
            yield
        finally:
            self._depth -= 1
        if self._name and not self._depth and not self._finishing:
            raise Interrupted(self._name)
