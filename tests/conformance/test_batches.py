"""Many items at once: `put_many()` and `get_many()`."""

import collections
import functools
import itertools
import queue
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import pytest

from tests.conformance.implementations import Promise, needs
from tests.support.children import fork
from tests.support.waiting import until

pytestmark = needs(Promise.BATCHES, Promise.STATISTICS)

MIXED: list[Any] = [1, "two", [3.0], b"4" * 3000, {"5": (None,)}, {6, 7}, bytes(100_000), "8" * 2040, 9]


def test_in_order_whatever_the_sizes(make: Callable[..., Any]) -> None:
    q = make()
    for _ in range(3):
        q.put_many(MIXED)
        q.put("between")
    received: list[Any] = []
    while not q.empty():
        received += q.get_many(4)
    assert received == [*MIXED, "between"] * 3


def test_any_iterable(make: Callable[..., Any]) -> None:
    q = make()
    q.put_many(number for number in range(200))
    q.put_many({"a": 1})
    q.put_many("bc")
    q.put_many([])
    assert q.get_many() == [*range(200), "a", "b", "c"]


def test_how_many(make: Callable[..., Any]) -> None:
    q = make()
    q.put_many(range(500))
    assert q.get_many(1) == [0]
    assert q.get_many(max_items=64) == list(range(1, 65))
    assert q.get_many(65) == list(range(65, 130))
    assert q.get_many(10**6) == list(range(130, 500))
    for wrong in (0, -1, -(10**30)):
        with pytest.raises(ValueError, match="max_items must be at least 1"):
            q.get_many(wrong)
    for wrong in (2**64, 10**30):
        with pytest.raises(ValueError, match=r"max_items must be less than 2\*\*64"):
            q.get_many(wrong)
    with pytest.raises(TypeError):
        q.get_many("two")


def test_all_are_taken_although_a_look_for_the_dead_is_due(make: Callable[..., Any]) -> None:
    # The check is due at the first take with something held: a lease, or a large item that is being rebuilt.
    q = make()
    q.put_many(range(500))
    assert q.get_many() == list(range(500))
    q = make()
    large = [bytes([number]) * 150_000 for number in range(6)]
    q.put_many([*large[:5], *range(200), large[5]])
    assert q.get_many() == [*large[:5], *range(200), large[5]]


@needs(Promise.REDELIVERED)
def test_all_that_a_call_took_is_in_hand_until_the_next_call(make: Callable[..., Any]) -> None:
    q = make()
    q.put_many(range(210))
    with fork(lambda: (q.get_many(10), len(q.get_many(200)))) as taker:
        assert taker.result() == (list(range(10)), 200)
    until(lambda: q.qsize() > 0)
    assert q.get_many() == list(range(10, 210))


@needs(Promise.BOUNDED)
def test_nothing_there(make: Callable[..., Any]) -> None:
    q = make()
    with pytest.raises(queue.Empty):
        q.get_many(block=False)
    with pytest.raises(queue.Empty):
        q.get_many(5, True, 0.01)
    with pytest.raises(queue.Empty):
        q.get_many(timeout=0.01)


def test_waits_for_the_first_item_only(make: Callable[..., Any]) -> None:
    q = make()
    with fork(lambda: q.get_many(10)) as taker:
        until(lambda: q.statistics().waiting_getters == 1)
        q.put("first")
        assert taker.result() == ["first"]


@needs(Promise.BOUNDED)
@pytest.mark.parametrize("options", [{"block": False}, {"timeout": 0.02}])
def test_a_queue_that_becomes_full(make: Callable[..., Any], options: dict[str, Any]) -> None:
    q = make(maxsize=70)
    with pytest.raises(queue.Full) as raised:
        q.put_many(range(100), **options)
    assert raised.value.items_put == 70  # type: ignore[attr-defined]
    with pytest.raises(queue.Full) as raised:
        q.put_many([1], **options)
    assert raised.value.items_put == 0  # type: ignore[attr-defined]
    assert q.get_many() == list(range(70))


@needs(Promise.BOUNDED)
def test_waits_for_room_again_and_again(make: Callable[..., Any]) -> None:
    q = make(maxsize=3)
    with fork(q.put_many, range(100)) as putter:
        received: list[int] = []
        while len(received) < 100:
            assert q.qsize() <= 3
            received += q.get_many()
        assert putter.result() is None
    assert received == list(range(100))


@needs(Promise.BOUNDED)
def test_one_time_out_for_all(make: Callable[..., Any]) -> None:
    q = make(maxsize=1)

    def slowly() -> Iterator[int]:
        yield 1
        time.sleep(0.05)  # seconds: longer than the time-out, which began with the call
        yield from range(200)

    with pytest.raises(queue.Full) as raised:
        q.put_many(slowly(), timeout=0.01)
    assert raised.value.items_put == 1  # type: ignore[attr-defined]


# An object that the program's code has made is in the queue before that code runs again.


class Subclass(list[Any]):
    def __init__(self, objects: Iterable[Any]) -> None:
        super().__init__([None])
        self.objects = iter(objects)

    def __iter__(self) -> Iterator[Any]:
        return self.objects


LAZY: dict[str, Callable[[Iterable[Any]], Any]] = {
    "generator": lambda objects: (item for item in objects),
    "iterator": iter,
    "map": lambda objects: map(int, objects),
    "iter of a function": lambda objects: iter(functools.partial(next, iter(objects), None), None),
    "chain": itertools.chain,
    "subclass of list": Subclass,
}


@pytest.mark.parametrize("kind", LAZY)
def test_an_iterable_that_waits_for_its_last_item(make: Callable[..., Any], kind: str) -> None:
    q = make()

    def each_when_the_last_was_taken() -> Iterator[int]:
        for number in range(100):
            yield number
            assert q.get_many() == [number]

    q.put_many(LAZY[kind](each_when_the_last_was_taken()))
    assert q.empty()


CONTAINERS: list[Any] = [
    [1, 2],
    (1, 2),
    range(3),
    {1: 2},
    {1, 2},
    frozenset({1, 2}),
    "ab",
    b"ab",
    bytearray(b"ab"),
    collections.deque([1, 2]),
]


@pytest.mark.parametrize("container", CONTAINERS, ids=lambda container: type(container).__name__)
def test_containers(make: Callable[..., Any], container: Any) -> None:
    q = make()
    q.put_many(container)
    assert q.get_many() == list(container)


class Counting:
    """Becomes, when pickled, the number of items queued before it."""

    def __init__(self, q: Any) -> None:
        self.q = q

    def __reduce__(self) -> Any:
        return int, (self.q.statistics().queued,)


def test_no_object_is_held_back_while_another_one_is_pickled(make: Callable[..., Any]) -> None:
    q = make()
    q.put_many([0, 1, Counting(q), 3, [Counting(q)], 5])
    assert q.get_many() == [0, 1, 2, 3, [4], 5]


@needs(Promise.BOUNDED)
def test_an_interrupt_inside_the_iterable_while_the_queue_is_full(make: Callable[..., Any]) -> None:
    q = make(maxsize=2)

    def interrupted() -> Iterator[int]:
        yield from (1, 2)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt) as raised:
        q.put_many(interrupted())
    assert raised.value.items_put == 2  # type: ignore[attr-defined]
    assert q.get_many() == [1, 2]


class Unpicklable:
    def __reduce__(self) -> Any:
        raise ZeroDivisionError("not to be pickled")


@pytest.mark.parametrize("before", [0, 1, 64, 130])
def test_an_object_that_cannot_be_pickled(make: Callable[..., Any], before: int) -> None:
    q = make()
    with pytest.raises(ZeroDivisionError) as raised:
        q.put_many([*range(before), Unpicklable(), "never"])
    assert raised.value.items_put == before  # type: ignore[attr-defined]
    if before:
        assert q.get_many() == list(range(before))
    assert q.empty()


def test_an_iterable_that_fails(make: Callable[..., Any]) -> None:
    def numbers() -> Iterator[int]:
        yield from (1, 2)
        raise LookupError("no more")

    q = make()
    with pytest.raises(LookupError, match="no more") as raised:
        q.put_many(numbers())
    assert raised.value.items_put == 2  # type: ignore[attr-defined]
    assert q.get_many() == [1, 2]
    with pytest.raises(TypeError, match="not iterable"):
        q.put_many(5)


class Fragile:
    def __reduce__(self) -> Any:
        return _break, ()


def _break() -> None:
    raise ZeroDivisionError("not to be rebuilt")


def test_an_object_that_cannot_be_rebuilt_costs_no_other(make: Callable[..., Any]) -> None:
    q = make()
    q.put_many(["before", Fragile(), "after", Fragile(), "last"])
    with pytest.raises(ZeroDivisionError, match="not to be rebuilt") as raised:
        q.get_many()
    before, first, after, second, last = raised.value.items  # type: ignore[attr-defined]
    assert (before, after, last) == ("before", "after", "last")
    assert first is raised.value
    assert isinstance(second, ZeroDivisionError)
    assert q.empty()


@needs(Promise.ACKNOWLEDGED)
def test_each_item_is_to_be_done(make: Callable[..., Any]) -> None:
    q = make()
    q.put_many(range(70))
    assert q.get_many(70) == list(range(70))
    for _ in range(70):
        assert q.statistics().unfinished > 0
        q.task_done()
    q.join()
    with pytest.raises(ValueError, match="too many times"):
        q.task_done()


def test_queues_among_the_items(make: Callable[..., Any]) -> None:
    q, inner = make(), make()

    def answer() -> None:
        _, inner, _ = q.get_many()
        inner.put_many(["it", "works"])
        if hasattr(q, "task_done"):  # else the items are redelivered, and `q` keeps `inner`
            for _ in range(3):
                q.task_done()

    q.put_many(["before", inner, "after"])
    with fork(answer) as child:
        assert child.result() is None
    assert inner.get_many() == ["it", "works"]


def test_arrays_among_the_items(make: Callable[..., Any]) -> None:
    q = make()
    arrays = [np.arange(length) for length in (0, 10, 10_000)]
    q.put_many(arrays)
    for sent, received in zip(arrays, q.get_many(), strict=True):
        assert np.array_equal(sent, received)


def test_a_closed_queue(make: Callable[..., Any]) -> None:
    q = make()
    error = ValueError if hasattr(q, "join_thread") else OSError
    q.close()
    with pytest.raises(error):
        q.put_many([1])
    with pytest.raises(error):
        q.get_many()


def test_threads_and_processes(make: Callable[..., Any]) -> None:
    q = make()
    each = 2000

    def produce(name: int) -> None:
        for start in range(0, each, 50):
            q.put_many((name, number) for number in range(start, start + 50))

    producers = [fork(produce, name) for name in (1, 2)]
    threads = [threading.Thread(target=produce, args=(name,)) for name in (3, 4)]
    for thread in threads:
        thread.start()
    received: list[tuple[int, int]] = []
    while len(received) < 4 * each:
        received += q.get_many(33)
    for thread in threads:
        thread.join()
    for producer in producers:
        with producer:
            assert producer.result() is None
    for name in (1, 2, 3, 4):
        assert [number for who, number in received if who == name] == list(range(each))
    assert q.empty()
