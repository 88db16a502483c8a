"""A `JoinableQueue` on which no process calls `task_done()` or `join()` works as a plain queue."""

import os
import threading
from typing import Any

import pytest

import penstock
from penstock.errors import QueueMemoryError
from tests.support.children import Child, fork
from tests.support.waiting import until

MIB = 1 << 20


def took(q: Any, count: int, told: Any, asks_again: bool) -> None:
    """Take items one by one, report each, and wait to be killed: holding the last item, or in `get()`."""
    for _ in range(count):
        told.put(q.get())
    while True:
        if asks_again:
            q.get()
        threading.Event().wait()


def worker_that_took(q: Any, count: int, *, asks_again: bool) -> tuple[Child, list[Any]]:
    """A process that has taken `count` items, and the items."""
    told = penstock.Queue()
    worker = fork(took, q, count, told, asks_again)
    items = [told.get() for _ in range(count)]
    while asks_again and q.statistics().waiting_getters == 0:
        pass
    return worker, items


def drain(q: Any) -> list[Any]:
    return [q.get() for _ in range(q.qsize())]


def kill(worker: Child, q: Any) -> None:
    with worker:
        worker.kill()
        worker.wait()
    q.statistics()  # sweeps the dead


def test_what_a_killed_worker_had_finished_does_not_come_back() -> None:
    q = penstock.JoinableQueue()
    q.put_many("abc")
    worker, items = worker_that_took(q, 3, asks_again=True)
    assert items == ["a", "b", "c"]
    kill(worker, q)
    assert q.empty()
    now = q.statistics()
    assert (now.unfinished, now.taken, now.redeliveries) == (3, 3, 0)


def test_what_it_had_in_hand_comes_back() -> None:
    q = penstock.JoinableQueue()
    q.put_many("abc")
    worker, _ = worker_that_took(q, 3, asks_again=False)
    kill(worker, q)
    assert drain(q) == ["c"]


@pytest.mark.parametrize("call", ["task_done", "join"])
def test_the_first_call_brings_back_what_the_dead_had_set_aside(call: str) -> None:
    q = penstock.JoinableQueue()
    q.put_many("abcd")
    worker, _ = worker_that_took(q, 3, asks_again=False)
    kill(worker, q)
    assert drain(q) == ["c", "d"]
    with fork(acknowledge, q, call) as other:
        other.result()
        if call == "join":
            assert drain(q) == ["a", "b"]
        else:
            assert q.qsize() == 2  # one item of this process is finished


def acknowledge(q: Any, call: str) -> None:
    """Call the method; `join()` in a thread, because it waits."""
    if call == "task_done":
        q.task_done()
        return
    threading.Thread(target=q.join, daemon=True).start()
    while q.statistics().waiting_joiners == 0:
        pass


def test_from_then_on_nothing_is_set_aside() -> None:
    q = penstock.JoinableQueue()
    q.put("x")
    q.get()
    q.task_done()
    q.put_many("abc")
    worker, _ = worker_that_took(q, 3, asks_again=True)
    kill(worker, q)
    assert drain(q) == ["a", "b", "c"]


def test_an_item_that_came_back_too_often_is_a_dead_letter() -> None:
    q = penstock.JoinableQueue(max_deliveries=0)
    q.put_many("ab")
    worker, _ = worker_that_took(q, 2, asks_again=True)
    kill(worker, q)
    assert q.dead_letters() == []
    q.join()  # the first acknowledgement: what was set aside has exceeded its redeliveries
    assert [letter.item for letter in q.dead_letters()] == ["a", "b"]


def test_a_worker_that_ends_in_order_leaves_its_items_unfinished() -> None:
    q = penstock.JoinableQueue()
    q.put_many("abc")
    context = penstock.get_context("fork")
    worker = context.Process(target=take_all, args=(q,))
    worker.start()
    worker.join()
    q.put("d")
    q.get()
    q.task_done()
    assert (q.qsize(), q.statistics().unfinished) == (0, 3)


def take_all(q: Any) -> None:
    for _ in range(3):
        q.get()


def test_what_threads_have_in_hand_is_not_set_aside_by_others() -> None:
    q = penstock.JoinableQueue()
    q.put_many("abcd")
    told = penstock.Queue()
    with fork(two_threads, q, told) as worker:
        told.get()
        kill(worker, q)
    # One thread has "a" in hand. The other took the rest and waits for more.
    assert drain(q) == ["a"]


def two_threads(q: Any, told: Any) -> None:
    held = threading.Event()

    def hold() -> None:
        q.get()
        held.set()
        threading.Event().wait()

    threading.Thread(target=hold, daemon=True).start()
    held.wait()
    for _ in range(3):
        q.get()
    threading.Thread(target=tell_when_waiting, args=(q, told), daemon=True).start()
    q.get()


def tell_when_waiting(q: Any, told: Any) -> None:
    while q.statistics().waiting_getters == 0:
        pass
    told.put("waiting")


def test_what_ended_threads_had_in_hand_is_set_aside() -> None:
    q = penstock.JoinableQueue()
    q.put_many("abc")
    told = penstock.Queue()
    with fork(a_thread_an_item, q, told) as worker:
        told.get()
        kill(worker, q)
    assert q.empty()


def a_thread_an_item(q: Any, told: Any) -> None:
    for _ in range(3):
        thread = threading.Thread(target=q.get)
        thread.start()
        thread.join()
        # join() returns before the thread has ended for the system, which is when the queue notes its end.
        until(lambda task=f"/proc/self/task/{thread.native_id}": not os.path.exists(task))
    threading.Thread(target=tell_when_waiting, args=(q, told), daemon=True).start()
    q.get()


def test_a_batch_is_in_hand_until_the_next_one() -> None:
    q = penstock.JoinableQueue()
    q.put_many(range(10))
    told = penstock.Queue()
    with fork(take_batches, q, told) as worker:
        told.get()
        kill(worker, q)
    assert drain(q) == [5, 6, 7, 8, 9]


def take_batches(q: Any, told: Any) -> None:
    q.get_many(5)
    told.put(q.get_many(5))
    threading.Event().wait()


@pytest.mark.parametrize("size", [100, 3_000, 100_000, 400_000])
def test_a_program_that_never_says_done_needs_no_more_memory_than_a_plain_queue(size: int) -> None:
    q = penstock.JoinableQueue(max_bytes=4 * MIB)
    items = 4 * 4 * MIB // size + 100
    for _ in range(items):
        q.put(bytes(size))
        assert len(q.get()) == size
    now = q.statistics()
    assert now.unfinished == now.taken == items
    assert now.taken_bytes <= 4 * MIB
    assert now.memory_bytes <= 16 * MIB
    assert q.check() == []


def test_the_oldest_is_given_up_first() -> None:
    q = penstock.JoinableQueue(max_bytes=MIB)
    for number in range(20):
        q.put(bytes([number]) * 100_000)
        q.get()
    told = penstock.Queue()
    with fork(take_many_large_ones, q, told) as worker:
        told.get()
        kill(worker, q)
    q.task_done()
    came_back = [item[0] for item in drain(q)]
    assert came_back == sorted(came_back)
    assert came_back[-1] == 39
    assert 0 < len(came_back) < 20
    assert q.statistics().given_up == 20 - len(came_back)


def take_many_large_ones(q: Any, told: Any) -> None:
    for number in range(20, 40):
        q.put(bytes([number]) * 100_000)
        q.get()
    told.put("done")
    threading.Event().wait()


def test_what_was_given_up_of_the_dead_counts_as_finished() -> None:
    q = penstock.JoinableQueue(max_bytes=MIB)
    told = penstock.Queue()
    with fork(take_many_large_ones, q, told) as worker:
        told.get()
        kill(worker, q)
    given_up = q.statistics().given_up
    assert given_up > 0
    assert q.statistics().unfinished == 20
    q.task_done()  # finishes one of the items that have come back
    assert q.statistics().unfinished == 20 - given_up - 1
    while q.qsize():
        q.get()
        if q.statistics().unfinished:
            q.task_done()
    q.join()


def test_once_items_are_acknowledged_the_taken_ones_count_and_the_error_says_so() -> None:
    q = penstock.JoinableQueue(max_bytes=MIB)
    q.put("x")
    q.get()
    q.task_done()

    def fill() -> None:
        for _ in range(20):
            q.put(bytes(100_000))
            q.get()

    with pytest.raises(QueueMemoryError, match=r"taken and not done.*task_done\(\)") as caught:
        fill()
    error = caught.value
    now = q.statistics()
    assert error.taken == now.taken > 0
    assert error.taken_bytes == now.taken_bytes
    assert MIB // 2 < now.taken_bytes <= MIB
    for _ in range(now.taken):
        q.task_done()
    q.put(bytes(100_000))


def test_a_plain_queue_has_nothing_taken() -> None:
    q = penstock.Queue(max_bytes=MIB)
    q.put(bytes(300_000))
    held = q.get()
    now = q.statistics()
    assert (now.taken, now.taken_bytes, now.given_up) == (0, 0, 0)
    with pytest.raises(QueueMemoryError, match="take items out") as caught:
        q.put(bytes(2 * MIB))
    assert (caught.value.taken, caught.value.taken_bytes) == (0, 0)
    del held
