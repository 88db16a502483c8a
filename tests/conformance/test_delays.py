"""`put(..., delay=)`, `nack(delay=)` and `release(delay=)`: no get finds the item before its time."""

import math
import os
import select
import signal
import threading
import time
from collections.abc import Callable
from queue import Empty, Full
from typing import Any

import pytest

import penstock
from penstock import ShutDown
from tests.conformance.implementations import Promise, needs
from tests.support.children import fork
from tests.support.waiting import until

pytestmark = needs(Promise.DELAYS)

SHORT = 0.02  # seconds
LONG = 3600.0
HUGE = pytest.param(10**400, id="huge")  # no float holds it


def figures(q: Any) -> tuple[int, int, int]:
    now = q.statistics()
    assert q.check() == []
    return now.queued, now.delayed, now.unfinished


def take(q: Any) -> Any:
    item = q.get(timeout=20)
    if hasattr(q, "task_done"):
        q.task_done()
    return item


@pytest.mark.parametrize("size", [0, 1000, 100_000])
def test_it_comes_when_its_time_has_come(make: Callable[..., Any], size: int) -> None:
    q = make()
    began = time.monotonic()
    q.put((1, bytes(size)), delay=SHORT)
    assert take(q) == (1, bytes(size))
    assert time.monotonic() - began >= SHORT
    assert figures(q) == (0, 0, 0)


def test_until_then_it_is_not_there(make: Callable[..., Any]) -> None:
    q = make()
    q.put("later", delay=LONG)
    q.put({1, 2}, True, None, delay=LONG)
    assert (q.qsize(), q.empty()) == (0, True)
    with pytest.raises(Empty):
        q.get_nowait()
    with pytest.raises(Empty):
        q.get(timeout=0.01)
    now = q.statistics()
    assert (now.puts, now.gets, now.queued, now.delayed) == (2, 0, 0, 2)
    if hasattr(q, "task_done"):
        assert now.unfinished == 2
        with pytest.raises(ValueError, match="too many"):
            q.task_done()


def test_no_delay(make: Callable[..., Any]) -> None:
    q = make()
    q.put("a", delay=None)
    q.put("b", delay=0)
    q.put("c", delay=0.0)
    assert q.qsize() == 3
    assert q.statistics().delayed == 0


def test_it_stands_where_it_was_put(make: Callable[..., Any]) -> None:
    q = make()
    q.put("a")
    q.put("b", delay=2 * SHORT)
    q.put("c", delay=SHORT)
    q.put("d")
    assert take(q) == "a"
    until(lambda: q.qsize() == 3)
    assert [take(q) for _ in range(3)] == ["b", "c", "d"]


def test_it_takes_no_place(make: Callable[..., Any]) -> None:
    q = make(1)
    q.put("a")
    q.put("later", False, delay=LONG)
    q.put("later", timeout=0, delay=LONG)
    assert q.full()
    with pytest.raises(Full):
        q.put("b", False)
    assert take(q) == "a"
    assert not q.full()


@pytest.mark.parametrize("wrong", [-1, -0.001, math.nan, math.inf, 1.01e10, 1e300, HUGE])
def test_impossible_delays(make: Callable[..., Any], wrong: float) -> None:
    q = make()
    with pytest.raises(ValueError, match="delay must be from 0 to 10000000000 seconds"):
        q.put("a", delay=wrong)
    assert q.statistics().puts == 0


def test_the_longest_delay(make: Callable[..., Any]) -> None:
    q = make()
    q.put("a", delay=1e10)
    assert figures(q)[:2] == (0, 1)


@pytest.mark.parametrize("in_process", [False, True])
def test_a_wait_of_10_ms_more_than_its_delay_has_it(make: Callable[..., Any], in_process: bool) -> None:
    """A machine that is late makes the wait longer, and the item due for longer."""
    q = make()
    for _ in range(10):
        q.put("a", delay=SHORT)
        deadline = time.monotonic() + SHORT + 0.01

        def get(deadline: float = deadline) -> Any:
            item = q.get(timeout=deadline - time.monotonic())
            if hasattr(q, "task_done"):
                q.task_done()
            return item

        if in_process:
            with fork(get) as getter:
                assert getter.result() == "a"
        else:
            assert get() == "a"


def test_what_is_no_delay(make: Callable[..., Any]) -> None:
    q = make()
    with pytest.raises(TypeError):
        q.put("a", delay="1")
    for arguments in ({"priority": 1}, {"key": abs}):
        with pytest.raises(TypeError, match=next(iter(arguments))):
            q.put("a", **arguments)
    assert q.statistics().puts == 0


def test_an_object_that_cannot_be_pickled(make: Callable[..., Any]) -> None:
    q = make()
    with pytest.raises((TypeError, AttributeError)):
        q.put(lambda: None, delay=LONG)
    assert figures(q)[:2] == (0, 0)


def test_every_process_delays_by_one_clock(make: Callable[..., Any]) -> None:
    q = make()
    began = time.monotonic()
    with fork(lambda: q.put("a", delay=SHORT)) as child:
        child.result()
    with fork(take, q) as taker:
        assert taker.result() == "a"
    assert time.monotonic() - began >= SHORT


def test_a_getter_that_waits_already(make: Callable[..., Any]) -> None:
    q = make()
    with fork(take, q) as taker:
        until(lambda: q.statistics().waiting_getters == 1)
        q.put("late", delay=LONG)
        q.put("early", delay=SHORT)
        assert taker.result() == "early"


def test_the_putter_may_die(make: Callable[..., Any]) -> None:
    q = make()

    def put_and_die() -> None:
        q.put("a", delay=SHORT)
        os.kill(os.getpid(), signal.SIGKILL)

    with fork(put_and_die) as doomed:
        assert doomed.wait() == -signal.SIGKILL
    assert take(q) == "a"


def test_a_getter_that_would_be_next_is_killed(make: Callable[..., Any]) -> None:
    q = make()
    with fork(take, q) as first, fork(take, q) as second:
        until(lambda: q.statistics().waiting_getters == 2)
        q.put("a", delay=40 * SHORT)
        second.kill()
        second.wait()
        assert first.result() == "a"


def test_a_descriptor_shows_it_at_the_next_call(make: Callable[..., Any]) -> None:
    q = make()
    q.put("a", delay=SHORT)
    q.fileno()
    until(lambda: q.qsize() == 1)
    assert select.select([q], [], [], 0)[0] == [q]
    assert take(q) == "a"
    assert select.select([q], [], [], 0)[0] == []


def test_after_a_shutdown(make: Callable[..., Any]) -> None:
    q = make()
    q.put("a", delay=SHORT)
    q.shutdown()
    with pytest.raises(ShutDown):
        q.put("late", delay=SHORT)
    assert take(q) == "a"
    with pytest.raises(ShutDown):
        q.get()


def test_a_descriptor_after_a_shutdown(make: Callable[..., Any]) -> None:
    """It is readable exactly while a `get(block=False)` would not raise `Empty`: a loop does not spin."""
    q = make()
    readable = select.poll()
    readable.register(q.fileno(), select.POLLIN)
    q.put("a", delay=3 * SHORT)
    q.shutdown()
    attempts, waited = 0, 0
    while True:
        if not readable.poll(10):
            waited += 1
            q.qsize()  # tends it
            continue
        attempts += 1
        try:
            item = q.get(block=False)
        except ShutDown:
            break
        assert item == "a"
        if hasattr(q, "task_done"):
            q.task_done()
    assert attempts <= 3, "an item, the end, and perhaps a byte too many"
    assert waited > 0
    assert figures(q) == (0, 0, 0)


@needs(Promise.LEASES)
def test_a_lease_that_fails_after_a_shutdown(make: Callable[..., Any]) -> None:
    """It comes back after the queue's `retry_delay`: to the loop of a thread and of a process that wait."""
    q = make(retry_delay=SHORT)
    q.put("a")
    readable = select.poll()
    readable.register(q.fileno(), select.POLLIN)
    seen: list[Any] = []
    # Leased before the other process takes it.
    with q.lease() as lease, fork(list, q) as process:
        q.shutdown()
        assert readable.poll(0), "a get that does not wait says that the queue has ended"
        others = [threading.Thread(target=lambda: seen.extend(q)) for _ in range(2)]
        for other in others:
            other.start()
        until(lambda: q.statistics().waiting_getters == 3)
        lease.nack()
        for other in others:
            other.join()
        assert [*process.result(), *seen] == ["a"]
    assert readable.poll(0)
    with pytest.raises(ShutDown):
        q.get()
    assert figures(q) == (0, 0, 0)


def test_after_an_immediate_shutdown(make: Callable[..., Any]) -> None:
    q = make()
    q.put("a", delay=LONG)
    q.put("b")
    q.shutdown(immediate=True)
    assert q.statistics().discarded == 2
    assert figures(q) == (0, 0, 0)
    with pytest.raises(ShutDown):
        q.get()


@needs(Promise.LEASES)
@pytest.mark.parametrize("verb", ["nack", "release"])
def test_a_lease_goes_back_later(make: Callable[..., Any], verb: str) -> None:
    q = make()
    q.put_many("ab")
    with q.lease() as lease:
        began = time.monotonic()
        getattr(lease, verb)(delay=SHORT)
        assert q.statistics().unfinished == 2
    assert take(q) == "b"
    with q.lease(timeout=20) as lease:
        assert time.monotonic() - began >= SHORT
        assert (lease.item, lease.id, lease.deliveries) == ("a", 1, 2 if verb == "nack" else 1)
    q.join()


@needs(Promise.LEASES)
def test_an_impossible_delay_settles_nothing(make: Callable[..., Any]) -> None:
    q = make()
    q.put("a")
    with q.lease() as lease:
        for wrong in (-1, 1.01e10, 10**400):
            for verb in (lease.nack, lease.release):
                with pytest.raises(ValueError, match="delay"):
                    verb(delay=wrong)
        with pytest.raises(TypeError):
            lease.release(delay="1")
        lease.ack()
    assert figures(q) == (0, 0, 0)


@needs(Promise.LEASES)
def test_a_dead_letter_is_not_delayed(make: Callable[..., Any]) -> None:
    q = make(max_deliveries=0)
    q.put("a")
    with q.lease() as lease:
        lease.nack(delay=LONG)
    assert figures(q) == (0, 0, 0)
    assert q.statistics().dead_letters == 1


@needs(Promise.ACKNOWLEDGED)
def test_join_waits_for_it(make: Callable[..., Any]) -> None:
    q = make()
    q.put("a", delay=SHORT)
    with fork(q.join) as joiner:
        until(lambda: q.statistics().waiting_joiners == 1)
        assert take(q) == "a"
        joiner.result()


@needs(Promise.ACKNOWLEDGED)
def test_a_joiner_alone_sees_to_it(make: Callable[..., Any]) -> None:
    """Workers that wait with descriptors only: a thread in `join()` makes the item ready."""
    q = make()
    q.fileno()
    q.put("in hand")
    assert q.get() == "in hand"
    with fork(q.join) as joiner:
        until(lambda: q.statistics().waiting_joiners == 1)
        q.put("a", delay=SHORT)
        assert select.select([q], [], [], 20)[0] == [q]
        assert q.get() == "a"
        q.task_done()
        q.task_done()
        joiner.result()


def test_no_class_without_delays() -> None:
    with pytest.raises(TypeError, match="delay"):
        penstock.SimpleQueue().put("a", delay=1)  # type: ignore[call-arg]
