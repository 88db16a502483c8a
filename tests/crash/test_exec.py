"""A participant calls exec: it is no participant any more, although the process lives on."""

import multiprocessing
import os
import pickle
import sys
from pathlib import Path
from typing import Any

import pytest

import penstock
from penstock import JoinableQueue, Queue
from tests.support import processes
from tests.support.children import Child, fork
from tests.support.programs import ROOT
from tests.support.waiting import until


def execute(program: str, *arguments: str) -> None:
    """Replace this process by an interpreter that runs the program."""
    os.chdir(ROOT)
    os.execv(sys.executable, [sys.executable, "-c", program, *arguments])


WAIT_FOR_EVER = "import os; os.read(os.pipe()[0], 1)"


def until_executed(child: Child) -> None:
    """Wait until the child is another program."""
    until(lambda: WAIT_FOR_EVER in Path(f"/proc/{child.pid}/cmdline").read_text())


def test_what_it_held_goes_to_others() -> None:
    queue = JoinableQueue[str]()
    queue.join()  # the first acknowledgement: from now on getters hold leases
    for name in ("small", "large" * 100_000, "last"):
        queue.put(name)

    def take_two_and_exec() -> None:
        queue.get()
        queue.get()
        execute(WAIT_FOR_EVER)

    with fork(take_two_and_exec) as child:
        until_executed(child)
        # The process lives. It is no participant as soon as the kernel has closed its files.
        until(lambda: queue.statistics().participants == 1)
        found = queue.statistics()
        assert (found.queued, found.unfinished, found.redeliveries) == (3, 3, 2)
        assert not child.has_ended()
        assert [len(queue.get()) for _ in range(3)] == [5, 500_000, 4]
        for _ in range(3):
            queue.task_done()
        queue.join()


def test_it_wakes_those_who_wait_for_what_it_held() -> None:
    queue = JoinableQueue[str]()
    queue.put("item")

    def take_and_exec_when_told() -> None:
        queue.get()
        go.get()
        execute(WAIT_FOR_EVER)

    go = Queue[None]()
    with fork(take_and_exec_when_told):
        until(queue.empty)
        with fork(queue.get) as other:
            until(lambda: queue.statistics().waiting_getters == 1)
            go.put(None)
            assert other.result() == "item"


def test_threads_of_it_that_slept_in_get_sleep_no_more() -> None:
    queue = Queue[int]()

    def sleep_in_threads_and_exec() -> None:
        import threading

        for _ in range(2):
            threading.Thread(target=queue.get, daemon=True).start()
        until(lambda: queue.statistics().waiting_getters == 2)
        execute(WAIT_FOR_EVER)

    with fork(sleep_in_threads_and_exec) as child:
        until_executed(child)
        for number in range(3):
            queue.put(number)
        until(lambda: queue.statistics().waiting_getters == 0)
        # The new program takes no item.
        assert [queue.get() for _ in range(3)] == [0, 1, 2]


OPEN_AGAIN = """
import pickle, sys
queue = pickle.loads(bytes.fromhex(sys.argv[1]))
assert queue.statistics().participants == 2
queue.put(("again", queue.get()))
queue.task_done()
"""


def test_it_may_open_the_queue_again() -> None:
    queue = JoinableQueue[Any]()
    queue.put("item")
    message = pickle.dumps(queue).hex()

    def take_and_exec() -> None:
        queue.get()
        execute(OPEN_AGAIN, message)

    with fork(take_and_exec) as child:
        assert child.wait() == 0
    # The process is another participant than before: its old lease was redelivered to it.
    assert queue.get() == ("again", "item")
    queue.task_done()
    queue.join()
    assert queue.statistics().redeliveries == 1


def put_and_exec(queue: Any) -> None:
    queue.put("item")
    execute(WAIT_FOR_EVER)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_the_program_does_not_keep_the_memory(method: str) -> None:
    queue = Queue[str]()
    process = multiprocessing.get_context(method).Process(target=put_and_exec, args=(queue,))
    process.start()
    try:
        until(lambda: WAIT_FOR_EVER in Path(f"/proc/{process.pid}/cmdline").read_text())
        assert processes.holding(f"/memfd:penstock-{queue._id.hex()} (deleted)") == []
        assert queue.get() == "item"
    finally:
        process.kill()
        process.join()
        process.close()


def test_a_program_started_with_subprocess_is_no_participant() -> None:
    queue = Queue[int]()
    queue.put(1)

    def run_a_program() -> int:
        import subprocess

        queue.put(2)
        return subprocess.run([sys.executable, "-c", "pass"], close_fds=False).returncode

    with fork(run_a_program) as child:
        assert child.result() == 0
    assert [queue.get(), queue.get()] == [1, 2]
    assert isinstance(queue, penstock.Queue)
    assert queue.statistics().participants == 1
