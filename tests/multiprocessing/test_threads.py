"""Threads of one process on one queue. Most of these tests find more faults without a GIL."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from queue import Empty
from typing import Any

import pytest

import penstock
from tests.support.interpreter import FREE_THREADED
from tests.support.programs import PLAIN, run, write

FRESH = 12  # processes: each does first-time work once


@contextmanager
def thread(loop: Callable[[], None]) -> Iterator[None]:
    """Call a function again and again in another thread."""
    is_over = threading.Event()

    def repeat() -> None:
        while not is_over.is_set():
            loop()

    repeating = threading.Thread(target=repeat)
    repeating.start()
    try:
        yield
    finally:
        is_over.set()
        repeating.join()


def assert_passes(program: str, folder: Path) -> None:
    write(folder, {"program.py": program})
    for _ in range(FRESH):
        done = run(PLAIN, ["program.py"], folder=folder)
        assert (done.returncode, done.stderr) == (0, b"")


@pytest.mark.slow
@pytest.mark.parametrize(
    "item",
    [7, {"a": [1, 2], "b": "c"}, bytes(1000), {"deep": [[[[[[1]]]]]]}, bytes(5000), bytearray(300_000)],
    ids=["int", "dict", "bytes", "pickled", "lent", "mapped"],
)
@pytest.mark.parametrize("make", [penstock.Queue, penstock.SimpleQueue, penstock.JoinableQueue])
def test_nothing_is_lost_or_doubled(make: Callable[[], Any], item: Any) -> None:
    producers, consumers, each = 3, 3, 100
    queue = make()
    taken: list[list[int]] = [[] for _ in range(consumers)]

    def produce(number: int) -> None:
        for count in range(each):
            queue.put((number * each + count, item))

    def consume(into: list[int]) -> None:
        while (message := queue.get()) is not None:
            number, arrived = message
            assert arrived == item
            into.append(number)

    putting = [threading.Thread(target=produce, args=(number,)) for number in range(producers)]
    getting = [threading.Thread(target=consume, args=(into,)) for into in taken]
    for started in putting + getting:
        started.start()
    for started in putting:
        started.join()
    for _ in getting:
        queue.put(None)
    for started in getting:
        started.join()
    assert sorted(number for into in taken for number in into) == list(range(producers * each))
    for into in taken:  # the items of each producer come in order
        for number in range(producers):
            mine = [one for one in into if one // each == number]
            assert mine == sorted(mine)


@pytest.mark.slow
def test_the_first_queues_of_a_process_are_opened_by_several_threads(tmp_path: Path) -> None:
    program = """
import sys, threading
import penstock
sys.setswitchinterval(1e-6)
gate = threading.Barrier(4)
failed = []
def open_one(make):
    gate.wait()
    try:
        queue = make()
        queue.put(1)
        assert queue.get() == 1
    except BaseException as error:
        failed.append(error)
        raise
kinds = [penstock.Queue, penstock.JoinableQueue, penstock.SimpleQueue, penstock.Queue]
threads = [threading.Thread(target=open_one, args=(make,)) for make in kinds]
for thread in threads: thread.start()
for thread in threads: thread.join()
from multiprocessing import queues
assert isinstance(penstock.Queue(), queues.Queue)
sys.exit(len(failed))
"""
    assert_passes(program, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("first", ["queue.get()", "queue.put(Plain())"], ids=["get", "put"])
def test_a_child_is_forked_while_a_thread_does_something_for_the_first_time(
    first: str, tmp_path: Path
) -> None:
    # The child must not wait for first-time work that the thread has begun in the parent.
    program = f"""
import os, sys, threading, warnings
import penstock
warnings.simplefilter("ignore", DeprecationWarning)  # a fork beside threads is what is tested
sys.setswitchinterval(1e-6)
class Plain: pass
queue, other = penstock.Queue(), penstock.Queue()
gate = threading.Barrier(2)
def use():
    gate.wait()
    {first}
threading.Thread(target=use, daemon=True).start()
gate.wait()
children = []
for _ in range(10):
    pid = os.fork()
    if pid == 0:
        other.put(Plain())
        other.get()
        try:
            other.get(timeout=0.001)
        except Exception as error:
            os._exit(type(error).__name__ != "Empty")
        os._exit(2)
    assert os.waitpid(pid, 0)[1] == 0
queue.put(None)
"""
    assert_passes(program, tmp_path)


def test_a_dict_that_another_thread_changes() -> None:
    queue = penstock.Queue[dict[str, int]]()
    shared = {"always": 0}

    def change() -> None:
        shared["now and then"] = 1
        del shared["now and then"]

    with thread(change):
        for _ in range(3000):
            queue.put(shared)
            arrived = queue.get()
            assert arrived in ({"always": 0}, {"always": 0, "now and then": 1})


def test_a_list_that_another_thread_changes() -> None:
    queue = penstock.Queue[list[int]]()
    shared = [1, 2, 3]

    def change() -> None:
        shared.append(4)
        shared.pop()

    with thread(change):
        for _ in range(3000):
            queue.put(shared)
            assert queue.get() in ([1, 2, 3], [1, 2, 3, 4])


def test_a_long_list_that_another_thread_changes() -> None:
    queue = penstock.Queue[list[int]]()
    shared = list(range(300))

    def change() -> None:
        shared.append(300)
        shared.pop()

    sent = 0
    with thread(change):
        for _ in range(1000):
            try:
                queue.put(shared)
            except (RuntimeError, IndexError):  # raised by pickle, only without a GIL
                assert queue.empty()
            else:
                sent += 1
                assert queue.get() in (list(range(300)), list(range(301)))
    assert sent > 0
    assert FREE_THREADED or sent == 1000


def test_a_bytearray_that_another_thread_resizes() -> None:
    queue = penstock.Queue[list[bytearray]]()
    shared = bytearray(100_000)

    def change() -> None:
        with suppress(BufferError):  # a bytearray that is being sent cannot be resized
            shared.extend(bytes(100))
        with suppress(BufferError):
            del shared[100_000:]

    sent = 0
    with thread(change):
        for _ in range(2000):
            try:
                queue.put([shared])
            except BufferError:
                assert queue.empty()
            else:
                sent += 1
                [arrived] = queue.get()
                assert arrived == bytes(len(arrived))
                assert len(arrived) >= 100_000
    assert sent > 0


def test_bytes_that_another_thread_writes_to_while_they_are_sent() -> None:
    receiver, sender = penstock.Pipe(duplex=False)
    shared = bytearray(100)

    def change() -> None:
        for first in (0xFF, 0xFE, 0):
            shared[0] = first

    with thread(change):
        for _ in range(3000):
            sender.send_bytes(shared)
            arrived = receiver.recv_bytes()
            assert arrived[0] in (0xFF, 0xFE, 0)
            assert arrived[1:] == bytes(99)


def ends_with(operation: Callable[[], object], close: Callable[[], None]) -> type[BaseException]:
    """The exception of a thread that repeats the operation until this thread calls `close`."""
    gate = threading.Barrier(2)
    seen: list[type[BaseException]] = []

    def use() -> None:
        gate.wait()
        try:
            while True:
                operation()
        except Exception as error:
            seen.append(type(error))

    using = threading.Thread(target=use)
    using.start()
    gate.wait()
    close()
    using.join()
    [only] = seen
    return only


def test_a_connection_that_another_thread_closes() -> None:
    for _ in range(200):
        receiver, sender = penstock.Pipe()

        def use(connection: Any = sender) -> None:
            connection.send(1)
            connection.fileno()

        assert ends_with(use, sender.close) is OSError
        receiver.close()


def test_a_queue_that_another_thread_closes() -> None:
    for _ in range(200):
        queue = penstock.Queue[int]()

        def use(queue: Any = queue) -> None:
            with suppress(Empty):
                queue.get_nowait()

        assert ends_with(use, queue.close) is ValueError
