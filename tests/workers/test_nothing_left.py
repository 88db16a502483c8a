"""Workers end with the process of their pool, by whatever death, whatever they are doing.

The end of each test finds processes, descriptors and memory that were left behind.
"""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import penstock
from tests.support import children, processes
from tests.support.programs import METHODS
from tests.support.waiting import until
from tests.workers import functions

PROGRAM = """
import os, signal, sys, threading
import penstock
from tests.workers import functions

if __name__ == "__main__":
    method, doing, told = sys.argv[1:]
    pool = penstock.WorkerPool(2, mp_context=method, spares=1)
    pool.submit(functions.pid).result()
    if doing != "idle":
        calls = [pool.submit(getattr(functions, doing)) for _ in range(2)]
        while pool.statistics().running < 2:
            pass
    workers = ()
    while len(workers) < 3:
        workers = {member.pid for member in list(pool._engine.crew.members.values()) if member.pid}
    with open(told + ".new", "w") as file:
        print(*workers, file=file)
    os.rename(told + ".new", told)
    signal.pause()
"""

DOINGS = ("idle", "wait_for_ever", "never_return_to_python", "stop_oneself")


def start(tmp_path: Path, method: str, doing: str) -> tuple[subprocess.Popen[bytes], list[int]]:
    """Start a program with a pool, and return it with its workers."""
    path = tmp_path / "program.py"
    path.write_text(PROGRAM)
    told = tmp_path / "workers"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    program = subprocess.Popen([sys.executable, path, method, doing, told], env=environment)
    until(lambda: told.exists() or program.poll() is not None)
    return program, [int(pid) for pid in told.read_text().split()]


def have_ended(pids: list[int]) -> bool:
    return all(processes.state(pid) in ("Z", "") for pid in pids)


@pytest.mark.parametrize("doing", DOINGS)
@pytest.mark.parametrize(
    "method", ["fork", *(pytest.param(method, marks=pytest.mark.slow) for method in METHODS[1:])]
)
def test_killed(method: str, doing: str, tmp_path: Path) -> None:
    program, workers = start(tmp_path, method, doing)
    assert len(workers) == 3
    program.kill()
    program.wait()
    until(lambda: have_ended(workers))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGSEGV])
def test_ended_by_another_signal(number: int, tmp_path: Path) -> None:
    program, workers = start(tmp_path, "fork", "wait_for_ever")
    program.send_signal(number)
    program.wait()
    until(lambda: have_ended(workers))


def make_pool_in_a_thread(told: Any) -> None:
    """The thread that starts the workers ends; they go on, and end with the process."""
    import threading

    made: list[penstock.WorkerPool] = []

    def start() -> None:
        made.append(penstock.WorkerPool(2, mp_context="fork"))
        made[0].submit(functions.pid).result()

    thread = threading.Thread(target=start)
    thread.start()
    thread.join()
    os.write(told, b" ".join(b"%d" % made[0].submit(functions.pid).result() for _ in range(10)))
    signal.pause()


def test_the_thread_that_has_started_the_workers_ends() -> None:
    reader, writer = os.pipe()
    with children.fork(make_pool_in_a_thread, writer) as program:
        workers = [int(pid) for pid in os.read(reader, 1000).split()]
        assert len(workers) == 10
        assert not have_ended(workers)
        program.kill()
        program.wait()
        until(lambda: have_ended(workers))
    os.close(reader)
    os.close(writer)


def fork_beside_a_pool(told: Any) -> None:
    """A forked child that outlives the program has not got what keeps the workers alive."""
    with penstock.WorkerPool(1, mp_context="fork") as pool:
        worker = pool.submit(functions.pid).result()
        child = os.fork()
        if child == 0:
            signal.pause()
        os.write(told, b"%d %d" % (worker, child))
        signal.pause()


def test_a_forked_child_of_the_program_does_not_keep_its_workers(tmp_path: Path) -> None:
    reader, writer = os.pipe()
    with children.fork(fork_beside_a_pool, writer) as program:
        worker, child = (int(pid) for pid in os.read(reader, 100).split())
        program.kill()
        program.wait()
        until(lambda: have_ended([worker]))
        assert not have_ended([child])
        os.kill(child, signal.SIGKILL)
        until(lambda: have_ended([child]))
    os.close(reader)
    os.close(writer)


def test_shutdown_leaves_nothing(method: str) -> None:
    with penstock.WorkerPool(2, mp_context=method) as pool:
        assert list(pool.map(functions.square, range(10))) == [number * number for number in range(10)]
        workers = {pool.submit(functions.pid).result() for _ in range(4)}
    assert have_ended([*workers])
    assert pool.statistics().workers == 0


def test_the_first_of_several_pools_ends_first() -> None:
    """Workers of the others have descriptors of its own."""
    pools = [penstock.WorkerPool(2, mp_context="fork") for _ in range(3)]
    assert [pool.submit(functions.square, 3).result() for pool in pools] == [9, 9, 9]
    for pool in pools:
        pool.shutdown()


def test_a_pool_that_is_never_used_leaves_nothing() -> None:
    penstock.WorkerPool(2).shutdown()
    with penstock.WorkerPool(2):
        pass


def test_a_pool_that_is_collected_ends(make_pool: Callable[..., penstock.WorkerPool]) -> None:
    pool = penstock.WorkerPool(1, mp_context="fork")
    worker = pool.submit(functions.pid).result()
    last = pool.submit(functions.square, 3)
    del pool
    assert last.result() == 9
    until(lambda: have_ended([worker]))


def run(text: str, *, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run a program that ends by itself."""
    path = folder / "program.py"
    path.write_text(text)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    return subprocess.run(
        [sys.executable, "-W", "error", path], env=environment, capture_output=True, text=True
    )


@pytest.mark.parametrize("method", METHODS)
def test_a_program_ends_without_shutdown(method: str, tmp_path: Path) -> None:
    ended = run(
        f"""
import penstock
from tests.workers import functions

if __name__ == "__main__":
    pool = penstock.WorkerPool(2, mp_context={method!r})
    futures = [pool.submit(functions.note_and_square, {str(tmp_path)!r}, number) for number in range(20)]
""",
        folder=tmp_path,
    )
    assert (ended.stderr, ended.returncode) == ("", 0)
    assert all((tmp_path / str(number)).exists() for number in range(20))


def test_the_template_dies(make_pool: Callable[..., penstock.WorkerPool]) -> None:
    pool = make_pool()
    workers = {pool.submit(functions.pid).result() for _ in range(20)}
    template = pool._engine.crew._template
    assert template is not None
    os.kill(template.process.pid, signal.SIGKILL)
    assert pool.submit(functions.square, 3).result() == 9
    for worker in workers:
        os.kill(worker, signal.SIGKILL)
    assert pool.submit(functions.square, 4).result() == 16
