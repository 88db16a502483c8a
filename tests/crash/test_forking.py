"""Processes are forked while other threads of the parent are inside put and get of the same queues."""

import multiprocessing
import os
import select
import signal
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from penstock import JoinableQueue, Queue, SimpleQueue
from tests.support.children import fork
from tests.support.waiting import until

pytestmark = pytest.mark.slow

every_kind = pytest.mark.parametrize("kind", [Queue, SimpleQueue, JoinableQueue])


@contextmanager
def threads(count: int, loop: Callable[[], None]) -> Iterator[None]:
    """Run a function in `count` threads, and join them at the end."""
    started = [threading.Thread(target=loop) for _ in range(count)]
    for thread in started:
        thread.start()
    try:
        yield
    finally:
        for thread in started:
            thread.join()


@every_kind
@pytest.mark.parametrize("size", [0, 1000, 10_000])
def test_children_use_the_queue_that_threads_are_inside_of(kind: Callable[[], Any], size: int) -> None:
    queue, to_children = kind(), Queue[int]()
    is_over = threading.Event()
    taken: list[tuple[str, int]] = []

    def put_and_get() -> None:
        while not is_over.is_set():
            queue.put(("thread", 0, bytes(size)))
            who, number, payload = queue.get()
            assert len(payload) == size
            taken.append((who, number))

    def work(number: int) -> int:
        asked: int = to_children.get()
        queue.put(("child", number, bytes(size)))
        return asked

    with threads(4, put_and_get):
        try:
            for number in range(20):
                to_children.put(number)
                with fork(work, number) as child:
                    assert child.result() == number
        finally:
            is_over.set()
    # The threads took as many items as they put, so the children's items are left.
    left = [queue.get()[:2] for _ in range(20)]
    assert queue.empty()
    assert sorted(number for who, number in taken + left if who == "child") == list(range(20))


@every_kind
def test_children_are_forked_while_threads_sleep_in_get(kind: Callable[[], Any]) -> None:
    queue = kind()
    got: list[int] = []

    with threads(3, lambda: got.append(queue.get())):
        until(lambda: queue.statistics().waiting_getters == 3)
        # The children do not inherit the sleeping threads, so no item may be lost to one there.
        for number in range(3):
            with fork(queue.put, number) as child:
                child.result()
    assert sorted(got) == [0, 1, 2]
    assert queue.statistics().participants == 1


def test_children_are_forked_while_threads_sleep_in_put() -> None:
    queue = Queue[int](maxsize=1)
    queue.put(0)
    numbers = iter(range(1, 4))

    with threads(3, lambda: queue.put(next(numbers))):
        until(lambda: queue.statistics().waiting_putters == 3)
        with fork(lambda: [queue.get() for _ in range(4)]) as child:
            assert sorted(child.result()) == [0, 1, 2, 3]
    assert queue.empty()


def test_child_does_not_inherit_what_its_parent_holds() -> None:
    queue = JoinableQueue[str]()
    queue.put("parent's")
    assert queue.get() == "parent's"

    def end_without_using_it() -> None:
        pass

    def use_it() -> str:
        queue.put("child's")
        got = queue.get()
        queue.task_done()
        return got

    with fork(end_without_using_it) as child:
        child.result()
    with fork(use_it) as child:
        assert child.result() == "child's"
    found = queue.statistics()
    assert (found.queued, found.unfinished, found.redeliveries, found.participants) == (0, 1, 0, 1)
    queue.task_done()
    queue.join()


def test_grandchildren() -> None:
    queue = Queue[list[str]]()

    def descend(line: list[str]) -> None:
        queue.put(line)
        if len(line) < 5:
            with fork(descend, [*line, "child"]) as child:
                child.result()

    with fork(descend, ["child"]) as child:
        child.result()
    assert [len(queue.get()) for _ in range(5)] == [1, 2, 3, 4, 5]


@every_kind
def test_processes_of_multiprocessing_are_forked_while_threads_put_and_get(kind: Callable[[], Any]) -> None:
    queue, answers = kind(), kind()
    is_over = threading.Event()

    def put_and_get() -> None:
        while not is_over.is_set():
            queue.put(b"x" * 5000)
            queue.get()

    context = multiprocessing.get_context("fork")
    with threads(2, put_and_get), warnings.catch_warnings():
        # The warning is about forking beside threads, which is what is tested.
        warnings.simplefilter("ignore", DeprecationWarning)
        try:
            for number in range(10):
                process = context.Process(target=answers.put, args=(number,))
                process.start()
                assert answers.get() == number
                process.join()
                assert process.exitcode == 0
                process.close()
        finally:
            is_over.set()
    assert queue.empty()


@pytest.mark.parametrize("way", ["dies", "ends", "closes"])
@pytest.mark.parametrize("depth", [1, 2])
def test_a_child_waits_with_a_selector_that_its_parent_has_made(way: str, depth: int) -> None:
    """Also after a double fork, as a daemon's. The child makes no call to the queue before it waits."""
    told = multiprocessing.Pipe(False)
    queue = Queue[int]()

    def work(selector: Any) -> None:
        received = []
        for _ in range(3):
            assert selector.poll(20)
            received.append(queue.get_nowait())
            assert not selector.poll(0)
            told[1].send(received)

    def fork_workers(selector: Any, depth: int) -> None:
        pid = os.fork()
        if pid == 0:
            try:
                work(selector) if depth == 1 else fork_workers(selector, depth - 1)
            finally:
                os._exit(0)
        if way == "dies":
            os.kill(os.getpid(), signal.SIGKILL)
        if way == "closes":
            queue.close()

    def watch() -> None:
        selector = select.epoll()
        selector.register(queue, select.EPOLLIN)
        fork_workers(selector, depth)

    with fork(watch) as parent:
        parent.wait()
    for number in range(3):
        queue.put(number)
        assert told[0].poll(20)
        assert told[0].recv() == list(range(number + 1))
    assert queue.check() == []


def test_many_children_of_a_watcher_are_no_burden() -> None:
    """Each joins the queue at the fork, and is swept when it has ended."""
    queue = Queue[int]()
    queue.fileno()
    for _ in range(100):
        pid = os.fork()
        if pid == 0:
            os._exit(0)
        os.waitpid(pid, 0)
    assert queue.statistics().participants == 1
    assert queue.check() == []
