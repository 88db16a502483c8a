"""`producing()`: a queue ends by itself when its producers are gone, whatever they died of."""

import copy
import gc
import os
import pickle
import signal
import sys
import threading
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import pytest

from penstock import ShutDown
from tests.conformance.implementations import Promise, needs
from tests.support.children import fork
from tests.support.waiting import until

pytestmark = needs(Promise.PRODUCERS)


def produce(q: Any, items: Any, expect: int | None = None, then: Callable[[], object] = int) -> None:
    """Put the items in a block of `producing()`."""
    with q.producing(expect):
        for item in items:
            q.put(item)
        then()


def stay() -> None:
    signal.pause()


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def producers(q: Any) -> int:
    number: int = q.statistics().producers
    return number


def test_the_loops_of_consumers_end(make: Callable[..., Any]) -> None:
    q = make()
    with q.producing():
        consumers = [fork(lambda: list(q)) for _ in range(2)]
        others = [fork(produce, q, range(first, first + 100)) for first in (0, 100, 200)]
        for other in others:
            assert other.result() is None
            other.close()
    assert sorted(item for consumer in consumers for item in consumer.result()) == list(range(300))
    for consumer in consumers:
        consumer.close()
    assert q.is_shutdown
    assert q.check() == []


def test_an_end_is_a_shutdown(make: Callable[..., Any]) -> None:
    q = make()
    with q.producing():
        q.put("a")
        assert not q.is_shutdown
    assert q.is_shutdown
    with pytest.raises(ShutDown):
        q.put("late")
    with pytest.raises(ShutDown), q.producing():
        pytest.fail("it has begun")
    assert q.get() == "a"
    with pytest.raises(ShutDown):
        q.get()


def test_a_queue_on_which_no_process_produces_does_not_end(make: Callable[..., Any]) -> None:
    q = make()
    with fork(q.put, "a") as child:
        child.result()
    q.producing()  # not entered
    assert q.get() == "a"
    q.statistics()
    assert not q.is_shutdown


@pytest.mark.parametrize("end", ["return", "exception", "exit", "kill", "_exit"])
def test_each_end_of_a_producer(make: Callable[..., Any], end: str) -> None:
    q = make()

    def work() -> None:
        with q.producing():
            q.put("a")
            if end == "exception":
                raise KeyError
            if end == "exit":
                sys.exit(3)
            if end == "kill":
                die()
            if end == "_exit":
                os._exit(3)

    with fork(lambda: list(q)) as consumer, fork(work) as producer:
        producer.wait()
        assert consumer.result() == ["a"]
    assert producers(q) == 0


def test_a_stopped_producer_is_alive(make: Callable[..., Any]) -> None:
    q = make()
    with fork(lambda: list(q)) as consumer, fork(produce, q, "a", None, stay) as producer:
        until(lambda: q.statistics().gets == 1)
        producer.kill(signal.SIGSTOP)
        until(producer.is_stopped)
        until(lambda: q.statistics().waiting_getters == 1)
        assert not consumer.has_ended()
        assert producers(q) == 1
        producer.kill()
        assert consumer.result() == ["a"]


@pytest.mark.parametrize("asks", ["get", "empty", "is_shutdown", "poll"])
def test_a_program_that_does_not_wait_learns_of_a_death(make: Callable[..., Any], asks: str) -> None:
    q = make()
    with fork(produce, q, "a", None, stay) as producer:
        assert q.get() == "a"
        producer.kill()
        producer.wait()
        if asks == "get":
            if not hasattr(q, "get_nowait"):
                return
            until(lambda: q.is_shutdown or raises_shut_down(q.get_nowait))
            assert raises_shut_down(q.get_nowait)
        elif asks == "empty":
            until(lambda: q.empty() and q.is_shutdown)
        elif asks == "is_shutdown":
            until(lambda: q.is_shutdown)
        else:
            until(lambda: q._reader.poll(0.01))
            assert q.is_shutdown


def raises_shut_down(call: Callable[[], object]) -> bool:
    try:
        call()
    except ShutDown:
        return True
    except Exception:
        return False
    return False


def test_blocks_inside_each_other(make: Callable[..., Any]) -> None:
    q = make()
    block = q.producing()
    with q.producing(), block, block:
        assert producers(q) == 1
        with q.producing():
            pass
        assert not q.is_shutdown
    assert q.is_shutdown


def test_blocks_of_several_threads(make: Callable[..., Any]) -> None:
    q = make()
    begun, go_on = threading.Barrier(4), threading.Event()

    def work(number: int) -> None:
        with q.producing():
            begun.wait()
            go_on.wait()
            q.put(number)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    begun.wait()
    assert producers(q) == 1
    go_on.set()
    assert sorted(q) == [0, 1, 2]
    for thread in threads:
        thread.join()


def test_as_many_as_are_expected(make: Callable[..., Any]) -> None:
    q = make()
    for count, expect in enumerate([2, 3, 1], 1):
        with fork(produce, q, [expect], expect) as child:
            child.result()
        q.statistics()
        assert q.is_shutdown == (count == 3), "the largest number counts"
    assert list(q) == [2, 3, 1]


def test_a_process_that_begins_again_counts_once(make: Callable[..., Any]) -> None:
    q = make()
    produce(q, "a", 2)
    produce(q, "b")
    assert not q.is_shutdown
    with fork(produce, q, "c") as child:
        child.result()
    assert list(q) == ["a", "b", "c"]


@pytest.mark.parametrize("expect", [0, -1, 1 << 32, 1 << 70])
def test_numbers_out_of_range(make: Callable[..., Any], expect: int) -> None:
    with pytest.raises(ValueError, match="expect must be from 1"):
        make().producing(expect)
    with pytest.raises(TypeError):
        make().producing("two")


def test_a_producer_that_dies_before_it_begins(make: Callable[..., Any]) -> None:
    """The starter is a producer until its processes have ended."""
    q = make()
    with q.producing():
        stillborn = fork(die)
        other = fork(produce, q, "a")
        stillborn.wait()
        other.result()
        assert not q.is_shutdown
    assert list(q) == ["a"]
    stillborn.close()
    other.close()


def test_a_fork_in_a_block(make: Callable[..., Any]) -> None:
    """The child is no producer until it says so, and leaves its parent's block without ending it."""
    q = make()
    with ExitStack() as inherited:
        inherited.enter_context(q.producing())

        def work() -> tuple[int, int, int]:
            q.put("a")
            before = producers(q)
            with q.producing():
                inside = producers(q)
                inherited.close()
                return before, inside, producers(q)

        with fork(work) as child:
            assert child.result() == (1, 2, 2)
        assert producers(q) == 1
        assert not q.is_shutdown
    assert list(q) == ["a"]


def test_a_handle_that_is_closed_in_its_block(make: Callable[..., Any]) -> None:
    q = make()

    def work() -> None:
        with q.producing():
            q.put("a")
            q.close()
            stay()

    with fork(work) as child:
        assert list(q) == ["a"]
        assert not child.has_ended()


def test_one_handle_of_two_is_closed_in_its_block(make: Callable[..., Any]) -> None:
    q = make()
    other = pickle.loads(pickle.dumps(q))
    with q.producing():
        q.close()
        assert producers(other) == 1
        other.put("a")
    assert list(other) == ["a"]
    other.close()


def test_a_block_that_is_dropped(make: Callable[..., Any]) -> None:
    q = make()
    block = q.producing()
    block.__enter__()
    assert producers(q) == 1
    del block
    gc.collect()
    assert q.is_shutdown


def test_an_abandoned_generator(make: Callable[..., Any]) -> None:
    q = make()

    def items() -> Any:
        with q.producing():
            yield "a"
            yield "b"

    generator = items()
    q.put(next(generator))
    assert producers(q) == 1
    del generator
    gc.collect()
    assert list(q) == ["a"]


def test_a_closed_handle_does_not_produce(make: Callable[..., Any]) -> None:
    q = make()
    q.put("a")
    q.close()
    with pytest.raises((ValueError, OSError), match="closed"), q.producing():
        pytest.fail("it has begun")


def test_a_block_is_not_pickled(make: Callable[..., Any]) -> None:
    block = make().producing()
    for pickling in (pickle.dumps, copy.copy):
        with pytest.raises(TypeError, match="pass the queue"):
            pickling(block)


@needs(Promise.BOUNDED)
def test_a_putter_that_waits_learns_it(make: Callable[..., Any]) -> None:
    """It is no producer, and waits for room when the last one is killed."""
    q = make(1)

    def wait_for_room() -> bool:
        return raises_shut_down(lambda: q.put("b"))

    with fork(produce, q, "a", None, stay) as producer:
        until(q.full)
        with fork(wait_for_room) as putter:
            until(lambda: q.statistics().waiting_putters == 1)
            producer.kill()
            assert putter.result()
    assert list(q) == ["a"]


@needs(Promise.REDELIVERED)
def test_a_worker_that_is_a_producer_too(make: Callable[..., Any]) -> None:
    """It dies with an item in hand, and as the last producer: the item is done by another worker."""
    q = make()

    def work() -> None:
        with q.producing():
            q.put_many("ab")
            for _ in q:
                die()

    with fork(work) as worker:
        worker.wait()
        assert producers(q) == 0  # "a" has come back to its place
        assert list(q) == ["a", "b"]
    q.join()
    assert q.statistics().redeliveries == 1
