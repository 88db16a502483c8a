"""Processes die by SIGKILL, and the others go on."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from penstock import JoinableQueue, Queue, SimpleQueue
from tests.support.children import fork
from tests.support.operations import AB, NOTHING, OUTCOMES, die_holding_an_item, put_x, put_y
from tests.support.programs import ROOT
from tests.support.survivors import LARGE, Item, Left, get_name, item, leftovers, name_of, take
from tests.support.waiting import until

FAULT_POINTS = Path(__file__).with_name("fault_points.py")
STOPPED = Path(__file__).with_name("stopped_inside.py")
PARTS = 3  # that run at once: most of the time they wait for a survivor to notice the death


@pytest.mark.slow
@pytest.mark.limit(900)
def test_death_at_every_fault_point() -> None:
    folder = os.environ.get("PENSTOCK_FAULT_POINTS_PATH")
    assert folder, "PENSTOCK_FAULT_POINTS_PATH must name the folder of the build for tests, as in `make test`"
    command = [
        sys.executable,
        "-m",
        "pytest",
        "--quiet",
        "-p",
        "no:cacheprovider",
        "-p",
        "tests.support.parts",
    ]
    command += [str(FAULT_POINTS), str(STOPPED)]
    with ExitStack() as stack:
        running = []
        for part in range(1, PARTS + 1):
            environment = {**os.environ, "PYTHONPATH": folder, "PENSTOCK_PART": f"{part}/{PARTS}"}
            popen = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True)
            running.append(stack.enter_context(popen))
        done = [program.communicate()[0] for program in running]
    print(*done, sep="\n")
    assert [program.returncode for program in running] == [0] * PARTS
    summaries = [
        re.search(r"^(\d+) passed, \d+ deselected(?:, \d+ warnings?)? in", output, re.MULTILINE)
        for output in done
    ]
    assert all(summaries), "none may be skipped there"
    assert sum(int(summary[1]) for summary in summaries if summary) > sum(map(len, OUTCOMES.values()))


@pytest.mark.parametrize("kind", [Queue, SimpleQueue, JoinableQueue])
def test_idle_consumers_die(kind: Callable[[], Any]) -> None:
    queue = kind()
    idle = [fork(queue.get) for _ in range(3)]
    until(lambda: queue.statistics().waiting_getters == 3)
    for child in idle:
        child.kill()
        assert child.wait() == -signal.SIGKILL
        child.close()
    assert queue.statistics().waiting_getters == 0
    queue.put(item("A"))
    queue.put(item("B"))
    assert leftovers(queue) == AB


def test_one_of_several_idle_consumers_dies() -> None:
    queue = Queue[Item]()
    with fork(get_name, queue) as one, fork(queue.get) as killed, fork(get_name, queue) as other:
        until(lambda: queue.statistics().waiting_getters == 3)
        killed.kill()
        killed.wait()
        put_x(queue)
        put_y(queue)
        assert {one.result(), other.result()} == {"X", "Y"}
    assert leftovers(queue) == NOTHING


def test_blocked_producer_dies() -> None:
    queue = Queue[Item](maxsize=1)
    queue.put(item("A"))
    with fork(put_x, queue) as killed, fork(put_y, queue) as other:
        until(lambda: queue.statistics().waiting_putters == 2)
        killed.kill()
        killed.wait()
        assert get_name(queue) == "A"
        other.result()
    assert leftovers(queue) == Left("Y")


def test_blocked_joiner_dies() -> None:
    queue = JoinableQueue[Item]()
    queue.put(item("A"))
    with fork(queue.join) as killed, fork(queue.join) as other:
        until(lambda: queue.statistics().waiting_joiners == 2)
        killed.kill()
        killed.wait()
        assert get_name(queue) == "A"
        queue.task_done()
        other.result()
    assert leftovers(queue) == NOTHING


def test_worker_dies_and_another_finishes_its_item() -> None:
    queue = JoinableQueue[Item]()
    queue.put(item("A"))
    queue.put(item("B"))
    with fork(die_holding_an_item, queue) as killed:
        killed.wait()
    # Redelivered to its old place, before later items.
    with fork(take, queue, 2, 2) as other:
        assert other.result() == "AB"
    queue.get()
    queue.task_done()
    queue.join()


@pytest.mark.parametrize("again", [0, 1, 3])
def test_item_that_kills_its_workers_becomes_a_dead_letter(again: int) -> None:
    queue = JoinableQueue[Item](max_deliveries=again)
    queue.put(item("A", LARGE))
    queue.put(item("B"))
    for death in range(1, again + 2):
        assert queue.dead_letters() == []
        with fork(die_holding_an_item, queue) as killed:
            killed.wait()
        assert queue.statistics().redeliveries == min(death, again)
    found = queue.statistics()
    assert (found.queued, found.unfinished, found.dead_letters) == (1, 1, 1)
    assert found.puts == found.gets + found.queued + found.dead_letters
    assert [name_of(letter.item) for letter in queue.dead_letters()] == ["A"]
    assert get_name(queue) == "B"
    queue.task_done()
    queue.join()
    # Dead letters stay readable.
    assert [letter.item for letter in queue.dead_letters()] == [item("A", LARGE)]


def test_stopped_holder_of_an_item_is_not_dead() -> None:
    queue = JoinableQueue[Item]()
    queue.put(item("A"))

    def take_and_finish_when_continued() -> None:
        queue.get()
        os.kill(os.getpid(), signal.SIGSTOP)
        queue.task_done()

    with fork(take_and_finish_when_continued) as worker, fork(queue.join) as joiner:
        until(worker.is_stopped)
        found = queue.statistics()
        assert (found.queued, found.unfinished, found.redeliveries) == (0, 1, 0)
        assert not joiner.has_ended()
        worker.kill(signal.SIGCONT)
        worker.result()
        joiner.result()
    assert leftovers(queue) == NOTHING


def under_signals(call: Callable[[], object]) -> object:
    """Call with a signal every 3 ms: far more often than a waiter checks for the dead (100 ms)."""
    signal.signal(signal.SIGALRM, lambda *_: None)
    signal.setitimer(signal.ITIMER_REAL, 0.003, 0.003)
    return call()


def take_and_stay(queue: Any) -> None:
    queue.get()
    signal.pause()


def test_joiner_that_gets_signals_all_the_time_notices_a_death() -> None:
    queue = JoinableQueue[Item](max_deliveries=0)
    queue.put(item("A"))
    with fork(take_and_stay, queue) as worker, fork(under_signals, queue.join) as joiner:
        until(lambda: queue.statistics().waiting_joiners == 1 and queue.empty())
        worker.kill()
        assert joiner.result() is None
    assert [letter.item for letter in queue.dead_letters()] == [item("A")]


def test_getter_that_gets_signals_all_the_time_notices_a_death() -> None:
    queue = JoinableQueue[Item]()
    queue.put(item("A"))
    with fork(take_and_stay, queue) as worker:
        until(queue.empty)
        with fork(under_signals, lambda: get_name(queue)) as getter:
            until(lambda: queue.statistics().waiting_getters == 1)
            worker.kill()
            assert getter.result() == "A"
