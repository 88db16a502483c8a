"""The types of the interface. `make lint` checks this file; it is never run.

A line that ends in `type: ignore` has an error that type checkers have to find.
"""

from multiprocessing import queues
from multiprocessing.connection import Connection as StandardConnection
from multiprocessing.context import BaseContext, SpawnContext
from typing import Any, assert_type

import penstock
from penstock.connections import Connection
from penstock.context import Context, ForkContext, ForkServerContext
from penstock.leases import Batch, Lease

# The type of a context follows from its start method; if that is unknown, it is a union.
method: str | None = input() or None
assert_type(penstock.get_context(), Context)
assert_type(penstock.get_context(method), Context)
assert_type(penstock.get_context("fork"), ForkContext)
assert_type(penstock.get_context("forkserver"), ForkServerContext)
assert_type(penstock.get_context("fork").get_context(), ForkContext)
assert_type(penstock.get_context().get_context("fork"), ForkContext)

# A context makes Penstock's queues, of Any until declared otherwise.
context = penstock.get_context("spawn")
assert_type(context.Queue(), penstock.Queue[Any])
assert_type(context.JoinableQueue(max_deliveries=0), penstock.JoinableQueue[Any])
assert_type(context.SimpleQueue(max_bytes=1 << 20), penstock.SimpleQueue[Any])
assert_type(context.Pipe(), tuple[Connection, Connection])
numbers: penstock.Queue[int] = context.Queue(maxsize=3)
assert_type(numbers.get(), int)
assert_type(numbers.get_many(), list[int])
assert_type(numbers.statistics().queued, int)
numbers.shutdown(immediate=True)
assert_type(numbers.is_shutdown, bool)
for number in numbers:
    assert_type(number, int)
assert_type(next(iter(penstock.SimpleQueue[str]())), str)
assert_type(list(penstock.JoinableQueue[bytes]()), list[bytes])
with numbers as entered:
    assert_type(entered, penstock.Queue[int])
numbers.put("no number")  # type: ignore[arg-type]
penstock.Queue[int]().put_many(["no number"])  # type: ignore[list-item]

# What a lease gives is of the queue's type.
jobs = penstock.JoinableQueue[int](retry_delay=penstock.Backoff(first=0.5, factor=2, most=60, jitter=0.1))
assert_type(jobs.retry_delay, penstock.Backoff)
assert_type(jobs.retry_delay.most, float)
with jobs.lease(timeout=1) as lease:
    assert_type(lease, Lease[int])
    assert_type(lease.item, int)
    assert_type((lease.id, lease.deliveries, lease.waited), tuple[int, int, float | None])
    lease.nack(delay=1, error=ValueError())
with jobs.leases(3) as batch:
    assert_type(batch, Batch[int])
    for lease in batch:
        assert_type(lease, Lease[int])
penstock.JoinableQueue[int](retry_delay="1")  # type: ignore[arg-type]
penstock.Queue[int]().lease()  # type: ignore[attr-defined]

# So are the dead letters of every class.
for letter in jobs.dead_letters():
    assert_type(letter, penstock.DeadLetter[int])
    assert_type(letter.item, int)
    assert_type((letter.id, letter.deliveries, letter.reason, letter.traceback), tuple[int, int, str, str])
    for death in letter.deaths:
        assert_type(death, penstock.Death)
        assert_type((death.exitcode, death.out_of_memory), tuple[int | None, bool | None])
    letter.id = 7  # type: ignore[misc]
assert_type(penstock.Queue[str]().dead_letters(), list[penstock.DeadLetter[str]])
assert_type(penstock.SimpleQueue[str]().dead_letters(), list[penstock.DeadLetter[str]])
assert_type(jobs.requeue(jobs.dead_letters()), int)
assert_type(jobs.purge(letter for letter in jobs.dead_letters() if letter.item > 3), int)
jobs.requeue(["no letter"])  # type: ignore[list-item]


async def in_a_task() -> None:
    assert_type(await numbers.aget(), int)
    assert_type(await jobs.aget_many(3), list[int])
    await numbers.aput("no number")  # type: ignore[arg-type]
    await jobs.ajoin()
    async for number in numbers:
        assert_type(number, int)
    async with numbers as entered:
        assert_type(entered, penstock.Queue[int])
    async with jobs.lease() as lease:
        assert_type(lease, Lease[int])
    async with jobs.leases(3) as batch:
        assert_type(next(batch).item, int)
    await penstock.Queue[int]().ajoin()  # type: ignore[attr-defined]


# A context and its queues fit where the standard library's are declared.
def standard(
    context: SpawnContext,
    queue: "queues.Queue[int]",
    joinable: "queues.JoinableQueue[int]",
    simple: "queues.SimpleQueue[int]",
    connection: "StandardConnection[Any, Any]",
) -> BaseContext:
    return context


standard(context, context.Queue(), context.JoinableQueue(), context.SimpleQueue(), context.Pipe()[0])
standard(context, numbers, penstock.JoinableQueue(), penstock.SimpleQueue(), penstock.Pipe()[0])

# A process takes queues as arguments. A name that does not exist is an error.
process = penstock.get_context(method).Process(target=numbers.put, args=(1,))
process.start()
penstock.Deque()  # type: ignore[attr-defined]
