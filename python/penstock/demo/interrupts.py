"""Ctrl-C ends the demo at any moment, once, and in the parent only."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType


class FirstInterrupt:
    """In the `with`, the first Ctrl-C raises KeyboardInterrupt, and later ones are ignored.

    The interpreter drops an exception that is raised in one of its callbacks, such as a weak reference's. So
    each loop calls `check`, which raises KeyboardInterrupt again if it was dropped.
    """

    def __init__(self) -> None:
        self._came = False

    def __enter__(self) -> "FirstInterrupt":
        self._before = signal.getsignal(signal.SIGINT)
        if self._before is signal.default_int_handler:  # else the program's caller ignores or handles Ctrl-C
            signal.signal(signal.SIGINT, self._interrupt)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self._came:  # else the process ends, and goes on ignoring Ctrl-C
            signal.signal(signal.SIGINT, self._before)

    def check(self) -> None:
        """Raise KeyboardInterrupt if Ctrl-C was pressed."""
        if self._came:
            raise KeyboardInterrupt

    def _interrupt(self, number: int, frame: FrameType | None) -> None:
        if not self._came:
            self._came = True
            raise KeyboardInterrupt


@contextmanager
def blocked() -> Iterator[None]:
    """Put Ctrl-C off until the end of the `with`; in a process that is started inside, for ever."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
