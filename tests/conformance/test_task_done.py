"""Acknowledged queues: `task_done()`, `join()`, and the leases of a worker that ends."""

import multiprocessing
import os
import signal
import sys
from collections.abc import Callable
from typing import Any

import pytest

from tests.conformance.implementations import Promise, needs
from tests.support.children import fork
from tests.support.programs import METHODS
from tests.support.waiting import until

pytestmark = needs(Promise.ACKNOWLEDGED)


def test_task_done_and_join(make: Callable[..., Any]) -> None:
    q = make()
    q.join()

    def work() -> None:
        for _ in iter(q.get, None):
            q.task_done()

    workers = [fork(work) for _ in range(3)]
    for number in range(100):
        q.put(number)
    q.join()
    for _ in workers:
        q.put(None)
    for worker in workers:
        worker.result()
        worker.close()
    for _ in workers:
        q.task_done()
    with pytest.raises(ValueError, match=r"task_done\(\) called too many times"):
        q.task_done()


def test_task_done_for_an_item_that_another_process_took(make: Callable[..., Any]) -> None:
    q = make()
    q.put(1)
    assert q.get() == 1
    with fork(q.task_done) as child:
        child.result()
    q.join()


@needs(Promise.STATISTICS)
def test_join_waits_for_the_last_item(make: Callable[..., Any]) -> None:
    q = make()
    q.put(1)
    with fork(q.join) as child:
        until(lambda: q.statistics().waiting_joiners == 1)
        assert q.get() == 1
        assert not child.has_ended()
        q.task_done()
        child.result()


# Whether the leases of a process are redelivered depends on how it ends.


def end_by_returning() -> None:
    pass


def end_by_exit_0() -> None:
    sys.exit(0)


def end_by_exit() -> None:
    sys.exit()


def end_by_exit_3() -> None:
    sys.exit(3)


def end_by_exit_message() -> None:
    sys.exit("a message")


class Raised(Exception):
    pass


def end_by_exception() -> None:
    raise Raised


def end_by_os_exit() -> None:
    os._exit(0)


def end_by_sigkill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def end_by_sigterm() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


IN_ORDER = (end_by_returning, end_by_exit_0, end_by_exit)


BY_A_CRASH = (
    end_by_exit_3,
    end_by_exit_message,
    end_by_exception,
    end_by_os_exit,
    end_by_sigkill,
    end_by_sigterm,
)


def take_and_end(q: Any, end: Callable[[], None]) -> None:
    q.get()
    end()


@pytest.mark.slow
@needs(Promise.REDELIVERED, Promise.STATISTICS)
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("end", IN_ORDER)
def test_a_worker_that_ends_in_order(make: Callable[..., Any], end: Callable[[], None], method: str) -> None:
    q = make()
    q.put("a")
    process = multiprocessing.get_context(method).Process(target=take_and_end, args=(q, end))
    process.start()
    process.join()
    assert process.exitcode == 0
    now = q.statistics()
    assert (now.queued, now.unfinished, now.redeliveries) == (0, 1, 0)
    q.task_done()  # finishes the item of the worker
    q.join()


@pytest.mark.slow
@needs(Promise.REDELIVERED, Promise.STATISTICS)
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("end", BY_A_CRASH)
def test_a_worker_that_crashes(make: Callable[..., Any], end: Callable[[], None], method: str) -> None:
    q = make()
    q.put("a")
    process = multiprocessing.get_context(method).Process(target=take_and_end, args=(q, end))
    process.start()
    process.join()
    assert q.get() == "a"
    assert q.statistics().redeliveries == 1
    q.task_done()
    q.join()


@needs(Promise.REDELIVERED, Promise.STATISTICS)
def test_an_item_that_kills_each_of_its_workers(make: Callable[..., Any]) -> None:
    q = make(max_deliveries=2)
    q.put("poison")
    q.put("good")
    for death in range(3):
        until(lambda: q.statistics().queued == 2)
        assert q.statistics().redeliveries == death
        with fork(take_and_end, q, end_by_sigkill) as child:
            assert child.wait() == -signal.SIGKILL
    until(lambda: q.statistics().dead_letters == 1)
    assert q.get() == "good"
    q.task_done()
    q.join()
    assert [letter.item for letter in q.dead_letters()] == ["poison"]
    assert q.dead_letters() == q.dead_letters()
