"""Leases: items of a `JoinableQueue` that are settled one by one, by name."""

from __future__ import annotations

import os
import sys
from traceback import format_exception
from types import GenericAlias
from warnings import warn

__all__ = ["Batch", "Lease", "Leasing", "LeasingMany"]

_MOST_OF_A_REASON = 1000  # bytes
_MOST_OF_A_TRACEBACK = 4096  # bytes

TYPE_CHECKING = False  # without `typing`, whose import takes as long as all of Penstock
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import TracebackType
    from typing import Any, Generic, NoReturn, Protocol, SupportsIndex, TypeVar

    from ._native import Hold

    class Queue(Protocol):
        """What leasing needs of a queue."""

        def _hold(self, timeout: float | None, taken: list[tuple[Any, Hold]]) -> None: ...
        def _hold_many(
            self, max_items: SupportsIndex, timeout: float | None, taken: list[tuple[Any, Hold]]
        ) -> None: ...
        async def _ahold(self) -> tuple[Any, Hold]: ...
        async def _ahold_many(self, max_items: SupportsIndex) -> list[tuple[Any, Hold]]: ...
        async def _asettle(self, attempt: Callable[[], bool | None]) -> None: ...

    T = TypeVar("T")

    class _Generic(Generic[T]): ...

else:

    class _Generic:
        __slots__ = ()
        __class_getitem__ = classmethod(GenericAlias)

    T = object


class Lease(_Generic[T]):
    """An item in this process's hand, from `lease()` or `leases()`, and what is said of it.

    `item` is the object. `id` is the item's number in its queue, the same at every delivery: a key for work
    that must not be done twice. `deliveries` is 1, and one more for each death and each `nack()` before;
    releases do not count. `waited` is how long ago the item was put, in seconds, when it was taken; in steps
    of 16 ms, and begun anew after 99 days. It is None for an item that was put before any process had asked
    for a lease of the queue: until then puts read no clock.

    One of `ack()`, `nack()`, `release()` and `reject()` settles the lease, from any thread of this process.
    After that, and in a forked child, each of them raises ValueError. A lease ends with its process, and
    never with a clock: slow work is not taken away.

    A lease that is collected unsettled stays in hand, with a ResourceWarning: its item waits for a
    `task_done()` of this process, or until the process has ended or has dropped the queue. Then it is
    delivered again.

    >>> import penstock
    >>> q = penstock.JoinableQueue()
    >>> q.put("work")
    >>> with q.lease() as lease:
    ...     lease.item, lease.id, lease.deliveries
    ('work', 1, 1)
    """

    __slots__ = ("__weakref__", "_hold", "_is_settled", "_pid", "deliveries", "id", "item", "waited")

    item: T
    id: int
    deliveries: int
    waited: float | None

    def __init__(self, item: T, hold: Hold) -> None:
        """Users do not call this."""
        self._is_settled = False
        self._hold = hold
        self._pid = os.getpid()
        self.item = item
        self.id = hold.id
        self.deliveries = hold.deliveries
        self.waited = hold.waited

    def ack(self) -> None:
        """Finish the item, as `task_done()` does.

        >>> import penstock
        >>> q = penstock.JoinableQueue()
        >>> q.put("a")
        >>> with q.lease() as lease:
        ...     lease.ack()
        >>> q.join()
        """
        self._settle(self._hold.finish)

    def nack(self, delay: float | None = None, error: BaseException | str | None = None) -> None:
        """Give the item back because the work has failed: it is delivered again, and that counts.

        The item goes to its old place in the queue; after `delay` seconds, or after the queue's
        `retry_delay` if that is None. After `max_deliveries` redeliveries it becomes a dead letter instead,
        which tells the `error` of its last failure: an exception with its traceback, or words.

        >>> import penstock
        >>> q = penstock.JoinableQueue(max_deliveries=1)
        >>> q.put("a")
        >>> for _ in range(2):
        ...     with q.lease() as lease:
        ...         print(lease.deliveries)
        ...         lease.nack()
        1
        2
        >>> [letter.item for letter in q.dead_letters()]
        ['a']
        """
        self._settle(lambda: self._hold.fail(delay, _text_of(error)))

    def release(self, delay: float = 0.0) -> None:
        """Give the item back untried: it goes to its old place in the queue, and that does not count.

        With a `delay` (seconds) no worker gets it before that time is over.

        >>> import penstock
        >>> q = penstock.JoinableQueue()
        >>> q.put("a")
        >>> with q.lease() as lease:
        ...     lease.release()
        >>> with q.lease() as lease:
        ...     lease.deliveries
        1
        """
        self._settle(lambda: self._hold.release(delay))

    def reject(self, reason: BaseException | str | None = None) -> None:
        """Make the item a dead letter at once, which tells the reason.

        >>> import penstock
        >>> q = penstock.JoinableQueue()
        >>> q.put("not for us")
        >>> with q.lease() as lease:
        ...     lease.reject()
        >>> [letter.item for letter in q.dead_letters()]
        ['not for us']
        """
        self._settle(lambda: self._hold.reject(_text_of(reason)))

    def _settle(self, verb: Any) -> None:
        if self._pid != os.getpid():
            raise ValueError("this lease belongs to the process that took it, not to its forked child")
        if self._is_settled or not verb():  # a verb that raises settles nothing
            self._is_settled = True
            raise ValueError("this lease was settled before")
        self._is_settled = True

    def _leave(self, error: BaseException | None) -> None:
        """Do what the end of a `with` does, unless the lease was settled, or belongs to another process."""
        if self._is_settled or self._pid != os.getpid():
            return
        if error is None:
            self._hold.finish()
        elif isinstance(error, Exception):
            self._hold.fail(None, _text_if_any(error))
        else:  # KeyboardInterrupt, SystemExit, asyncio.CancelledError: the work has not failed
            self._hold.release()
        self._is_settled = True

    async def _aleave(self, queue: Queue, error: BaseException | None) -> None:
        """The same for a task. Other tasks run while a stopped process keeps the queue's lock."""
        if self._is_settled or self._pid != os.getpid():
            return
        if error is None:
            await queue._asettle(self._hold.finish_now)
        elif isinstance(error, Exception):
            text = _text_of(error)
            await queue._asettle(lambda: self._hold.fail_now(text))
        else:
            await queue._asettle(self._hold.release_now)
        self._is_settled = True

    def _release_if_unsettled(self) -> None:
        if not self._is_settled and self._pid == os.getpid():
            self._hold.release()
            self._is_settled = True

    def __reduce__(self) -> NoReturn:
        raise TypeError("a lease belongs to its process: it cannot be pickled")

    def __repr__(self) -> str:
        return f"<{type(self).__qualname__} of item {self.id}, delivery {self.deliveries}>"

    def __del__(self) -> None:
        # An object whose `__init__()` was not called has no attributes.
        if getattr(self, "_is_settled", True) or self._pid != os.getpid() or sys.is_finalizing():
            return
        try:
            is_in_hand = self._hold.is_in_hand
        except OSError:
            return
        if is_in_hand:
            warn(f"unsettled {self!r} stays in hand", ResourceWarning, source=self, stacklevel=2)


def _text_of(error: BaseException | str | None) -> bytes | None:
    """What a dead letter tells of a failure: the reason, and behind a zero the end of the traceback."""
    if error is None:
        return None
    if isinstance(error, BaseException):
        lines = format_exception(error)
        reason, told = lines[-1].strip() if lines else type(error).__name__, "".join(lines)
    else:
        reason, told = str(error), ""
    head = reason.replace("\0", " ").encode(errors="replace")[:_MOST_OF_A_REASON]
    # The end of a traceback says where it happened.
    return head + b"\0" + told.replace("\0", " ").encode(errors="replace")[-_MOST_OF_A_TRACEBACK:]


def _text_if_any(error: Exception) -> bytes | None:
    """The same, or None if it cannot be told, for example because there is no memory for the traceback."""
    try:
        return _text_of(error)
    except Exception:
        return None


def _release(taken: list[tuple[T, Hold]]) -> None:
    """Give back what was taken for a block that does not begin."""
    for _, hold in taken:
        hold.release()


def _check_that_no_time_out(timeout: float | None) -> None:
    if timeout is not None:
        raise ValueError("`async with` takes no `timeout`: event loops have their own, as asyncio.timeout()")


class Leasing(_Generic[T]):
    """What `lease()` returns: a `with`, or an `async with`, takes an item, and settles it."""

    __slots__ = ("_lease", "_queue", "_timeout")

    _lease: Lease[T] | None

    def __init__(self, queue: Queue, timeout: float | None) -> None:
        self._queue = queue
        self._timeout = timeout
        self._lease = None

    def _check_that_new(self) -> None:
        if self._lease is not None:
            raise RuntimeError("this lease was entered before: call lease() for each item")

    def __enter__(self) -> Lease[T]:
        self._check_that_new()
        taken: list[tuple[T, Hold]] = []
        try:
            self._queue._hold(self._timeout, taken)
            self._lease = Lease(*taken[0])
            return self._lease
        except BaseException:
            _release(taken)  # Ctrl-C before the block has begun
            raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._lease is not None:
            self._lease._leave(error)

    async def __aenter__(self) -> Lease[T]:
        self._check_that_new()
        _check_that_no_time_out(self._timeout)
        pair = await self._queue._ahold()
        self._lease = Lease(*pair)
        return self._lease

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._lease is not None:
            await self._lease._aleave(self._queue, error)


class Batch(_Generic[T]):
    """The leases that `leases()` has taken together, as an iterator.

    Asking for the next one acknowledges the one before, unless that is settled.
    """

    __slots__ = ("_begun", "_is_done", "_waiting")

    def __init__(self, leases: list[Lease[T]]) -> None:
        self._waiting = leases[::-1]
        self._begun: Lease[T] | None = None
        # The next one was asked for: a block that Ctrl-C ends then acknowledges this one.
        self._is_done = False

    def __iter__(self) -> Iterator[Lease[T]]:
        return self

    def __next__(self) -> Lease[T]:
        if self._begun is not None:
            self._is_done = True
            self._begun._leave(None)
            self._begun = None
            self._is_done = False
        if not self._waiting:
            raise StopIteration
        # In this order, so that Ctrl-C in between loses none.
        self._begun = self._waiting[-1]
        self._waiting.pop()
        return self._begun

    def __len__(self) -> int:
        """Return how many leases have not begun."""
        return len(self._waiting)

    def _leave(self, error: BaseException | None) -> None:
        try:
            if self._begun is not None:
                self._begun._leave(None if self._is_done else error)
        finally:
            # The oldest first, so that a `get()` meanwhile finds them in their order.
            for lease in reversed(self._waiting):
                lease._release_if_unsettled()
            self._waiting.clear()

    async def _aleave(self, queue: Queue, error: BaseException | None) -> None:
        """The same for a task."""
        waiting, self._waiting = self._waiting[::-1], []
        try:
            if self._begun is not None:
                await self._begun._aleave(queue, error)
        finally:
            for lease in waiting:
                await lease._aleave(queue, GeneratorExit())  # as what is no failure: released


class LeasingMany(_Generic[T]):
    """What `leases()` returns: a `with`, or an `async with`, takes items, and settles them."""

    __slots__ = ("_batch", "_max_items", "_queue", "_timeout")

    _batch: Batch[T] | None

    def __init__(self, queue: Queue, max_items: SupportsIndex, timeout: float | None) -> None:
        self._queue = queue
        self._max_items = max_items
        self._timeout = timeout
        self._batch = None

    def _check_that_new(self) -> None:
        if self._batch is not None:
            raise RuntimeError("these leases were entered before: call leases() for each batch")

    def __enter__(self) -> Batch[T]:
        self._check_that_new()
        taken: list[tuple[T, Hold]] = []
        try:
            self._queue._hold_many(self._max_items, self._timeout, taken)
            self._batch = Batch([Lease(item, hold) for item, hold in taken])
            return self._batch
        except BaseException:
            _release(taken)  # Ctrl-C before the block has begun
            raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._batch is not None:
            self._batch._leave(error)

    async def __aenter__(self) -> Batch[T]:
        self._check_that_new()
        _check_that_no_time_out(self._timeout)
        taken = await self._queue._ahold_many(self._max_items)
        self._batch = Batch([Lease(item, hold) for item, hold in taken])
        return self._batch

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._batch is not None:
            await self._batch._aleave(self._queue, error)
