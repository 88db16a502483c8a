"""`for item in queue` and `with queue`."""

import copy
import gc
import os
import pickle
import signal
import threading
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import pytest

from tests.conformance.implementations import Promise, needs
from tests.support.children import fork
from tests.support.waiting import until

pytestmark = needs(Promise.ITERATION)

SIZES = [0, 100, 10_000, 1_000_000]


def in_thread(call: Callable[..., Any], *arguments: Any) -> Callable[[], Any]:
    """Call in a thread. Returns a function that waits for the result."""
    results: list[Any] = []

    def run() -> None:
        try:
            results.append(call(*arguments))
        except Exception as error:
            results.append(error)

    thread = threading.Thread(target=run)
    thread.start()

    def result() -> Any:
        thread.join()
        return results[0]

    return result


def unfinished(q: Any) -> int:
    number: int = q.statistics().unfinished
    return number


def sweep(q: Any) -> None:
    """What a killed process had in hand comes back now, to its old place."""
    q.statistics()


def test_what_is_left_is_taken(make: Callable[..., Any]) -> None:
    q = make()
    q.put_many("abc")
    q.shutdown()
    assert list(q) == ["a", "b", "c"]
    assert list(q) == []
    assert q.check() == []


def test_it_waits_for_more(make: Callable[..., Any]) -> None:
    q = make()
    with fork(lambda: list(q)) as child:
        for number in range(3):
            q.put(number)
            until(q.empty)
        until(lambda: q.statistics().waiting_getters == 1)
        assert not child.has_ended()
        q.shutdown()
        assert child.result() == [0, 1, 2]


def test_an_immediate_shutdown_ends_it(make: Callable[..., Any]) -> None:
    q = make()
    q.put_many("abc")
    taken = []
    for item in q:
        taken.append(item)
        q.shutdown(immediate=True)
    assert taken == ["a"]


def test_an_iterator_that_has_ended_stays_so(make: Callable[..., Any]) -> None:
    q = make()
    q.shutdown()
    iterator = iter(q)
    assert iter(iterator) is iterator
    for _ in range(3):
        with pytest.raises(StopIteration):
            next(iterator)


def test_items_of_every_size(make: Callable[..., Any]) -> None:
    q = make()
    for size in SIZES:
        q.put(np.full(size, size % 251, np.uint8))
    q.shutdown()
    arrays = list(q)
    assert [len(array) for array in arrays] == SIZES
    assert all((array == len(array) % 251).all() for array in arrays)
    del arrays
    assert q.check() == []


@pytest.mark.parametrize("by", ["threads", "processes"])
def test_each_item_goes_to_one_loop(make: Callable[..., Any], by: str) -> None:
    q = make()
    count = 2000
    if by == "threads":
        results = [in_thread(list, q) for _ in range(4)]
    else:
        children = [fork(lambda: list(q)) for _ in range(3)]
        results = [child.result for child in children]
    q.put_many(range(count))
    q.shutdown()
    taken = sorted(item for result in results for item in result())
    if by == "processes":
        for child in children:
            child.close()
    assert taken == list(range(count))
    if hasattr(q, "join"):
        q.join()
    assert q.check() == []


def test_threads_do_not_share_an_iterator(make: Callable[..., Any]) -> None:
    q = make()
    iterator = iter(q)
    first = in_thread(next, iterator)
    until(lambda: q.statistics().waiting_getters == 1)
    with pytest.raises(ValueError, match="each thread"):
        next(iterator)
    q.put("a")
    assert first() == "a"
    # One after the other they may: `asyncio.to_thread(next, iterator)` does that.
    q.put("b")
    assert next(iterator) == "b"
    if hasattr(q, "task_done"):
        assert unfinished(q) == 1


def test_an_iterator_is_not_pickled(make: Callable[..., Any]) -> None:
    iterator = iter(make())
    for pickling in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError, match="pass the queue"):
            pickling(iterator)


def test_an_iterator_in_a_forked_child(make: Callable[..., Any]) -> None:
    """It has nothing in hand there, and takes the next items."""
    q = make()
    q.put_many("abcd")
    iterator = iter(q)
    assert next(iterator) == "a"

    def work() -> str:
        item: str = next(iterator)
        return item + next(iterator)

    with fork(work) as child:
        assert child.result() == "bc"
    q.shutdown()
    if hasattr(q, "task_done"):
        # The child has finished its first item, and its second comes back.
        assert unfinished(q) == 3
        assert list(iterator) == ["c", "d"]
        q.join()
    else:
        assert list(iterator) == ["d"]


def test_a_child_forked_beside_a_loop_that_waits(make: Callable[..., Any]) -> None:
    q = make()
    iterator = iter(q)
    waiting = in_thread(next, iterator)
    until(lambda: q.statistics().waiting_getters == 1)

    def work() -> Any:
        q.put("a")
        return next(iterator)

    with fork(work) as child:
        q.put("b")
        assert sorted([child.result(), waiting()]) == ["a", "b"]


def test_a_queue_closed_by_the_loop(make: Callable[..., Any]) -> None:
    q = make()
    other = pickle.loads(pickle.dumps(q))
    q.put_many("ab")
    taken = []

    def loop() -> None:
        for item in q:
            taken.append(item)
            q.close()

    with pytest.raises((ValueError, OSError), match="closed"):
        loop()
    assert taken == ["a"]
    assert other.get() == "b"
    if hasattr(other, "task_done"):
        assert unfinished(other) == 1, "the loop has asked for the next one"
        other.task_done()
        other.join()
    other.close()


def test_a_signal_ends_the_wait(make: Callable[..., Any]) -> None:
    q = make()

    class Stop(Exception):
        pass

    def stop(*_: object) -> None:
        raise Stop

    def work() -> list[str]:
        signal.signal(signal.SIGUSR1, stop)
        taken = []
        try:
            for item in q:
                taken.append(item)
        except Stop:
            return taken
        return []

    q.put("a")
    with fork(work) as child:
        until(lambda: q.statistics().waiting_getters == 1)
        child.kill(signal.SIGUSR1)
        assert child.result() == ["a"]
    q.put("b")
    assert q.get() == "b"


def test_in_is_no_loop(make: Callable[..., Any]) -> None:
    q = make()
    q.put("a")
    with pytest.raises(TypeError):
        "a" in q  # noqa: B015
    assert q.get() == "a"


def test_with_closes_the_handle(make: Callable[..., Any]) -> None:
    q = make()
    other = pickle.loads(pickle.dumps(q))
    with q as entered:
        assert entered is q
        q.put("a")
    with pytest.raises((ValueError, OSError), match="closed"):
        q.put("b")
    assert other.get() == "a"
    with pytest.raises(KeyError), other:
        raise KeyError
    assert other._closed


@pytest.mark.slow
@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_in_a_process_of_another_start_method(make: Callable[..., Any], method: str) -> None:
    import multiprocessing

    q, results = make(), multiprocessing.get_context(method).SimpleQueue()
    process = multiprocessing.get_context(method).Process(target=take_all, args=(q, results))
    process.start()
    q.put_many("abc")
    q.shutdown()
    assert results.get() == ["a", "b", "c"]
    process.join()
    assert process.exitcode == 0


def take_all(q: Iterable[str], results: Any) -> None:
    """What a process of another start method does."""
    results.put(list(q))


# ------------------------------------------------------------------------------------------- acknowledged


@needs(Promise.ACKNOWLEDGED)
def test_an_item_is_finished_when_the_next_is_asked_for(make: Callable[..., Any]) -> None:
    q = make()
    q.put_many("abc")
    counts = [unfinished(q) for _ in zip(range(3), q, strict=False)]
    assert counts == [3, 2, 1]
    q.task_done()
    q.join()


@needs(Promise.ACKNOWLEDGED)
def test_the_last_one_is_finished_before_the_wait(make: Callable[..., Any]) -> None:
    q = make()
    q.put("a")
    with fork(lambda: list(q)) as child:
        q.join()
        until(lambda: q.statistics().waiting_getters == 1)
        q.shutdown()
        assert child.result() == ["a"]


@needs(Promise.ACKNOWLEDGED)
@pytest.mark.parametrize("how", ["break", "exception"])
def test_what_a_loop_that_is_left_has_stays_in_hand(make: Callable[..., Any], how: str) -> None:
    q = make()
    q.put_many("abc")

    def loop() -> None:
        for item in q:
            if item == "b":
                if how == "break":
                    break
                raise KeyError

    if how == "break":
        loop()
    else:
        with pytest.raises(KeyError):
            loop()
    gc.collect()
    assert unfinished(q) == 2
    assert q.get() == "c"
    # As after `get`: the older one comes first. The process that ends leaves "c".
    q.task_done()
    assert unfinished(q) == 1
    q.task_done()
    q.join()


@needs(Promise.ACKNOWLEDGED)
def test_what_the_body_has_finished_is_not_finished_twice(make: Callable[..., Any]) -> None:
    q = make()
    q.put_many(range(4))
    q.shutdown()
    for item in q:
        assert unfinished(q) == 4 - item
        q.task_done()
        assert unfinished(q) == 3 - item
    with pytest.raises(ValueError, match="too many times"):
        q.task_done()


@needs(Promise.REDELIVERED)
@pytest.mark.parametrize("done", [1, 2])
def test_the_body_takes_and_finishes_others(make: Callable[..., Any], done: int) -> None:
    """Its first `task_done` is for what it has taken itself, the second for the loop's item."""
    q = make()
    q.put_many("abc")

    def work() -> None:
        for item in q:
            assert (item, q.get()) == ("a", "b")
            for _ in range(done):
                q.task_done()
            os.kill(os.getpid(), signal.SIGKILL)

    with fork(work) as child:
        child.wait()
        # An item that was finished does not come back.
        sweep(q)
        left = ["a", "c"] if done == 1 else ["c"]
        assert [q.get() for _ in left] == left
        assert unfinished(q) == len(left)


@needs(Promise.ACKNOWLEDGED)
@pytest.mark.parametrize("others", [0, 1, 3, 100])
@pytest.mark.parametrize("done", [0, 1, 3, 100])
def test_each_is_counted_once(make: Callable[..., Any], others: int, done: int) -> None:
    """The body takes some others, and calls `task_done` as often as it may."""
    q = make()
    done = min(done, others + 1)
    q.put_many(range(2 + others))
    for number, item in enumerate(q):
        if number == 1:
            assert item == 1 + others
            break
        for _ in range(others):
            q.get()
        for _ in range(done):
            q.task_done()
    # The loop has finished its first item, unless the body's last call has.
    assert unfinished(q) == 2 + others - (min(done, others) + 1)


@needs(Promise.ACKNOWLEDGED)
def test_other_threads_with_many_items(make: Callable[..., Any]) -> None:
    """`task_done` finds the items of a loop's thread behind many of other threads."""
    q = make()
    q.put_many(range(1000))
    in_thread(lambda: [q.get() for _ in range(300)])()
    for number, _ in enumerate(q):
        if number == 2:
            break
        in_thread(lambda: [q.get() for _ in range(100)])()
        q.get()
        q.task_done()
    assert unfinished(q) == 1000 - 4


@needs(Promise.ACKNOWLEDGED)
def test_loops_inside_each_other(make: Callable[..., Any]) -> None:
    q = make()
    q.put_many(range(6))
    q.shutdown()
    seen = []
    for outer in q:
        for inner in q:
            seen.append((outer, inner))
            if inner % 2:
                q.task_done()
                break
    assert seen == [(0, 1), (2, 3), (4, 5)]
    q.join()


@needs(Promise.REDELIVERED)
def test_an_item_of_a_killed_loop_comes_back(make: Callable[..., Any]) -> None:
    q = make()
    q.put_many("abc")

    def work() -> None:
        for item in q:
            if item == "b":
                os.kill(os.getpid(), signal.SIGKILL)

    with fork(work) as child:
        child.wait()
        sweep(q)
        q.shutdown()
        assert list(q) == ["b", "c"]
    q.join()
    assert q.statistics().redeliveries == 1


@needs(Promise.REDELIVERED)
def test_a_loop_ends_when_nothing_comes_back_any_more(make: Callable[..., Any]) -> None:
    q = make()
    q.put_many("ab")

    def hold() -> None:
        for _ in q:
            signal.pause()

    with fork(hold) as holder:
        until(lambda: q.qsize() == 1)
        q.shutdown()
        with fork(lambda: list(q)) as worker:
            until(lambda: q.statistics().waiting_getters == 1)
            assert not worker.has_ended()
            holder.kill()
            holder.wait()
            assert worker.result() == ["b", "a"]
    q.join()


@needs(Promise.REDELIVERED)
def test_loops_do_not_wait_for_each_other(make: Callable[..., Any]) -> None:
    q = make()
    q.put_many(range(100))
    children = [fork(lambda: list(q)) for _ in range(4)]
    q.shutdown()
    assert sorted(item for child in children for item in child.result()) == list(range(100))
    for child in children:
        child.close()
    q.join()
