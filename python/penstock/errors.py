"""The exceptions.

    PenstockError                      all that is Penstock's own
    ├── QueueMemoryError               no memory for an item; also a queue.Full and a MemoryError
    ├── CorruptQueueError              the shared memory is damaged; also an OSError
    ├── QueueGoneError                 a queue that came in a message cannot be opened; also an OSError
    └── ShutDown                       the queue was shut down; also a queue.ShutDown

The other exceptions are those of `multiprocessing`: `queue.Full` and `queue.Empty`, `ValueError` on a closed
queue and on too many `task_done()`, `OSError` on a closed `SimpleQueue`, and from `get()` what rebuilding the
object raises.
"""

from __future__ import annotations

import queue
import sys

__all__ = ["CorruptQueueError", "PenstockError", "QueueGoneError", "QueueMemoryError", "ShutDown"]

TYPE_CHECKING = False  # without `typing`, whose import takes as long as all of Penstock
if TYPE_CHECKING:
    from typing import Any, Self


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


if sys.version_info >= (3, 13):
    from queue import ShutDown as _StandardShutDown
else:

    class _StandardShutDown(Exception):
        """In the place of `queue.ShutDown`, which Python has from 3.13 on."""


class ShutDown(PenstockError, _StandardShutDown):
    """The queue was shut down: no item is put any more; and to a `get`, none is left.

    It is a `queue.ShutDown`, from Python 3.13 on, and then also an `asyncio.QueueShutDown`, in a program that
    has imported asyncio: either `except` clause catches it.

    >>> import penstock
    >>> q = penstock.Queue()
    >>> q.shutdown()
    >>> try:
    ...     q.put("late")
    ... except penstock.ShutDown:
    ...     print("too late")
    too late
    """

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        """Make the exception, which then is asyncio's, too, if the program has imported asyncio.

        `kwargs` are for the `__init__()` of a class that inherits from this one.
        """
        _inherit_from_asyncio()
        return super().__new__(cls, *args)


def _inherit_from_asyncio() -> None:
    """Add the base of asyncio, whose import takes longer than all of Penstock, once the program has it."""
    queues = sys.modules.get("asyncio.queues")
    base = getattr(queues, "QueueShutDown", None)
    bases = ShutDown.__bases__  # read once: another thread may do the same
    if base is None or base in bases:
        return
    try:
        ShutDown.__bases__ = (*bases, base)
    except TypeError:
        return  # a class of the program inherits from both, with asyncio's first
