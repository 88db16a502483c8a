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
    """What not every implementation promises."""

    BOUNDED = enum.auto()
    """The arguments `maxsize`, `block` and `timeout`; `qsize()`, `full()` and the calls that do not wait."""
    PUT_IS_DONE = enum.auto()
    """When `put()` returns, the item is in the queue for every process, whatever becomes of the putter."""
    ACKNOWLEDGED = enum.auto()
    """`task_done()` and `join()`."""
    REDELIVERED = enum.auto()
    """What a killed holder had in hand comes back, `max_deliveries` times."""
    BATCHES = enum.auto()
    """`put_many()` and `get_many()`."""
    STATISTICS = enum.auto()
    """`statistics()`: exact figures, also of those that wait."""


@dataclass(frozen=True)
class Implementation:
    """A class of queues, or a store that is opened like one."""

    name: str
    new: Callable[..., Any]
    promises: Promise


_OURS = Promise.PUT_IS_DONE | Promise.BATCHES | Promise.STATISTICS
_ACKNOWLEDGED = Promise.BOUNDED | Promise.ACKNOWLEDGED

IMPLEMENTATIONS = (
    Implementation("Queue", penstock.Queue, _OURS | Promise.BOUNDED),
    Implementation("SimpleQueue", penstock.SimpleQueue, _OURS),
    Implementation("JoinableQueue", penstock.JoinableQueue, _OURS | _ACKNOWLEDGED | Promise.REDELIVERED),
    # The reference: programs rely on what these do. A thread of the putter's sends an item of the first and
    # the last; `put()` itself writes an item of the other into a pipe of 64 KiB.
    Implementation("multiprocessing.Queue", multiprocessing.Queue, Promise.BOUNDED),
    Implementation("multiprocessing.SimpleQueue", multiprocessing.SimpleQueue, Promise.PUT_IS_DONE),
    Implementation("multiprocessing.JoinableQueue", multiprocessing.JoinableQueue, _ACKNOWLEDGED),
)


def needs(*promises: Promise) -> pytest.MarkDecorator:
    """Run the test for those implementations only that promise all of this."""
    return pytest.mark.needs(*promises)
