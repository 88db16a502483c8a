"""A queue reaches another process by inheritance, as an argument or inside a message; and contexts."""

import concurrent.futures
import copy
import gc
import multiprocessing
import os
import pickle
import signal
import threading
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest

import penstock
from penstock.errors import PenstockError, QueueGoneError
from tests.support.children import fork
from tests.support.programs import METHODS, PLAIN, run, write
from tests.support.waiting import until

CLASSES = (penstock.Queue, penstock.SimpleQueue, penstock.JoinableQueue)
every_class = pytest.mark.parametrize("make", CLASSES)
every_method = pytest.mark.parametrize("method", METHODS)


def finish(process: BaseProcess) -> None:
    process.join()
    assert process.exitcode == 0
    process.close()


def answer(questions: Any, answers: Any) -> None:
    """Answer each question, and acknowledge it on a JoinableQueue. Runs in a child."""
    for question in iter(questions.get, None):
        if hasattr(questions, "task_done"):
            questions.task_done()
        answers.put((type(questions), question, os.getpid()))


def ask(questions: Any, answers: Any, kind: type, pid: int) -> None:
    for number in range(3):
        questions.put(number)
        assert answers.get() == (kind, number, pid)
    if hasattr(questions, "join"):
        questions.join()
    questions.put(None)


# All start methods, ways and classes.


@pytest.mark.slow
@every_class
@every_method
def test_as_an_argument(make: Callable[[], Any], method: str) -> None:
    questions, answers = make(), make()
    process = multiprocessing.get_context(method).Process(target=answer, args=(questions, answers))
    process.start()
    ask(questions, answers, type(questions), process.pid)
    finish(process)


class Attribute(BaseProcess):
    def use(self, questions: Any, answers: Any) -> "Attribute":
        self.questions, self.answers = questions, answers
        return self

    def run(self) -> None:
        answer(self.questions, self.answers)


class ForkAttribute(Attribute, multiprocessing.context.ForkProcess):
    pass


class SpawnAttribute(Attribute, multiprocessing.context.SpawnProcess):
    pass


class ForkServerAttribute(Attribute, multiprocessing.context.ForkServerProcess):
    pass


@pytest.mark.slow
@every_class
@pytest.mark.parametrize("kind", [ForkAttribute, SpawnAttribute, ForkServerAttribute])
def test_as_an_attribute_of_the_process(make: Callable[[], Any], kind: type[Attribute]) -> None:
    questions, answers = make(), make()
    process = kind().use(questions, answers)
    process.start()
    ask(questions, answers, type(questions), process.pid)
    finish(process)
    del process.questions, process.answers


inherited: list[Any] = []


def answer_inherited() -> None:
    answer(*inherited)


@every_class
def test_inherited(make: Callable[[], Any]) -> None:
    inherited.extend([make(), make()])
    try:
        process = multiprocessing.get_context("fork").Process(target=answer_inherited)
        process.start()
        ask(*inherited, type(inherited[0]), process.pid)
        finish(process)
    finally:
        inherited.clear()


def answer_received(messages: Any) -> None:
    questions, answers = messages.get()
    if hasattr(messages, "task_done"):
        messages.task_done()
    answer(questions, answers)


@pytest.mark.slow
@every_class
@every_method
@pytest.mark.parametrize("carrier", CLASSES)
def test_inside_a_message(make: Callable[[], Any], carrier: Callable[[], Any], method: str) -> None:
    messages, questions, answers = carrier(), make(), make()
    process = multiprocessing.get_context(method).Process(target=answer_received, args=(messages,))
    process.start()
    messages.put((questions, answers))
    ask(questions, answers, type(questions), process.pid)
    finish(process)


@pytest.mark.slow
@every_class
@every_method
def test_inside_a_message_of_a_pipe(make: Callable[[], Any], method: str) -> None:
    questions, answers = make(), make()
    here, there = multiprocessing.Pipe()
    process = multiprocessing.get_context(method).Process(target=answer_from_pipe, args=(there,))
    process.start()
    here.send((questions, answers))
    ask(questions, answers, type(questions), process.pid)
    finish(process)
    here.close()
    there.close()


def answer_from_pipe(connection: Any) -> None:
    answer(*connection.recv())


GRANDCHILD = """
import multiprocessing, os, sys
import penstock

def answer(questions, answers):
    for question in iter(questions.get, None):
        answers.put((question, os.getpid()))

def start(method, questions, answers):
    process = multiprocessing.get_context(method).Process(target=answer, args=(questions, answers))
    process.start()
    answers.put(process.pid)
    process.join()

if __name__ == "__main__":
    method, below = sys.argv[1:]
    for make in (penstock.Queue, penstock.SimpleQueue, penstock.JoinableQueue):
        questions, answers = make(), make()
        context = multiprocessing.get_context(method)
        process = context.Process(target=start, args=(below, questions, answers))
        process.start()
        pid = answers.get()
        questions.put("a")
        assert answers.get() == ("a", pid) and pid != process.pid
        questions.put(None)
        process.join()
        assert process.exitcode == 0
    print("answered")
"""


# In a program of its own, because a forked child cannot use a fork server that its parent has started.
@pytest.mark.slow
@every_method
@pytest.mark.parametrize("below", METHODS)
def test_from_a_child_to_a_grandchild(method: str, below: str, tmp_path: Path) -> None:
    write(tmp_path, {"program.py": GRANDCHILD})
    done = run(PLAIN, ["program.py", method, below], folder=tmp_path)
    assert (done.stdout, done.stderr) == (b"answered\n", b"")


# Arguments.


def use_twice(one: Any, other: Any, many: list[Any]) -> None:
    one.put("one")
    del one
    gc.collect()
    other.put("other")
    for number, q in enumerate(many):
        q.put(number)


@pytest.mark.slow
@every_method
def test_many_queues_and_two_handles_of_one_queue(method: str) -> None:
    q = penstock.Queue[str]()
    many = [penstock.Queue[int]() for _ in range(50)]
    again = copy.copy(q)
    assert again is not q
    process = multiprocessing.get_context(method).Process(target=use_twice, args=(q, again, many))
    process.start()
    finish(process)
    assert [q.get(), q.get()] == ["one", "other"]
    assert [each.get() for each in many] == list(range(50))


def count_descriptors(q: Any) -> None:
    gc.collect()
    name = f"/memfd:penstock-{q._id.hex()}"
    found = 0
    for entry in os.listdir("/proc/self/fd"):
        try:
            found += os.readlink(f"/proc/self/fd/{entry}").startswith(name)
        except FileNotFoundError:
            continue
    q.put(found)


@pytest.mark.slow
@every_method
def test_no_descriptor_is_left_over_in_the_child(method: str) -> None:
    q = penstock.Queue[int]()
    count_descriptors(q)
    usual = q.get()
    process = multiprocessing.get_context(method).Process(target=count_descriptors, args=(q,))
    process.start()
    finish(process)
    assert q.get() <= usual + 1  # the descriptor of its life byte


@every_class
def test_options_travel(make: Callable[..., Any]) -> None:
    q = make(protocol=2, max_bytes=1 << 20)
    again = pickle.loads(pickle.dumps(q))
    assert type(again) is type(q)
    assert again._protocol == 2
    assert again._id == q._id
    with pytest.raises(MemoryError):
        again.put(bytes(1 << 20))
    q.put("a")
    assert again.get() == "a"


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_handles_pickle_in_every_protocol(protocol: int) -> None:
    q = penstock.Queue[str](1)
    again = pickle.loads(pickle.dumps(q, protocol))
    again.put("a")
    assert q.full()
    assert q.get() == "a"


# Messages.


def reply(requests: Any) -> None:
    for number, answers in iter(requests.get, None):
        answers.put(number * 2)


@pytest.mark.slow
@every_method
def test_a_queue_for_each_answer(method: str) -> None:
    requests = penstock.Queue[Any]()
    process = multiprocessing.get_context(method).Process(target=reply, args=(requests,))
    process.start()
    for number in range(100):
        answers = penstock.Queue[int]()
        requests.put((number, answers))
        assert answers.get() == number * 2
    requests.put(None)
    finish(process)


@pytest.mark.slow
def test_the_sender_may_drop_its_handle_at_once() -> None:
    messages = penstock.Queue[Any]()

    def send() -> None:
        for number in range(100):
            carried = penstock.Queue[int]()
            carried.put(number)
            messages.put(carried)
            del carried
            gc.collect()
        messages.put(None)
        acknowledged.get()

    acknowledged = penstock.Queue[None]()
    with fork(send) as child:
        until(lambda: messages.qsize() == 101)
        received = list(iter(messages.get, None))
        assert [q.get() for q in received] == list(range(100))
        acknowledged.put(None)
        child.result()


def test_the_sender_lets_go_of_what_was_received() -> None:
    messages, answers = penstock.Queue[Any](), penstock.Queue[int]()

    def send() -> None:
        for _ in range(100):
            carried = penstock.Queue[int]()
            messages.put(carried)
            carried.get()
        del carried
        answers.put(Path("/proc/self/maps").read_text().count("/memfd:penstock-"))

    with fork(send) as child:
        for _ in range(100):
            messages.get().put(0)
        child.result()
    assert answers.get() < 10


class Midway:
    """Calls `when_midway` when it is rebuilt."""

    def __reduce__(self) -> Any:
        return _be_midway, ()


def _be_midway() -> None:
    when_midway()


def when_midway() -> None:
    pass


@pytest.mark.parametrize("carrier", CLASSES)
def test_a_receiver_that_takes_its_time_over_the_message(
    carrier: Callable[[], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    messages, others, reached, go_on = carrier(), carrier(), penstock.Queue[int](), penstock.Queue[int]()

    def send() -> None:
        carried = penstock.Queue[str]()
        carried.put("a")
        messages.put((Midway(), carried))
        del carried
        for _ in range(2):  # two receivers, of which the first dies
            reached.get()
            others.put(penstock.Queue())  # this put drops the handles of received messages
            gc.collect()
            go_on.put(0)
        go_on.put(0)
        reached.get()

    def midway() -> None:
        reached.put(0)
        go_on.get()

    def die_midway() -> None:
        midway()
        os.kill(os.getpid(), signal.SIGKILL)

    def receive_and_die() -> None:
        globals()["when_midway"] = die_midway
        messages.get()

    monkeypatch.setitem(globals(), "when_midway", midway)
    with fork(send) as sender:
        with fork(receive_and_die) as receiver:
            assert receiver.wait() == -signal.SIGKILL
        _, received = messages.get()
        assert received.get() == "a"
        go_on.get()
        reached.put(0)
        sender.result()


def test_a_queue_that_carries_itself() -> None:
    q = penstock.Queue[Any]()
    q.put(q)
    q.put("a")
    again = q.get()
    assert again._id == q._id
    assert again.get() == "a"


def test_queues_that_carry_each_other() -> None:
    one, other = penstock.Queue[Any](), penstock.Queue[Any]()
    one.put(other)
    other.put(one)

    def swap() -> str:
        received = one.get()
        assert received.get()._id == one._id
        received.put("a")
        return received._id.hex()  # type: ignore[no-any-return]

    with fork(swap) as child:
        assert child.result() == other._id.hex()
    assert other.get() == "a"


def test_a_message_passed_on() -> None:
    first, second = penstock.Queue[Any](), penstock.Queue[Any]()
    carried = penstock.Queue[str]()

    def pass_on() -> None:
        second.put(first.get())
        assert carried_back.get() == "received"

    carried_back = penstock.Queue[str]()
    with fork(pass_on) as child:
        first.put(carried)
        received = second.get()
        received.put("a")
        carried_back.put("received")
        child.result()
    assert carried.get() == "a"


def test_a_queue_that_is_gone() -> None:
    message = pickle.dumps(penstock.Queue())
    gc.collect()
    with pytest.raises(QueueGoneError, match="is gone") as raised:
        pickle.loads(message)
    assert isinstance(raised.value, (PenstockError, OSError))


def test_a_queue_whose_sender_died() -> None:
    messages = penstock.Queue[Any]()
    with fork(lambda: messages.put(penstock.Queue())) as child:
        child.result()
    messages.put("after")
    with pytest.raises(QueueGoneError):
        messages.get()
    assert messages.get() == "after"


def test_a_queue_whose_sender_died_but_which_another_process_has() -> None:
    messages, stay = penstock.Queue[Any](), penstock.Queue[int]()
    handles = [penstock.Queue[str]()]
    id = handles[0]._id

    def keep() -> None:
        handles[0].put("a")
        stay.get()

    with fork(keep) as keeper:
        until(handles[0].qsize)
        with fork(messages.put, handles[0]) as sender:
            sender.result()
        handles.clear()
        gc.collect()
        received = messages.get()
        assert received._id == id
        assert received.get() == "a"
        stay.put(0)
        keeper.result()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can open the files of another user")
def test_a_queue_of_another_user_is_refused() -> None:
    """A message may name the queue, and root could open it."""
    names, stay = penstock.Queue[Any](), penstock.Queue[int]()

    def make() -> None:
        os.setuid(12345)
        foreign = penstock.Queue[int]()
        names.put(pickle.dumps(foreign))
        stay.get()

    with fork(make) as child:
        message = names.get()
        with pytest.raises(QueueGoneError, match="belongs to user 12345, and this process runs as user 0"):
            pickle.loads(message)
        stay.put(0)
        assert child.result() is None


def test_a_descriptor_of_another_file_is_not_taken_for_the_queue() -> None:
    q = penstock.Queue[str]()
    id, protocol, (pid, _) = q.__getstate__()  # type: ignore[misc]
    keep = q

    def open_wrong(fd: int) -> str:
        fresh = penstock.Queue.__new__(penstock.Queue)
        fresh.__setstate__((id, protocol, (pid, fd)))
        return fresh.get()  # type: ignore[no-any-return]

    keep.put("a")
    other = penstock.Queue[str]()
    for wrong in (0, 999_999, other._fd):
        assert open_wrong(wrong) == "a"
        keep.put("a")


@pytest.mark.slow
def test_received_by_threads_at_the_same_time() -> None:
    messages, carried = penstock.Queue[Any](), penstock.Queue[int]()
    threads_number = 8

    def receive_in_threads() -> None:
        def receive() -> None:
            messages.get().put(1)

        threads = [threading.Thread(target=receive) for _ in range(threads_number)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    for _ in range(threads_number):
        messages.put(carried)
    # A new process, which has not opened `carried`: its threads open it.
    process = multiprocessing.get_context("spawn").Process(
        target=open_in_threads, args=(messages, threads_number)
    )
    process.start()
    assert [carried.get() for _ in range(threads_number)] == [1] * threads_number
    finish(process)


def open_in_threads(messages: Any, number: int) -> None:
    barrier = threading.Barrier(number)

    def receive() -> None:
        barrier.wait()
        messages.get().put(1)

    threads = [threading.Thread(target=receive) for _ in range(number)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


# Contexts.


@pytest.mark.slow
@every_method
def test_a_context_of_ours(method: str) -> None:
    context = penstock.get_context(method)
    assert isinstance(context, multiprocessing.context.BaseContext)
    assert isinstance(context, type(multiprocessing.get_context(method)))
    assert context.get_start_method() == method
    assert context.get_context() is context
    assert context.get_context(method) is context
    assert context.Process is multiprocessing.get_context(method).Process
    for name in ("Queue", "SimpleQueue", "JoinableQueue"):
        assert type(getattr(context, name)()) is getattr(penstock, name)
    questions, answers = context.JoinableQueue(3, max_deliveries=1, protocol=4), context.Queue(maxsize=2)
    process = context.Process(target=answer, args=(questions, answers))
    process.start()
    ask(questions, answers, penstock.JoinableQueue, process.pid)
    finish(process)


def test_the_context_of_no_method_is_that_of_multiprocessing() -> None:
    assert penstock.get_context().get_start_method() == multiprocessing.get_start_method()
    assert penstock.get_context() is penstock.get_context(multiprocessing.get_start_method())


def test_unknown_methods() -> None:
    with pytest.raises(ValueError, match="cannot find context for 'thread'"):
        penstock.get_context("thread")
    with pytest.raises(ValueError, match="cannot find context"):
        penstock.get_context("fork").get_context("thread")


def square(number: int) -> int:
    return number * number


def put_square(q: Any, number: int) -> None:
    q.put(number * number)


def test_pools_and_executors_of_a_context_of_ours() -> None:
    context = penstock.get_context("fork")
    with context.Pool(2) as pool:
        assert type(pool._inqueue) is penstock.SimpleQueue
        assert pool.map(square, range(10)) == [number * number for number in range(10)]
        # Queues of multiprocessing can only be inherited, not sent.
        q = context.Queue()
        pool.starmap(put_square, [(q, number) for number in range(10)])
        assert sorted(q.get() for _ in range(10)) == sorted(number * number for number in range(10))
        pool.close()
        pool.join()
    with concurrent.futures.ProcessPoolExecutor(2, mp_context=context) as executor:
        assert list(executor.map(square, range(10))) == [number * number for number in range(10)]


# Whole programs.


@pytest.mark.slow
@every_method
def test_a_program(method: str, tmp_path: Path) -> None:
    program = """
import penstock

class Task:
    def __init__(self, number):
        self.number = number
    def __call__(self):
        return self.number * self.number

def work(tasks, results):
    for task in iter(tasks.get, None):
        results.put(task())
        tasks.task_done()
    tasks.task_done()

if __name__ == "__main__":
    context = penstock.get_context(METHOD)
    tasks, results = context.JoinableQueue(), context.Queue()
    workers = [context.Process(target=work, args=(tasks, results)) for _ in range(4)]
    for worker in workers:
        worker.start()
    for number in range(100):
        tasks.put(Task(number))
    for _ in workers:
        tasks.put(None)
    tasks.join()
    for worker in workers:
        worker.join()
    print(sum(results.get() for _ in range(100)), results.empty())
"""
    write(tmp_path, {"program.py": program.replace("METHOD", repr(method))})
    done = run(PLAIN, ["program.py"], folder=tmp_path)
    assert (done.stdout, done.stderr) == (b"328350 True\n", b"")
