"""Leases: items of a `JoinableQueue` that are settled one by one, by name."""

from __future__ import annotations

import os
import sys
from functools import partial
from traceback import TracebackException, format_exception
from types import GenericAlias, NoneType
from warnings import warn

__all__ = ["Batch", "Lease", "Leasing", "LeasingMany"]

_MOST_OF_A_REASON = 1000  # bytes
_MOST_OF_A_TRACEBACK = 4096  # bytes

TYPE_CHECKING = False  # without `typing`, whose import takes as long as all of Penstock
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from types import TracebackType
    from typing import Any, Generic, NoReturn, Protocol, SupportsIndex, TypeVar

    from ._native import Hold

    class Queue(Protocol):
        """What leasing needs of a queue."""

        def _hold(self, timeout: float | None, taken: list[tuple[Any, Hold]]) -> None: ...
        def _hold_many(
            self, max_items: SupportsIndex, timeout: float | None, taken: list[tuple[Any, Hold]]
        ) -> None: ...
        async def _ahold(self, taken: list[tuple[Any, Hold]]) -> None: ...
        async def _ahold_many(self, max_items: SupportsIndex, taken: list[tuple[Any, Hold]]) -> None: ...
        async def _asettle(self, attempts: Iterable[Callable[[], bool | None]]) -> None: ...

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
    After that, and in a forked child, each of them raises ValueError. A verb that raises anything else has
    settled nothing. A lease ends with its process, and never with a clock: slow work is not taken away.

    The verbs do not wait, unless another process is stopped (SIGSTOP) in the middle of a change of the queue.
    Then they wait until that process goes on or dies, and in a task they stop the event loop meanwhile. A
    signal handler that raises, as for Ctrl-C, ends that wait. They raise CorruptQueueError.

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

        If this process is killed meanwhile, the item is done, or is delivered again. Raises ValueError if the
        lease was settled before, and in a forked child. Waits as all verbs: see the class.

        >>> import penstock
        >>> q = penstock.JoinableQueue()
        >>> q.put("a")
        >>> with q.lease() as lease:
        ...     lease.ack()
        ...     q.statistics().unfinished
        0
        """
        self._settle(self._hold.finish)

    def nack(self, delay: float | None = None, error: BaseException | str | None = None) -> None:
        """Give the item back because the work has failed: it is delivered again, and that counts.

        The item goes to its old place in the queue; after `delay` seconds, or after the queue's
        `retry_delay` if that is None. After `max_deliveries` redeliveries it becomes a dead letter instead,
        which tells the `error` of its last failure: an exception with its traceback (the last 4,096 bytes),
        or words (the first 1,000 bytes).

        If this process is killed meanwhile, the item is delivered again, and that counts once, too; the delay
        and the error may be lost. Raises ValueError if the lease was settled before, in a forked child, and
        for a `delay` that is not from 0 to 1e10; TypeError for one that is no number. Waits as all verbs: see
        the class.

        >>> import penstock
        >>> q = penstock.JoinableQueue(max_deliveries=1)
        >>> q.put("a")
        >>> for _ in range(2):
        ...     with q.lease() as lease:
        ...         print(lease.deliveries)
        ...         lease.nack(error="no such page")
        1
        2
        >>> [(letter.item, letter.reason) for letter in q.dead_letters()]
        [('a', 'no such page')]
        """
        self._settle(lambda: self._hold.fail(delay, _text_of(error)))

    def release(self, delay: float = 0.0) -> None:
        """Give the item back untried: it goes to its old place in the queue, and that does not count.

        With a `delay` (seconds) no worker gets it before that time is over.

        If this process is killed before that has taken effect, the item is delivered again, and that counts.
        Raises ValueError if the lease was settled before, in a forked child, and for a `delay` that is not
        from 0 to 1e10; TypeError for one that is no number. Waits as all verbs: see the class.

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
        """Make the item a dead letter at once, which tells the reason as it tells the error of a `nack()`.

        If this process is killed meanwhile, the item is a dead letter, or is delivered again. Raises
        ValueError if the lease was settled before, and in a forked child. Waits as all verbs: see the class.

        >>> import penstock
        >>> q = penstock.JoinableQueue()
        >>> q.put("for France")
        >>> with q.lease() as lease:
        ...     lease.reject("wrong country")
        >>> [(letter.item, letter.reason) for letter in q.dead_letters()]
        [('for France', 'wrong country')]
        """
        self._settle(lambda: self._hold.reject(_text_of(reason)))

    def _settle(self, verb: Any) -> None:
        if self._pid != os.getpid():
            raise ValueError(
                f"this lease belongs to process {self._pid}, which took it, and not to its forked child: "
                "settle it there, or take an item here"
            )
        if self._is_settled or not verb():  # a verb that raises settles nothing
            self._is_settled = True
            raise ValueError(
                f"item {self.id} of this lease was settled before, by a verb, by task_done() or by the end "
                "of its block: settle it once"
            )
        self._is_settled = True

    def _leave(self, error: BaseException | None) -> None:
        """Do what the end of a `with` does, unless the lease was settled, or belongs to another process."""
        if self._is_settled or self._pid != os.getpid():
            return
        hold = self._hold
        try:
            if error is None:
                hold.finish()
            elif _is_failure(error):
                hold.fail(None, _text_if_any(error))
            else:
                hold.release()
        except BaseException:
            # Ctrl-C, perhaps while a stopped process keeps the lock. The block has ended all the same.
            self._attempt(error)()
            raise
        self._is_settled = True

    def _attempt(self, error: BaseException | None) -> Callable[[], bool | None]:
        """What does the same for a task: None if it could not, because a stopped process keeps the lock."""
        hold = self._hold
        if error is None:
            settle = hold.finish_now
        elif _is_failure(error):
            text = _text_if_any(error)
            settle = partial(hold.fail_now, text)
        else:
            settle = hold.release_now

        def attempt() -> bool | None:
            if self._is_settled or self._pid != os.getpid():
                return True
            if settle() is None:
                return None
            self._is_settled = True
            return True

        return attempt

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


def _is_failure(error: BaseException) -> bool:
    """Whether the work has failed.

    KeyboardInterrupt, SystemExit, asyncio.CancelledError and others that are no Exception end a program or a
    task from outside. But gevent's time-out is a failure, as those of all others are.
    """
    if isinstance(error, Exception):
        return True
    timeout = getattr(sys.modules.get("gevent.timeout"), "Timeout", None)
    return timeout is not None and isinstance(error, timeout)


def _text_of(error: BaseException | str | None) -> bytes | None:
    """What a dead letter tells of a failure: the reason, and behind a zero the end of the traceback."""
    if error is None:
        return None
    if isinstance(error, BaseException):
        reason, told = _reason_of(error), "".join(format_exception(error))
    else:
        reason, told = str(error), ""
    # The end of a traceback says where it happened.
    head, end = _utf8(reason)[:_MOST_OF_A_REASON], _utf8(told)[-_MOST_OF_A_TRACEBACK:]
    return b"\0".join(cut.decode(errors="ignore").encode() for cut in (head, end))


def _utf8(text: str) -> bytes:
    # A zero is between the two.
    return text.replace("\0", " ").encode(errors="replace")


def _reason_of(error: BaseException) -> str:
    """The exception's own line: a traceback may end with its notes, or with those that a group has."""
    told = TracebackException(type(error), error, None, compact=True)
    told.__notes__ = None
    *_, line = told.format_exception_only()
    return line.strip()


def _text_if_any(error: BaseException) -> bytes | None:
    """The same, or None if it cannot be told, for example because there is no memory for the traceback."""
    try:
        return _text_of(error)
    except Exception:
        return None


def _release(taken: list[tuple[T, Hold]]) -> None:
    """Give back what was taken for a block that does not begin."""
    for _, hold in taken:
        hold.release()


async def _arelease(queue: Queue, taken: list[tuple[T, Hold]]) -> None:
    """The same for a task."""
    if taken:
        await queue._asettle([hold.release_now for _, hold in taken])


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
        taken: list[tuple[T, Hold]] = []
        try:
            await self._queue._ahold(taken)
            self._lease = Lease(*taken[0])
            return self._lease
        except BaseException:
            await _arelease(self._queue, taken)
            raise

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._lease is not None:
            await self._queue._asettle([self._lease._attempt(error)])


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
        first_error: BaseException | None = None
        for lease, how in self._ends(error):
            try:
                if isinstance(first_error, (Exception, NoneType)):
                    lease._leave(how)
                else:  # after Ctrl-C this waits for no stopped process
                    lease._attempt(how)()
            except BaseException as raised:  # the others are settled all the same
                first_error = first_error or raised
        self._waiting.clear()
        if first_error is not None:
            raise first_error

    async def _aleave(self, queue: Queue, error: BaseException | None) -> None:
        """The same for a task."""
        attempts = [lease._attempt(how) for lease, how in self._ends(error)]
        self._waiting.clear()
        await queue._asettle(attempts)

    def _ends(self, error: BaseException | None) -> list[tuple[Lease[T], BaseException | None]]:
        """Each lease, and the exception with which it ends."""
        ends = []
        if self._begun is not None:
            ends.append((self._begun, None if self._is_done else error))
        # What has not begun has not failed. The oldest first, so that a `get()` meanwhile finds them in their
        # order.
        untried = GeneratorExit()
        return [*ends, *((lease, untried) for lease in reversed(self._waiting))]


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
        taken: list[tuple[T, Hold]] = []
        try:
            await self._queue._ahold_many(self._max_items, taken)
            self._batch = Batch([Lease(item, hold) for item, hold in taken])
            return self._batch
        except BaseException:
            await _arelease(self._queue, taken)
            raise

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._batch is not None:
            await self._batch._aleave(self._queue, error)
