"""The private attributes of `multiprocessing`'s queues that known programs use.

A queue of `multiprocessing` is a pipe with locks around it, and some programs use these directly. A queue of
Penstock has neither. The objects of this module stand for them, as far as one of these programs needs it:

    queue._reader       recv, poll, close    multiprocessing.pool.Pool (results; a worker closes it)
                        fileno               the same, whose `_get_sentinels` waits with it
                        recv, fileno         concurrent.futures.ProcessPoolExecutor (results)
    queue._writer       send, close          multiprocessing.pool.Pool (tasks; a worker closes it)
    queue._rlock        acquire, release     the same, when it is terminated

`queue._closed` has the standard name too, but no known program uses it: it is for this module and queues.py.
"""

from __future__ import annotations

import os
import threading
from multiprocessing import process
from queue import Empty

TYPE_CHECKING = False  # without `typing`, whose import takes as long as all of Penstock
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType
    from typing import Any, Protocol

    class _Queue(Protocol):
        """What the attributes need of their queue."""

        @property
        def _closed(self) -> bool: ...
        def _wait(self, timeout: float | None) -> bool: ...
        def _take(self, timeout: float | None) -> Any: ...
        def _end_when(self, has_ended: Callable[[], bool]) -> None: ...
        def put(self, obj: Any) -> None: ...
        def fileno(self) -> int: ...


class PipeState:
    """What a handle keeps for its attributes between accesses. It does not refer to the handle."""

    def __init__(self) -> None:
        self.is_reader_closed = False
        self.is_writer_closed = False
        self.lock = ReadLock()
        # The item that `poll` has taken for the thread that holds the lock.
        self.in_hand: list[Any] = []


class _End:
    """Made anew at each access, so it equals all of its class and queue: `connection.wait` compares."""

    def __init__(self, queue: _Queue, state: PipeState) -> None:
        self._queue = queue
        self._state = state

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _End) and type(other) is type(self) and other._queue is self._queue

    def __hash__(self) -> int:
        return hash((type(self), id(self._queue)))


class Reader(_End):
    """A queue's `_reader`: what would be the reading end of its pipe."""

    def fileno(self) -> int:
        """Return the queue's `fileno()`."""
        self._check()
        return self._queue.fileno()

    def poll(self, timeout: float | None = 0.0) -> bool:
        """Whether there is an item for `recv`. Waits for one, `timeout` seconds at most (None for ever).

        A thread that holds the lock of the reading side relies on the item being there when it calls `recv`.
        For such a thread this takes the item already.
        """
        self._check()
        state = self._state
        if not state.lock.is_mine():
            return self._queue._wait(timeout)
        if not state.in_hand:
            try:
                state.in_hand.append(self._queue._take(timeout))
            except Empty:
                return False
        return True

    def recv(self) -> Any:
        """Take an item out of the queue. Waits for one."""
        self._check()
        state = self._state
        if state.lock.is_mine() and state.in_hand:
            return state.in_hand.pop()
        return self._queue._take(None)

    def close(self) -> None:
        """Take nothing more out of the queue, in this process.

        A worker that has called this expects BrokenPipeError from a put when the process that started it has
        ended, because then no process can take the item.
        """
        self._state.is_reader_closed = True
        _end_with_parent(self._queue)

    @property
    def closed(self) -> bool:
        """Whether this, or the queue, was closed here."""
        return self._state.is_reader_closed or self._queue._closed

    def _check(self) -> None:
        if self.closed:
            raise OSError("handle is closed")


class Writer(_End):
    """A queue's `_writer`: what would be the writing end of its pipe."""

    def send(self, obj: Any) -> None:
        """Put an object into the queue."""
        if self.closed:
            raise OSError("handle is closed")
        self._queue.put(obj)

    def close(self) -> None:
        """Put nothing more into the queue, in this process.

        A worker that has called this expects EOFError from a get when the process that started it has ended,
        because then no process can put an item.
        """
        self._state.is_writer_closed = True
        _end_with_parent(self._queue)

    @property
    def closed(self) -> bool:
        """Whether this, or the queue, was closed here."""
        return self._state.is_writer_closed or self._queue._closed


def _end_with_parent(queue: _Queue) -> None:
    parent = process.parent_process()
    if parent is None:
        return
    if parent.pid == os.getppid():
        queue._end_when(lambda: os.getppid() != parent.pid)
    else:  # started by a fork server, which outlives the parent
        queue._end_when(lambda: not parent.is_alive())


class ReadLock:
    """A queue's `_rlock`. Only `Reader.poll` reads its owner; no operation of a queue waits for it."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._owner: int | None = None
        self._depth = 0

    def is_mine(self) -> bool:
        """Return whether this thread holds it."""
        return self._owner == threading.get_ident()

    def acquire(self, block: bool = True, timeout: float | None = None) -> bool:
        """Take it, as a lock of `multiprocessing`. The thread that holds it may take it again."""
        if not self._lock.acquire(block, -1 if timeout is None or not block else max(0.0, timeout)):
            return False
        self._owner = threading.get_ident()
        self._depth += 1
        return True

    def release(self) -> None:
        """Release it. Raises ValueError if this thread does not hold it."""
        if not self.is_mine():
            raise ValueError("semaphore or lock released too many times")
        self._depth -= 1
        if self._depth == 0:
            self._owner = None
        self._lock.release()

    def __enter__(self) -> bool:
        return self.acquire()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()
