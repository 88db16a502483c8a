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


class Death(namedtuple("Death", ["pid", "exitcode", "signal", "out_of_memory", "at"])):
    """The death of a process that had an item in hand, as far as the process that found it could know.

    The parent of a process can tell how it ended, until it has reaped it; any other finds only that it did.

    >>> str(Death(pid=7, exitcode=None, signal=9, out_of_memory=None, at=0.0))
    'process 7 was killed by signal 9'
    """

    __slots__ = ()

    pid: int
    exitcode: int | None
    """What it exited with. None if it died by a signal, or if that is not known."""
    signal: int | None
    """The signal that killed it. None if it exited, or if that is not known."""
    out_of_memory: bool | None
    """Whether the system killed it for want of memory. None if that is not known."""
    at: float
    """When it was found dead, in seconds since the epoch."""

    def __str__(self) -> str:
        """Return the death in words."""
        if self.signal is not None:
            return f"process {self.pid} was killed by signal {self.signal}"
        if self.exitcode is not None:
            return f"process {self.pid} exited with status {self.exitcode}"
        return f"process {self.pid} died"


def _death(pid: int, exitcode: int | None, signal: int | None, at: int) -> Death:
    # A process that was not killed by SIGKILL was not killed for want of memory; of the others the system
    # does not tell.
    is_known = exitcode is not None or (signal is not None and signal != 9)
    return Death(pid, exitcode, signal, False if is_known else None, float(at))


class DeadLetter(_Generic[T]):
    """An item that is delivered no more, as `dead_letters()` has found it.

    `id` is its number in the queue, and `deliveries` how often it was delivered.

    `reason` tells of its last failure, in words, and `traceback` the end of the traceback: 4,096 bytes at
    most. Both are empty if that failure has told nothing, and a death has no traceback. `deaths` are the last
    deaths of its holders, six at most, the latest at the end. All of that is a help: without memory for it in
    the queue, there is none.

    A letter pickles wherever its queue does.

    >>> import penstock
    >>> q = penstock.JoinableQueue(max_deliveries=0)
    >>> q.put("a")
    >>> with q.lease() as lease:
    ...     lease.nack()
    >>> (letter,) = q.dead_letters()
    >>> letter.item, letter.id, letter.deliveries
    ('a', 1, 1)
    """

    __slots__ = ("_bytes", "_queue", "_slot", "deaths", "deliveries", "id", "reason", "traceback")

    _queue: Handle
    _slot: int
    _bytes: bytes
    id: int
    deliveries: int
    reason: str
    traceback: str
    deaths: tuple[Death, ...]

    def __init__(
        self,
        queue: Handle,
        slot: int,
        number: int,
        deliveries: int,
        payload: bytes,
        text: bytes,
        deaths: list[tuple[int, int | None, int | None, int]],
        died_last: bool,
    ) -> None:
        """Users do not call this."""
        told = tuple(_death(*death) for death in deaths)
        head, _, traceback = text.rstrip(b"\0").decode(errors="replace").partition("\0")
        reason = str(told[-1]) if died_last and told else head
        self._fill((payload, queue, slot, told, deliveries, number, reason, traceback))

    def _fill(self, values: tuple[Any, ...]) -> None:
        for name, value in zip(DeadLetter.__slots__, values, strict=True):
            object.__setattr__(self, name, value)

    def __reduce__(self) -> tuple[Any, ...]:
        return _restored, (type(self), *(getattr(self, name) for name in DeadLetter.__slots__))

    # It does not change, and the queue's handle is no object to copy.

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, memo: object) -> Self:
        return self

    @property
    def item(self) -> T:
        """The object, rebuilt at each access: a copy of its own.

        Raises what rebuilding it raises. It is rebuilt in this process: what has killed the workers may be
        in there.
        """
        item: T = self._queue._rebuild(self._bytes)
        return item

    def __setattr__(self, name: str, value: Any) -> NoReturn:
        raise AttributeError(f"a dead letter does not change: cannot set {name!r}")

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, DeadLetter):
            return NotImplemented
        return (self._queue._id, self.id, self.deliveries) == (
            other._queue._id,
            other.id,
            other.deliveries,
        )

    def __hash__(self) -> int:
        return hash((self._queue._id, self.id))

    def __repr__(self) -> str:
        # Not with the object, which may be what kills the process that rebuilds it.
        return f"<{type(self).__qualname__} of item {self.id}, {self.deliveries} deliveries>"


def _restored(kind: type[DeadLetter[Any]], *values: Any) -> DeadLetter[Any]:
    letter = kind.__new__(kind)
    letter._fill(values)
    return letter
