"""Fairness: the process that has waited for long gets the next item, or the next place."""

import os
import signal
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from queue import Empty, Full
from typing import Any

from tests.conformance.implementations import Promise, needs
from tests.support.children import fork
from tests.support.waiting import until


def work(queue: Any, done: Any, name: int) -> None:
    while queue.get() != "end":
        done.put(name)


def test_every_worker_has_a_share_of_a_load_that_one_could_carry(make: Callable[..., Any]) -> None:
    queue, done = make(), make()
    with ExitStack() as stack:
        workers = [stack.enter_context(fork(work, queue, done, name)) for name in range(4)]
        shares = [0] * len(workers)
        while not all(share > 1 for share in shares):
            queue.put("work")
            shares[done.get()] += 1
        for _ in workers:
            queue.put("end")
        for worker in workers:
            assert worker.result() is None


@needs(Promise.BOUNDED)
def test_no_get_times_out_beside_items_that_flow_past_it(make: Callable[..., Any]) -> None:
    queue, failures = make(), make()

    def consume() -> None:
        try:
            while queue.get(timeout=30) != "end":
                pass
        except Empty:
            failures.put("Empty")

    with ExitStack() as stack:
        # One that would take every item, if it could.
        greedy = stack.enter_context(fork(take_for_ever, queue))
        consumers = [stack.enter_context(fork(consume)) for _ in range(4)]
        while not all(consumer.has_ended() for consumer in consumers):
            queue.put("end")
            time.sleep(0.001)
        greedy.kill()
        greedy.wait()
    assert failures.empty()


def take_for_ever(queue: Any) -> None:
    while True:
        with suppress(Empty):
            queue.get_nowait()


@needs(Promise.BOUNDED, Promise.PUT_IS_DONE)
def test_every_putter_gets_a_place(make: Callable[..., Any]) -> None:
    queue = make(1)

    def produce(name: int) -> None:
        while True:
            queue.put(name)

    def produce_greedily() -> None:
        while True:
            with suppress(Full):
                queue.put_nowait(0)

    with ExitStack() as stack:
        producers = [stack.enter_context(fork(produce, name)) for name in (1, 2, 3)]
        producers.append(stack.enter_context(fork(produce_greedily)))
        seen: set[int] = set()
        while not seen >= {1, 2, 3}:
            seen.add(queue.get())
            time.sleep(0.001)
        for producer in producers:
            producer.kill()
            producer.wait()


class Raised(Exception):
    pass


def finish(queue: Any, block: bool = True) -> Any:
    """Take an item, which then does not come back when this process ends."""
    item = queue.get(block)
    if hasattr(queue, "task_done"):
        queue.task_done()
    return item


@needs(Promise.BOUNDED, Promise.STATISTICS)
def test_what_a_signal_handler_raises_is_not_lost_when_the_item_was_put(make: Callable[..., Any]) -> None:
    """The handler makes room, and the item of the `put()` that it interrupts takes the place."""
    queue = make(1)
    queue.put("first")

    def handler(*_: object) -> None:
        finish(queue, block=False)
        if queue.empty():
            # The put has not waited for long yet.
            queue.put_nowait("first")
        else:
            raise Raised

    def wait() -> str:
        signal.signal(signal.SIGUSR1, handler)
        try:
            queue.put("second")
        except Raised:
            return "raised"
        return "not raised"

    with fork(wait) as child:
        until(lambda: queue.statistics().waiting_putters == 1)
        while not child.has_ended():
            child.kill(signal.SIGUSR1)
            time.sleep(0.02)
        assert child.result() == "raised"
    assert queue.get() == "second"
    assert queue.empty()


@needs(Promise.BOUNDED, Promise.STATISTICS)
def test_a_stopped_waiter_keeps_no_item_from_the_others(make: Callable[..., Any]) -> None:
    queue = make()

    def take() -> Any:
        return finish(queue)

    with fork(take) as stopped, fork(take) as other:
        until(lambda: queue.statistics().waiting_getters == 2)
        stopped.kill(signal.SIGSTOP)
        os.waitid(os.P_PID, stopped.pid, os.WSTOPPED | os.WNOWAIT)
        queue.put("x")
        assert other.result() == "x"
        queue.put("y")
        stopped.kill(signal.SIGCONT)
        assert stopped.result() == "y"
