"""The queues that take part in the storms: one file a library."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Options:
    """The options of a queue. A library ignores those that it does not have."""

    maxsize: int
    max_bytes: int | None


@dataclass(frozen=True)
class Contestant:
    """A queue class and its properties. Processes find it by its name."""

    name: str
    new_queue: Callable[[Any, Options], Any]
    """Makes a queue, given the standard library's context and the options."""
    is_penstock: bool = False
    is_joinable: bool = False
    redelivers: bool = False
    """Promises that an item is redelivered if its getter died before `task_done()`."""
    does_not_apply: frozenset[str] = frozenset()
    """Faults that it does not promise to survive."""
    ended: tuple[type[Exception], ...] = ()
    """What its calls raise after `shutdown()`; empty if it has none."""
    take: Callable[[Any], Any] = lambda queue: queue.get()
    put: Callable[[Any, Any], None] = lambda queue, item: queue.put(item)


def all_contestants() -> Sequence[Contestant]:
    """All contestants, Penstock's first."""
    from . import faster_fifo_queues, penstock_queues, standard_queues

    return [
        *penstock_queues.CONTESTANTS,
        *standard_queues.CONTESTANTS,
        *faster_fifo_queues.CONTESTANTS,
    ]


def contestant(name: str) -> Contestant:
    """Find a contestant without importing the other libraries."""
    if name.startswith("penstock."):
        from .penstock_queues import CONTESTANTS
    elif name.startswith("multiprocessing."):
        from .standard_queues import CONTESTANTS
    else:
        from .faster_fifo_queues import CONTESTANTS
    return next(found for found in CONTESTANTS if found.name == name)
