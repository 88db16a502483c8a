"""What type checkers know of the interface. Checked by `make lint`, never run.

A line that ends in `type: ignore` is a mistake that they have to find.
"""

from multiprocessing import queues
from multiprocessing.connection import Connection as StandardConnection
from multiprocessing.context import BaseContext, SpawnContext
from typing import Any, assert_type

import penstock
from penstock.connections import Connection
from penstock.context import Context, ForkContext, ForkServerContext

# A context is the one of its start method; whose is not known is any of them.
method: str | None = input() or None
assert_type(penstock.get_context(), Context)
assert_type(penstock.get_context(method), Context)
assert_type(penstock.get_context("fork"), ForkContext)
assert_type(penstock.get_context("forkserver"), ForkServerContext)
assert_type(penstock.get_context("fork").get_context(), ForkContext)
assert_type(penstock.get_context().get_context("fork"), ForkContext)

# What it makes is Penstock's, and of any items until it is declared otherwise.
context = penstock.get_context("spawn")
assert_type(context.Queue(), penstock.Queue[Any])
assert_type(context.JoinableQueue(max_deliveries=0), penstock.JoinableQueue[Any])
assert_type(context.SimpleQueue(max_bytes=1 << 20), penstock.SimpleQueue[Any])
assert_type(context.Pipe(), tuple[Connection, Connection])
numbers: penstock.Queue[int] = context.Queue(maxsize=3)
assert_type(numbers.get(), int)
assert_type(numbers.get_many(), list[int])
assert_type(numbers.statistics().queued, int)
numbers.put("no number")  # type: ignore[arg-type]
penstock.Queue[int]().put_many(["no number"])  # type: ignore[list-item]


# It fits where the standard library's is declared.
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

# A process takes the queues as arguments, and a name that is none is found.
process = penstock.get_context(method).Process(target=numbers.put, args=(1,))
process.start()
penstock.Deque()  # type: ignore[attr-defined]
