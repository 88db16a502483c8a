"""The three queues."""

from __future__ import annotations

import copyreg
import pickle
from operator import index

from ._multiprocessing import finalize, fork_lock
from ._native import Handle, Options
from .backoff import Backoff, backoff_of

__all__ = ["JoinableQueue", "Queue", "SimpleQueue"]

TYPE_CHECKING = False  # without `typing`, whose import takes as long as all of Penstock
if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterable
    from multiprocessing import queues
    from multiprocessing.context import BaseContext
    from typing import Any, Generic, Self, SupportsIndex

    from typing_extensions import TypeVar

    from ._async.methods import AsyncJoin, AsyncMethods
    from ._multiprocessing import attributes
    from ._native import JoinableQueueBase as _JoinableQueueBase
    from ._native import QueueBase as _QueueBase
    from ._native import SimpleQueueBase as _SimpleQueueBase
    from .leases import Leasing, LeasingMany
    from .letters import DeadLetter
    from .statistics import Statistics

    T = TypeVar("T", default=Any)  # so that no checker asks what `Queue()` is a queue of

    # For a checker they are standard queues from the beginning, so that they fit where those are declared.
    class QueueBase(_QueueBase[T], AsyncMethods[T], queues.Queue[T]): ...

    class JoinableQueueBase(_JoinableQueueBase[T], AsyncJoin, queues.JoinableQueue[T]): ...

    class SimpleQueueBase(_SimpleQueueBase[T], AsyncMethods[T], queues.SimpleQueue[T]): ...

    class _AsyncMethods: ...

    class _AsyncJoin: ...

    class _OfItems(Generic[T]): ...

else:
    from ._async.methods import AsyncJoin as _AsyncJoin
    from ._async.methods import AsyncMethods as _AsyncMethods
    from ._native import JoinableQueueBase, QueueBase, SimpleQueueBase

    T = None
    _OfItems = {T: object}  # so that `_OfItems[T]` is the base `object`

# A put into a SimpleQueue waits while so many bytes are queued. The standard library's waits from 64 KiB on,
# when its pipe is full.
_SIMPLE_QUEUE_BYTES = 1 << 20

# For all three queues: a large item comes back from a process that dies while rebuilding it, and may be what
# kills it.
_MAX_DELIVERIES = 3


class _Family(Handle, _AsyncMethods, _OfItems[T]):
    """What the three queues have in common: options, pickling, figures, and what tasks await."""

    __slots__ = ()

    if TYPE_CHECKING:  # each queue has these from its base in the binding

        @property
        def _closed(self) -> bool: ...
        def put(self, obj: Any) -> None: ...

    def _open(
        self,
        *,
        maxsize: SupportsIndex = 0,
        max_bytes: SupportsIndex | None,
        soft_bytes: int = 0,
        protocol: SupportsIndex | None,
        acknowledged: bool = False,
        max_deliveries: SupportsIndex = _MAX_DELIVERIES,
        retry_delay: float | Backoff = 0.0,
    ) -> None:
        _arm()
        # After a second `__init__()` the reading and writing sides are open again.
        self.__dict__.pop("_known_pipe_state", None)
        options = Options(
            maxsize=max(0, _whole("maxsize", maxsize, most=1 << 62)),
            max_bytes=None if max_bytes is None else _whole("max_bytes", max_bytes, least=1, most=1 << 62),
            soft_bytes=soft_bytes,
            acknowledged=acknowledged,
            max_deliveries=_whole("max_deliveries", max_deliveries, least=0, most=255),
            retry=tuple(backoff_of(retry_delay)),
        )
        highest = pickle.HIGHEST_PROTOCOL
        self._create(
            options, highest if protocol is None else _whole("protocol", protocol, least=0, most=highest)
        )

    # Without it `in` would take the items, one after the other.
    __contains__ = None

    def __enter__(self) -> Self:
        """Return the queue. Leaving the block closes this handle, for this process: see `close()`.

        >>> import penstock
        >>> with penstock.Queue() as q:
        ...     q.put("a")
        """
        return self

    def __exit__(self, *_exception: object) -> None:
        self.close()

    # The private attributes of `multiprocessing`'s queues; see _multiprocessing/attributes.py.

    @property
    def _reader(self) -> attributes.Reader:
        from ._multiprocessing import attributes

        return attributes.Reader(self, self._pipe_state())

    @property
    def _writer(self) -> attributes.Writer:
        from ._multiprocessing import attributes

        return attributes.Writer(self, self._pipe_state())

    @property
    def _rlock(self) -> attributes.ReadLock:
        return self._pipe_state().lock

    def _pipe_state(self) -> attributes.PipeState:
        from ._multiprocessing import attributes

        known: attributes.PipeState = self.__dict__.setdefault("_known_pipe_state", attributes.PipeState())
        return known

    def statistics(self) -> Statistics:
        """Return the queue's figures at this moment, over all processes.

        Does not wait for items or room. If a process is stopped (SIGSTOP) in the critical section, waits
        until that process continues or dies; a signal handler that raises ends the wait. Raises
        CorruptQueueError.

        >>> import penstock
        >>> q = penstock.SimpleQueue()
        >>> q.put("a")
        >>> q.statistics().queued
        1
        """
        from .statistics import Statistics

        return Statistics(**self._statistics())

    def dead_letters(self) -> list[DeadLetter[T]]:
        """Return the dead letters: items that are delivered no more, in the order in which they became such.

        They stay in the queue, and count as done. Of a `JoinableQueue` they are items whose takers died or
        failed more than `max_deliveries` times, and those that a lease has rejected. Of a `Queue` or
        `SimpleQueue` they are large items whose takers died while they rebuilt them, or had no memory to.

        Rebuilds no object: `letter.item` does, whenever it is read. So an item that kills the process that
        rebuilds it does no harm here. Changes nothing, also if this process is killed meanwhile. Waits as
        `statistics()` does. Raises CorruptQueueError, and MemoryError if this process has no memory for the
        bytes of the letters.

        >>> import penstock
        >>> q = penstock.JoinableQueue()
        >>> q.put("a")
        >>> with q.lease() as lease:
        ...     lease.reject()
        >>> [(letter.id, letter.item) for letter in q.dead_letters()]
        [(1, 'a')]
        """
        from .letters import DeadLetter

        return [DeadLetter(self, *letter) for letter in self._dead_letters()]

    def requeue(self, letters: Iterable[DeadLetter[Any]] | None = None) -> int:
        """Put dead letters back into the queue, in their old places: these, or all of them.

        They are undone again, and their deliveries count anew. The queue may exceed `maxsize` then. Returns
        how many there were. A letter that was purged or requeued since it was read is passed over, also if
        its item has become a dead letter again: that one is another letter.

        Rebuilds no object. Waits as `statistics()` does; a signal handler that raises ends that wait, and
        some letters may be requeued by then. Raises ShutDown if the queue was shut down, ValueError for
        letters of another queue and TypeError for what is no letter (then none is requeued), and
        CorruptQueueError. If this process is killed meanwhile, some are requeued and the others are dead
        letters still.

        >>> import penstock
        >>> q = penstock.JoinableQueue()
        >>> q.put("a")
        >>> with q.lease() as lease:
        ...     lease.reject()
        >>> q.qsize(), q.requeue(), q.qsize()
        (0, 1, 1)
        >>> with q.lease() as lease:
        ...     lease.item, lease.id, lease.deliveries
        ('a', 1, 1)
        """
        return self._decide_on_letters(self._tickets("requeue", letters), False)

    def purge(self, letters: Iterable[DeadLetter[Any]] | None = None) -> int:
        """Remove dead letters for good, and free their memory: these, or all of them.

        Returns how many there were. As by `requeue()`, a letter that was purged or requeued since it was read
        is passed over. Works after a shutdown, too.

        Rebuilds no object. Waits and raises as `requeue()` does, but no ShutDown. If this process is killed
        meanwhile, some are gone and the others are dead letters still.

        >>> import penstock
        >>> q = penstock.JoinableQueue()
        >>> q.put_many(["bad", "ugly"])
        >>> for _ in range(2):
        ...     with q.lease() as lease:
        ...         lease.reject()
        >>> letters = q.dead_letters()
        >>> q.purge(letter for letter in letters if letter.item == "ugly")
        1
        >>> [letter.item for letter in q.dead_letters()]
        ['bad']
        """
        return self._decide_on_letters(self._tickets("purge", letters), True)

    def _tickets(
        self, verb: str, letters: Iterable[DeadLetter[Any]] | None
    ) -> list[tuple[int, int, int]] | None:
        from .letters import DeadLetter

        if letters is None:
            return None
        found = list(letters)
        for letter in found:
            if not isinstance(letter, DeadLetter):
                raise TypeError(
                    f"{verb}() takes the letters of dead_letters(), not {type(letter).__name__}: to choose "
                    "among them, compare their `item` or `id`"
                )
            if letter._queue._id != self._id:
                raise ValueError(
                    f"{letter!r} is a dead letter of another queue, {letter._queue!r}: call its {verb}()"
                )
        return [(letter._slot, letter.id, letter._burial) for letter in found]

    # As in `multiprocessing`'s queues: a subclass with a state of its own overrides these two and calls them.

    def __getstate__(self) -> Any:
        from ._multiprocessing import reduction

        return reduction.describe(self)

    def __setstate__(self, state: Any) -> None:
        from ._multiprocessing import reduction

        _arm()
        reduction.reopen(self, state)

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...], Any]:
        return copyreg.__newobj__, (type(self),), self.__getstate__()  # type: ignore[attr-defined]

    def __repr__(self) -> str:
        try:
            name = self._id.hex()
        except RuntimeError:
            name = "not open"
        return f"<{type(self).__module__}.{type(self).__qualname__} {name} at {id(self):#x}>"


class Queue(QueueBase[T], _Family[T]):
    """A first-in first-out queue between processes, in the place of `multiprocessing.Queue`.

    When `put()` returns, the item is in the queue, and every process sees it; there is no thread that sends
    it later. Items arrive in the order in which they were put. Any process that uses the queue may be killed
    at any moment. The others go on, and at most the item that the killed process had just taken is lost.

    `maxsize` is the largest number of items; 0 or less means no bound. `max_bytes` bounds the memory of the
    items in bytes (at least 64 KiB), by default at half of the machine's; a `put()` that would exceed it
    raises QueueMemoryError. `protocol` is the pickle protocol from 0 to 5, by default the highest. `ctx` is
    accepted because `multiprocessing.queues.Queue` requires it; a queue of Penstock serves processes of every
    start method.

    A handle reaches another process by inheritance, as an argument of a `Process`, or inside a message. All
    handles of a queue have equal rights, and the queue is gone with the last one. `Queue[int]` is for
    annotations.

    Raises TypeError and ValueError for arguments out of range, QueueMemoryError and OSError if the system has
    no memory or descriptor left.

    >>> import multiprocessing, penstock
    >>> def work(q: penstock.Queue[str]) -> None:
    ...     q.put("done")
    >>> q = penstock.Queue[str](maxsize=10)
    >>> process = multiprocessing.get_context("fork").Process(target=work, args=(q,))
    >>> process.start()
    >>> q.get()
    'done'
    >>> process.join()
    """

    def __init__(
        self,
        maxsize: SupportsIndex = 0,
        *,
        max_bytes: SupportsIndex | None = None,
        protocol: SupportsIndex | None = None,
        ctx: BaseContext | None = None,
    ) -> None:
        self._open(maxsize=maxsize, max_bytes=max_bytes, protocol=protocol)

    # In Python, so that a subclass that overrides `put` and `get` need not override these.

    def put_nowait(self, obj: T) -> None:
        """Do `put(obj, block=False)`.

        >>> import penstock
        >>> q = penstock.Queue(1)
        >>> q.put_nowait("a")
        >>> q.put_nowait("b")
        Traceback (most recent call last):
            ...
        queue.Full
        """
        return self.put(obj, False)

    def get_nowait(self) -> T:
        """Do `get(block=False)`.

        >>> import penstock
        >>> penstock.Queue().get_nowait()
        Traceback (most recent call last):
            ...
        _queue.Empty
        """
        return self.get(False)

    def join_thread(self) -> None:
        """Return at once. No thread sends anything: what was put is in the queue already.

        Raises AssertionError before `close()`, as `multiprocessing` does.

        >>> import penstock
        >>> q = penstock.Queue()
        >>> q.close()
        >>> q.join_thread()
        """
        if not self._closed:
            raise AssertionError(f"Queue {self!r} not closed")

    def cancel_join_thread(self) -> None:
        """Do nothing. A process never waits for its queues when it ends, and what it has put stays in them.

        >>> import penstock
        >>> penstock.Queue().cancel_join_thread()
        """


class JoinableQueue(JoinableQueueBase[T], Queue[T], _AsyncJoin):
    """A queue that knows when all of its items are done, in the place of `multiprocessing.JoinableQueue`.

    A worker calls `task_done()` when an item that it took is done; `join()` waits until all items are done.
    If a worker is killed, or ends through an uncaught exception, before `task_done()`, its item goes back to
    its old place in the queue, and so to another worker. That happens at most `max_deliveries` times (0 to
    255); then the item counts as done, and `dead_letters()` has it. A worker that ends in order without
    `task_done()` leaves its items undone for ever, as with `multiprocessing`.

    Until any process acknowledges for the first time, by `task_done()`, `join()`, `lease()`, `leases()` or a
    loop over the queue, only the item that a killed worker had in hand goes back: the one that each of its
    threads had taken last. If memory is needed, the payloads of items taken earlier are given up, the oldest
    first. The first acknowledgement ends that for good: then the items that killed workers had taken earlier
    go back to their old places, too, except those given up, which `statistics().given_up` counts.

    An item that has failed (`lease()`) waits for `retry_delay` seconds before it is delivered again, a number
    from 0 to 1e10, or for the growing times of a `Backoff`. One whose worker died does not wait.

    The other arguments and the exceptions are those of `Queue`: ValueError for a `max_deliveries` or a
    `retry_delay` out of range, TypeError for one that is no number.

    A subclass that overrides `get()` overrides `lease()` and `leases()` as well, which do not call it.

    >>> import penstock
    >>> q = penstock.JoinableQueue()
    >>> q.put("a")
    >>> q.get()
    'a'
    >>> q.task_done()
    >>> q.join()
    """

    def __init__(
        self,
        maxsize: SupportsIndex = 0,
        *,
        max_bytes: SupportsIndex | None = None,
        protocol: SupportsIndex | None = None,
        max_deliveries: SupportsIndex = _MAX_DELIVERIES,
        retry_delay: float | Backoff = 0.0,
        ctx: BaseContext | None = None,
    ) -> None:
        self._open(
            maxsize=maxsize,
            max_bytes=max_bytes,
            protocol=protocol,
            acknowledged=True,
            max_deliveries=max_deliveries,
            retry_delay=retry_delay,
        )

    @property
    def retry_delay(self) -> Backoff:
        """How long an item that has failed waits until it is delivered again, as the queue's maker has said.

        Does not wait, and is there also after `close()`. A number of seconds is a `Backoff` that does not
        grow.

        >>> import penstock
        >>> penstock.JoinableQueue(retry_delay=0.5).retry_delay
        Backoff(first=0.5, factor=1.0, most=0.5, jitter=0.0)
        """
        return Backoff(*self._retry)

    def aget(self) -> Coroutine[Any, Any, T]:
        """Take the item that was put first out of the queue, and return it. Waits until there is one.

        The item is the task's that calls this, also if another one awaits the result, as with
        `asyncio.wait_for` and `asyncio.create_task`. Waits and raises as `aget` of the other queues does. If
        this process is killed, the item goes to another one.

        >>> import asyncio, penstock
        >>> q = penstock.JoinableQueue()
        >>> async def main():
        ...     await q.aput("a")
        ...     item = await asyncio.wait_for(q.aget(), 1)
        ...     q.task_done()  # the item of this task
        ...     return item
        >>> asyncio.run(main())
        'a'
        """
        return self._aget(self._caller())

    def lease(self, timeout: float | None = None) -> Leasing[T]:
        """Take an item for a `with` block, whose end settles it.

        The `with` waits for an item as `get()` does: `timeout` seconds at most, or as long as it takes. It
        gives a `Lease`. Leaving the block finishes the item, as `task_done()` does. An `Exception`, or
        gevent's `Timeout`, gives it back as failed: it is delivered again, `max_deliveries` times at most.
        Any other BaseException gives it back without counting, and at once: `KeyboardInterrupt`,
        `SystemExit`, `GeneratorExit`, `asyncio.CancelledError`. So a time-out that cancels its body belongs
        inside the block, where it is a `TimeoutError` by the time it leaves it: around the block it counts as
        no failure, and an item that always takes too long is delivered for ever. After `lease.ack()`,
        `nack()`, `release()` or `reject()`, or a `task_done()` that has finished this item, the end of the
        block does nothing.

        The end of the block waits while another process is stopped (SIGSTOP) in the middle of a change of the
        queue. Ctrl-C ends that wait; then the item may stay in hand, with a ResourceWarning, until a
        `task_done()` of this process or its end.

        If the process dies in the block, by whatever death, the item is delivered to another one. No clock
        ends a lease.

        In a task of an event loop write `async with`, without a `timeout`: it waits as `aget()` does, and a
        task that is cancelled meanwhile has taken nothing.

        Raises TypeError or ValueError for a `timeout` that is no number. Entering raises what `get()` raises;
        an `async with` raises ValueError if there is a `timeout`. If the object cannot be rebuilt, its item
        is given back as failed, and the exception is raised. Large buffers in the object are copies of their
        own.

        >>> import penstock
        >>> q = penstock.JoinableQueue()
        >>> q.put("work")
        >>> with q.lease() as lease:
        ...     print(lease.item)
        work
        >>> q.join()
        """
        from .leases import Leasing

        self._check_arguments(timeout=timeout)
        return Leasing(self, timeout)

    def leases(self, max_items: SupportsIndex, timeout: float | None = None) -> LeasingMany[T]:
        """Take items for a `with` block: those that are there, `max_items` at most.

        They are 64 at most in any case, and fewer if they are not small: as many of 2 KB or less as fit into
        32 KiB, and large ones up to the one that brings their sum to 1 MiB.

        The `with` waits for the first item as `lease()` does, and gives an iterator over the leases, the
        oldest first. Asking for the next lease finishes the item before, unless it was settled. Leaving the
        block settles the last one that was begun, as a `lease()` does, and releases those not begun.

        `async with` is for tasks, as with `lease()`.

        If one of the objects cannot be rebuilt, its item is given back as failed, the other items are
        released, and the exception is raised. Raises ValueError if `max_items` is less than 1, TypeError if
        it is no whole number, and what `lease()` raises. If the process dies in the block, all items that are
        not settled are delivered to others, and that counts for each, also for those not begun.

        >>> import penstock
        >>> q = penstock.JoinableQueue()
        >>> q.put_many("abc")
        >>> with q.leases(2) as batch:
        ...     [lease.item for lease in batch]
        ['a', 'b']
        >>> q.qsize()
        1
        """
        from .leases import LeasingMany

        self._check_arguments(max_items=index(max_items), timeout=timeout)
        return LeasingMany(self, max_items, timeout)


class SimpleQueue(SimpleQueueBase[T], _Family[T]):
    """A queue without time-outs and without `maxsize`, in the place of `multiprocessing.SimpleQueue`.

    Like the standard library's, which is a pipe, it holds a limited number of bytes: `put()` waits while 1
    MiB is queued. The arguments and the exceptions are those of `Queue`.

    >>> import penstock
    >>> q = penstock.SimpleQueue()
    >>> q.put({"a": 1})
    >>> q.get()
    {'a': 1}
    """

    def __init__(
        self,
        *,
        max_bytes: SupportsIndex | None = None,
        protocol: SupportsIndex | None = None,
        ctx: BaseContext | None = None,
    ) -> None:
        self._open(max_bytes=max_bytes, protocol=protocol, soft_bytes=_SIMPLE_QUEUE_BYTES)

    def __getstate__(self) -> Any:
        if self._closed:
            raise OSError("handle is closed")
        return super().__getstate__()


_is_armed = False


def _arm() -> None:
    """Do at the first queue of this process what an import must not do: it imports `multiprocessing.util`."""
    global _is_armed
    if _is_armed:
        return
    finalize.arm()
    with fork_lock.lock:
        # Not at import, because a program may open no queue. Not later, because then perhaps no file can be
        # opened any more.
        from . import buffers, leases, letters, statistics  # noqa: F401
        from ._async import under_asyncio  # noqa: F401
        from ._multiprocessing import attributes, greenlets, reduction  # noqa: F401

        _inherit()
    _is_armed = True


def _inherit() -> None:
    from multiprocessing import queues

    # For programs that ask by `isinstance`, as `logging.config` does. Penstock's queues have all public
    # methods of these bases themselves. They inherit private ones (`_feed`, `_start_thread`, `_reset`,
    # `_on_queue_feeder_error`), which nothing calls.
    for ours, standard in (
        (Queue, queues.Queue),
        (JoinableQueue, queues.JoinableQueue),
        (SimpleQueue, queues.SimpleQueue),
    ):
        if standard not in ours.__mro__:
            ours.__bases__ = (*ours.__bases__, standard)


def _whole(name: str, value: SupportsIndex, *, most: int, least: int | None = None) -> int:
    try:
        number = index(value)
    except TypeError:
        raise TypeError(f"{name} must be an int, not {type(value).__name__}") from None
    if number > most or (least is not None and number < least):
        bounds = f"at most {most}" if least is None else f"from {least} to {most}"
        raise ValueError(f"{name} must be {bounds}, not {number}")
    return number
