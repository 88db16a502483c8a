"""The exceptions.

    PenstockError                      everything that is Penstock's own
    ├── QueueMemoryError               no memory for an item; also a queue.Full and a MemoryError
    ├── CorruptQueueError              the shared memory is damaged; also an OSError
    └── QueueGoneError                 a queue that came in a message is open nowhere; also an OSError

All else is raised as `multiprocessing` raises it: `queue.Full` and `queue.Empty`, `ValueError` on a closed
queue and on too many `task_done()`, `OSError` on a closed `SimpleQueue`, and from `get()` whatever rebuilding
the object raised.
"""

from __future__ import annotations

import queue
from itertools import islice

TYPE_CHECKING = False  # without `typing`, whose import takes as long as all of Penstock
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from _typeshed import ReadableBuffer

__all__ = ["CorruptQueueError", "PenstockError", "QueueGoneError", "QueueMemoryError"]


class PenstockError(Exception):
    """The base of Penstock's own exceptions.

    >>> issubclass(QueueMemoryError, PenstockError)
    True
    """


class QueueMemoryError(PenstockError, queue.Full, MemoryError):
    """There is no memory for the item; the queue is as it was, and goes on working.

    `needed`, `used` and `limit` are bytes: what the item needs, what the queue has in use, and its
    `max_bytes`. If it is the system that has no memory, only `needed` is known, and the others are None.

    >>> import penstock
    >>> q = penstock.Queue(max_bytes=1_000_000)
    >>> try:
    ...     q.put(bytes(2_000_000))
    ... except queue.Full as error:
    ...     print(type(error).__name__, error.needed > 2_000_000, error.limit)
    QueueMemoryError True 1000000
    """

    def __init__(self, message: str, needed: int, used: int | None = None, limit: int | None = None) -> None:
        super().__init__(message, needed, used, limit)
        self.needed = needed
        self.used = used
        self.limit = limit

    def __str__(self) -> str:
        return str(self.args[0])


class CorruptQueueError(PenstockError, OSError):
    """The queue's shared memory holds an impossible value: some process has written where it must not.

    Every later operation on the queue raises this too, in all processes. Make a new queue.

    >>> issubclass(CorruptQueueError, OSError)
    True
    """


class QueueGoneError(PenstockError, OSError):
    """A queue that came inside a message cannot be opened, because no process has it open any more.

    >>> import pickle, penstock
    >>> message = pickle.dumps(penstock.Queue())
    >>> pickle.loads(message)
    Traceback (most recent call last):
        ...
    penstock.errors.QueueGoneError: [Errno 116] queue ... is gone: ...
    """


_LOOKED_AT = 1 << 20  # bytes of a pickle
_NAMED = 8


def _describe_lost_item(handle: object, payload: ReadableBuffer) -> str:
    """Say which item could not be rebuilt; called by the binding."""
    names = ", ".join(islice(dict.fromkeys(_types_named(bytes(memoryview(payload)[:_LOOKED_AT]))), _NAMED))
    return f"This item of {handle!r} could not be rebuilt. Types named in it: {names or 'none'}."


def _types_named(pickled: bytes) -> Iterator[str]:
    import pickletools  # late, because hardly any process needs it

    strings: list[str] = []
    memo: list[str | None] = []
    pushed: str | None = None
    try:
        argument: Any
        for opcode, argument, _ in pickletools.genops(pickled):
            if opcode.name in ("GLOBAL", "INST"):
                yield argument.replace(" ", ".")
            elif opcode.name == "STACK_GLOBAL":
                yield ".".join(strings[-2:])
            if opcode.name == "MEMOIZE":
                memo.append(pushed)
            elif opcode.name in ("BINGET", "LONG_BINGET") and argument < len(memo):
                pushed = memo[argument]
            else:
                pushed = argument if isinstance(argument, str) else None
            if pushed is not None and opcode.name != "MEMOIZE":
                strings.append(pushed)
    except ValueError:
        pass  # cut off, or damaged: what was named before it counts
