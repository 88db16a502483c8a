"""The methods of a queue that a task of an event loop awaits."""

from __future__ import annotations

import os
import sys
from collections import deque
from contextlib import suppress

from ..errors import ShutDown
from . import hubs, tasks
from .turns import END, ITEM, LOCK, NOTHING, ROOM, occupied

TYPE_CHECKING = False  # without `typing`, whose import takes as long as all of Penstock
if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Iterable
    from types import TracebackType
    from typing import Any, Generic, Self, SupportsIndex

    from typing_extensions import TypeVar

    from .._native import Hold, QueueIterator

    T = TypeVar("T", default=Any)
else:
    T = None
    Generic = {T: object}  # so that `Generic[T]` is the base `object`

# Iterables whose next item is there at once, without code of the program.
_CONTAINERS = (list, tuple, range, dict, set, frozenset, deque, str, bytes, bytearray)


def _checkpoint() -> Awaitable[None]:
    from . import under_anyio

    return under_anyio.checkpoint()


async def _take_turn(queue: Any, attempt: Callable[[], bool]) -> None:
    """Wait until `attempt` takes something for a lease: until there is an item and it is the task's turn."""
    if "trio" in sys.modules and tasks.is_trio():
        await _checkpoint()
    is_behind = hubs.is_behind(queue, ITEM)
    if is_behind or not attempt():
        await hubs.hub().wait(queue, ITEM, lambda: attempt() or NOTHING, not is_behind, in_loop=True)
    hubs.tell(queue, ROOM)


async def settle(queue: Any, attempts: Iterable[Callable[[], bool | None]]) -> None:
    """Make each attempt until it has come to something, which is not None: only the lock may keep it waiting.

    The task is not cancelled before all are made. If one raises, the others are made all the same, and the
    first exception is raised in the end.
    """
    left = deque(attempts)
    first_error: BaseException | None = None
    interrupted = None

    def make_attempts() -> bool:
        nonlocal first_error, interrupted
        while left:
            try:
                if left[0]() is None:
                    return False
            except BaseException as error:
                first_error = first_error or error
                if not isinstance(error, Exception) and interrupted is not left[0]:
                    interrupted = left[0]  # Ctrl-C: it is made once more
                    continue
            left.popleft()
        return True

    if not make_attempts():
        hub = hubs.hub()
        try:
            await hub.shielded(lambda: hub.wait(queue, LOCK, lambda: make_attempts() or NOTHING, False))
        except BaseException as cancelled:
            raise cancelled from first_error
    if first_error is not None:
        raise first_error


class AsyncMethods(Generic[T]):
    """What a task awaits, of all queues. Under asyncio, uvloop, and through anyio under trio.

    A call that need not wait does not yield to the loop (under trio it does, as every call there). Tasks of
    one loop that wait at one queue are served in the order in which they came.
    """

    __slots__ = ()

    if TYPE_CHECKING:  # what a queue has from the binding

        @property
        def _id(self) -> bytes: ...
        @property
        def _closed(self) -> bool: ...
        def _descriptor(self, awaited: int) -> int | None: ...
        def _is_ready(self, awaited: int) -> bool: ...
        def _has_ended(self) -> bool: ...
        def _is_over(self, in_loop: bool, task: int) -> bool: ...
        def _tend(self, slices: int) -> None: ...
        def _time_until_due(self) -> float | None: ...
        def _finishes(self) -> int: ...
        @staticmethod
        def _was_stuck() -> bool: ...
        def _caller(self) -> int: ...
        @staticmethod
        def _check_arguments(*, max_items: int | None = None) -> None: ...
        def _new_loop(self) -> QueueIterator[T]: ...
        def _get_now(self, nothing: Any, task: int) -> Any: ...
        def _get_many_now(self, max_items: int | None, task: int) -> list[T]: ...
        def _put_now(self, obj: T) -> bool: ...
        def _put_many_now(self, objs: tuple[T, ...], start: int) -> tuple[int, BaseException | None]: ...
        def close(self) -> None: ...

    async def aget(self) -> T:
        """Take the item that was put first out of the queue, and return it. Waits until there is one.

        A task that is cancelled has taken nothing. If another process is stopped (SIGSTOP) in the middle of a
        change of the queue, waits until that goes on or dies. If this process is killed meanwhile, the item
        is lost or goes to another process; one from a `JoinableQueue` is never lost.

        Raises ShutDown if the queue was shut down and no item is left, ValueError (of a SimpleQueue, OSError)
        if this handle was closed, also while the task waits, and what `get` raises if the object cannot be
        rebuilt. If it has to wait, raises RuntimeError outside of an event loop, and OSError if the system
        has no descriptor left. Does not call a `get` that a subclass has overridden.

        >>> import asyncio, penstock
        >>> q = penstock.Queue()
        >>> async def main():
        ...     await q.aput("a")
        ...     return await q.aget()
        >>> asyncio.run(main())
        'a'
        """
        if occupied or "trio" in sys.modules:
            return await self._aget_in_turn(0)
        # Kept short: no task of this process waits, so none is to be told of room.
        item: T = self._get_now(NOTHING, 0)
        if item is NOTHING:
            item = await self._await_item(0)
        return item

    async def _aget(self, task: int) -> T:
        """The same for a task that has made the call, and may have another one run it."""
        if occupied or "trio" in sys.modules:
            return await self._aget_in_turn(task)
        item: T = self._get_now(NOTHING, task)
        if item is NOTHING:
            item = await self._await_item(task)
        return item

    async def _await_item(self, task: int) -> T:
        item: T = await self._wait_turn(ITEM, lambda: self._get_now(NOTHING, task), True, task)
        hubs.tell(self, ROOM)
        return item

    async def _aget_in_turn(self, task: int) -> T:
        if "trio" in sys.modules and tasks.is_trio():
            await _checkpoint()
        item: T
        is_behind = hubs.is_behind(self, ITEM)
        if not is_behind:
            item = self._get_now(NOTHING, task)
            if item is not NOTHING:
                hubs.tell(self, ROOM)
                return item
        item = await self._wait_turn(ITEM, lambda: self._get_now(NOTHING, task), not is_behind, task)
        hubs.tell(self, ROOM)
        return item

    def aget_many(self, max_items: int | None = None) -> Coroutine[Any, Any, list[T]]:
        """Take the items that are there, `max_items` at most, and return them as a list, oldest first.

        If `max_items` is None, as many as are there at the start. Waits for the first item as `aget` does;
        for more it does not wait, so the list has at least one. Like that of `aget`, they are the task's that
        calls this, and a task that is cancelled has taken nothing. If this process is killed meanwhile, up to
        64 items are lost or go to another process; those of a `JoinableQueue` are never lost.

        Raises what `aget` raises, and at once ValueError if `max_items` is less than 1 or TypeError if it is
        no whole number. If an object cannot be rebuilt, the exception has the attribute `items` as that of
        `get_many`.

        >>> import asyncio, penstock
        >>> q = penstock.Queue()
        >>> q.put_many("abc")
        >>> asyncio.run(q.aget_many(2))
        ['a', 'b']
        """
        self._check_arguments(max_items=max_items)
        return self._aget_many(max_items, self._caller())

    async def _aget_many(self, max_items: int | None, task: int) -> list[T]:
        if "trio" in sys.modules and tasks.is_trio():
            await _checkpoint()

        def attempt() -> Any:
            return self._get_many_now(max_items, task) or NOTHING

        items: list[T]
        is_behind = hubs.is_behind(self, ITEM)
        if not is_behind:
            items = attempt()
            if items is not NOTHING:
                hubs.tell(self, ROOM)
                return items
        items = await self._wait_turn(ITEM, attempt, not is_behind, task)
        hubs.tell(self, ROOM)
        return items

    async def aput(self, obj: T) -> None:
        """Put `obj`, any object that pickles, into the queue, once there is room.

        When this returns, the item is in the queue, and it stays there even if this process dies. A task that
        is cancelled has put nothing. The object is pickled when there is room. Raises what `put` raises; and
        OSError if the task has to wait and the system has no descriptor left. Does not call a `put` that a
        subclass has overridden.

        >>> import asyncio, penstock
        >>> q = penstock.Queue(maxsize=1)
        >>> async def main():
        ...     await q.aput("a")
        ...     late = asyncio.create_task(q.aput("b"))
        ...     return [await q.aget(), await q.aget()]
        >>> asyncio.run(main())
        ['a', 'b']
        """
        if occupied or "trio" in sys.modules:
            await self._aput_in_turn(obj)
        # Kept short: no task of this process waits, so none is to be told of an item.
        elif not self._put_now(obj):
            await self._await_room(obj)

    async def _await_room(self, obj: T) -> None:
        await self._wait_turn(ROOM, lambda: self._put_now(obj) or NOTHING, True)
        hubs.tell(self, ITEM)

    async def _aput_in_turn(self, obj: T) -> None:
        if "trio" in sys.modules and tasks.is_trio():
            await _checkpoint()
        is_behind = hubs.is_behind(self, ROOM)
        if is_behind or not self._put_now(obj):
            await self._wait_turn(ROOM, lambda: self._put_now(obj) or NOTHING, not is_behind)
        hubs.tell(self, ITEM)

    async def aput_many(self, objs: Iterable[T]) -> None:
        """Put all objects of an iterable, in order, as `aput` would one after the other.

        Small plain objects of a built-in container go into the queue up to 64 in one step. Of any other
        iterable each object is in the queue before the iterable is asked for the next one.

        Raises what `aput` raises, and what `objs` itself raises. Then, and if the task is cancelled, the
        objects put so far stay in the queue: the exception's attribute `items_put` tells how many of the
        iterable were put.

        >>> import asyncio, penstock
        >>> q = penstock.Queue()
        >>> asyncio.run(q.aput_many(range(3)))
        >>> q.get_many()
        [0, 1, 2]
        """
        count = 0
        try:
            if type(objs) not in _CONTAINERS:
                for obj in objs:
                    await self.aput(obj)
                    count += 1
                return
            rest, error = tuple(objs), None
            if "trio" in sys.modules and tasks.is_trio():
                await _checkpoint()

            def attempt() -> Any:
                nonlocal count, error
                before = count
                count, error = self._put_many_now(rest, count)
                return count if count > before or error is not None else NOTHING

            while count < len(rest):
                is_behind = hubs.is_behind(self, ROOM)
                if is_behind or attempt() is NOTHING:
                    await self._wait_turn(ROOM, attempt, not is_behind)
                hubs.tell(self, ITEM)
                if error is not None:
                    raise error
        except BaseException as error:
            with suppress(AttributeError):  # its class refuses attributes
                error.items_put = count  # type: ignore[attr-defined]
            raise

    async def _wait_turn(
        self, awaited: int, attempt: Callable[[], Any], has_tried: bool, task: int = 0
    ) -> Any:
        return await hubs.hub().wait(self, awaited, attempt, has_tried, task=task)

    def __aiter__(self) -> Items[T]:
        """Iterate over the items until the queue is shut down: `async for item in queue`.

        Of a `JoinableQueue` each item is done when the next one is asked for; after a `break` or an exception
        the last one stays in hand. A class that overrides `aget` overrides `__aiter__` as well.

        >>> import asyncio, penstock
        >>> q = penstock.Queue()
        >>> q.put_many("ab")
        >>> q.shutdown()
        >>> async def main():
        ...     return [item async for item in q]
        >>> asyncio.run(main())
        ['a', 'b']
        """
        return Items(self)

    async def __aenter__(self) -> Self:
        """Return the queue, which `async with` closes for this process in the end."""
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close the queue for this process."""
        self.close()


class Items(Generic[T]):
    """The items of a queue, one after the other, until the queue is shut down.

    Of a `JoinableQueue`, the item in hand is done when the next one is asked for, unless `task_done` has said
    so already. After a `break` or an exception it stays in hand, as after `aget`.

    A second call raises ValueError while the first one waits: each task needs its own iterator, because a
    call finishes the item of the one before.
    """

    __slots__ = ("_in_call", "_loop", "_queue")

    def __init__(self, queue: AsyncMethods[T]) -> None:
        self._queue = queue
        self._loop = queue._new_loop()
        self._in_call = 0  # the pid of the process in which a task awaits the next one; 0 if none does

    def __aiter__(self) -> Self:
        """Return itself."""
        return self

    def __anext__(self) -> Coroutine[Any, Any, T]:
        """Finish the item in hand, and take the next one."""
        return self._next(self._queue._caller())

    async def _next(self, task: int) -> T:
        pid = os.getpid()
        if self._in_call == pid:
            raise ValueError("this iterator waits in another call: each task needs its own")
        self._in_call = pid
        try:
            return await self._take_next(task)
        finally:
            self._in_call = 0

    async def _take_next(self, task: int) -> T:
        queue, loop = self._queue, self._loop
        try:
            if "trio" in sys.modules and tasks.is_trio():
                await self._finish(task)
                await _checkpoint()
            is_behind = hubs.is_behind(queue, ITEM)
            if not is_behind:
                item: T = loop._next_now(NOTHING, task)
                if item is not NOTHING:
                    hubs.tell(queue, ROOM)
                    return item
            has_tried = not (is_behind or queue._was_stuck())
            await self._finish(task)
            item = await hubs.hub().wait(
                queue, ITEM, lambda: loop._next_now(NOTHING, task), has_tried, task=task, in_loop=True
            )
        except ShutDown:
            raise StopAsyncIteration from None
        hubs.tell(queue, ROOM)
        return item

    async def _finish(self, task: int) -> None:
        """Finish the item in hand: what waits has none."""
        loop = self._loop
        if not loop._finish_now(task):
            await hubs.hub().wait(
                self._queue, LOCK, lambda: True if loop._finish_now(task) else NOTHING, False
            )


class AsyncJoin:
    """What a task awaits of a queue that knows when all is done, and of its leases."""

    __slots__ = ()

    if TYPE_CHECKING:

        @property
        def _id(self) -> bytes: ...
        @property
        def _closed(self) -> bool: ...
        def _descriptor(self, awaited: int) -> int | None: ...
        def _is_ready(self, awaited: int) -> bool: ...
        def _has_ended(self) -> bool: ...
        def _is_over(self, in_loop: bool, task: int) -> bool: ...
        def _tend(self, slices: int) -> None: ...
        def _time_until_due(self) -> float | None: ...
        def _finishes(self) -> int: ...
        @staticmethod
        def _was_stuck() -> bool: ...
        def _join_now(self, since: int) -> int | None: ...
        def _hold_now(self, taken: list[tuple[Any, Hold]]) -> bool: ...
        def _hold_many_now(self, max_items: SupportsIndex, taken: list[tuple[Any, Hold]]) -> bool: ...

    async def _ahold(self, taken: list[tuple[Any, Hold]]) -> None:
        """Take an item for a lease, and append its object and its hold to a list.

        An exception that comes right after that (Ctrl-C) does not take them away from the caller.
        """
        await _take_turn(self, lambda: self._hold_now(taken))

    async def _ahold_many(self, max_items: SupportsIndex, taken: list[tuple[Any, Hold]]) -> None:
        """The same for several items, at least one."""
        await _take_turn(self, lambda: self._hold_many_now(max_items, taken))

    async def _asettle(self, attempts: Iterable[Callable[[], bool | None]]) -> None:
        """Settle leases by these attempts, of which each returns None if the lock stays taken."""
        await settle(self, attempts)

    async def ajoin(self) -> None:
        """Wait until every item that was put is done, as `join` does.

        Items of a worker that was killed go to other workers, so they do not keep this waiting for ever. A
        task may be cancelled meanwhile.

        >>> import asyncio, penstock
        >>> q = penstock.JoinableQueue()
        >>> async def main():
        ...     await q.aput("a")
        ...     await q.aget()
        ...     q.task_done()
        ...     await q.ajoin()
        >>> asyncio.run(main())
        """
        if "trio" in sys.modules and tasks.is_trio():
            await _checkpoint()
        since: int | None = 0

        def attempt() -> Any:
            nonlocal since
            since = self._join_now(since or 0)
            return True if since is None else NOTHING

        if attempt() is NOTHING:
            await hubs.hub().wait(self, END, attempt, True)
