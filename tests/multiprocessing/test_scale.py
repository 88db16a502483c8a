"""Many processes on one queue, and many queues in one process."""

import resource
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from penstock import JoinableQueue, Queue, SimpleQueue
from tests.support.children import Child, fork
from tests.support.waiting import until

pytestmark = pytest.mark.slow

PROCESSES = 200
QUEUES = 1000

every_kind = pytest.mark.parametrize("kind", [Queue, SimpleQueue, JoinableQueue])


@pytest.fixture(autouse=True)
def _enough_descriptors() -> None:
    """Raise the limit: a process needs two descriptors for each queue, and two for each child."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 4 * QUEUES
    if soft < wanted:
        assert hard >= wanted, f"the limit of open files is {hard}, below {wanted}: raise it (ulimit -Hn)"
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def results(children: list[Child]) -> list[Any]:
    answers = [child.result() for child in children]
    for child in children:
        child.close()
    return answers


@every_kind
def test_200_processes_sleep_in_one_queue(kind: Callable[[], Any]) -> None:
    queue = kind()

    def take() -> int:
        number: int = queue.get()
        if kind is JoinableQueue:
            queue.task_done()
        return number

    children = [fork(take) for _ in range(PROCESSES)]
    until(lambda: queue.statistics().waiting_getters == PROCESSES)
    assert queue.statistics().participants == PROCESSES + 1
    for number in range(PROCESSES):
        queue.put(number)
    assert sorted(results(children)) == list(range(PROCESSES))
    found = queue.statistics()
    assert (found.queued, found.unfinished, found.waiting_getters) == (0, 0, 0)
    assert (found.puts, found.gets, found.participants) == (PROCESSES, PROCESSES, 1)


def test_200_processes_put_and_get_at_once() -> None:
    queue = Queue[tuple[int, int]](maxsize=10)
    each = 50

    def put(number: int) -> None:
        for i in range(each):
            queue.put((number, i))

    def take() -> list[tuple[int, int]]:
        return [queue.get() for _ in range(each)]

    takers = [fork(take) for _ in range(PROCESSES // 2)]
    putters = [fork(put, number) for number in range(PROCESSES // 2)]
    taken = results(takers)
    results(putters)
    assert Counter(item for items in taken for item in items) == Counter(
        (number, i) for number in range(PROCESSES // 2) for i in range(each)
    )
    for items in taken:
        for number in range(PROCESSES // 2):
            mine = [i for other, i in items if other == number]
            assert mine == sorted(mine), "a producer's items came in another order"
    assert queue.statistics().high_water <= 10


def test_200_processes_are_killed_in_one_queue() -> None:
    queue = JoinableQueue[int]()
    for number in range(PROCESSES):
        queue.put(number)

    def take_and_sleep() -> None:
        queue.get()
        nothing.get()

    nothing = Queue[None]()
    children = [fork(take_and_sleep) for _ in range(PROCESSES)]
    until(lambda: nothing.statistics().waiting_getters == PROCESSES)
    assert queue.empty()
    for child in children:
        child.kill()
        child.wait()
        child.close()
    found = queue.statistics()
    assert (found.queued, found.unfinished, found.redeliveries) == (PROCESSES, PROCESSES, PROCESSES)
    assert found.participants == 1
    assert nothing.statistics().waiting_getters == 0
    # Each item is redelivered to its old place.
    assert [queue.get() for _ in range(PROCESSES)] == list(range(PROCESSES))


@every_kind
def test_1000_queues(kind: Callable[[], Any]) -> None:
    queues = [kind() for _ in range(QUEUES)]
    for number, queue in enumerate(queues):
        queue.put(number)

    def work() -> int:
        for number, queue in enumerate(queues):
            assert queue.get() == number
            queue.put((number, bytes(5000)))
            if kind is JoinableQueue:
                queue.task_done()
        return len(queues)

    with fork(work) as child:
        assert child.result() == QUEUES
    for number, queue in enumerate(queues):
        assert queue.get() == (number, bytes(5000))
        assert queue.empty()
        # The memory of a queue after two items, in bytes.
        assert queue.statistics().memory_bytes <= 256 << 10
