"""The three classes: their methods, and that these behave as those of `multiprocessing`."""

import contextlib
import inspect
import math
import multiprocessing
import multiprocessing.queues
import os
import queue
import signal
import threading
from collections.abc import Callable
from multiprocessing.context import BaseContext
from pathlib import Path
from typing import Any

import pytest

import penstock
from penstock.errors import PenstockError, QueueMemoryError
from tests.support.children import Child, fork
from tests.support.programs import METHODS, PLAIN, run
from tests.support.waiting import until

CLASSES = (penstock.Queue, penstock.SimpleQueue, penstock.JoinableQueue)
WITH_TIMEOUTS = (penstock.Queue, penstock.JoinableQueue)
every_class = pytest.mark.parametrize("make", CLASSES)


# Arguments and limits.


@pytest.mark.parametrize("block", [0, "", None, []])
def test_block_is_read_as_if_reads_it(block: object) -> None:
    q = penstock.Queue[int](maxsize=1)
    with pytest.raises(queue.Empty):
        q.get(block)  # type: ignore[arg-type]
    q.put(1, "yes")  # type: ignore[arg-type]
    with pytest.raises(queue.Full):
        q.put(2, block)  # type: ignore[arg-type]


def test_timeouts_that_are_none() -> None:
    q = penstock.Queue[int]()
    with pytest.raises(ValueError, match="NaN"):
        q.get(timeout=math.nan)
    with pytest.raises(TypeError):
        q.get(timeout="1")  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        q.put(1, True, "1")  # type: ignore[arg-type]
    q.put(1, False, "not looked at")  # type: ignore[arg-type]
    assert q.get(False, "not looked at") == 1  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"maxsize": "1"}, TypeError),
        ({"maxsize": 1.0}, TypeError),
        ({"maxsize": None}, TypeError),
        ({"maxsize": 1 << 70}, ValueError),
        ({"protocol": 6}, ValueError),
        ({"protocol": -1}, ValueError),
        ({"protocol": "5"}, TypeError),
        ({"max_bytes": 0}, ValueError),
        ({"max_bytes": 1.5}, TypeError),
        ({"max_deliveries": 256}, ValueError),
        ({"max_deliveries": -1}, ValueError),
        ({"unknown": 1}, TypeError),
    ],
)
def test_arguments_out_of_range(arguments: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error, match=next(iter(arguments))):
        penstock.JoinableQueue(**arguments)


@every_class
def test_max_bytes(make: Callable[..., Any]) -> None:
    q = make(max_bytes=1 << 20)
    q.put("first")
    with pytest.raises(QueueMemoryError, match="max_bytes") as raised:
        q.put(bytes(2 << 20))
    assert raised.value.limit == 1 << 20
    assert raised.value.needed > 2 << 20
    assert raised.value.used is not None
    for base in (PenstockError, queue.Full, MemoryError):
        assert isinstance(raised.value, base)
    q.put("second")
    assert [q.get(), q.get()] == ["first", "second"]


def test_simple_queue_waits_when_many_bytes_are_queued() -> None:
    q = penstock.SimpleQueue[bytes]()
    sent = [bytes([number]) * 100_000 for number in range(100)]

    def produce() -> None:
        for item in sent:
            q.put(item)

    with fork(produce) as child:
        until(lambda: q.statistics().waiting_putters == 1)
        assert q.statistics().queued < 20
        assert [q.get() for _ in sent] == sent
        child.result()


@pytest.mark.slow
@every_class
def test_fork_while_threads_put_and_get(make: Callable[[], Any]) -> None:
    q, answers = make(), make()
    stop = threading.Event()

    def busy() -> None:
        while not stop.is_set():
            q.put(("thread", bytes(5000)))
            q.get()

    threads = [threading.Thread(target=busy) for _ in range(3)]
    for thread in threads:
        thread.start()
    for number in range(20):
        with fork(answers.put, number) as child:
            child.result()
        assert answers.get() == number
    stop.set()
    for thread in threads:
        thread.join()
    assert q.empty()


# Closing.


@pytest.mark.parametrize("make", WITH_TIMEOUTS)
def test_a_queue_that_is_closed_unused(make: Callable[[], Any]) -> None:
    q = make()
    q.close()
    assert q.empty()
    assert not q.full()


@pytest.mark.parametrize("make", WITH_TIMEOUTS)
def test_a_queue_that_is_closed_after_use_does_not_tell_whether_it_is_empty(make: Callable[[], Any]) -> None:
    q = make()
    q.put("a")
    q.close()
    with pytest.raises(OSError, match="is closed"):
        q.empty()


def test_a_closed_simple_queue() -> None:
    q = penstock.SimpleQueue[str]()
    q.close()
    q.close()
    for operation in (lambda: q.put("a"), q.get, q.empty, q.__getstate__):
        with pytest.raises(OSError, match="handle is closed"):
            operation()


def test_closing_is_for_one_process() -> None:
    q = penstock.Queue[str]()
    q.close()
    # As with multiprocessing: a child opens its own handle.
    with fork(q.put, "from a child") as child:
        child.result()
    with fork(q.get) as child:
        assert child.result() == "from a child"


# Classes.


def test_the_family() -> None:
    assert issubclass(penstock.JoinableQueue, penstock.Queue)
    assert not issubclass(penstock.SimpleQueue, penstock.Queue)


@every_class
def test_generic_aliases(make: Any) -> None:
    assert make[int].__origin__ is make
    q = make[int]()
    assert type(q) is make
    q.put(1)
    assert q.get() == 1


@every_class
def test_repr_names_class_and_queue(make: Callable[[], Any]) -> None:
    q = make()
    assert type(q).__name__ in repr(q)
    assert q._id.hex() in repr(q)


class Labelled(penstock.Queue[Any]):
    """A subclass, as programs make them of the queues of `multiprocessing`."""

    def __init__(self, label: str, maxsize: int = 0, *, ctx: BaseContext) -> None:
        super().__init__(maxsize, ctx=ctx)
        self.label = label

    def __getstate__(self) -> Any:
        return {"parent_state": super().__getstate__(), "label": self.label}

    def __setstate__(self, state: Any) -> None:
        super().__setstate__(state["parent_state"])
        self.label = state["label"]

    def put(self, obj: Any, block: bool = True, timeout: float | None = None) -> None:
        super().put((self.label, obj), block, timeout)

    def get(self, *args: Any, **kwargs: Any) -> Any:
        label, obj = super().get(*args, **kwargs)
        assert label == self.label
        return obj


@pytest.mark.parametrize("method", METHODS)
def test_a_subclass_with_a_state_of_its_own(method: str) -> None:
    context = multiprocessing.get_context(method)
    q = Labelled("a label", 10, ctx=context)
    q.put_nowait("from the parent")
    process = context.Process(target=q.put_nowait, args=("from a child",))
    process.start()
    process.join()
    assert process.exitcode == 0
    assert [q.get_nowait(), q.get()] == ["from the parent", "from a child"]


def test_a_subclass_that_forgets_init() -> None:
    class Forgetful(penstock.Queue[int]):
        def __init__(self, *anything: object, **more: object) -> None:
            pass

    q = Forgetful(1, two=2)
    assert "not open" in repr(q)
    for operation in (lambda: q.put(1), q.get, q.qsize, q.statistics):
        with pytest.raises(RuntimeError, match="__init__"):
            operation()


# `check()`.


def test_check_says_what_is_wrong() -> None:
    q = penstock.JoinableQueue[bytes]()
    for size in (1, 1000, 100_000):
        q.put(bytes(size))
    q.get()
    assert q.check() == []
    # The count of queued items lies 24 bytes behind the start of the second page.
    os.pwrite(q._fd, bytes([7]), 4096 + 24)
    assert "ready_count: a recount differs (7, not 2)" in q.check()


# How a program ends.


# A main program ends, and its parent survives.
MAIN = """
import os, sys, penstock
q = penstock.JoinableQueue()
q.put("a")
if os.fork() == 0:
    q.get()
    {end}
else:
    os.wait()
    now = q.statistics()
    print(now.queued, now.unfinished, now.redeliveries)
"""


@pytest.mark.parametrize(
    ("end", "figures"),
    [
        ("pass", "0 1 0"),
        ("sys.exit(0)", "0 1 0"),
        ("raise ValueError", "1 1 1"),
        ("raise KeyboardInterrupt", "1 1 1"),
        ("os._exit(0)", "1 1 1"),
        ("os.abort()", "1 1 1"),
    ],
)
def test_the_end_of_a_main_program(end: str, figures: str, tmp_path: Path) -> None:
    done = run(PLAIN, ["-c", MAIN.format(end=end)], folder=tmp_path)
    assert done.stdout.decode().strip() == figures, done.stderr.decode()


def test_a_daemon_thread_that_waits_does_not_disturb_the_end(tmp_path: Path) -> None:
    program = """
import threading, time, penstock
q = penstock.Queue()
for _ in range(3):
    threading.Thread(target=q.get, daemon=True).start()
while q.statistics().waiting_getters < 3:
    time.sleep(0.001)
print("end")
"""
    done = run(PLAIN, ["-c", program], folder=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"end\n", b"")


# Figures.


def test_statistics() -> None:
    q = penstock.JoinableQueue[str]()
    for item in "abc":
        q.put(item)
    assert q.get() == "a"
    q.task_done()
    assert q.get() == "b"
    now = q.statistics()
    assert isinstance(now, penstock.Statistics)
    assert (now.puts, now.gets, now.queued, now.unfinished, now.high_water) == (3, 2, 1, 2, 3)
    assert (now.participants, now.redeliveries, now.dead_letters) == (1, 0, 0)
    assert (now.waiting_getters, now.waiting_putters, now.waiting_joiners) == (0, 0, 0)
    assert now.bytes > 3
    assert now.memory_bytes > 0
    with pytest.raises(AttributeError):
        now.puts = 0  # type: ignore[misc]


def test_children_are_participants() -> None:
    q, go = penstock.Queue[int](), penstock.Queue[int]()

    def take_part() -> None:
        q.put(1)
        go.get()

    children: list[Child] = [fork(take_part) for _ in range(5)]
    for _ in children:
        q.get()
    assert q.statistics().participants == 6
    for _ in children:
        go.put(1)
    for child in children:
        child.result()
        child.close()
    assert q.statistics().participants == 1


@pytest.mark.parametrize("name", ["Queue", "JoinableQueue", "SimpleQueue"])
def test_methods_take_the_arguments_of_their_namesakes(name: str) -> None:
    ours, standard = getattr(penstock, name), getattr(multiprocessing.queues, name)
    methods = [method for method in vars(standard) if not method.startswith("_")]
    if name == "JoinableQueue":
        methods += [method for method in vars(multiprocessing.queues.Queue) if not method.startswith("_")]
    assert {"put", "get"} <= set(methods) or name == "JoinableQueue"
    for method in methods:
        wanted = list(inspect.signature(getattr(standard, method)).parameters)
        taken = list(inspect.signature(getattr(ours, method)).parameters.values())
        more = taken[len(wanted) :]
        assert [parameter.name for parameter in taken[: len(wanted)]] == wanted, method
        # What a method takes beyond them has a name and a default: no call of a namesake gives it.
        assert all(parameter.kind is inspect.Parameter.KEYWORD_ONLY for parameter in more), method
        assert all(parameter.default is not inspect.Parameter.empty for parameter in more), method


def test_dead_letter_that_cannot_be_rebuilt_hides_no_other() -> None:
    queue = penstock.JoinableQueue(max_deliveries=0)
    for item in (Unbuildable(), "fine"):
        queue.put(item)

    def take_and_die() -> None:
        with contextlib.suppress(ValueError):
            queue.get()
        os.kill(os.getpid(), signal.SIGKILL)

    for count in (1, 2):
        with fork(take_and_die) as child:
            assert child.wait() == -signal.SIGKILL
        assert queue.statistics().dead_letters == count
    letters = queue.dead_letters()
    with pytest.raises(ValueError, match="invalid literal"):
        letters[0].item  # noqa: B018
    assert letters[1].item == "fine"


class Unbuildable:
    def __reduce__(self) -> tuple[type, tuple[str]]:
        return int, ("x",)


@pytest.mark.parametrize("make", [penstock.Queue, penstock.JoinableQueue, penstock.SimpleQueue])
def test_a_second_init_makes_a_fresh_queue(make: Callable[[], Any]) -> None:
    q = make()
    q.put("old")
    q._reader.close()
    q.close()
    before = q._id
    q.__init__()
    assert q._id != before
    assert q.empty()
    q.put("new")
    assert q._reader.recv() == "new"
    q.__init__()
    assert q.empty()
