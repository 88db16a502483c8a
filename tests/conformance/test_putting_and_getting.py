"""One item at a time: order, time-outs, bounds, waiting, and the end of a handle."""

import math
import queue
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from tests.conformance.implementations import Promise, needs
from tests.support.children import fork
from tests.support.waiting import until


def test_first_in_first_out(make: Callable[..., Any]) -> None:
    q = make()
    sent = [[number] for number in range(1000)]
    for item in sent:
        q.put(item)
    received = [q.get() for _ in sent]
    assert received == sent
    assert all(one is not other for one, other in zip(received, sent, strict=True))
    assert q.empty()


@needs(Promise.PUT_IS_DONE)
def test_the_item_is_there_when_put_returns(make: Callable[..., Any]) -> None:
    q = make()
    for number in range(100):
        q.put(number)
        assert not q.empty()
        assert q.get() == number
        assert q.empty()


@needs(Promise.BOUNDED, Promise.PUT_IS_DONE)
def test_arguments_by_place_and_by_name(make: Callable[..., Any]) -> None:
    q = make()
    q.put(1)
    q.put(2, True)
    q.put(3, True, None)
    q.put(4, False)
    q.put(5, False, None)
    q.put(obj=6, block=True, timeout=1)
    q.put_nowait(7)
    received = [
        q.get(),
        q.get(True),
        q.get(True, None),
        q.get(False),
        q.get(block=True, timeout=1),
        q.get(timeout=1.5),
    ]
    assert [*received, q.get_nowait()] == [1, 2, 3, 4, 5, 6, 7]


@needs(Promise.BOUNDED, Promise.PUT_IS_DONE)
@pytest.mark.parametrize("timeout", [0, 0.0, -1, -math.inf])
def test_no_time_at_all(make: Callable[..., Any], timeout: float) -> None:
    q = make(1)
    with pytest.raises(queue.Empty):
        q.get(True, timeout)
    q.put("a", True, timeout)
    with pytest.raises(queue.Full):
        q.put("b", True, timeout)
    assert q.get(True, timeout) == "a"


@needs(Promise.BOUNDED, Promise.STEADY_CLOCK)
@pytest.mark.parametrize("timeout", [0.05, 1 / 3])
def test_a_timeout_is_not_cut_short(make: Callable[..., Any], timeout: float) -> None:
    q = make(1)
    start = time.monotonic()
    with pytest.raises(queue.Empty):
        q.get(timeout=timeout)
    assert time.monotonic() - start >= timeout
    q.put("a")
    start = time.monotonic()
    with pytest.raises(queue.Full):
        q.put("b", timeout=timeout)
    assert time.monotonic() - start >= timeout
    assert q.qsize() == 1


@needs(Promise.BOUNDED, Promise.STATISTICS)
@pytest.mark.parametrize("timeout", [1e300, math.inf, threading.TIMEOUT_MAX])
def test_a_timeout_beyond_every_clock_is_none(make: Callable[..., Any], timeout: float) -> None:
    q = make()
    with fork(lambda: q.get(timeout=timeout)) as child:
        until(lambda: q.statistics().waiting_getters == 1)
        q.put("a", timeout=timeout)
        assert child.result() == "a"


@needs(Promise.BOUNDED, Promise.PUT_IS_DONE)
@pytest.mark.parametrize("maxsize", [1, 3])
def test_maxsize(make: Callable[..., Any], maxsize: int) -> None:
    q = make(maxsize)
    for number in range(maxsize):
        assert (q.qsize(), q.full(), q.empty()) == (number, False, number == 0)
        q.put(number)
    assert (q.qsize(), q.full(), q.empty()) == (maxsize, True, False)
    with pytest.raises(queue.Full):
        q.put_nowait("too many")
    assert q.get() == 0
    assert not q.full()
    q.put_nowait("fits")


@needs(Promise.BOUNDED, Promise.PUT_IS_DONE)
@pytest.mark.parametrize("maxsize", [0, -1])
def test_no_maxsize(make: Callable[..., Any], maxsize: int) -> None:
    q = make(maxsize)
    for number in range(5000):
        q.put_nowait(number)
    assert not q.full()
    assert q.qsize() == 5000


@needs(Promise.BOUNDED, Promise.ACKNOWLEDGED)
def test_a_taken_item_makes_room_before_it_is_done(make: Callable[..., Any]) -> None:
    q = make(1)
    q.put(1)
    assert q.get() == 1
    q.put_nowait(2)
    assert q.full()


@needs(Promise.STATISTICS)
def test_get_waits_for_another_process(make: Callable[..., Any]) -> None:
    q = make()
    with fork(q.get) as child:
        until(lambda: q.statistics().waiting_getters == 1)
        q.put("a")
        assert child.result() == "a"


@needs(Promise.BOUNDED, Promise.STATISTICS)
def test_put_waits_for_another_process(make: Callable[..., Any]) -> None:
    q = make(1)
    q.put("a")
    with fork(q.put, "b") as child:
        until(lambda: q.statistics().waiting_putters == 1)
        assert q.get() == "a"
        child.result()
    assert q.get() == "b"


@needs(Promise.STATISTICS)
def test_get_waits_for_another_thread(make: Callable[..., Any]) -> None:
    q = make()
    received: list[str] = []
    thread = threading.Thread(target=lambda: received.append(q.get()))
    thread.start()
    until(lambda: q.statistics().waiting_getters == 1)
    q.put("a")
    thread.join()
    assert received == ["a"]


def test_many_threads_on_one_handle(make: Callable[..., Any]) -> None:
    q = make()
    received: list[int] = []

    def consume() -> None:
        for item in iter(q.get, None):
            received.append(item)

    def produce(start: int) -> None:
        for number in range(start, start + 1000):
            q.put(number)

    consumers = [threading.Thread(target=consume) for _ in range(4)]
    producers = [threading.Thread(target=produce, args=(start,)) for start in range(0, 4000, 1000)]
    for thread in consumers + producers:
        thread.start()
    for thread in producers:
        thread.join()
    for _ in consumers:
        q.put(None)
    for thread in consumers:
        thread.join()
    assert sorted(received) == list(range(4000))


@needs(Promise.BOUNDED)
def test_a_closed_queue(make: Callable[..., Any]) -> None:
    q = make()
    q.put("a")
    with pytest.raises(AssertionError, match="not closed"):
        q.join_thread()
    q.close()
    q.close()
    for operation in (lambda: q.put("b"), q.get, lambda: q.put_nowait("b"), q.get_nowait):
        with pytest.raises(ValueError, match=r"Queue .* is closed"):
            operation()
    assert q.qsize() == 1
    q.join_thread()
    q.cancel_join_thread()


@needs(Promise.PUT_IS_DONE)
def test_what_was_put_stays_when_the_producer_has_gone(make: Callable[..., Any]) -> None:
    q = make()

    def produce() -> None:
        for number in range(1000):
            q.put(number)
        q.close()

    with fork(produce) as child:
        child.result()
    assert [q.get() for _ in range(1000)] == list(range(1000))
