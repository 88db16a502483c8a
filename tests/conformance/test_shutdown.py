"""`shutdown()` and `is_shutdown`: what those of `queue.Queue` mean from Python 3.13 on, between processes."""

import queue
import signal
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

import penstock
from penstock import ShutDown
from tests.conformance.implementations import Promise, needs
from tests.support.children import fork
from tests.support.waiting import until

pytestmark = needs(Promise.SHUTDOWN)

both = pytest.mark.parametrize("immediate", [False, True])


def raises(call: Callable[..., Any], *arguments: Any) -> bool:
    """Whether the call raises ShutDown."""
    try:
        call(*arguments)
    except ShutDown:
        return True
    return False


def take(q: Any) -> Any:
    """Take an item, and finish it."""
    got = q.get()
    if hasattr(q, "task_done"):
        q.task_done()
    return got


def in_thread(call: Callable[..., Any], *arguments: Any) -> Callable[[], Any]:
    """Call in a thread. Returns a function that waits for the result."""
    results: list[Any] = []
    thread = threading.Thread(target=lambda: results.append(call(*arguments)))
    thread.start()

    def result() -> Any:
        thread.join()
        return results[0]

    return result


def test_what_is_left_is_taken(make: Callable[..., Any]) -> None:
    q = make()
    q.put("a")
    q.put("b")
    assert not q.is_shutdown
    q.shutdown()
    assert q.is_shutdown
    for late in ("c", b"c" * 100_000, {1, 2}):
        assert raises(q.put, late)
    assert raises(q.put_many, ["c"])
    assert not q.empty()
    assert q.get() == "a"
    assert q.get_many(10) == ["b"]
    assert raises(q.get)
    assert raises(q.get_many)
    assert q.empty()


def test_an_immediate_one_discards_what_is_queued(make: Callable[..., Any]) -> None:
    q = make()
    q.put_many([number, b"x" * number * 100] for number in range(100))
    q.shutdown(immediate=True)
    assert q.is_shutdown
    assert q.empty()
    assert raises(q.get)
    assert raises(q.put, "late")
    figures = q.statistics()
    assert (figures.puts, figures.gets, figures.queued, figures.discarded) == (100, 0, 0, 100)
    assert q.check() == []


def test_it_is_for_good(make: Callable[..., Any]) -> None:
    q = make()
    q.put_many("abc")
    q.shutdown()
    q.shutdown(False)
    assert q.get() == "a"
    q.shutdown(True)
    assert raises(q.get)
    q.shutdown()
    assert raises(q.get)
    assert q.statistics().discarded == 2


@both
def test_every_process_learns_it(make: Callable[..., Any], immediate: bool) -> None:
    q = make()
    q.put("a")
    with fork(q.shutdown, immediate) as child:
        child.result()
    assert q.is_shutdown
    with fork(lambda: (q.is_shutdown, raises(q.put, "late"))) as child:
        assert child.result() == (True, True)
    if not immediate:
        with fork(take, q) as child:
            assert child.result() == "a"
    assert raises(q.get)


@needs(Promise.BOUNDED)
def test_calls_that_do_not_wait(make: Callable[..., Any]) -> None:
    q = make(2)
    q.put_many("ab")
    q.shutdown()
    assert q.full()
    assert q.qsize() == 2
    assert raises(q.put_nowait, "late"), "not Full"
    assert raises(q.put, "late", True, 0.01)
    assert q.get_nowait() == "a"
    assert q.get(timeout=10) == "b"
    assert raises(q.get_nowait), "not Empty"
    assert raises(q.get, True, 10)
    assert not q.full()


@needs(Promise.BOUNDED)
def test_an_immediately_shut_down_queue_is_empty(make: Callable[..., Any]) -> None:
    q = make(1)
    q.put("a")
    q.shutdown(True)
    assert (q.qsize(), q.empty(), q.full()) == (0, True, False)


@both
def test_waiting_getters_learn_it(make: Callable[..., Any], immediate: bool) -> None:
    q = make()
    here = [in_thread(raises, q.get) for _ in range(3)]
    with fork(raises, q.get) as one, fork(raises, q.get_many) as many:
        until(lambda: q.statistics().waiting_getters == 5)
        q.shutdown(immediate)
        assert (one.result(), many.result()) == (True, True)
    assert [result() for result in here] == [True, True, True]


@both
@needs(Promise.BOUNDED)
def test_waiting_putters_learn_it(make: Callable[..., Any], immediate: bool) -> None:
    q = make(1)
    q.put("a")
    here = [in_thread(raises, q.put, late) for late in ("b", b"b" * 100_000)]
    with fork(raises, q.put, "c") as child:
        until(lambda: q.statistics().waiting_putters == 3)
        q.shutdown(immediate)
        assert child.result()
    assert [result() for result in here] == [True, True]
    assert q.statistics().puts == 1
    if not immediate:
        assert q.get() == "a"
    assert raises(q.get)


@needs(Promise.BOUNDED)
def test_a_put_of_many_says_how_many_were_put(make: Callable[..., Any]) -> None:
    q = make(2)

    def put() -> int:
        with pytest.raises(ShutDown) as caught:
            q.put_many("abcd")
        items_put: int = caught.value.items_put  # type: ignore[attr-defined]
        return items_put

    with fork(put) as child:
        until(lambda: q.statistics().waiting_putters == 1)
        q.shutdown()
        assert child.result() == 2
    assert q.get_many(10) == ["a", "b"]


def test_producers_and_consumers_end(make: Callable[..., Any]) -> None:
    """Each item that was put is taken once, however the processes interleave."""
    q = make()

    def produce(first: int) -> int:
        count = 0
        try:
            while True:
                q.put(first + count)
                count += 1
        except ShutDown:
            return count

    def consume() -> list[int]:
        got = []
        try:
            while True:
                got.append(take(q))
        except ShutDown:
            return got

    firsts = [number << 32 for number in range(2)]
    producers = [fork(produce, first) for first in firsts]
    consumers = [fork(consume) for _ in range(3)]
    until(lambda: q.statistics().gets > 1000)
    q.shutdown()
    put = sorted(
        first + number
        for first, producer in zip(firsts, producers, strict=True)
        for number in range(producer.result())
    )
    got = sorted(number for consumer in consumers for number in consumer.result())
    for process in producers + consumers:
        process.close()
    assert got == put
    assert q.check() == []


def test_the_exception(make: Callable[..., Any]) -> None:
    q = make()
    q.shutdown()
    with pytest.raises(ShutDown) as caught:
        q.get()
    assert isinstance(caught.value, penstock.errors.PenstockError)
    if hasattr(queue, "ShutDown"):
        assert isinstance(caught.value, queue.ShutDown)


class ShutDownOf(ShutDown):
    """A program's own, with an argument that must be named."""

    def __init__(self, *, name: str) -> None:
        super().__init__(f"{name} has ended")


def test_a_class_that_inherits_from_the_exception() -> None:
    assert str(ShutDownOf(name="it")) == "it has ended"


# ------------------------------------------------------------------------------------------- acknowledged


@needs(Promise.ACKNOWLEDGED)
def test_join_after_a_drain(make: Callable[..., Any]) -> None:
    q = make()
    q.put_many("ab")
    with fork(q.join) as joiner:
        until(lambda: q.statistics().waiting_joiners == 1)
        q.shutdown()
        for expected in "ab":
            assert q.get() == expected
            assert not joiner.has_ended()
            q.task_done()
        joiner.result()
    with pytest.raises(ValueError, match="too many times"):
        q.task_done()


@needs(Promise.ACKNOWLEDGED)
def test_join_after_an_immediate_one(make: Callable[..., Any]) -> None:
    q = make()
    q.put_many("abc")
    assert q.get() == "a"
    with fork(q.join) as joiner:
        until(lambda: q.statistics().waiting_joiners == 1)
        q.shutdown(immediate=True)
        assert q.statistics().unfinished == 1
        assert not joiner.has_ended()
        q.task_done()
        joiner.result()
    q.join()
    with pytest.raises(ValueError, match="too many times"):
        q.task_done()


@needs(Promise.ACKNOWLEDGED)
def test_join_of_what_no_worker_has(make: Callable[..., Any]) -> None:
    q = make()
    q.put_many("abc")
    with fork(q.join) as joiner:
        until(lambda: q.statistics().waiting_joiners == 1)
        q.shutdown(immediate=True)
        joiner.result()


@needs(Promise.REDELIVERED)
def test_an_item_that_comes_back_is_waited_for(make: Callable[..., Any]) -> None:
    q = make()
    q.put("a")

    def hold() -> None:
        q.get()
        signal.pause()

    def work() -> str:
        got: str = q.get()
        q.task_done()
        assert raises(q.get)
        return got

    with fork(hold) as holder:
        until(q.empty)
        q.shutdown()
        assert raises(q.get, False), "a get that does not wait"
        with pytest.raises(queue.Empty):
            q.get(timeout=0.05)
        with fork(work) as worker:
            until(lambda: q.statistics().waiting_getters == 1)
            assert not worker.has_ended()
            holder.kill()
            holder.wait()
            assert worker.result() == "a"
    q.join()
    assert raises(q.get)


@needs(Promise.REDELIVERED)
def test_workers_end_when_the_last_item_is_done(make: Callable[..., Any]) -> None:
    q = make()
    q.put("a")

    def hold() -> None:
        q.get()
        until(lambda: q.statistics().waiting_getters == 1)
        q.task_done()

    with fork(hold) as holder:
        until(q.empty)
        q.shutdown()
        assert raises(q.get)
        holder.result()
    q.join()


@needs(Promise.REDELIVERED)
def test_a_worker_with_an_item_in_hand_does_not_wait_for_itself(make: Callable[..., Any]) -> None:
    q = make()
    q.put("a")
    assert q.get() == "a"
    q.shutdown()
    assert raises(q.get)
    q.task_done()
    q.join()


@needs(Promise.REDELIVERED)
def test_what_comes_back_after_an_immediate_one_is_discarded(make: Callable[..., Any]) -> None:
    q = make()
    q.put_many("ab")

    def hold() -> None:
        q.get()
        signal.pause()

    with fork(hold) as holder:
        until(lambda: q.qsize() == 1)
        q.shutdown(True)
        with fork(q.join) as joiner:
            until(lambda: q.statistics().waiting_joiners == 1)
            holder.kill()
            holder.wait()
            joiner.result()
    assert q.statistics().discarded == 2
    assert q.statistics().redeliveries == 0


# --------------------------------------------------------------- after the interpreter's own tests (3.13)


@needs(Promise.BOUNDED)
@both
def test_getters_that_are_many(make: Callable[..., Any], immediate: bool) -> None:
    """Threads and processes that put and get at the time of the shutdown all end, none with another error."""
    q = make(10)
    go_on = threading.Event()

    def put(number: int) -> bool:
        go_on.wait()
        try:
            while True:
                q.put(number)
                time.sleep(0.0001)
        except ShutDown:
            return True

    def get() -> bool:
        go_on.wait()
        try:
            while True:
                take(q)
        except ShutDown:
            return True

    ends = [in_thread(put, number) for number in range(4)] + [in_thread(get) for _ in range(4)]
    go_on.set()
    with fork(get) as getter, fork(put, 9) as putter:
        until(lambda: q.statistics().gets > 50)
        q.shutdown(immediate)
        assert getter.result()
        assert putter.result()
    assert all(end() for end in ends)
    figures = q.statistics()
    assert figures.queued == 0
    assert immediate or figures.discarded == 0


@needs(Promise.ACKNOWLEDGED)
@both
def test_joiners_beside_workers(make: Callable[..., Any], immediate: bool) -> None:
    q = make()
    q.put_many(range(50))

    def work() -> int:
        done = 0
        try:
            while True:
                q.get()
                time.sleep(0.001)
                q.task_done()
                done += 1
        except ShutDown:
            return done

    with fork(q.join) as joiner, fork(work) as first, fork(work) as second:
        until(lambda: q.statistics().gets > 4)
        q.shutdown(immediate)
        joiner.result()
        done = first.result() + second.result()
    figures = q.statistics()
    assert figures.unfinished == 0
    assert done + figures.discarded == 50
