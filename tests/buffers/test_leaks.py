"""No operation of the binding leaks: the counts would show one object an operation.

Each operation is repeated, with counts before and after: Python's blocks of memory, the C heap's bytes (if
the C library tells), descriptors, mappings, and references to sentinels.
"""

import array
import asyncio
import contextlib
import ctypes
import gc
import os
import pickle
import queue as standard
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from penstock import JoinableQueue, Pipe, Queue, ShutDown, SimpleQueue
from penstock.errors import QueueMemoryError
from tests.support.interpreter import FREE_THREADED

pytestmark = pytest.mark.slow

# Without a GIL some hundred blocks are freed late, so more repetitions are needed.
TIMES = 2000 if FREE_THREADED else 400
# A leak of one object an operation is TIMES objects. The smallest piece of the C heap has over 16 bytes.
FEW = TIMES // 2
FEW_BYTES = TIMES * 12
# The interpreter's caches grow by some hundred blocks in the first rounds; a leak shows in each round.
ROUNDS = 4

SENTINEL = object()
LARGE = bytes(200_000)
# Below and above the size from which a buffer is mapped, not copied.
ARRAYS: dict[str, Any] = {
    "a copied array": np.zeros(100_000, np.uint8),
    "a mapped array": np.zeros(1_000_000, np.uint8),
}
MAPPED = ARRAYS["a mapped array"]


class Reducing:
    def __reduce__(self) -> tuple[Any, ...]:
        return (tuple, ([SENTINEL is None, LARGE[:10]],))


class FailsToPickle:
    def __init__(self) -> None:
        self.held = SENTINEL

    def __reduce__(self) -> tuple[Any, ...]:
        raise RuntimeError("does not pickle")


def fails_to_load(_: object) -> None:
    raise RuntimeError("does not load")


class FailsToLoad:
    def __init__(self, size: int = 1) -> None:
        self.filling = bytes(size)

    def __reduce__(self) -> tuple[Any, ...]:
        return (fails_to_load, (self.filling,))


class FailsToLoadBuffer:
    """Cannot be rebuilt although its buffer was received."""

    def __reduce_ex__(self, protocol: Any) -> Any:
        return (fails_to_load, (pickle.PickleBuffer(MAPPED),))


class OutOfBand(bytearray):
    def __reduce_ex__(self, protocol: Any) -> Any:
        return (bytearray, (pickle.PickleBuffer(self),))


MALLINFO_FIELDS = ["arena", "ordblks", "smblks", "hblks", "hblkhd"]
MALLINFO_FIELDS += ["usmblks", "fsmblks", "uordblks", "fordblks", "keepcost"]


class _MallInfo(ctypes.Structure):
    _fields_ = [(name, ctypes.c_size_t) for name in MALLINFO_FIELDS]


try:
    _mallinfo = ctypes.CDLL(None).mallinfo2
    _mallinfo.restype = _MallInfo
except AttributeError:  # another C library than glibc
    _mallinfo = None


@dataclass
class Counts:
    blocks: int
    heap_bytes: int
    descriptors: int
    mappings: int
    references: int

    @staticmethod
    def take() -> "Counts":
        gc.collect()
        heap_bytes = 0
        if _mallinfo is not None:
            info = _mallinfo()
            heap_bytes = info.uordblks + info.hblkhd
        return Counts(
            sys.getallocatedblocks(),
            heap_bytes,
            len(os.listdir("/proc/self/fd")),
            Path("/proc/self/maps").read_bytes().count(b"penstock-"),
            sum(map(sys.getrefcount, (SENTINEL, LARGE, MAPPED, MAPPED.dtype, fails_to_load))),
        )


def put_and_get(queue: Any, item: object) -> Callable[[], None]:
    def operation() -> None:
        queue.put(item)
        queue.get()

    return operation


def raising(
    error: type[BaseException], call: Callable[..., object], *arguments: object
) -> Callable[[], None]:
    def operation() -> None:
        try:
            call(*arguments)
        except error:
            return
        raise AssertionError(f"no {error.__name__}")

    return operation


def drained(queue: Any, error: type[BaseException], item: object) -> Callable[[], None]:
    """Puts an item that cannot be rebuilt, and takes it."""

    def operation() -> None:
        queue.put(item)
        with contextlib.suppress(error):
            queue.get()

    return operation


def created(kind: Callable[..., Any], item: object) -> Callable[[], None]:
    def operation() -> None:
        queue = kind()
        queue.put(item)
        queue.get()
        queue.close()

    return operation


def dropped_with_items(kind: Callable[..., Any]) -> Callable[[], None]:
    def operation() -> None:
        queue = kind()
        queue.put("small")
        queue.put(LARGE)

    return operation


def acknowledged(queue: Any, item: object) -> Callable[[], None]:
    def operation() -> None:
        queue.put(item)
        queue.get()
        queue.task_done()
        queue.join()

    return operation


def leased(queue: Any, item: object, verb: str) -> Callable[[], None]:
    def operation() -> None:
        queue.put(item)
        with contextlib.suppress(ZeroDivisionError), queue.lease() as lease:
            if verb == "raise":
                raise ZeroDivisionError
            if verb:
                getattr(lease, verb)()
        if verb in ("raise", "nack", "release"):
            with queue.leases(10) as batch:
                for _ in batch:
                    pass
        queue.join()

    return operation


def awaited(kind: Callable[..., Any]) -> Callable[[], None]:
    """One loop for all repetitions, which has what a loop has of the queues."""
    loop = asyncio.new_event_loop()
    queue, joined = kind(), hasattr(kind, "task_done")

    async def calls() -> None:
        waiting = asyncio.ensure_future(queue.aget())
        await asyncio.sleep(0)
        await queue.aput(MAPPED)
        await waiting
        await queue.aput_many(["small", LARGE])
        await queue.aget_many()
        cancelled = asyncio.ensure_future(queue.aget())
        await asyncio.sleep(0)
        cancelled.cancel()
        await asyncio.sleep(0)
        await queue.aput("small")
        async for _ in queue:
            break
        if joined:
            while queue.statistics().unfinished:
                queue.task_done()
            await queue.ajoin()

    return lambda: loop.run_until_complete(calls())


def awaited_leases() -> Callable[[], None]:
    loop = asyncio.new_event_loop()
    queue: Any = JoinableQueue()

    async def calls() -> None:
        await queue.aput_many(["small", LARGE, MAPPED])
        with contextlib.suppress(ZeroDivisionError):
            async with queue.lease():
                raise ZeroDivisionError
        async with queue.lease():
            pass
        async with queue.leases(10) as batch:
            next(batch)
        async with queue.leases(10) as batch:
            for _ in batch:
                pass
        waiting = asyncio.ensure_future(queue.lease().__aenter__())
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.wait([waiting])
        while queue.statistics().unfinished:
            async with queue.lease():
                pass
        await queue.ajoin()

    return lambda: loop.run_until_complete(calls())


def in_a_new_loop() -> None:
    queue: Any = Queue()

    async def calls() -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(queue.aget(), 0.0001)

    asyncio.run(calls())


def shut_down(kind: Callable[..., Any], immediate: bool) -> Callable[[], None]:
    def operation() -> None:
        queue = kind()
        queue.put("small")
        queue.put(LARGE)
        queue.shutdown(immediate)
        with contextlib.suppress(ShutDown):
            while True:
                queue.get()

    return operation


def looped(kind: Callable[..., Any]) -> Callable[[], None]:
    def operation() -> None:
        with kind() as queue, contextlib.suppress(RuntimeError):
            with queue.producing(expect=1):
                for item in ("small", LARGE, FailsToLoad()):
                    queue.put(item)
            for _ in queue:
                pass

    return operation


def left(queue: Any) -> Callable[[], None]:
    def operation() -> None:
        queue.put_many(["small", LARGE])
        for _ in queue:
            break
        next(iter(queue))
        if hasattr(queue, "task_done"):
            queue.task_done()
            queue.task_done()

    return operation


def asked(queue: Any) -> Callable[[], None]:
    def operation() -> None:
        if not queue._closed:
            queue.empty()
        for ask in (queue.qsize, queue.full, queue.statistics, queue.dead_letters, queue.check):
            ask()
        repr(queue)

    return operation


def sent(carrier: Any) -> Callable[[], None]:
    """Sends a queue in a message back to this process, and uses it."""

    def operation() -> None:
        queue: Any = Queue()
        carrier.put(queue)
        again = carrier.get()
        again.put("x")
        assert queue.get() == "x"

    return operation


def kept_view(queue: Any) -> Callable[[], None]:
    """Keeps one view while the other is dropped."""

    def operation() -> None:
        queue.put(OutOfBand(LARGE))
        queue.put(OutOfBand(LARGE))
        first, second = queue.get(), queue.get()
        del first
        assert len(second) == len(LARGE)

    return operation


def held(queue: Any, item: object) -> Callable[[], None]:
    """Holds two views, writes to each, and drops the later one first."""

    def operation() -> None:
        queue.put_many([item] * 2)
        first, (second,) = queue.get(), queue.get_many()
        first[:] = 1
        second[5000:] = 2
        del second
        assert first[-1] == 1

    return operation


def many(queue: Any, items: list[Any]) -> Callable[[], None]:
    def operation() -> None:
        queue.put_many(items)
        assert len(queue.get_many()) == len(items)

    return operation


def many_with_one_that_cannot_be_rebuilt(queue: Any, item: object) -> Callable[[], None]:
    def operation() -> None:
        queue.put_many([1, item, MAPPED])
        with contextlib.suppress(RuntimeError):
            queue.get_many(3)
        assert queue.empty()

    return operation


def many_with_one_that_cannot_be_pickled(queue: Any) -> Callable[[], None]:
    def operation() -> None:
        with contextlib.suppress(RuntimeError):
            queue.put_many([1, MAPPED, FailsToPickle(), 2])
        assert len(queue.get_many()) == 2

    return operation


def many_done(queue: Any) -> Callable[[], None]:
    def operation() -> None:
        queue.put_many(["a", MAPPED])
        items = queue.get_many()
        for _ in items:
            queue.task_done()
        queue.join()

    return operation


def with_dead_letters() -> Any:
    """A queue whose items are dead letters."""
    queue: Any = JoinableQueue(max_deliveries=0)
    queue.join()  # the first acknowledgement: from now on getters hold leases
    queue.put_many(["small", LARGE, MAPPED, FailsToLoad()])
    pid = os.fork()
    if pid == 0:
        try:
            while True:
                with contextlib.suppress(RuntimeError):
                    queue.get(False)
        finally:
            os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(pid, 0)
    assert queue.statistics().dead_letters == 4
    return queue


def looked_at(queue: Any) -> Callable[[], None]:
    """Reads the dead letters, which stay."""

    def operation() -> None:
        assert len(queue.dead_letters()) == 4
        assert queue.check() == []
        assert queue.statistics().dead_letters == 4

    return operation


def through_a_pipe(item: object, *, duplex: bool) -> Callable[[], None]:
    receiver, sender = Pipe(duplex)

    def operation() -> None:
        sender.send(item)
        receiver.recv()

    return operation


def piped(duplex: bool) -> None:
    """Makes a pipe, polls it, and closes or drops it with a message in it."""
    receiver, sender = Pipe(duplex)
    sender.send("small")
    sender.send(LARGE)
    receiver.fileno()
    assert receiver.poll()
    receiver.recv()
    if duplex:
        receiver.close()
        sender.close()


def watched() -> None:
    queue: Any = Queue()
    queue.fileno()
    queue.put("x")
    queue.get()
    queue.close()


def closed_with_an_array_in_hand() -> None:
    queue: Any = Queue()
    queue.put(MAPPED)
    received = queue.get()
    queue.close()
    assert queue.qsize() == 0
    assert received.nbytes == MAPPED.nbytes


def closed_with_an_item_unfinished(*, is_done: bool) -> None:
    queue: Any = JoinableQueue()
    queue.put("x")
    queue.get()
    queue.fileno()
    queue.close()
    if is_done:
        queue.task_done()
        queue.join()


def operations() -> dict[str, Callable[[], Callable[[], None]]]:
    kinds = {"Queue": Queue, "SimpleQueue": SimpleQueue, "JoinableQueue": JoinableQueue}
    table: dict[str, Callable[[], Callable[[], None]]] = {}
    for name, kind in kinds.items():
        if kind is not JoinableQueue:
            for what, item in {
                "small": ("small", 1),
                "of many objects": [str(i) for i in range(50)],
                "middle": bytes(1500),
                "large": LARGE,
                "with a reducer": Reducing(),
                "out of band": OutOfBand(LARGE),
                **ARRAYS,
                "an array among others": {"a": [MAPPED, MAPPED[:100], SENTINEL is None]},
                "array.array": array.array("d", bytes(1_000_000)),
                "a large bytearray": bytearray(1_000_000),
                "memoryview": pickle.PickleBuffer(memoryview(MAPPED)),
            }.items():
                table[f"{name}: put and get, {what}"] = lambda kind=kind, item=item: put_and_get(kind(), item)
            table[f"{name}: an item that cannot be rebuilt"] = lambda kind=kind: drained(
                kind(), RuntimeError, FailsToLoad()
            )
            table[f"{name}: a large item that cannot be rebuilt"] = lambda kind=kind: drained(
                kind(), RuntimeError, FailsToLoad(100_000)
            )
            table[f"{name}: a mapped item that cannot be rebuilt"] = lambda kind=kind: drained(
                kind(), RuntimeError, FailsToLoadBuffer()
            )
            for what, item in ARRAYS.items():
                table[f"{name}: held, {what}"] = lambda kind=kind, item=item: held(kind(), item)
            table[f"{name}: many"] = lambda kind=kind: many(kind(), ["a", 1500 * "b", None, LARGE, MAPPED])
            table[f"{name}: many, small"] = lambda kind=kind: many(kind(), list(map(str, range(100))))
            table[f"{name}: many, one cannot be rebuilt"] = lambda kind=kind: (
                many_with_one_that_cannot_be_rebuilt(kind(), FailsToLoad())
            )
            table[f"{name}: many, a mapped one cannot be rebuilt"] = lambda kind=kind: (
                many_with_one_that_cannot_be_rebuilt(kind(), FailsToLoadBuffer())
            )
            table[f"{name}: many, one cannot be pickled"] = lambda kind=kind: (
                many_with_one_that_cannot_be_pickled(kind())
            )
        table[f"{name}: put what cannot be pickled"] = lambda kind=kind: raising(
            RuntimeError, kind().put, FailsToPickle()
        )
        table[f"{name}: made and dropped with items"] = lambda kind=kind: dropped_with_items(kind)
        table[f"{name}: made, used and closed"] = lambda kind=kind: created(kind, ["a", 1, None])
    table |= {
        "Queue: kept out of band": lambda: kept_view(Queue()),
        "Queue: empty": lambda: raising(standard.Empty, Queue().get, False),
        "Queue: empty, with a time-out": lambda: raising(standard.Empty, Queue().get, True, 0.0001),
        "Queue: full": lambda: raising(standard.Full, filled().put, "x", False),
        "Queue: full, with a time-out": lambda: raising(standard.Full, filled().put, LARGE, True, 0.0001),
        "Queue: no memory": lambda: raising(
            QueueMemoryError, Queue(max_bytes=1 << 17).put, bytes(1 << 20), False
        ),
        "Queue: wrong time-out": lambda: raising(TypeError, Queue().get, True, "soon"),
        "Queue: wrong arguments": lambda: raising(TypeError, Queue().put),
        "Queue: closed": lambda: raising(ValueError, closed().put, LARGE),
        "Queue: asked": lambda: asked(Queue()),
        "Queue: awaited": lambda: awaited(Queue),
        "SimpleQueue: awaited": lambda: awaited(SimpleQueue),
        "JoinableQueue: awaited": lambda: awaited(JoinableQueue),
        "JoinableQueue: leased in a task": awaited_leases,
        "Queue: awaited in a new loop": lambda: in_a_new_loop,
        "Queue: shut down": lambda: shut_down(Queue, False),
        "SimpleQueue: shut down at once": lambda: shut_down(SimpleQueue, True),
        "JoinableQueue: shut down": lambda: shut_down(JoinableQueue, False),
        "Queue: produced, and looped over": lambda: looped(Queue),
        "SimpleQueue: produced, and looped over": lambda: looped(SimpleQueue),
        "JoinableQueue: produced, and looped over": lambda: looped(JoinableQueue),
        "Queue: a loop left": lambda: left(Queue()),
        "JoinableQueue: a loop left": lambda: left(JoinableQueue()),
        "Queue: sent in a message": lambda: sent(Queue()),
        "JoinableQueue: leased, small": lambda: leased(JoinableQueue(), "small", ""),
        "JoinableQueue: leased, large": lambda: leased(JoinableQueue(), LARGE, "ack"),
        "JoinableQueue: released": lambda: leased(JoinableQueue(), LARGE, "release"),
        "JoinableQueue: failed": lambda: leased(JoinableQueue(), "small", "nack"),
        "JoinableQueue: failed by an exception": lambda: leased(JoinableQueue(), "small", "raise"),
        "JoinableQueue: done, small": lambda: acknowledged(JoinableQueue(), "small"),
        "JoinableQueue: done, large": lambda: acknowledged(JoinableQueue(), LARGE),
        "JoinableQueue: done, a mapped array": lambda: acknowledged(JoinableQueue(), MAPPED),
        "JoinableQueue: done, many": lambda: many_done(JoinableQueue()),
        "JoinableQueue: dead letters": lambda: looked_at(with_dead_letters()),
        "Queue: full, many": lambda: raising(standard.Full, filled().put_many, ["x", MAPPED], False),
        "Queue: full, a mapped array": lambda: raising(standard.Full, filled().put, MAPPED, False),
        "Queue: empty, many": lambda: raising(standard.Empty, Queue().get_many, None, False),
        "Queue: no memory, many": lambda: raising(
            QueueMemoryError, Queue(max_bytes=1 << 17).put_many, [MAPPED], False
        ),
        "Queue: closed, many": lambda: raising(ValueError, closed().put_many, [MAPPED]),
        "JoinableQueue: done too often": lambda: raising(ValueError, JoinableQueue().task_done),
        "JoinableQueue: asked": lambda: asked(JoinableQueue()),
        "Queue: watched": lambda: watched,
        "Queue: closed, and asked": lambda: asked(closed()),
        "Queue: closed with an array in hand": lambda: closed_with_an_array_in_hand,
        "JoinableQueue: closed, and an item done then": lambda: partial(
            closed_with_an_item_unfinished, is_done=True
        ),
        "JoinableQueue: closed with an item unfinished": lambda: partial(
            closed_with_an_item_unfinished, is_done=False
        ),
        "Pipe: made, used and dropped": lambda: partial(piped, duplex=False),
        "Pipe: made, used and closed, both ways": lambda: partial(piped, duplex=True),
        "Pipe: ended": lambda: raising(EOFError, ended().recv),
        "Pipe: broken": lambda: raising(BrokenPipeError, broken().send, LARGE),
        **{
            f"Pipe: send and receive, {what}": lambda item=item: through_a_pipe(item, duplex=True)
            for what, item in {"small": "small", "large": LARGE, "a mapped array": MAPPED}.items()
        },
    }
    return table


OPERATIONS = operations()


def filled() -> Any:
    queue: Any = Queue(maxsize=1)
    queue.put("x")
    return queue


def ended() -> Any:
    receiver, sender = Pipe(duplex=False)
    sender.close()
    return receiver


def broken() -> Any:
    receiver, sender = Pipe(duplex=False)
    receiver.close()
    return sender


def closed() -> Any:
    queue: Any = Queue()
    queue.put("x")
    queue.close()
    return queue


def growth(operation: Callable[[], None], times: int) -> dict[str, int]:
    """The growth of each count over `times` repetitions."""
    before = Counts.take()
    for _ in range(times):
        operation()
    after = Counts.take()
    return {name: value - getattr(before, name) for name, value in vars(after).items()}


def is_leak(more: dict[str, int]) -> bool:
    return (
        more["blocks"] >= FEW
        or more["references"] >= FEW
        or more["heap_bytes"] >= FEW_BYTES
        or more["descriptors"] > 0
        or more["mappings"] > 0
    )


@pytest.mark.parametrize("name", OPERATIONS)
def test_operation_keeps_nothing(name: str) -> None:
    operation = OPERATIONS[name]()
    growth(operation, 30)  # for its imports, and the first entries of caches
    rounds = []
    for _ in range(ROUNDS):
        rounds.append(growth(operation, TIMES))
        if not is_leak(rounds[-1]):
            return
    pytest.fail(f"in every {TIMES} operations:\n  " + "\n  ".join(map(str, rounds)))


def test_counts_see_one_leaked_object_an_operation() -> None:
    kept: list[object] = []
    queue: Any = Queue()

    def leaking() -> None:
        queue.put("x")
        kept.append(queue.get() + "y")

    assert is_leak(growth(leaking, TIMES))
    kept.clear()
    queue.put(MAPPED)
    assert growth(lambda: kept.append(queue.get()), 1)["mappings"] > 0
    kept.clear()
    assert growth(lambda: kept.append(SENTINEL), TIMES)["references"] == TIMES
    kept.clear()
    if _mallinfo is not None and not FREE_THREADED:  # if Python has a heap of its own
        large = growth(lambda: kept.append(bytearray(600)), TIMES)  # too large for that heap
        assert large["heap_bytes"] >= FEW_BYTES, large
