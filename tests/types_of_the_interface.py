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
