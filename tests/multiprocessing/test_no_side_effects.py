"""A queue needs no thread, no process and no file. It works after its descriptors were closed."""

import os
import pickle
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from penstock import JoinableQueue, Queue, SimpleQueue
from tests.support import processes
from tests.support.children import fork
from tests.support.waiting import until

every_kind = pytest.mark.parametrize("kind", [Queue, SimpleQueue, JoinableQueue])


def use(queue: Any) -> None:
    for item in (1, b"x" * 1000, b"x" * 1_000_000):
        queue.put(item)
        assert queue.get() == item
        if isinstance(queue, JoinableQueue):
            queue.task_done()


@every_kind
def test_no_thread_and_no_process(kind: Callable[[], Any]) -> None:
    threads, tasks = threading.active_count(), os.listdir("/proc/self/task")
    before = processes.descendants(os.getpid())
    queue = kind()
    use(queue)
    with fork(queue.get) as child:
        until(lambda: queue.statistics().waiting_getters == 1)
        assert len(os.listdir(f"/proc/{child.pid}/task")) == 1
        assert processes.descendants(child.pid) == []
        queue.put(1)
        child.result()
    assert threading.active_count() == threads
    assert os.listdir("/proc/self/task") == tasks
    assert processes.descendants(os.getpid()) == before


# Seconds of puts and gets, so that what a queue does now and then is among them.
ALONE = """
import ctypes, gc, os, platform, struct, sys, time
import penstock

LOAD, JUMP_IF_EQUAL, RETURN = 0x20, 0x15, 0x06
KILL_PROCESS, ALLOW = 0x8000_0000, 0x7FFF_0000
PR_SET_SECCOMP, SECCOMP_MODE_FILTER, PR_SET_NO_NEW_PRIVS = 22, 2, 38
WRITE, EXIT_GROUP = {"x86_64": (1, 231), "aarch64": (64, 94)}[platform.machine()]
STATEMENTS = [
    (LOAD, 0, 0, 0),
    (JUMP_IF_EQUAL, 2, 0, WRITE),
    (JUMP_IF_EQUAL, 1, 0, EXIT_GROUP),
    (RETURN, 0, 0, KILL_PROCESS),
    (RETURN, 0, 0, ALLOW),
]

class Filter(ctypes.Structure):
    _fields_ = [("len", ctypes.c_ushort), ("statements", ctypes.c_char_p)]

def forbid_system_calls():
    code = b"".join(struct.pack("=HBBI", *statement) for statement in STATEMENTS)
    libc = ctypes.CDLL(None)
    assert libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0
    assert libc.prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.byref(Filter(len(STATEMENTS), code))) == 0

def use(queue, seconds):
    items = [7, (1, "two"), b"x" * 1000]
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        for item in items:
            queue.put(item)
        for item in items:
            assert queue.get() == item
            if isinstance(queue, penstock.JoinableQueue):
                queue.task_done()
        assert queue.empty()

queue = getattr(penstock, sys.argv[1])()
gc.disable()
use(queue, 0.1)
forbid_system_calls()
use(queue, 0.5)
os.write(1, b"none")
os._exit(0)
"""


@every_kind
def test_what_needs_no_waiting_makes_no_system_call(kind: type[Any]) -> None:
    command = [sys.executable, "-c", ALONE, kind.__name__]
    assert subprocess.run(command, stdout=subprocess.PIPE, timeout=30, check=False).stdout == b"none"


PROGRAM = """
import multiprocessing, os, signal, sys
import penstock

def work(queue, results):
    results.put(queue.get())

def shared_files():
    # Others may use the folder meanwhile.
    return [name for name in os.listdir("/dev/shm") if "penstock" in name]

if __name__ == "__main__":
    before = shared_files()
    queues = [penstock.Queue(), penstock.SimpleQueue(), penstock.JoinableQueue()]
    for queue in queues:
        for size in (1, 1000, 5_000_000):
            queue.put(b"x" * size)
    assert shared_files() == before
    context = multiprocessing.get_context(sys.argv[1])
    for queue in queues:
        process = context.Process(target=work, args=(queue, queues[0]))
        process.start()
        process.join()
    if sys.argv[2] == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.slow
@pytest.mark.parametrize("method", ["fork", "spawn"])
@pytest.mark.parametrize("end", ["ends", "killed"])
def test_no_file_is_left(method: str, end: str, tmp_path: Path) -> None:
    program, home = tmp_path / "program.py", tmp_path / "home"
    program.write_text(PROGRAM)
    home.mkdir()
    shared = set(os.listdir("/dev/shm"))
    environment = {**os.environ, "HOME": str(home), "TMPDIR": str(home), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run([sys.executable, program, method, end], cwd=home, env=environment)
    assert done.returncode == (-signal.SIGKILL if end == "killed" else 0)
    assert list(home.iterdir()) == []
    # Other programs may use /dev/shm meanwhile.
    assert [name for name in set(os.listdir("/dev/shm")) - shared if "penstock" in name] == []


def descriptors(pid: int) -> dict[str, str]:
    found = {}
    for name in os.listdir(f"/proc/{pid}/fd"):
        try:
            found[name] = os.readlink(f"/proc/{pid}/fd/{name}")
        except FileNotFoundError:
            continue  # the descriptor that listed the folder
    return found


@every_kind
def test_descriptors_are_of_queue_memory_alone_and_are_closed(kind: Callable[[], Any]) -> None:
    before = descriptors(os.getpid())
    queue = kind()
    use(queue)
    new = {name: what for name, what in descriptors(os.getpid()).items() if before.get(name) != what}
    assert new
    assert all(what.startswith("/memfd:penstock-") for what in new.values())
    for name in new:
        assert not os.get_inheritable(int(name)), "it would survive exec"
    del queue
    assert descriptors(os.getpid()) == before


# ------------------------------------------------------------------- descriptors closed by the program


def close_all() -> None:
    """Close all descriptors, as daemons and subprocess's `close_fds` do."""
    os.closerange(3, os.sysconf("SC_OPEN_MAX"))


@every_kind
def test_descriptors_closed_behind_our_back(kind: Callable[[], Any]) -> None:
    queue, answers = kind(), Queue[Any]()

    def work() -> None:
        queue.get()
        close_all()
        # Other files have these numbers now. The queue must leave them alone.
        files = [os.open("/dev/zero", os.O_RDONLY) for _ in range(20)]
        answers.put(bytes(100_000))
        answers.put(queue.get())
        with pytest.raises(OSError, match="descriptor was closed"):
            pickle.dumps(queue)
        assert [os.read(file, 2) for file in files] == [b"\0\0"] * 20
        os._exit(7)

    with fork(work) as child:
        queue.put("first")
        assert answers.get() == bytes(100_000)
        # The child is a participant as before.
        assert queue.statistics().participants == 2
        queue.put(b"x" * 100_000)
        assert answers.get() == b"x" * 100_000
        assert child.wait() == 7
    assert queue.statistics().participants == 1


def test_what_a_process_without_descriptors_held_comes_back_when_it_dies() -> None:
    queue = JoinableQueue[str]()
    queue.put("item")

    def take() -> None:
        close_all()
        queue.get()
        os.kill(os.getpid(), signal.SIGSTOP)

    with fork(take) as child:
        until(child.is_stopped)
        assert queue.statistics().redeliveries == 0
        child.kill()
        child.wait()
        assert queue.get() == "item"
        assert queue.statistics().redeliveries == 1
    queue.task_done()
    queue.join()


def test_forked_children_of_a_process_without_descriptors() -> None:
    queue = Queue[str]()

    def close_and_fork() -> str:
        close_all()
        with fork(queue.put, "from a grandchild") as child:
            child.result()
        return queue.get()

    with fork(lambda: _result_by_exit(close_and_fork)) as child:
        assert child.wait() == 0


def _result_by_exit(function: Callable[[], str]) -> None:
    # By the exit code, because the pipe for the result is closed.
    os._exit(0 if function() == "from a grandchild" else 1)
