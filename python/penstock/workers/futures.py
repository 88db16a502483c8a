"""The futures that `submit` returns."""

from __future__ import annotations

from concurrent.futures import Future
from concurrent.futures import _base as standard

from . import messages
from .messages import is_main_thread

__all__ = ["CallFuture"]

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Protocol

    from .collecting import Collector

    class Pool(Protocol):
        """What a future needs of its pool."""

        collector: Collector

        def is_running(self, number: int) -> bool:
            """Whether a worker has begun the call."""

        def cancel(self, number: int) -> bool:
            """Cancel a call. Return whether it is cancelled."""


class CallFuture(Future):  # type: ignore[type-arg]
    """A `concurrent.futures.Future` whose waiting thread may take results itself.

    `running()` is true as soon as a worker has begun the call. Until then `cancel()` works; with
    `cancel_kills` it works then, too, and kills the worker.
    """

    number: int

    def __init__(self, engine: Pool, limit: float | None, retries: int) -> None:
        super().__init__()
        self._lock_in_c = self._condition._lock  # type: ignore[attr-defined]
        self._engine = engine
        self.limit = limit
        self.retries = retries

    def result(self, timeout: float | None = None) -> Any:
        """Return what the call returned, or raise what it raised. Waits `timeout` seconds at most."""
        self._wait(timeout)
        return super().result(0) if self._state != standard.FINISHED else self._value()

    def _value(self) -> Any:
        try:
            if self._exception is not None:
                raise self._exception
            return self._result
        finally:
            self = None  # type: ignore[assignment]  # the traceback refers to this frame

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """Return what the call raised, or None. Waits `timeout` seconds at most."""
        self._wait(timeout)
        return super().exception(0) if self._state != standard.FINISHED else self._exception

    def _wait(self, timeout: float | None) -> None:
        if self._state == standard.PENDING:
            self._engine.collector.wait(self._is_done, timeout)

    def _is_done(self) -> bool:
        """As `done()`, without the lock: Ctrl-C in a `Condition`'s `with` may leave it held for ever."""
        return self._state != standard.PENDING

    def running(self) -> bool:
        """Return whether a worker has begun the call, and has not ended it."""
        return self._state == standard.PENDING and self._engine.is_running(self.number)

    def cancel(self) -> bool:
        """Cancel the call, unless it runs or has ended. Return whether it is cancelled."""
        if self._is_done():
            return self.cancelled()
        if not self._engine.cancel(self.number):
            return self.cancelled()
        return self._end_cancelled()

    def _end_cancelled(self) -> bool:
        if not super().cancel():
            return False
        if self._state == standard.CANCELLED:
            self.set_running_or_notify_cancel()  # so that `wait` and `as_completed` see it
        return True

    # What the calls of a pool are delivered to.

    def is_open(self, number: int, index: int) -> bool:
        """Whether the result is awaited."""
        return not self._is_done()

    def deliver(self, result: tuple[int, int, int, Any]) -> bool:
        """Take a result; True if the call has no other."""
        _, _, kind, data = result
        if self._is_done() and not self._done_callbacks and not self._waiters:  # type: ignore[attr-defined]
            return True
        if kind == messages.DROPPED:
            self._end_cancelled()
            return True
        error: BaseException | None = None
        value = None
        if kind == messages.VALUE:
            value = data
        elif kind == messages.PICKLED_VALUE:
            try:
                value = messages.decode(data)
            except BaseException as raised:
                if isinstance(raised, KeyboardInterrupt) and is_main_thread():
                    raise  # Ctrl-C: another thread delivers it
                error = raised
        else:
            error = messages.failure_of(kind, data)
        self._settle(value, error)
        return True

    def fail(self, number: int, index: int, error: BaseException) -> bool:
        """Take an exception of the pool's own; True if the call has no other item."""
        self._settle(None, error)
        return True

    def _settle(self, value: Any, error: BaseException | None) -> None:
        """As `set_result`; what Ctrl-C has interrupted is completed by a second call."""
        with self._lock_in_c:
            if self._state == standard.PENDING:
                self._result, self._exception = value, error
                self._state = standard.FINISHED
            for waiter in self._waiters:
                if self not in waiter.finished_futures:
                    (waiter.add_exception if self._exception else waiter.add_result)(self)
            self._condition.notify_all()
        callbacks = self._done_callbacks  # type: ignore[attr-defined]
        while callbacks:
            try:
                callback = callbacks.pop(0)
            except IndexError:  # another thread settles it, too
                break
            try:
                callback(self)
            except BaseException as raised:
                if isinstance(raised, KeyboardInterrupt) and is_main_thread():
                    raise
                standard.LOGGER.exception("exception calling callback for %r", self)
