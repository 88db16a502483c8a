"""The numbers always agree, no bound is exceeded, and items come in their order."""

import random
from collections.abc import Callable
from typing import Any

import pytest

from penstock import Queue
from tests.conformance.implementations import Promise, needs
from tests.support.children import fork

pytestmark = needs(Promise.PUT_IS_DONE)


@needs(Promise.BOUNDED, Promise.STATISTICS)
@pytest.mark.parametrize("maxsize", [0, 1, 7])
def test_qsize_empty_and_full_agree_after_every_step(make: Callable[..., Any], maxsize: int) -> None:
    queue = make(maxsize)
    length = 0
    steps = random.Random(maxsize)
    for _ in range(2000):
        if steps.random() < 0.5 and not (maxsize and length == maxsize):
            queue.put(bytes(steps.choice([0, 100, 3000])))
            length += 1
        elif length:
            queue.get()
            length -= 1
        assert queue.qsize() == length
        assert queue.empty() == (length == 0)
        assert queue.full() == (maxsize != 0 and length == maxsize)
        assert queue.statistics().queued == length


@pytest.mark.slow
@needs(Promise.STATISTICS)
def test_other_processes_see_the_same_numbers_at_once(make: Callable[..., Any]) -> None:
    queue = make()
    for number in range(1, 20):
        with fork(queue.put, number) as child:
            child.result()
        with fork(lambda: (queue.empty(), queue.statistics().queued)) as child:
            assert child.result() == (False, number)
        assert queue.statistics().queued == number


@needs(Promise.BOUNDED, Promise.STATISTICS)
def test_every_snapshot_balances_while_others_work(make: Callable[..., Any]) -> None:
    maxsize = 5
    queue = make(maxsize)
    is_acknowledged = hasattr(queue, "task_done")

    def put() -> None:
        for number in range(3000):
            queue.put(bytes(number % 3 * 1500))

    def take() -> None:
        for _ in range(3000):
            queue.get()
            if is_acknowledged:
                queue.task_done()

    children = [fork(put), fork(take), fork(put), fork(take)]
    while not all(child.has_ended() for child in children):
        now = queue.statistics()
        assert now.puts == now.gets + now.queued + now.dead_letters
        assert 0 <= now.queued <= maxsize
        assert now.high_water <= maxsize
        if is_acknowledged:
            # Each of the two getters holds at most one lease.
            assert now.queued <= now.unfinished <= now.queued + 2
        assert 0 <= queue.qsize() <= maxsize
    for child in children:
        child.result()
        child.close()
    end = queue.statistics()
    assert (end.puts, end.gets, end.queued, end.unfinished) == (6000, 6000, 0, 0)
    assert end.high_water <= maxsize


def test_each_producer_has_its_order(make: Callable[..., Any]) -> None:
    queue = make()
    producers, each = 4, 1000

    def put(producer: int) -> None:
        for number in range(each):
            queue.put((producer, number, bytes(number % 3 * 1500)))

    children = [fork(put, producer) for producer in range(producers)]
    taken = [queue.get()[:2] for _ in range(producers * each)]
    for child in children:
        child.result()
        child.close()
    for producer in range(producers):
        assert [number for other, number in taken if other == producer] == list(range(each))
    assert queue.empty()


def test_items_of_several_processes_are_in_the_order_of_putting(make: Callable[..., Any]) -> None:
    queue = make()
    turn = Queue[int](maxsize=1)
    producers, each = 3, 50

    def put_in_turn(producer: int) -> None:
        for _ in range(each):
            number = turn.get()
            queue.put((number, producer, bytes(number % 3 * 1500)))
            turn.put(number + 1)

    children = [fork(put_in_turn, producer) for producer in range(producers)]
    turn.put(0)
    taken = [queue.get()[0] for _ in range(producers * each)]
    for child in children:
        child.result()
        child.close()
    assert taken == list(range(producers * each))


def test_consumers_take_in_the_order_of_putting(make: Callable[..., Any]) -> None:
    queue = make()
    each = 500

    def take() -> list[int]:
        return [queue.get() for _ in range(each)]

    children = [fork(take) for _ in range(3)]
    for number in range(3 * each):
        queue.put(number)
    taken = [child.result() for child in children]
    for child in children:
        child.close()
    for numbers in taken:
        assert numbers == sorted(numbers)
    if not hasattr(queue, "task_done"):  # leases of the ended getters are redelivered
        assert sorted(number for numbers in taken for number in numbers) == list(range(3 * each))
