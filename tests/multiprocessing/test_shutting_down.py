"""`shutdown()` under every start method, on closed handles, and the exception that it makes others raise."""

import multiprocessing
import pickle
import select
import signal
import subprocess
import sys
import threading
import time
from queue import Empty
from typing import Any

import pytest

import penstock
from penstock import ShutDown
from tests.support.children import fork
from tests.support.programs import METHODS
from tests.support.waiting import until

QUEUES = [penstock.Queue, penstock.JoinableQueue]
every_class = pytest.mark.parametrize("make", [*QUEUES, penstock.SimpleQueue])


def take(queue: Any) -> Any:
    """Take an item, and finish it."""
    got = queue.get()
    if hasattr(queue, "task_done"):
        queue.task_done()
    return got


def work(queue: Any, results: Any) -> None:
    """Take items until the queue ends."""
    got = []
    try:
        while True:
            got.append(take(queue))
    except ShutDown:
        results.put((got, queue.is_shutdown))


@pytest.mark.slow
@every_class
@pytest.mark.parametrize("method", METHODS)
def test_every_start_method(make: Any, method: str) -> None:
    queue, results = make(), penstock.Queue[Any]()
    context = multiprocessing.get_context(method)
    worker = context.Process(target=work, args=(queue, results))
    worker.start()
    queue.put("a")
    queue.put("b")
    queue.shutdown()
    assert results.get() == (["a", "b"], True)
    worker.join()
    assert worker.exitcode == 0


@every_class
def test_a_handle_that_comes_later(make: Any) -> None:
    queue = make()
    queue.shutdown()
    with fork(lambda: pickle.loads(pickle.dumps(queue)).is_shutdown) as child:
        assert child.result()


@pytest.mark.parametrize("make", QUEUES)
def test_a_closed_handle(make: Any) -> None:
    queue = make()
    queue.put("a")
    with fork(take, queue) as getter:
        assert getter.result() == "a"
    other = pickle.loads(pickle.dumps(queue))
    queue.close()
    assert not queue.is_shutdown
    with pytest.raises(ValueError, match="is closed"):
        queue.shutdown()
    other.shutdown()
    assert queue.is_shutdown
    with pytest.raises(ValueError, match="is closed"):
        queue.put("late")
    with pytest.raises(ValueError, match="is closed"):
        queue.get()
    with pytest.raises(ShutDown):
        other.get_nowait()


def test_a_closed_simple_queue() -> None:
    queue = penstock.SimpleQueue[str]()
    queue.close()
    with pytest.raises(OSError, match="closed"):
        queue.shutdown()
    with pytest.raises(OSError, match="closed"):
        _ = queue.is_shutdown


def test_a_closed_joinable_queue_still_counts() -> None:
    queue = penstock.JoinableQueue[str]()
    queue.put("a")
    other = pickle.loads(pickle.dumps(queue))
    assert queue.get() == "a"
    queue.close()
    other.shutdown(immediate=True)
    queue.task_done()
    queue.join()


@every_class
def test_a_selector_learns_it(make: Any) -> None:
    queue = make()
    assert select.select([queue], [], [], 0)[0] == []
    with fork(queue.shutdown) as child:
        child.result()
    assert select.select([queue], [], [], 10)[0] == [queue]
    assert queue._reader.poll(10)
    with pytest.raises(ShutDown):
        queue.get()


def test_a_selector_whose_own_process_has_the_last_item_in_hand() -> None:
    """It asks for the next item without a `task_done()`, as a program does that calls none."""
    queue = penstock.JoinableQueue[str]()
    queue.put("a")
    got = []
    with fork(queue.shutdown) as child:
        child.result()
    try:
        while select.select([queue], [], [], 10)[0]:
            got.append(queue.get())
    except ShutDown:
        got.append("end")
    assert got == ["a", "end"]
    assert queue._reader.poll(0)
    assert queue._reader.poll(10)


@every_class
def test_the_memory_of_what_is_discarded_is_given_back(make: Any) -> None:
    queue = make() if make is penstock.SimpleQueue else make(max_bytes=200_000_000)
    size = 900_000 if make is penstock.SimpleQueue else 50_000_000
    with fork(lambda: [queue.put(bytes(size)), signal.pause()]) as putter:
        until(lambda: not queue.empty())
        queue.shutdown(immediate=True)
        assert queue.statistics().memory_bytes < 20_000_000
        putter.kill()


def test_an_immediate_one_lets_other_threads_run() -> None:
    """It discards many items, and does so without the lock of the interpreter."""
    queue = penstock.Queue[int](max_bytes=200_000_000)
    queue.put_many(range(300_000))
    switched: list[float] = []
    ends = threading.Event()

    def tick() -> None:
        while not ends.is_set():
            switched.append(time.monotonic())
            time.sleep(0.0001)

    ticker = threading.Thread(target=tick)
    ticker.start()
    until(lambda: len(switched) > 10)
    before = len(switched)
    queue.shutdown(immediate=True)
    after = len(switched)
    ends.set()
    ticker.join()
    assert after > before
    assert queue.statistics().discarded == 300_000


def test_a_subclass_inherits_it() -> None:
    class Mine(penstock.Queue[str]):
        pass

    queue = Mine()
    queue.put("a")
    queue.shutdown()
    assert queue.get() == "a"
    with pytest.raises(ShutDown):
        queue.get_nowait()


@pytest.mark.parametrize("truth", [1, "yes", [0]])
def test_the_argument_is_read_as_if_reads_it(truth: Any) -> None:
    queue = penstock.Queue[str]()
    queue.put("a")
    queue.shutdown(truth)
    assert queue.empty()


def test_the_property_cannot_be_set() -> None:
    queue = penstock.Queue[str]()
    with pytest.raises(AttributeError):
        queue.is_shutdown = True  # type: ignore[misc]


def test_a_time_out_that_ends_before() -> None:
    queue = penstock.Queue[str]()
    with pytest.raises(Empty):
        queue.get(timeout=0.01)
    queue.shutdown()
    with pytest.raises(ShutDown):
        queue.get(timeout=0.01)


@every_class
def test_a_late_put_pickles_first(make: Any) -> None:
    queue = make()
    queue.shutdown()
    with pytest.raises(ShutDown):
        queue.put({1, 2})
    with pytest.raises((pickle.PicklingError, AttributeError, TypeError)):
        queue.put(lambda: None)


def test_the_exception_pickles() -> None:
    error = pickle.loads(pickle.dumps(ShutDown("over")))
    assert type(error) is ShutDown
    assert error.args == ("over",)


def run(program: str) -> str:
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


def test_asyncio_is_not_imported() -> None:
    program = """
import sys, penstock
queue = penstock.Queue()
queue.shutdown()
try:
    queue.get()
except penstock.ShutDown:
    print("asyncio" in sys.modules)
"""
    assert run(program) == "False\n"


@pytest.mark.skipif(sys.version_info < (3, 13), reason="asyncio.QueueShutDown is there from 3.13 on")
@pytest.mark.parametrize("first", ["asyncio, penstock", "penstock, asyncio"])
def test_each_except_clause_catches_it(first: str) -> None:
    program = f"""
import {first}, queue
q = penstock.Queue()
q.shutdown()
for kind in (queue.ShutDown, asyncio.QueueShutDown, penstock.ShutDown, penstock.errors.PenstockError):
    try:
        q.get()
    except kind:
        print("caught")
"""
    assert run(program) == "caught\n" * 4


ASYNCIO = """
import asyncio, asyncio.queues, queue, sys, threading
if not hasattr(asyncio.queues, "QueueShutDown"):  # before 3.13
    class QueueShutDown(Exception): pass
    asyncio.queues.QueueShutDown = QueueShutDown
Other = asyncio.queues.QueueShutDown
import penstock
q = penstock.Queue()
q.shutdown()
"""


@pytest.mark.parametrize("bases", ["Other, penstock.ShutDown", "penstock.ShutDown, Other"])
def test_a_class_of_the_program_inherits_from_both(bases: str) -> None:
    program = """
class Mine(BASES):
    pass
for error in (penstock.ShutDown, penstock.errors.PenstockError):
    for again in range(2):
        try:
            q.get()
        except error:
            print("caught")
for error in (Other, penstock.ShutDown):
    try:
        raise Mine("over")
    except error as caught:
        print(*caught.args)
"""
    assert run(ASYNCIO + program.replace("BASES", bases)) == "caught\n" * 4 + "over\n" * 2


def test_two_threads_that_raise_it_first() -> None:
    """Before each line of the one thread, the other one does all of it."""
    program = """
from penstock import errors
function, bases = errors._inherit_from_asyncio, errors.ShutDown.__bases__
line = 0
def trace(frame, event, _):
    global line
    if frame.f_code is function.__code__ and event == "line":
        line += 1
        if line == target:
            sys.settrace(None)
            function()
    return trace
for target in range(1, 20):
    line, errors.ShutDown.__bases__ = 0, bases
    sys.settrace(trace)
    try:
        q.get()
    except Other:
        sys.settrace(None)
    assert errors.ShutDown.__bases__.count(Other) == 1
    if line < target:
        print("each line")
        break
"""
    assert run(ASYNCIO + program) == "each line\n"


def test_a_waiter_of_a_killed_process_is_no_hindrance() -> None:
    queue = penstock.Queue[str]()
    with fork(queue.get) as doomed, fork(work, queue, results := penstock.Queue[Any]()) as worker:
        until(lambda: queue.statistics().waiting_getters == 2)
        doomed.kill()
        doomed.wait()
        queue.shutdown()
        assert results.get() == ([], True)
        worker.result()
