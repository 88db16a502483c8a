"""Dead letters: items that are delivered no more."""

from __future__ import annotations

from collections import namedtuple
from types import GenericAlias

__all__ = ["DeadLetter", "Death"]

TYPE_CHECKING = False  # without `typing`, whose import takes as long as all of Penstock
if TYPE_CHECKING:
    from typing import Any, Generic, NoReturn, Self, TypeVar

    from ._native import Handle

    T = TypeVar("T")

    class _Generic(Generic[T]): ...

else:

    class _Generic:
        __slots__ = ()
        __class_getitem__ = classmethod(GenericAlias)

    T = object


class Death(
    namedtuple("Death", ["pid", "exitcode", "signal", "out_of_memory", "at", "stack"], defaults=[None])
):
    """The death of a process that had an item or a call in hand, as far as its finder could know.

    The parent of a process can tell how it ended, until it has reaped it; any other finds only that it did.
    `str(death)` says it in words.

    >>> death = Death(pid=7, exitcode=None, signal=9, out_of_memory=None, at=0.0)
    >>> str(death)
    'process 7 was killed by signal 9'

    `DeadLetter.deaths` has those of an item:

    >>> import multiprocessing, os, penstock
    >>> def work(q):
    ...     q.get()
    ...     os._exit(7)
    >>> q = penstock.JoinableQueue(max_deliveries=0)
    >>> q.put("deadly")
    >>> process = multiprocessing.get_context("fork").Process(target=work, args=(q,))
    >>> process.start()
    >>> process.join()
    >>> q.statistics().dead_letters
    1
    >>> [(letter.item, len(letter.deaths)) for letter in q.dead_letters()]
    [('deadly', 1)]
    >>> q.dead_letters()[0].deaths[0].pid == process.pid
    True
    """

    __slots__ = ()

    pid: int
    exitcode: int | None
    """What it exited with. None if it died by a signal, or if that is not known."""
    signal: int | None
    """The signal that killed it. None if it exited, or if that is not known."""
    out_of_memory: bool | None
    """False if the system has not killed it for want of memory: it exited, or died by another signal than
    SIGKILL. Else None, because Linux tells no other process why it has sent SIGKILL. It is True only of a
    worker of a pool, if the pool has killed it for its memory, or if the control group has counted one more
    process killed for want of memory."""
    at: float
    """When it was found dead, in seconds since the epoch."""
    stack: str | None
    """Where a worker of a pool was when the pool killed it, in the words of `faulthandler`. Else None."""

    def __str__(self) -> str:
        """Return the death in words."""
        if self.signal is not None:
            return f"process {self.pid} was killed by signal {self.signal}"
        if self.exitcode is not None:
            return f"process {self.pid} exited with status {self.exitcode}"
        return f"process {self.pid} died"


def _death(pid: int, exitcode: int | None, signal: int | None, at: int) -> Death:
    # A process that was not killed by SIGKILL was not killed for want of memory. Of the others the system
    # counts, for each control group, how many it killed so, but not which.
    is_known = exitcode is not None or (signal is not None and signal != 9)
    return Death(pid, exitcode, signal, False if is_known else None, float(at))


# Not written into the class: for pyright a slot and a property of one name are a conflict.
_NAMES = ("_burial", "_bytes", "_queue", "_slot", "deaths", "deliveries", "id", "reason", "traceback")


class DeadLetter(_Generic[T]):
    """An item that is delivered no more, as `dead_letters()` has found it.

    `id` is its number in the queue, and `deliveries` how often it was delivered.

    `reason` tells of its last failure, in words: the beginning, 1,000 bytes of UTF-8 at most. `traceback` is
    the end of that failure's traceback, 4,096 bytes at most. Both are empty if that failure has told nothing,
    and a death has no traceback. `deaths` are the last deaths of its holders, six at most, the latest at the
    end. All of that is a help: without memory for it in the queue, there is none.

    A letter does not change: setting or deleting an attribute raises AttributeError. It is no dataclass,
    because `item` is no field, but is rebuilt when it is read. Two letters are equal if they tell of the same
    failure of the same item. A letter pickles wherever its queue does.

    >>> import penstock
    >>> q = penstock.JoinableQueue(max_deliveries=0)
    >>> q.put("a")
    >>> with q.lease() as lease:
    ...     lease.nack(error="no such page")
    >>> (letter,) = q.dead_letters()
    >>> letter.item, letter.id, letter.deliveries, letter.reason
    ('a', 1, 1, 'no such page')
    """

    __slots__ = _NAMES

    _queue: Handle
    _slot: int
    _burial: int
    _bytes: bytes

    if TYPE_CHECKING:  # what a checker may read, and not set

        @property
        def id(self) -> int:
            """The item's number in its queue."""

        @property
        def deliveries(self) -> int:
            """How often the item was delivered."""

        @property
        def reason(self) -> str:
            """What the last failure was, in words: 1,000 bytes at most."""

        @property
        def traceback(self) -> str:
            """The end of the last failure's traceback: 4,096 bytes at most."""

        @property
        def deaths(self) -> tuple[Death, ...]:
            """The last deaths of its holders: six at most."""

    def __init__(
        self,
        queue: Handle,
        slot: int,
        number: int,
        burial: int,
        deliveries: int,
        payload: bytes,
        text: bytes,
        deaths: list[tuple[int, int | None, int | None, int]],
        died_last: bool,
    ) -> None:
        """Users do not call this."""
        told = tuple(_death(*death) for death in deaths)
        head, _, traceback = text.rstrip(b"\0").decode(errors="ignore").partition("\0")
        reason = str(told[-1]) if died_last and told else head
        self._fill((burial, payload, queue, slot, told, deliveries, number, reason, traceback))

    def _fill(self, values: tuple[Any, ...]) -> None:
        for name, value in zip(_NAMES, values, strict=True):
            object.__setattr__(self, name, value)

    def __reduce__(self) -> tuple[Any, ...]:
        return _restored, (type(self), *(getattr(self, name) for name in _NAMES))

    # It does not change, and the queue's handle is no object to copy.

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, memo: object) -> Self:
        return self

    @property
    def item(self) -> T:
        """The object, rebuilt at each access: a copy of its own.

        Raises what rebuilding it raises. It is rebuilt in this process: what has killed the workers may be
        in there. It does not touch the queue, so it is there also after a `purge()`.

        >>> import penstock
        >>> q = penstock.JoinableQueue()
        >>> q.put(["a"])
        >>> with q.lease() as lease:
        ...     lease.reject()
        >>> (letter,) = q.dead_letters()
        >>> q.purge()
        1
        >>> letter.item
        ['a']
        >>> letter.item is letter.item
        False
        """
        item: T = self._queue._rebuild(self._bytes)
        return item

    def __setattr__(self, name: str, value: Any) -> NoReturn:
        raise AttributeError(f"a dead letter does not change: cannot set {name!r}")

    def __delattr__(self, name: str) -> NoReturn:
        raise AttributeError(f"a dead letter does not change: cannot delete {name!r}")

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, DeadLetter):
            return NotImplemented
        return (self._queue._id, self.id, self._burial) == (other._queue._id, other.id, other._burial)

    def __hash__(self) -> int:
        return hash((self._queue._id, self.id))

    def __repr__(self) -> str:
        # Not with the object, which may be what kills the process that rebuilds it.
        return f"<{type(self).__qualname__} of item {self.id}, {self.deliveries} deliveries>"


def _restored(kind: type[DeadLetter[Any]], *values: Any) -> DeadLetter[Any]:
    letter = kind.__new__(kind)
    letter._fill(values)
    return letter
