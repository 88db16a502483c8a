"""`close()` gives back what the process has of a queue, as far as it has nothing in hand."""

import gc
import multiprocessing
import os
import pickle
import resource
import signal
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from multiprocessing import get_context
from pathlib import Path
from queue import Empty
from typing import Any

import numpy as np
import pytest

import penstock
from tests.support.children import fork
from tests.support.waiting import until

QUEUES = [penstock.Queue, penstock.JoinableQueue]
every_queue = pytest.mark.parametrize("make", QUEUES)
every_class = pytest.mark.parametrize("make", [*QUEUES, penstock.SimpleQueue])
METHODS = ["fork", "spawn", "forkserver"]

ARRAY = np.arange(300_000, dtype=np.int64)


def descriptors() -> int:
    """Count what a queue may have open: its memory, its life byte, its notifier."""
    found = 0
    for name in os.listdir("/proc/self/fd"):
        with suppress(FileNotFoundError):  # the descriptor that listed the folder
            found += os.readlink(f"/proc/self/fd/{name}").startswith(("/memfd:penstock-", "pipe:"))
    return found


def mappings() -> int:
    return Path("/proc/self/maps").read_text().count("/memfd:penstock-")


def participants(queue: Any) -> int:
    """Count the participants that another process sees beside itself."""
    with fork(lambda: queue.statistics().participants - 1) as child:
        count: int = child.result()
        return count


@contextmanager
def nothing_left() -> Iterator[None]:
    gc.collect()
    before = descriptors(), mappings()
    yield
    gc.collect()
    assert (descriptors(), mappings()) == before


def use(queue: Any) -> None:
    queue.put("x")
    assert queue.get() == "x"


# What goes at once.


@every_class
def test_descriptors_go_with_the_last_handle(make: Callable[[], Any]) -> None:
    before = descriptors()
    with nothing_left():
        queue = make()
        use(queue)
        queue.fileno()
        again = pickle.loads(pickle.dumps(queue))
        opened = descriptors()
        queue.close()
        assert descriptors() == opened
        use(again)
        again.close()
        assert descriptors() == before
        again.close()
        del queue, again


@every_class
def test_a_program_keeps_closed_queues(make: Callable[[], Any]) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (128, hard))
    try:
        kept = []
        for number in range(300):
            queue = make()
            if number % 3:
                use(queue)  # of a JoinableQueue, the item stays unfinished
            if number % 3 == 2:
                queue.fileno()
            queue.close()
            kept.append(queue)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_program_keeps_closed_connections() -> None:
    with nothing_left():
        kept = []
        for duplex in [True, False] * 50:
            a, b = penstock.Pipe(duplex)
            b.send(ARRAY)
            assert a.recv()[-1] == ARRAY[-1]
            a.fileno()
            a.close()
            b.close()
            kept += [a, b]
        assert all(side.closed for side in kept)


def test_the_mapping_goes_when_nothing_answers() -> None:
    before = mappings()
    queue = penstock.SimpleQueue[str]()
    a, b = penstock.Pipe()
    use(queue)
    a.send("x")
    queue.close()
    a.close()
    b.close()
    assert mappings() == before


@every_queue
def test_the_mapping_goes_with_the_object(make: Callable[[], Any]) -> None:
    with nothing_left():
        queue = make()
        use(queue)
        queue.close()
        assert queue.qsize() == 0
        del queue


@every_class
def test_the_membership_goes(make: Callable[[], Any]) -> None:
    queue, answers = make(), penstock.Queue[Any]()
    orders = penstock.Queue[str]()

    def use_and_close() -> None:
        queue.put("from the child")
        queue.close()
        answers.put("closed")
        assert orders.get() == "end"

    with fork(use_and_close) as child:
        assert answers.get() == "closed"
        assert queue.statistics().participants == 1
        assert queue.get() == "from the child"
        orders.put("end")
        child.result()


@every_queue
def test_select_wakes_nobody_after_a_close(make: Callable[[], Any]) -> None:
    """The process watches no more, so a put costs the others no system call for it."""
    queue = make()
    queue.fileno()
    queue.close()
    with fork(lambda: (queue.put("x"), queue.check())) as child:
        assert child.result()[1] == []
    assert queue.qsize() == 1
    assert queue.check() == []


# What is in hand.


@every_class
def test_received_arrays_stay(make: Callable[[], Any]) -> None:
    with nothing_left():
        queue, before = make(), descriptors()
        queue.put(ARRAY)
        first = queue.get()
        queue.put(ARRAY)
        second = queue.get()
        queue.close()
        assert descriptors() < before + 2
        first[:] = 1
        with fork(lambda: (first.sum(), second.sum())) as child:
            assert child.result() == (len(ARRAY), ARRAY.sum())
        queue = None
        gc.collect()
        assert (second == ARRAY).all()
        first = None
        assert (second == ARRAY).all()
        second = None


def test_an_array_keeps_the_membership_and_gives_it_back() -> None:
    queue = penstock.Queue[Any]()
    queue.put(ARRAY)
    received = queue.get()
    queue.close()
    assert participants(queue) == 1
    assert (received == ARRAY).all()
    del received
    assert participants(queue) == 0


def test_an_unfinished_item_stays_until_it_is_done() -> None:
    with nothing_left():
        queue = penstock.JoinableQueue[str]()
        base = descriptors()
        for letter in "abc":
            queue.put(letter)
        queue.get()
        queue.get()
        queue.close()
        assert descriptors() < base
        assert participants(queue) == 1
        queue.task_done()
        assert participants(queue) == 1
        queue.task_done()
        assert participants(queue) == 0
        assert queue.statistics().unfinished == 1
        del queue


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_an_unfinished_item_of_a_closed_queue_comes_back(method: str) -> None:
    context = get_context(method)
    queue = penstock.JoinableQueue[str]()
    queue.put("item")
    answers = penstock.Queue[str]()
    worker = context.Process(target=take_and_close, args=(queue, answers))
    worker.start()
    assert answers.get() == "closed"
    assert queue.statistics().redeliveries == 0
    assert queue.statistics().participants == 2
    assert worker.pid is not None
    os.kill(worker.pid, signal.SIGKILL)
    worker.join()
    assert queue.get(timeout=60) == "item"
    queue.task_done()
    queue.join()
    assert queue.statistics().participants == 1


def take_and_close(queue: Any, answers: Any) -> None:
    queue.get()
    queue.close()
    answers.put("closed")
    signal.pause()


@pytest.mark.parametrize("method", METHODS)
def test_a_worker_finishes_after_its_close(method: str) -> None:
    queue = penstock.JoinableQueue[str]()
    queue.put("item")
    worker = get_context(method).Process(target=close_and_finish, args=(queue,))
    worker.start()
    queue.join()
    worker.join()
    assert worker.exitcode == 0
    assert queue.statistics().participants == 1


def close_and_finish(queue: Any) -> None:
    queue.get()
    queue.close()
    before = descriptors()
    queue.task_done()
    queue.join()
    assert queue.qsize() == 0
    assert descriptors() == before


@every_class
def test_a_queue_on_its_way_can_be_closed(make: Callable[[], Any]) -> None:
    carrier = penstock.Queue[Any]()
    use(carrier)  # so that this process takes part in it
    before = descriptors()

    def receive() -> str:
        queue = carrier.get()
        answer: str = queue.get()
        queue.put("received " + answer)
        queue.close()
        return answer

    with nothing_left():
        queue = make()
        queue.put("early")
        carrier.put(queue)
        queue.close()
        assert descriptors() > before
        with fork(receive) as child:
            assert child.result() == "early"
        # The next queue that is opened, closed or dropped finds that the message has arrived.
        penstock.Queue().close()
        assert descriptors() == before
        del queue


def test_received_again_after_a_close() -> None:
    carrier = penstock.Queue[Any]()
    use(carrier)
    with nothing_left():
        queue = penstock.JoinableQueue[Any]()
        queue.put(ARRAY)
        received = queue.get()
        carrier.put(queue)
        queue.close()
        again = carrier.get()
        again.put("y")
        assert again.get() == "y"
        again.task_done()
        again.task_done()
        again.join()
        carrier.put(again)
        with fork(lambda: carrier.get().qsize()) as child:
            assert child.result() == 0
        again.close()
        assert (received == ARRAY).all()
        del queue, again, received


# What a closed queue still answers.


@every_queue
def test_what_a_closed_queue_answers(make: Callable[..., Any]) -> None:
    queue, go_on = make(maxsize=2), penstock.Queue[str]()

    def work() -> None:
        assert go_on.get() == "fill"
        queue.put("b")
        assert go_on.get() == "drain"
        assert [queue.get(), queue.get()] == ["a", "b"]

    with fork(work) as child:
        queue.put("a")
        queue.close()
        assert (queue.qsize(), queue.full()) == (1, False)
        go_on.put("fill")
        until(lambda: queue.qsize() == 2)
        assert queue.full()
        go_on.put("drain")
        child.result()
    assert (queue.qsize(), queue.full()) == (0, False)
    assert queue.statistics().puts == 2
    assert queue.check() == []
    assert queue.dead_letters() == []


def test_join_of_a_closed_queue_waits() -> None:
    queue, go_on = penstock.JoinableQueue[str](), penstock.Queue[str]()
    use(go_on)

    def finish() -> None:
        queue.get()
        assert go_on.get() == "go on"
        queue.task_done()

    with fork(finish) as child:
        queue.put("a")
        queue.close()
        until(lambda: queue.qsize() == 0)
        before = descriptors()
        joining = threading.Thread(target=queue.join)
        joining.start()
        until(lambda: queue.statistics().waiting_joiners == 1)
        go_on.put("go on")
        joining.join()
        child.result()
        assert descriptors() == before
    with pytest.raises(ValueError, match="too many times"):
        queue.task_done()
    assert participants(queue) == 0


# As multiprocessing: each answer is compared with that of the interpreter's own class.


def answer(operation: Callable[[], Any]) -> Any:
    try:
        return operation()
    except Exception as error:
        return type(error), "closed" in str(error)


def ours(name: str, _: str) -> Any:
    return getattr(penstock, name)()


def standard(name: str, method: str) -> Any:
    return getattr(get_context(method), name)()


def after_close(queue: Any) -> list[Any]:
    answers = [answer(queue.close), answer(lambda: queue.put("b")), answer(queue.get)]
    if hasattr(queue, "qsize"):
        operations = [lambda: queue.get(timeout=0.01), queue.get_nowait, lambda: queue.put("c", False)]
        answers += [answer(operation) for operation in [*operations, queue.full, queue.qsize]]
        answers += [answer(queue.join_thread), answer(queue.cancel_join_thread)]
    if hasattr(queue, "task_done"):
        answers += [answer(queue.task_done)]
    return [*answers, answer(queue.empty), answer(queue.close)]


@pytest.mark.parametrize("is_used", [False, True])
@pytest.mark.parametrize("name", ["Queue", "JoinableQueue", "SimpleQueue"])
def test_the_answers_are_those_of_multiprocessing(name: str, is_used: bool) -> None:
    seen = []
    for make in (ours, standard):
        queue = make(name, "fork")
        if is_used:
            queue.put("a")
            queue.get()
        seen.append(after_close(queue))
    assert seen[0] == seen[1]


def in_child(queue: Any) -> list[Any]:
    """What a child does that is forked after the close."""
    if not hasattr(queue, "qsize"):
        return [answer(lambda: queue.put("b")), answer(queue.get), answer(queue.empty)]
    return [
        queue._closed,
        answer(queue.full),
        answer(queue.empty),
        answer(lambda: queue.get(timeout=0.01)),
        answer(queue.get_nowait),
    ]


@pytest.mark.parametrize("use_before", ["nothing", "put"])
@pytest.mark.parametrize("name", ["Queue", "JoinableQueue", "SimpleQueue"])
def test_a_child_that_is_forked_after_the_close(name: str, use_before: str) -> None:
    seen = []
    for make in (ours, standard):
        queue = make(name, "fork")
        if use_before == "put":
            queue.put("a")
            queue.get()
        queue.close()
        if hasattr(queue, "join_thread"):
            queue.join_thread()
        answers, ours_of = multiprocessing.Pipe(duplex=False)
        # A bare fork would leave the standard queue closed.
        child = get_context("fork").Process(target=send_answers, args=(ours_of, queue))
        child.start()
        seen.append(answers.recv())
        child.join()
    assert seen[0] == seen[1]


def send_answers(answers: Any, queue: Any) -> None:
    answers.send(in_child(queue))


@every_queue
def test_children_use_a_queue_that_was_closed_unused(make: Callable[[], Any]) -> None:
    with nothing_left():
        queue = make()
        queue.close()

        def put_all() -> None:
            before = descriptors()
            for size in (10, 10_000, 1_000_000):
                queue.put(bytes(size))
            queue.put(ARRAY)
            assert descriptors() == before
            queue.close()
            with pytest.raises(ValueError, match="is closed"):
                queue.put("x")

        def get_all() -> int:
            sizes = [len(queue.get(timeout=60)) for _ in range(3)]
            assert sizes == [10, 10_000, 1_000_000]
            received = queue.get(timeout=60)
            if make is penstock.JoinableQueue:
                for _ in range(4):
                    queue.task_done()
                queue.join()
            return int(received.sum())

        with fork(put_all) as child:
            child.result()
        assert queue.qsize() == 4
        with fork(get_all) as child:
            assert child.result() == ARRAY.sum()
        assert participants(queue) == 0
        assert queue.check() == []
        queue = None


@every_queue
def test_a_child_that_is_killed_with_an_item_of_a_queue_that_was_closed_unused(
    make: Callable[[], Any],
) -> None:
    """It has no descriptor of the queue, and its pid proves its death."""
    queue = make()
    queue.close()
    with fork(lambda: [queue.put(letter) for letter in "ab"]) as child:
        child.result()

    def take_and_die() -> None:
        queue.get()
        os.kill(os.getpid(), signal.SIGKILL)

    with fork(take_and_die) as child:
        assert child.wait() == -signal.SIGKILL
    left = "ab" if make is penstock.JoinableQueue else "b"
    with fork(lambda: "".join(queue.get(timeout=60) for _ in left)) as child:
        assert child.result() == left


LETTERS = (letter for letter in "ab")  # does not pickle

PUTS: dict[str, Callable[[Any], object]] = {
    "put and get": use,
    "put": lambda queue: queue.put("a"),
    "large": lambda queue: queue.put(b"a" * 100_000),
    "list": lambda queue: queue.put_many(["a", "b"]),
    "iterator": lambda queue: queue.put_many(iter("ab")),
    "large in a list": lambda queue: queue.put_many([b"a" * 100_000]),
    "half of a list": lambda queue: queue.put_many(["a", LETTERS]),
}
PUTS_IN_VAIN: dict[str, Callable[[Any], object]] = {
    "full": lambda queue: queue.put("x", block=False),
    "full, list": lambda queue: queue.put_many(["x"], block=False),
    "does not pickle": lambda queue: queue.put(LETTERS),
    "does not pickle, list": lambda queue: queue.put_many([LETTERS]),
    "empty list": lambda queue: queue.put_many([]),
}


@pytest.mark.parametrize("put", PUTS)
def test_a_put_of_a_child_after_the_close_raises(put: str) -> None:
    """With multiprocessing it returns, the item is lost, and a thread prints the error."""
    queue = penstock.Queue[Any]()
    answer(lambda: PUTS[put](queue))
    queue.close()
    with fork(answer, lambda: queue.put("x")) as child:
        assert child.result() == (OSError, True)


@pytest.mark.parametrize("put", PUTS_IN_VAIN)
def test_a_put_that_has_put_nothing_is_no_use(put: str) -> None:
    queue = penstock.Queue[Any](1)
    with fork(queue.put, "a child's") as child:
        child.result()
    answer(lambda: PUTS_IN_VAIN[put](queue))
    queue.close()
    with fork(queue.get) as child:
        assert child.result() == "a child's"


@every_queue
@pytest.mark.parametrize("is_used", [False, True])
def test_a_closed_queue_does_not_pickle(make: Callable[[], Any], is_used: bool) -> None:
    queue = make()
    if is_used:
        use(queue)
    queue.close()
    with pytest.raises(OSError, match="handle is closed"):
        pickle.dumps(queue)


@every_class
def test_a_queue_that_is_made_anew(make: Callable[[], Any]) -> None:
    with nothing_left():
        before = descriptors()
        queue = make()
        use(queue)
        queue.close()
        queue.__init__()
        use(queue)
        opened = descriptors()
        queue.__init__()  # not closed before: the former queue goes all the same
        use(queue)
        assert descriptors() == opened
        queue.close()
        assert descriptors() == before
        del queue


# Threads.


@every_queue
def test_a_get_that_waits_while_another_thread_closes(make: Callable[[], Any]) -> None:
    """It goes on, as with multiprocessing, and the queue goes with it."""
    with nothing_left():
        queue, base = make(), descriptors()
        got: list[str] = []
        waiting = threading.Thread(target=lambda: got.append(queue.get()))
        waiting.start()
        until(lambda: queue.statistics().waiting_getters == 1)
        with fork(queue.statistics) as other:
            other.result()
        carrier: Any = penstock.Queue()
        carrier.put(queue)
        queue.close()
        with fork(lambda: carrier.get().put("late")) as child:
            child.result()
        waiting.join()
        assert got == ["late"]
        if make is penstock.JoinableQueue:
            queue.task_done()
        carrier = None
        gc.collect()
        penstock.Queue().close()
        assert descriptors() < base
        queue = None


@every_class
def test_threads_use_a_queue_while_another_closes_it(make: Callable[[], Any]) -> None:
    error_of_closed = OSError if make is penstock.SimpleQueue else ValueError
    with nothing_left():
        for _ in range(100):
            queue = make()
            ready = threading.Barrier(4)
            seen: list[type[BaseException]] = []

            def use_until_closed(queue: Any = queue, ready: Any = ready, seen: Any = seen) -> None:
                ready.wait()
                try:
                    while True:
                        queue.put(ARRAY[:1000])
                        queue.put("x")
                        queue.get_many(1)
                        queue.get_many(1)
                        queue.fileno()
                except Exception as error:
                    seen.append(type(error))

            threads = [threading.Thread(target=use_until_closed) for _ in range(3)]
            for thread in threads:
                thread.start()
            ready.wait()
            queue.close()
            # Other files get the numbers of the descriptors, and must be left alone.
            files = [os.open("/dev/zero", os.O_RDONLY) for _ in range(10)]
            for thread in threads:
                thread.join()
            assert [os.read(file, 1) for file in files] == [b"\0"] * 10
            for file in files:
                os.close(file)
            assert set(seen) <= {error_of_closed, OSError}
            assert len(seen) == 3
        del queue, threads, use_until_closed


def test_a_child_whose_parent_was_in_the_middle_of_a_get() -> None:
    """The child closes a queue in which a thread waited that does not exist there."""
    queue = penstock.Queue[str]()
    waiting = threading.Thread(target=queue.get)
    waiting.start()
    until(lambda: queue.statistics().waiting_getters == 1)

    def use_and_close() -> int:
        queue.put("for the parent")
        base = descriptors()
        queue.close()
        with pytest.raises(ValueError, match="is closed"):
            queue.get()
        until(lambda: queue.qsize() == 0)  # the parent takes it when it runs
        return base - descriptors()

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        with fork(use_and_close) as child:
            assert child.result() == 1
    waiting.join()


def test_threads_of_a_child_whose_parent_was_in_the_middle_of_a_get() -> None:
    """One of them opens the handle anew, and all of them use it. With the last handle the queue goes."""
    queue = penstock.JoinableQueue[str]()
    waiting = threading.Thread(target=queue.get)
    waiting.start()
    until(lambda: queue.statistics().waiting_getters == 1)
    count = 8

    def use_at_once() -> tuple[list[Any], int]:
        ready = threading.Barrier(count)
        seen: list[Any] = []

        def put() -> None:
            ready.wait()
            seen.append(answer(lambda: queue.put("x")))

        threads = [threading.Thread(target=put) for _ in range(count)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        base = descriptors()
        queue.close()
        return seen, base - descriptors()

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        for _ in range(10):
            with fork(use_at_once) as child:
                assert child.result() == ([None] * count, 1)
    waiting.join()
    assert queue.qsize() == 10 * count - 1


def test_a_fork_in_the_middle_of_a_put() -> None:
    """The child is in the same call, and closes the queue there."""
    queue = penstock.Queue[Any]()
    pids: list[int] = []

    class Forks:
        def __reduce__(self) -> Any:
            pids.append(os.fork())
            if pids[-1] == 0:
                queue.close()
            return str, ()

    queue.put(Forks())
    if pids[-1] == 0:
        with suppress(BaseException):
            os._exit(0 if answer(lambda: queue.put("x")) == (ValueError, True) else 1)
        os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(pids[-1], 0)[1]) == 0
    assert queue.get(timeout=60) == ""
    assert queue.get(timeout=60) == ""  # the child's
    assert queue.check() == []


def test_a_queue_closed_inside_its_own_put() -> None:
    queue = penstock.Queue[Any]()

    class Closes:
        def __reduce__(self) -> Any:
            queue.close()
            return str, ()

    base = descriptors()
    queue.put(Closes())
    assert descriptors() < base
    assert queue.qsize() == 1


@pytest.mark.parametrize("duplex", [True, False])
def test_a_connection_closed_inside_its_own_send(duplex: bool) -> None:
    """The number of its end is not another connection's before the call has ended."""
    receiver, sender = penstock.Pipe(duplex)
    number = sender.fileno()
    others: list[Any] = []

    class Closes:
        def __reduce__(self) -> Any:
            sender.close()
            while len(others) < 20:
                others.extend(penstock.Pipe(duplex))
            return str, ()

    with pytest.raises(OSError, match="closed"):
        sender.send(Closes())
    assert number not in [other.fileno() for other in others]
    assert not any(other.readable and other.poll() for other in others)
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(number)
    with pytest.raises(EOFError):
        receiver.recv()
    for end in [receiver, *others]:
        end.close()


@pytest.mark.parametrize("method", METHODS)
def test_children_leave_nothing_in_the_parent(method: str) -> None:
    with nothing_left():
        queue = penstock.JoinableQueue[str]()
        worker = get_context(method).Process(target=use_both_ways, args=(queue,))
        worker.start()
        for _ in range(20):
            queue.put("x")
        queue.join()
        queue.close()
        worker.join()
        worker.close()
        assert queue.statistics().participants == 1
        del queue, worker


def use_both_ways(queue: Any) -> None:
    for _ in range(20):
        queue.get()
        queue.task_done()
    queue.close()
    queue.join_thread()


PROGRAM = """
import sys, penstock
kept = []
for i in range(40):
    q = penstock.JoinableQueue()
    q.put("x")
    q.get()
    q.close()
    kept.append(q)
if sys.argv[1] == "raises":
    raise SystemExit("an error")
"""


@pytest.mark.parametrize("end", ["returns", "raises"])
def test_a_program_ends_with_closed_queues(end: str) -> None:
    ended = subprocess.run([sys.executable, "-c", PROGRAM, end], capture_output=True, text=True)
    assert ended.returncode == (1 if end == "raises" else 0)
    assert ended.stderr == ("an error\n" if end == "raises" else "")


def test_a_pool_of_closed_queues() -> None:
    """Processes that were started with the queue close it one after the other."""
    queue = penstock.Queue[int](maxsize=1000)
    context = get_context("fork")
    workers = [context.Process(target=put_and_close, args=(queue,)) for _ in range(5)]
    for worker in workers:
        worker.start()
    got = [queue.get() for _ in range(50)]
    for worker in workers:
        worker.join()
    assert sorted(got) == sorted(list(range(10)) * 5)
    with pytest.raises(Empty):
        queue.get_nowait()
    assert queue.statistics().participants == 1


def put_and_close(queue: Any) -> None:
    for number in range(10):
        queue.put(number)
    queue.close()
