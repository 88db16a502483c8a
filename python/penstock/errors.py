"""The exceptions.

    PenstockError                      all that is Penstock's own
    ├── QueueMemoryError               no memory for an item; also a queue.Full and a MemoryError
    ├── CorruptQueueError              the shared memory is damaged; also an OSError
    └── QueueGoneError                 a queue that came in a message cannot be opened; also an OSError

The other exceptions are those of `multiprocessing`: `queue.Full` and `queue.Empty`, `ValueError` on a closed
queue and on too many `task_done()`, `OSError` on a closed `SimpleQueue`, and from `get()` what rebuilding the
object raises.
"""

from __future__ import annotations

import queue

__all__ = ["CorruptQueueError", "PenstockError", "QueueGoneError", "QueueMemoryError"]


class PenstockError(Exception):
    """The base of Penstock's own exceptions.

    >>> issubclass(QueueMemoryError, PenstockError)
    True
    """


class QueueMemoryError(PenstockError, queue.Full, MemoryError):
    """There is no memory for the item. The queue is as it was, and goes on working.

    `needed`, `used` and `limit` are bytes: what the item needs, what the queue has in use, and its
    `max_bytes`. Of a `JoinableQueue`, `taken` is the number of items that are taken and not yet done, and
    `taken_bytes` their part of `used`; both are 0 for other queues. If the system has no memory, only
    `needed` is known, and the others are None.

    >>> import penstock
    >>> q = penstock.Queue(max_bytes=1_000_000)
    >>> try:
    ...     q.put(bytes(2_000_000))
    ... except queue.Full as error:
    ...     print(type(error).__name__, error.needed > 2_000_000, error.limit)
    QueueMemoryError True 1000000
    """

    def __init__(
        self,
        message: str,
        needed: int,
        used: int | None = None,
        limit: int | None = None,
        taken: int | None = None,
        taken_bytes: int | None = None,
    ) -> None:
        super().__init__(message, needed, used, limit, taken, taken_bytes)
        self.needed = needed
        self.used = used
        self.limit = limit
        self.taken = taken
        self.taken_bytes = taken_bytes

    def __str__(self) -> str:
        return str(self.args[0])


class CorruptQueueError(PenstockError, OSError):
    """The queue's shared memory holds an impossible value: a process has written where it must not.

    Every later operation on the queue raises this too, in all processes. Make a new queue.

    >>> issubclass(CorruptQueueError, OSError)
    True
    """


class QueueGoneError(PenstockError, OSError):
    """A queue that came inside a message cannot be opened.

    `errno` is ESTALE if no process has it open any more. It is EACCES if the system does not let this process
    open it, because this process or the sender runs under another user than the queue's creator.

    >>> import pickle, penstock
    >>> message = pickle.dumps(penstock.Queue())
    >>> pickle.loads(message)
    Traceback (most recent call last):
        ...
    penstock.errors.QueueGoneError: [Errno 116] queue ... is gone: ...
    """
