"""The implementations of a queue, and what each promises beyond putting and getting.

A test of this folder takes the fixture `make`, which makes a queue, and runs once for each implementation
that promises what the test `needs`. A new implementation is one more line of the table.
"""

import enum
import multiprocessing
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

import penstock


class Promise(enum.Flag):
    """A promise that some implementations do not make."""

    BOUNDED = enum.auto()
    """The arguments `maxsize`, `block` and `timeout`; `qsize()`, `full()` and the calls that do not wait."""
    PUT_IS_DONE = enum.auto()
    """When `put()` returns, the item is in the queue for every process, even if the putter dies."""
    ACKNOWLEDGED = enum.auto()
    """`task_done()` and `join()`."""
    REDELIVERED = enum.auto()
    """The lease of a killed holder is redelivered, at most `max_deliveries` times."""
    BATCHES = enum.auto()
    """`put_many()` and `get_many()`."""
    STEADY_CLOCK = enum.auto()
    """A time-out is never cut short: no change of the wall clock ends it, as it may a semaphore's."""
    STATISTICS = enum.auto()
    """`statistics()`: exact figures, also of the waiters."""
    SHUTDOWN = enum.auto()
    """`shutdown()` and `is_shutdown`."""
    ITERATION = enum.auto()
    """`for item in queue`, and `with queue`."""
    PRODUCERS = enum.auto()
    """`producing()`."""
    LEASES = enum.auto()
    """`lease()` and `leases()`."""
    DELAYS = enum.auto()
    """The argument `delay` of `put()` and of a lease's verbs."""


@dataclass(frozen=True)
class Implementation:
    """A class of queues, or a store that opens queues."""

    name: str
    new: Callable[..., Any]
    promises: Promise


_ENDINGS = Promise.SHUTDOWN | Promise.ITERATION | Promise.PRODUCERS
_OURS = Promise.PUT_IS_DONE | Promise.BATCHES | Promise.STEADY_CLOCK | Promise.STATISTICS | _ENDINGS
_ACKNOWLEDGED = Promise.BOUNDED | Promise.ACKNOWLEDGED

IMPLEMENTATIONS = (
    Implementation("Queue", penstock.Queue, _OURS | Promise.BOUNDED | Promise.DELAYS),
    Implementation("SimpleQueue", penstock.SimpleQueue, _OURS),
    Implementation(
        "JoinableQueue",
        penstock.JoinableQueue,
        _OURS | _ACKNOWLEDGED | Promise.REDELIVERED | Promise.LEASES | Promise.DELAYS,
    ),
    # The reference, on whose behaviour programs rely. The first and the last send items from a thread of the
    # putter. `SimpleQueue.put()` itself writes the item into a pipe of 64 KiB.
    Implementation("multiprocessing.Queue", multiprocessing.Queue, Promise.BOUNDED),
    Implementation("multiprocessing.SimpleQueue", multiprocessing.SimpleQueue, Promise.PUT_IS_DONE),
    Implementation("multiprocessing.JoinableQueue", multiprocessing.JoinableQueue, _ACKNOWLEDGED),
)


def needs(*promises: Promise) -> pytest.MarkDecorator:
    """Run the test only for implementations that make all of these promises."""
    return pytest.mark.needs(*promises)
