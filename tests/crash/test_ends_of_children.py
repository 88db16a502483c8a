"""What a child of `multiprocessing` leaves when its main function has returned, and its threads go on."""

import multiprocessing
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

import penstock
from penstock import JoinableQueue, Queue, ShutDown
from tests.support.programs import METHODS
from tests.support.waiting import until

every_method = pytest.mark.parametrize(
    "method", ["fork", *(pytest.param(method, marks=pytest.mark.slow) for method in METHODS[1:])]
)


class Failed(Exception):
    pass


def run_beside(work: Callable[..., None], arguments: tuple[Any, ...], is_daemon: bool, begun: Any) -> None:
    """Start a thread that works, and return once it is in the middle of its work."""
    threading.excepthook = lambda _: None
    threading.Thread(target=work, args=arguments, daemon=is_daemon).start()
    begun.get()


def child(method: str, work: Callable[..., None], *arguments: Any, is_daemon: bool = False) -> Any:
    """A child whose main function returns while a thread of it works."""
    context = multiprocessing.get_context(method)
    begun = Queue[bool]()
    process = context.Process(target=run_beside, args=(work, (*arguments, begun), is_daemon, begun))
    process.start()
    return process


HAS_RETURNED = threading.Event()


def goes_on(goal: Any, begun: Any) -> None:
    """Say that the work has begun, and wait until the child has left its main function behind."""
    from multiprocessing import util

    # Run after ours. Up to Python 3.12 that is before the threads have ended, later it is after that.
    util.Finalize(None, HAS_RETURNED.set, exitpriority=-1)
    begun.put(True)
    if sys.version_info < (3, 13):
        assert HAS_RETURNED.wait(20)
    goal.get()


def leasing(q: Any, goal: Any, end: str, begun: Any) -> None:
    with q.lease() as lease:
        goes_on(goal, begun)
        if end == "raise":
            raise Failed
        if end:
            getattr(lease, end)()


@every_method
@pytest.mark.parametrize("end", ["", "ack", "raise", "release"])
def test_a_thread_settles_its_lease(method: str, end: str) -> None:
    q, goal = JoinableQueue[str](), Queue[bool]()
    q.put_many("ab")
    process = child(method, leasing, q, goal, end)
    until(lambda: q.statistics().taken == 1)
    until(lambda: goal.statistics().waiting_getters == 1)
    goal.put(True)
    process.join()
    assert process.exitcode == 0
    now = q.statistics()
    if end in ("raise", "release"):
        assert (now.queued, now.unfinished, now.redeliveries) == (2, 2, int(end == "raise"))
    else:
        assert (now.queued, now.unfinished, now.redeliveries) == (1, 1, 0)
    assert q.check() == []


def looping(q: Any, goal: Any, begun: Any) -> None:
    for item in q:
        if item == "a":
            goes_on(goal, begun)


@every_method
def test_a_thread_loops(method: str) -> None:
    q, goal = JoinableQueue[str](), Queue[bool]()
    q.put_many("abc")
    process = child(method, looping, q, goal)
    until(lambda: goal.statistics().waiting_getters == 1)
    goal.put(True)
    q.join()
    q.shutdown()
    process.join()
    assert process.exitcode == 0
    assert q.statistics().redeliveries == 0


def producing(q: Any, goal: Any, begun: Any) -> None:
    with q.producing():
        goes_on(goal, begun)
        q.put("a")


@every_method
@pytest.mark.parametrize("make", [Queue, JoinableQueue])
def test_a_thread_produces(method: str, make: Any) -> None:
    q, goal = make(), Queue[bool]()
    process = child(method, producing, q, goal)
    until(lambda: goal.statistics().waiting_getters == 1)
    assert q.statistics().producers == 1
    goal.put(True)
    assert list(q) == ["a"]
    process.join()


def work_in_a_pool(q: Any, goal: Any) -> None:
    """Leave work to a pool's threads, which is not shut down."""
    began = threading.Event()

    def work() -> None:
        with q.lease(), q.producing():
            began.set()
            goal.get()

    ThreadPoolExecutor(1).submit(work)
    began.wait()


@every_method
def test_a_pool_that_was_not_shut_down(method: str) -> None:
    q, goal = JoinableQueue[str](), Queue[bool]()
    q.put("a")
    process = multiprocessing.get_context(method).Process(target=work_in_a_pool, args=(q, goal))
    process.start()
    until(lambda: goal.statistics().waiting_getters == 1)
    goal.put(True)
    q.join()
    process.join()
    assert q.is_shutdown


def in_hand(q: Any, how: str, begun: Any) -> None:
    """Have an item in hand, for ever."""
    if how == "lease":
        with q.lease():
            begun.put(True)
            threading.Event().wait()
    elif how == "loop":
        for _ in q:
            begun.put(True)
            threading.Event().wait()
    else:
        q.get()
        begun.put(True)
        threading.Event().wait()


@every_method
@pytest.mark.parametrize("how", ["lease", "loop", "get"])
def test_a_daemon_thread(method: str, how: str) -> None:
    """Its process ends in order, without it. What it took by `get()` stays undone, as elsewhere."""
    q = JoinableQueue[str]()
    q.put_many("ab")
    process = child(method, in_hand, q, how, is_daemon=True)
    process.join()
    assert process.exitcode == 0
    now = q.statistics()
    came_back = how != "get"
    assert (now.queued, now.unfinished, now.redeliveries) == (1 + came_back, 2, came_back)
    assert q.check() == []


def lose_a_lease(q: Any) -> None:
    q.lease().__enter__()


@every_method
@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_a_lease_that_was_collected(method: str) -> None:
    q = JoinableQueue[str]()
    q.put("a")
    process = multiprocessing.get_context(method).Process(target=lose_a_lease, args=(q,))
    process.start()
    process.join()
    with q.lease(timeout=20) as lease:
        assert (lease.item, lease.deliveries) == ("a", 2)
    q.join()


def leave_a_loop(q: Any) -> None:
    for _ in q:
        break


@every_method
def test_a_loop_that_was_left(method: str) -> None:
    q = JoinableQueue[str]()
    q.put_many("ab")
    process = multiprocessing.get_context(method).Process(target=leave_a_loop, args=(q,))
    process.start()
    process.join()
    now = q.statistics()
    assert (now.queued, now.unfinished, now.redeliveries) == (1, 2, 0)


def take_and_exit(q: Any, status: int) -> None:
    """Take an item, leave a thread at work, and end with a status."""
    q.get()
    began = threading.Event()

    def work() -> None:
        began.set()
        until(lambda: not threading.main_thread().is_alive() or q.is_shutdown)

    threading.Thread(target=work).start()
    began.wait()
    if status:
        raise SystemExit(status)


@every_method
@pytest.mark.parametrize("status", [0, 3])
def test_the_status_is_known_after_the_threads(method: str, status: int) -> None:
    q = JoinableQueue[str]()
    q.put("a")
    q.put("b")
    q.get()
    q.task_done()
    process = multiprocessing.get_context(method).Process(target=take_and_exit, args=(q, status))
    process.start()
    # It may have ended before this process asks.
    until(lambda: q.statistics().taken == 1 or not process.is_alive())
    q.shutdown()
    process.join()
    assert process.exitcode == status
    now = q.statistics()
    assert (now.queued, now.unfinished) == (int(status != 0), 1)


def test_a_fork_while_an_exception_is_handled() -> None:
    """The child ends in order: the exception is its parent's."""
    q = JoinableQueue[str]()
    q.put_many("abc")
    q.get()
    q.task_done()
    try:
        raise Failed
    except Failed:
        process = multiprocessing.get_context("fork").Process(target=q.get)
        process.start()
    process.join()
    now = q.statistics()
    assert (now.queued, now.unfinished, now.redeliveries) == (1, 2, 0)


def produce(q: Any) -> None:
    try:
        with q.producing(expect=2):
            q.put("x")
    except ShutDown:
        raise AssertionError("it has ended too early") from None


def test_tasks_of_a_pool_that_get_the_queue_anew() -> None:
    """Two tasks of one worker are one producer, though the queue is closed in between."""
    q = penstock.Queue[str]()
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        pool.apply(produce, (q,))
        pool.apply(produce, (q,))
    assert not q.is_shutdown
    produce(q)
    assert list(q) == ["x"] * 3
