"""Ctrl-C, which is to end the demo at any moment, once, and in the parent alone."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType


class FirstInterrupt:
    """In the `with`, the first Ctrl-C raises KeyboardInterrupt, and no other disturbs what follows.

    An exception in a callback that the interpreter calls, such as a weak reference's, is lost. So whoever
    waits for long calls `check` now and then, which raises what was lost.
    """

    def __init__(self) -> None:
        self._came = False

    def __enter__(self) -> "FirstInterrupt":
        self._before = signal.getsignal(signal.SIGINT)
        if self._before is signal.default_int_handler:  # else Ctrl-C is ignored, or somebody's business
            signal.signal(signal.SIGINT, self._interrupt)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self._came:  # else the process ends, undisturbed
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
    """Have Ctrl-C wait for the end of the `with`; and for ever in a process that is started inside."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
