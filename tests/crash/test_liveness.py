"""Processes without /proc, in another pid namespace, or of another user: whether they find the dead.

The core's own tests (crates/penstock-core/tests/liveness.rs) try the same without pidfds as well.
"""

import concurrent.futures.process
import ctypes
import errno
import multiprocessing.connection
import multiprocessing.pool
import multiprocessing.popen_fork
import multiprocessing.queues
import operator
import os
import pickle
import select
import signal
import time
import warnings
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest

import penstock
from penstock import JoinableQueue, Queue, SimpleQueue
from penstock.errors import QueueGoneError
from tests.support.children import fork
from tests.support.waiting import until

CLONE_NEWPID = 0x20000000
NOBODY = 65534

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        os.geteuid() != 0, reason="only root may chroot, change its user, and make pid namespaces"
    ),
]

Blind = Callable[[Path], None]


def see_all(folder: Path) -> None:
    pass


def lose_proc(folder: Path) -> None:
    """Change the root to a folder without /proc."""
    folder.chmod(0o755)
    os.chroot(folder)
    os.chdir("/")


def change_user(folder: Path) -> None:
    os.setuid(NOBODY)


every_worker = pytest.mark.parametrize("blind", [lose_proc, change_user])
every_pair = pytest.mark.parametrize(
    ("blind", "blind_survivor"),
    [
        (lose_proc, see_all),
        (see_all, lose_proc),
        (lose_proc, lose_proc),
        (change_user, see_all),
        (change_user, lose_proc),
    ],
)


@every_pair
def test_item_of_a_dead_worker(blind: Blind, blind_survivor: Blind, tmp_path: Path) -> None:
    queue, told = JoinableQueue[str](), Queue[str]()
    queue.put("item")

    def hold() -> None:
        blind(tmp_path)
        warnings.simplefilter("error")
        told.put(queue.get())
        signal.pause()

    def survive() -> str:
        blind_survivor(tmp_path)
        told.put("waiting")
        item = queue.get()
        queue.task_done()
        queue.join()
        return item

    with fork(hold) as worker:
        assert told.get() == "item"
        with fork(survive) as survivor:
            assert told.get() == "waiting"
            until(lambda: queue.statistics().waiting_getters == 1)
            worker.kill()
            assert survivor.result() == "item"


def _hold(folder: Path, queue: Any, told: Any) -> None:
    lose_proc(folder)
    told.put(queue.get())
    time.sleep(1000)


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_worker_of_each_start_method(method: str, tmp_path: Path) -> None:
    context = penstock.get_context(method)
    queue, told = context.JoinableQueue(), context.Queue()
    queue.put("item")
    worker: BaseProcess = context.Process(target=_hold, args=(tmp_path, queue, told))
    worker.start()
    assert told.get() == "item"
    worker.kill()
    worker.join()
    assert queue.get() == "item"
    assert queue.statistics().redeliveries == 1


@every_pair
@pytest.mark.parametrize("make", [Queue, SimpleQueue, JoinableQueue])
def test_workers_are_killed_inside_their_calls(
    make: Callable[[], Any], blind: Blind, blind_survivor: Blind, tmp_path: Path
) -> None:
    queue, told = make(), Queue[int]()

    def be_busy() -> None:
        blind(tmp_path)
        told.put(0)
        while True:
            for number in range(40):
                queue.put(number)
            for _ in range(40):
                queue.get()

    def survive() -> None:
        blind_survivor(tmp_path)
        told.put(0)
        while True:
            queue.put(0)
            queue.get()

    with fork(survive):
        told.get()
        for _ in range(5):
            with fork(be_busy) as worker:
                told.get()
                time.sleep(0.002)  # the kill meets it anywhere
                worker.kill()
            queue.put(0)
    queue.put(0)
    assert queue.check() == []
    assert queue.statistics().participants == 1


@every_worker
def test_a_dead_watcher(blind: Blind, tmp_path: Path) -> None:
    queue, told = Queue[str](), Queue[int]()

    def watch() -> None:
        blind(tmp_path)
        queue.fileno()
        told.put(0)
        signal.pause()

    with fork(watch) as watcher:
        told.get()
        watcher.kill()
    assert queue.statistics().participants == 1
    assert not select.select([queue], [], [], 0)[0]
    queue.put("a")
    assert select.select([queue], [], [], 0)[0]


def _watch_both_ways(folder: Path, blind: Blind) -> None:
    a, b = penstock.Pipe()
    queue = Queue[int]()
    a.send(1)
    blind(folder)
    for _ in range(3):
        assert multiprocessing.connection.wait([b], 10) == [b]
        assert b.poll()
        assert b.recv() == 1
        assert multiprocessing.connection.wait([b, queue], 0) == []
        queue.put(2)
        assert multiprocessing.connection.wait([b, queue], 10) == [queue]
        assert queue.get() == 2
        a.send(1)
    with fork(lambda: [b.recv(), b.send("answer")]):
        assert multiprocessing.connection.wait([a], 10) == [a]
        assert a.recv() == "answer"
    assert multiprocessing.connection.wait([b], 0) == []
    a.close()
    assert multiprocessing.connection.wait([b], 10) == [b]
    with pytest.raises(EOFError):
        b.recv()
    there, back = penstock.Pipe(duplex=False)
    back.send(3)
    assert multiprocessing.connection.wait([there], 10) == [there]
    assert there.recv() == 3


@every_worker
def test_waiting_with_descriptors(blind: Blind, tmp_path: Path) -> None:
    with fork(_watch_both_ways, tmp_path, blind) as child:
        child.result()


def _use_a_pool(folder: Path) -> list[int]:
    lose_proc(folder)
    with penstock.get_context("fork").Pool(2) as pool:
        return list(pool.map(operator.neg, range(20)))


def _use_a_pool_made_before(folder: Path) -> list[int]:
    with penstock.get_context("fork").Pool(2) as pool:
        lose_proc(folder)
        return list(pool.map(operator.neg, range(20)))


def _use_an_executor_made_before(folder: Path) -> list[int]:
    # Made outside: the calls go through a standard queue, whose semaphores cannot be made inside.
    context = penstock.get_context("fork")
    with concurrent.futures.process.ProcessPoolExecutor(2, mp_context=context) as pool:
        lose_proc(folder)
        return list(pool.map(operator.neg, range(20)))


@pytest.mark.parametrize("use", [_use_a_pool, _use_a_pool_made_before, _use_an_executor_made_before])
def test_pools(use: Callable[[Path], list[int]], tmp_path: Path) -> None:
    with fork(use, tmp_path) as child:
        assert child.result() == [-number for number in range(20)]


def _in_pid_namespace(work: Callable[[], Any], without_proc: Path | None = None) -> Any:
    """Return what the work returns in a pid namespace of its own. Runs in a forked child.

    A process that was forked beside /proc keeps the descriptors that it got then. So it loses /proc before.
    """
    assert ctypes.CDLL(None).unshare(CLONE_NEWPID) == 0
    if without_proc is not None:
        lose_proc(without_proc)
    with fork(work) as child:
        return child.result()


def _warnings_of(call: Callable[[], Any]) -> list[str]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        call()
    return [f"{warning.category.__name__}: {warning.message}" for warning in caught]


FIRST_CALLS: dict[str, Callable[[Any], Any]] = {
    "put": lambda queue: queue.put(1),
    "put_many": lambda queue: queue.put_many([1]),
    "put large": lambda queue: queue.put(bytes(1_000_000)),
    "get": lambda queue: queue.get(),
    "get without waiting": lambda queue: queue.get(block=False),
    "get_many": lambda queue: queue.get_many(),
    "task_done": lambda queue: queue.task_done(),
    "fileno": lambda queue: queue.fileno(),
    "statistics": lambda queue: queue.statistics(),
    "check": lambda queue: queue.check(),
}


@pytest.mark.parametrize("call", FIRST_CALLS.values(), ids=list(FIRST_CALLS))
def test_warning_if_nothing_could_prove_a_death(call: Callable[[Any], Any], tmp_path: Path) -> None:
    queue = JoinableQueue[Any]()
    queue.put("a")

    def first_and_second_call() -> list[list[str]]:
        other = JoinableQueue[Any]()  # a queue of this process alone
        assert _warnings_of(lambda: other.put(1)) == []
        return [_warnings_of(lambda: call(queue)), _warnings_of(lambda: queue.put(1))]

    with fork(_in_pid_namespace, first_and_second_call, tmp_path) as child:
        first, second = child.result()
    assert len(first) == 1
    assert first[0].startswith("RuntimeWarning: if this process dies, ")
    assert second == []


def test_a_raised_warning_comes_before_anything_is_done(tmp_path: Path) -> None:
    queue = Queue[str]()
    queue.put("a")

    def get() -> str:
        warnings.simplefilter("error")
        with pytest.raises(RuntimeWarning):
            queue.get()
        return queue.get()

    with fork(_in_pid_namespace, get, tmp_path) as child:
        assert child.result() == "a"


def test_in_another_pid_namespace_with_proc() -> None:
    queue, told = JoinableQueue[str](), Queue[str]()
    queue.put("item")

    def hold() -> None:
        warnings.simplefilter("error")
        told.put(queue.get())
        os.kill(os.getpid(), signal.SIGKILL)  # no effect on the first process of a namespace
        os._exit(1)

    with fork(_in_pid_namespace, hold):
        assert told.get() == "item"
        assert queue.get() == "item"


@every_worker
def test_a_queue_out_of_a_message(blind: Blind, tmp_path: Path) -> None:
    messages, queue = Queue[Any](), Queue[str]()
    inner = Queue[str]()
    sender = os.getpid()

    def receive() -> None:
        blind(tmp_path)
        queue.put("ready")
        messages.get().put("arrived")

    def receive_in_vain() -> tuple[int | None, str]:
        change_user(tmp_path)
        queue.put("ready")
        with pytest.raises(QueueGoneError) as raised:
            messages.get()
        return raised.value.errno, str(raised.value)

    if blind is lose_proc:
        with fork(receive) as child:
            queue.get()
            made_later = Queue[str]()
            messages.put(made_later)
            child.result()
            assert made_later.get() == "arrived"
    else:
        with fork(receive_in_vain) as child:
            queue.get()
            made_later = Queue[str]()
            messages.put(made_later)
            number, text = child.result()
        assert number == errno.EACCES
        assert f"from process {sender}" in text
        assert f"user {NOBODY}" in text
        assert "gone" not in text
    assert pickle.loads(pickle.dumps(inner)) is not inner
