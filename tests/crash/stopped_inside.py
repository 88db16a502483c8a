"""A process is stopped by SIGSTOP inside the queue's critical section, while others use the queue or leave.

Not collected by pytest, because it needs a build with fault points: test_death.py runs it with that build.
"""

import asyncio
import gc
import os
import queue as standard
import signal
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import pytest

from penstock import JoinableQueue, Pipe, Queue, SimpleQueue, _native
from tests.support.children import Child, fork
from tests.support.waiting import until

suspend_at: Any = getattr(_native, "suspend_at", None)
LARGE = 200_000  # bytes: the receiver gets a view


def put_late(queue: Any) -> None:
    suspend_at("put.committed")
    queue.put("late")


def go_on(child: Child) -> None:
    """Let a stopped process end its put."""
    child.kill(signal.SIGCONT)
    assert child.result() is None


@contextmanager
def stopped_inside(queue: Any) -> Iterator[Child]:
    """A process that is stopped after the commit of its item "late", which no number shows yet.

    It goes on at the end.
    """
    with fork(put_late, queue) as child:
        until(child.is_stopped)
        yield child
        go_on(child)


@pytest.mark.parametrize("kind", [Queue, JoinableQueue])
def test_numbers_are_those_before_the_change(kind: Callable[..., Any]) -> None:
    queue = kind(maxsize=2)
    queue.put("first")
    with stopped_inside(queue):
        assert (queue.qsize(), queue.empty(), queue.full()) == (1, False, False)
    assert (queue.qsize(), queue.empty(), queue.full()) == (2, False, True)


def test_simple_queue_tells_whether_it_is_empty() -> None:
    queue = SimpleQueue[str]()
    with stopped_inside(queue):
        assert queue.empty()
    assert not queue.empty()


def test_closed_queue_tells_that_it_was_used() -> None:
    queue = Queue[str]()
    queue.put("first")
    with stopped_inside(queue):
        queue.close()
        with pytest.raises(OSError, match="handle is closed"):
            queue.empty()


def test_numbers_beside_a_dead_participant() -> None:
    queue = JoinableQueue[str]()
    queue.put("leased")

    def take_and_stop() -> None:
        queue.get()
        os.kill(os.getpid(), signal.SIGSTOP)

    with fork(take_and_stop) as dead:
        until(dead.is_stopped)
        with stopped_inside(queue):
            dead.kill()
            dead.wait()
            begun = threading.Timer(0.3, lambda: None)  # a slice has 100 ms
            begun.start()
            while begun.is_alive():
                assert queue.qsize() == 0
        until(lambda: queue.qsize() == 2)
    assert queue.get() == "leased"


@pytest.mark.parametrize("size", [1, LARGE])
def test_calls_that_do_not_block_name_the_stopped_process(size: int) -> None:
    queue = Queue[Any]()
    queue.put("first")
    with stopped_inside(queue) as child:
        calls: list[tuple[Callable[[], object], type[Exception]]] = [
            (lambda: queue.put(b"x" * size, block=False), standard.Full),
            (lambda: queue.put_nowait(b"x" * size), standard.Full),
            (lambda: queue.put(b"x" * size, timeout=0.01), standard.Full),
            (lambda: queue.put_many([b"x" * size], block=False), standard.Full),
            (lambda: queue.get(block=False), standard.Empty),
            (lambda: queue.get_nowait(), standard.Empty),
            (lambda: queue.get(timeout=0.01), standard.Empty),
            (lambda: queue.get_many(block=False), standard.Empty),
        ]
        for call, raised in calls:
            with pytest.raises(raised, match=f"process {child.pid} is stopped"):
                call()
    assert queue.get_many() == ["first", "late"]
    with pytest.raises(standard.Empty) as error:
        queue.get(block=False)
    assert str(error.value) == ""


@contextmanager
def stopped_in_send() -> Iterator[Any]:
    """The receiving end of a process that is stopped after the commit of its message.

    It goes on at the end, and the message comes.
    """
    receiver, sender = Pipe(duplex=False)

    def send() -> None:
        suspend_at("put.committed")
        sender.send("late")

    with receiver, sender, fork(send) as child:
        until(child.is_stopped)
        yield receiver
        child.kill(signal.SIGCONT)
        assert receiver.recv() == "late"


def test_poll_does_not_wait() -> None:
    with stopped_in_send() as receiver:
        assert not receiver.poll(0)
        assert not receiver.poll(0.01)


class Interrupted(Exception):
    """Raised by a signal handler, as KeyboardInterrupt is."""


@contextmanager
def interrupted(error: type[BaseException] = Interrupted) -> Iterator[None]:
    """The body of the `with` has to be ended by a signal."""

    def handler(*_: object) -> None:
        raise error

    former = signal.signal(signal.SIGALRM, handler)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.03)
        yield
    except error:
        pass
    else:
        pytest.fail("it was not interrupted")
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, former)


@pytest.mark.parametrize(
    "call",
    [
        lambda queue: queue.put("x"),
        lambda queue: queue.put(b"x" * LARGE),
        lambda queue: queue.put_many(range(10)),
        lambda queue: queue.get(),
        lambda queue: queue.get_many(),
        lambda queue: queue.get(timeout=50),
        lambda queue: queue.task_done(),
        lambda queue: queue.join(),
        lambda queue: queue.statistics(),
        lambda queue: queue.dead_letters(),
        lambda queue: queue.check(),
        lambda queue: queue.fileno(),
    ],
    ids=[
        "put",
        "large",
        "put_many",
        "get",
        "get_many",
        "timeout",
        "done",
        "join",
        "statistics",
        "dead",
        "check",
        "fileno",
    ],
)
def test_every_wait_can_be_interrupted(call: Callable[[Any], object]) -> None:
    queue = JoinableQueue[Any]()
    queue.put("first")
    with stopped_inside(queue), interrupted():
        call(queue)
    assert queue.check() == []
    found = queue.statistics()
    assert (found.puts, found.queued, found.unfinished) == (2, 2, 2)
    assert queue.get_many() == ["first", "late"]


def test_interrupted_receiver() -> None:
    with stopped_in_send() as receiver:
        with interrupted():
            receiver.recv()
        with interrupted():
            receiver.poll(None)


# Under gevent's patches, which are for a whole process.
GREENLETS = """
from gevent import monkey
monkey.patch_all()
import os, signal, sys, time
import gevent, penstock
from penstock import _native
from queue import Empty

def stopped():
    with open(f"/proc/{pid}/stat") as file:
        return file.read().rpartition(")")[2].split()[0] == "T"

class Alarm(Exception): pass
def ring(*_): raise Alarm
signal.signal(signal.SIGALRM, ring)

kind = sys.argv[1]
if kind == "Queue":
    queue = penstock.Queue()
    put, get = queue.put, queue.get
    poll = queue._reader.poll
else:
    receiver, sender = penstock.Pipe(kind == "duplex")
    put, get, poll = sender.send, receiver.recv, receiver.poll
pid = os.fork()
if pid == 0:
    _native.suspend_at("put.committed")
    put("late")
    os._exit(0)
while not stopped():
    gevent.sleep(0.01)
assert poll(0.3) is False
if kind == "Queue":
    try:
        get(timeout=0.3)
    except Empty as error:
        assert str(pid) in str(error), error
    else:
        raise AssertionError("there is no item")
signal.setitimer(signal.ITIMER_REAL, 0.03)
try:
    get()
except Alarm:
    pass
other = gevent.spawn(get)
while stopped():  # the others run, though not at once
    gevent.sleep(0)
    os.kill(pid, signal.SIGCONT)
assert other.get(timeout=60) == "late"
put("after")
assert get() == "after"
"""


@pytest.mark.parametrize("kind", ["Queue", "duplex", "one way"])
def test_greenlets_wait_with_a_time_limit_and_an_alarm(kind: str) -> None:
    """The wait begins with a change of the queue, for which it waits no longer than for an item."""
    pytest.importorskip("gevent")
    ended = subprocess.run(
        [sys.executable, "-c", GREENLETS, kind], capture_output=True, text=True, timeout=120, check=False
    )
    assert ended.returncode == 0, ended.stderr


@pytest.mark.parametrize("duplex", [True, False])
def test_fork_while_another_thread_closes_a_connection(duplex: bool) -> None:
    """The child has the end, and closes it, or does not have it any more."""

    def has_end(line: int) -> bool:
        return line in [os.stat(fd).st_ino for fd in map(int, os.listdir("/proc/self/fd")) if is_open(fd)]

    def is_open(fd: int) -> bool:
        with suppress(OSError):
            os.fstat(fd)
            return True
        return False

    def close_in_child(receiver: Any, line: int) -> bool:
        receiver.close()
        return has_end(line)

    for _ in range(10):
        receiver, sender = Pipe(duplex)

        def send(sender: Any = sender) -> None:
            suspend_at("put.committed")
            sender.send("late")

        with fork(send) as stopped:
            until(stopped.is_stopped)
            if not duplex:
                sender.close()  # the two ends of a pipe have one number
            line = os.fstat(receiver._handle).st_ino  # type: ignore[arg-type]
            closing = threading.Thread(target=receiver.close)  # waits for the lock for a moment
            closing.start()
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)
                with fork(close_in_child, receiver, line) as child:
                    assert not child.result()
            closing.join()
            assert receiver.closed
            assert not has_end(line)
            stopped.kill(signal.SIGCONT)
            stopped.wait()
        sender.close()


@pytest.mark.parametrize(
    "call",
    [
        lambda queue: queue.put("x"),
        lambda queue: queue.put(b"x" * LARGE),
        lambda queue: queue.task_done(),
        lambda queue: queue.statistics(),
        lambda queue: queue.check(),
    ],
    ids=["put", "large", "done", "statistics", "check"],
)
def test_no_call_waits_with_the_interpreter_locked(call: Callable[[Any], object]) -> None:
    """The stopped process goes on only if the main thread runs while another thread waits."""
    queue = JoinableQueue[Any]()
    queue.put("first")
    begun = threading.Event()

    def run() -> None:
        begun.set()
        call(queue)

    with stopped_inside(queue):
        thread = threading.Thread(target=run)
        thread.start()
        begun.wait()
        # The thread does not release the GIL before it waits.
        for _ in range(100):
            assert thread.is_alive()
    thread.join()
    assert queue.check() == []


def test_arrays_are_given_back_without_waiting() -> None:
    queue = JoinableQueue[Any]()
    for _ in range(20):
        queue.put(bytearray(LARGE))
    arrays = [queue.get() for _ in range(20)]
    for _ in arrays:
        queue.task_done()
    memory = queue.statistics().memory_bytes
    with stopped_inside(queue):
        del arrays
        gc.collect()
    assert queue.get() == "late"
    assert queue.check() == []
    # The memory is free again: the same number of payloads fits in.
    for _ in range(20):
        queue.put(bytearray(LARGE))
    assert queue.statistics().memory_bytes <= memory + LARGE


def test_last_handle_is_dropped_without_waiting() -> None:
    queue = JoinableQueue[str]()
    queue.put("left")

    def take_and_drop() -> tuple[float, ...]:
        nonlocal queue
        queue.get()
        os.kill(os.getpid(), signal.SIGSTOP)
        del queue
        gc.collect()
        os.kill(os.getpid(), signal.SIGSTOP)
        return ()

    with fork(take_and_drop) as leaver:
        until(leaver.is_stopped)
        with stopped_inside(queue):
            leaver.kill(signal.SIGCONT)
            until(lambda: not leaver.is_stopped())
            until(leaver.is_stopped)
        found = queue.statistics()
        assert (found.participants, found.queued, found.unfinished, found.redeliveries) == (1, 1, 2, 0)
        leaver.kill(signal.SIGCONT)
        leaver.result()
    assert queue.statistics().redeliveries == 0


def test_process_ends_without_waiting() -> None:
    """The items of the leaver stay unfinished, as after any end in order."""
    queue = JoinableQueue[str]()
    queue.put("left")

    def take_and_leave() -> None:
        queue.get()
        os.kill(os.getpid(), signal.SIGSTOP)
        _native._leave_all(False)

    with fork(take_and_leave) as leaver:
        until(leaver.is_stopped)
        with stopped_inside(queue):
            leaver.kill(signal.SIGCONT)
            leaver.result()
        found = queue.statistics()
        assert (found.queued, found.unfinished, found.redeliveries) == (1, 2, 0)


# ------------------------------------------------------------------------------------------------ event loops


async def ticks(count: int) -> None:
    """Return once the loop has run so often."""
    for _ in range(count):
        await asyncio.sleep(0.005)


@contextmanager
def stopped_beside_a_loop(queue: Any) -> Iterator[Child]:
    """The same as `stopped_inside`, and what the loop has to wait for is its end: it does not stop itself."""
    with fork(put_late, queue) as child:
        until(child.is_stopped)
        yield child


CALLS: dict[str, Callable[[Any], Any]] = {
    "aget": lambda queue: queue.aget(),
    "aget_many": lambda queue: queue.aget_many(),
    "aput": lambda queue: queue.aput("x"),
    "aput large": lambda queue: queue.aput(b"x" * LARGE),
    "aput_many": lambda queue: queue.aput_many(["x", "y"]),
    "ajoin": lambda queue: queue.ajoin(),
    "anext": lambda queue: anext(aiter(queue)),
}


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("is_empty", [False, True])
def test_a_loop_runs_on(call: str, is_empty: bool) -> None:
    """The task that calls the queue waits until the stopped process goes on. Others run."""
    queue = JoinableQueue[Any]()
    if not is_empty:
        queue.put("first")

    async def main() -> None:
        with stopped_beside_a_loop(queue) as child:
            task = asyncio.create_task(CALLS[call](queue))
            await ticks(60)  # several slices
            assert not task.done()
            go_on(child)
            while call == "ajoin" and queue.statistics().unfinished:
                queue.get()
                queue.task_done()
            await task

    asyncio.run(main())
    assert queue.check() == []


async def started(
    work: Callable[[asyncio.Event, asyncio.Event], Coroutine[Any, Any, None]],
) -> tuple[asyncio.Task[None], asyncio.Event]:
    """A task that has set its first event, and waits for the second."""
    has, goes_on = asyncio.Event(), asyncio.Event()
    task = asyncio.create_task(work(has, goes_on))
    await has.wait()
    return task, goes_on


@pytest.mark.parametrize("end", ["next", "done", "fails", "cancelled", "batch"])
def test_a_task_settles_beside_a_loop_that_runs_on(end: str) -> None:
    """The end of a lease's block, and the next step of an iteration, wait for the lock and let others run."""
    queue = JoinableQueue[Any]()
    queue.put_many("ab")

    async def work(has: asyncio.Event, goes_on: asyncio.Event) -> None:
        match end:
            case "next":
                async for _ in queue:
                    has.set()
                    await goes_on.wait()
            case "batch":
                async with queue.leases(2) as batch:
                    next(batch)
                    has.set()
                    await goes_on.wait()
            case _:
                async with queue.lease():
                    has.set()
                    await goes_on.wait()
                    if end == "fails":
                        raise LookupError

    async def main() -> None:
        task, goes_on = await started(work)
        with stopped_beside_a_loop(queue) as child:
            if end == "cancelled":
                task.cancel()
            goes_on.set()
            await ticks(30)
            assert not task.done()
            task.cancel()  # a second time; or it settles first
            await ticks(30)
            go_on(child)
            with suppress(LookupError, asyncio.CancelledError):
                await task

    asyncio.run(main())
    left = queue.get_many()
    match end:
        case "next":  # the loop was cancelled while it asked for the next one: its item stays in hand
            assert (left, queue.statistics().unfinished) == (["b", "late"], 3)
        case "done":
            assert (left, queue.statistics().unfinished) == (["b", "late"], 2)
        case "batch":
            assert (left, queue.statistics().unfinished) == (["b", "late"], 2)
        case _:
            assert (left, queue.statistics().unfinished) == (["a", "b", "late"], 3)
    assert queue.check() == []


@pytest.mark.parametrize("begun", [0, 1])
@pytest.mark.parametrize("fails", [False, True])
def test_a_cancelled_task_settles_its_whole_batch(begun: int, fails: bool) -> None:
    queue = JoinableQueue[Any]()
    queue.put_many(range(10))

    async def work(has: asyncio.Event, goes_on: asyncio.Event) -> None:
        async with queue.leases(10) as batch:
            for _ in range(begun):
                next(batch)
            has.set()
            await goes_on.wait()
            if fails:
                raise LookupError

    async def main() -> None:
        task, goes_on = await started(work)
        with stopped_beside_a_loop(queue) as child:
            goes_on.set()
            await ticks(10)
            for _ in range(3):
                task.cancel()
                await ticks(5)
            assert not task.done()
            go_on(child)
            with pytest.raises(asyncio.CancelledError):
                await task

    asyncio.run(main())
    assert queue.statistics().taken == 0
    assert queue.get_many() == [*range(begun if not fails else 0, 10), "late"]
    assert queue.check() == []


def test_a_task_settles_though_the_loop_ends() -> None:
    """The end of `asyncio.run` cancels all tasks, and so does a program before it."""
    queue = JoinableQueue[Any]()
    queue.put("a")

    async def work(has: asyncio.Event, goes_on: asyncio.Event) -> None:
        async with queue.lease():
            has.set()
            await goes_on.wait()

    def cancel_all() -> None:
        for task in asyncio.all_tasks():
            if task is not asyncio.current_task():
                task.cancel()

    async def main() -> Child:
        task, goes_on = await started(work)
        child = fork(put_late, queue)
        until(child.is_stopped)
        goes_on.set()
        await ticks(10)
        cancel_all()
        await ticks(10)
        cancel_all()
        await ticks(10)
        assert not task.done()
        # From now on the loop is about to end.
        threading.Timer(0.3, child.kill, (signal.SIGCONT,)).start()
        return child

    child = asyncio.run(main())
    assert child.result() is None
    child.close()
    assert queue.statistics().taken == 0
    assert queue.get_many() == ["late"]
    assert queue.check() == []


@pytest.mark.parametrize("many", [False, True])
def test_an_interrupted_end_of_a_block(many: bool) -> None:
    """It waits for the stopped process no longer. What is in hand then is finished by `task_done`."""
    queue = JoinableQueue[Any]()
    queue.put_many("ab")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        leasing: Any = queue.leases(2) if many else queue.lease()
        block = leasing.__enter__()
        if many:
            next(block)
        with stopped_inside(queue), interrupted(KeyboardInterrupt):
            leasing.__exit__(None, None, None)
        del block, leasing
        gc.collect()
    in_hand = queue.statistics().taken
    assert in_hand == (2 if many else 1)
    for _ in range(in_hand):
        queue.task_done()
    assert queue.statistics().unfinished == 3 - in_hand


def test_waiting_tasks_beside_a_readable_descriptor() -> None:
    """A task that waits for an item is woken, cannot take it, and does not try again and again."""
    attempts = 0

    class Counting(JoinableQueue[Any]):
        def _get_now(self, nothing: Any, task: int) -> Any:
            nonlocal attempts
            attempts += 1
            return super()._get_now(nothing, task)

    queue = Counting()

    async def main() -> None:
        task = asyncio.create_task(queue.aget())
        await ticks(3)
        queue.put("first")
        with stopped_beside_a_loop(queue) as child:
            before = attempts
            start = time.monotonic()
            await ticks(100)
            assert attempts - before <= 3 + (time.monotonic() - start) / 0.05
            go_on(child)
            assert await task == "first"

    asyncio.run(main())
