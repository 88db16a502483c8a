"""A queue's figures."""

from __future__ import annotations

from collections import namedtuple


class Statistics(
    namedtuple(
        "Statistics",
        [
            "puts",
            "gets",
            "bytes",
            "queued",
            "unfinished",
            "redeliveries",
            "dead_letters",
            "taken",
            "taken_bytes",
            "given_up",
            "discarded",
            "delayed",
            "waiting_getters",
            "waiting_putters",
            "waiting_joiners",
            "high_water",
            "participants",
            "producers",
            "memory_bytes",
        ],
    )
):
    """What a queue has done so far and what is in it, counted over all processes that use it.

    All figures are of one moment.

    >>> import penstock
    >>> q = penstock.Queue()
    >>> q.put("a")
    >>> q.put("b")
    >>> q.get()
    'a'
    >>> now = q.statistics()
    >>> now.puts, now.gets, now.queued, now.high_water
    (2, 1, 1, 2)
    """

    __slots__ = ()

    puts: int
    """Items put."""
    gets: int
    """Items that have left the queue, or are in hand: `puts`, less what is `queued`, `delayed`, a dead letter
    or `discarded`. One that came back does not count; a dead letter that was purged does."""
    bytes: int
    """Bytes put, pickled."""
    queued: int
    """Items ready for a `get()`."""
    unfinished: int
    """Items put into a `JoinableQueue` and not yet done; 0 for the other queues."""
    redeliveries: int
    """How often items went back into the queue because their holder had died or failed: after its death, an
    exception in the block of a lease, or `nack()`. Releases do not count."""
    dead_letters: int
    """Dead letters that are in the queue now: items whose holders died or failed too often, or that one has
    rejected. `requeue()` and `purge()` lower the number."""
    taken: int
    """Items taken from a `JoinableQueue` and not yet done; 0 for the other queues."""
    taken_bytes: int
    """Bytes of memory that these items occupy."""
    given_up: int
    """Items lost with their holder: their payload had been given up before it died, because memory was needed
    and no process had acknowledged anything yet, by `task_done()`, `join()`, a lease or a loop."""
    discarded: int
    """Items that were queued at a `shutdown(immediate=True)`, or came back after it."""
    delayed: int
    """Items that no `get()` finds before their time has come."""
    waiting_getters: int
    """Threads that wait for an item: in `get()` or `get_many()`, in a loop, or at the beginning of a lease.
    Tasks of event loops do not count, here and below."""
    waiting_putters: int
    """Threads that wait for room, in `put()` or `put_many()`."""
    waiting_joiners: int
    """Threads that wait in `join()`."""
    high_water: int
    """The largest number of items that were ever queued at once."""
    participants: int
    """Living processes that have used the queue."""
    producers: int
    """Those of them that are in a block of `producing()`."""
    memory_bytes: int
    """Bytes of memory that the queue occupies."""
