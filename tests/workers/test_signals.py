"""Ctrl-C: in the program and its workers at once, as a terminal sends it, and at any moment."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import penstock
from tests.support.children import fork
from tests.support.waiting import until
from tests.workers import functions

Make = Callable[..., penstock.WorkerPool]

PROGRAM = """
import sys
import penstock
from tests.workers import functions

if __name__ == "__main__":
    how, folder = sys.argv[1:]
    with penstock.WorkerPool(2, mp_context="fork") as pool:
        try:
            if how == "result":
                future = pool.submit(functions.begin_and_wait, folder + "/begun", folder + "/never")
                future.result()
            elif how == "map":
                arguments = [[folder + "/begun"] * 2, [folder + "/never"] * 2]
                list(pool.map(functions.begin_and_wait, *arguments))
            elif how == "shutdown":
                pool.submit(functions.begin_and_ignore, folder + "/begun")
        except KeyboardInterrupt:
            print("interrupted", flush=True)
            raise
"""


def start(how: str, folder: Path) -> subprocess.Popen[str]:
    path = folder / "program.py"
    path.write_text(PROGRAM)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    program = subprocess.Popen(
        [sys.executable, path, how, folder],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        process_group=0,
    )
    until(lambda: (folder / "begun").exists() or program.poll() is not None)
    return program


@pytest.mark.parametrize("how", ["result", "map"])
def test_ctrl_c_ends_pool_and_workers(how: str, tmp_path: Path) -> None:
    program = start(how, tmp_path)
    os.killpg(program.pid, signal.SIGINT)
    told, complaints = program.communicate()
    assert told == "interrupted\n"
    assert program.returncode == -signal.SIGINT
    assert complaints.count("Traceback") == 1  # the program's; workers are silent


def test_another_ctrl_c_kills(tmp_path: Path) -> None:
    """The call ignores the first one. The next one meets the end of the block, and kills the worker."""
    program = start("shutdown", tmp_path)

    def has_ended_after_another() -> bool:
        os.killpg(program.pid, signal.SIGINT)
        time.sleep(0.05)
        return program.poll() is not None

    until(has_ended_after_another)
    program.communicate()
    assert program.returncode != 0


def test_sigint_to_a_worker_ends_its_call_only(make_pool: Make, tmp_path: Path) -> None:
    pool = make_pool(1)
    begun = tmp_path / "begun"
    worker = pool.submit(functions.pid).result()
    future = pool.submit(functions.begin_and_wait, str(begun), str(tmp_path / "never"))
    until(begun.exists)
    os.kill(worker, signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        future.result()
    os.kill(worker, signal.SIGINT)  # idle: it does nothing
    assert pool.submit(functions.pid).result() == worker
    assert pool.statistics().deaths == 0


class Interrupted(BaseException):  # as KeyboardInterrupt
    pass


def interrupt(*_: object) -> None:
    raise Interrupted


def interrupted(seconds: float, work: Callable[[], object]) -> bool:
    """Interrupt `work()` after so long, and return whether that was before its end."""
    try:
        try:
            signal.setitimer(signal.ITIMER_REAL, seconds)
            work()
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
    except Interrupted:
        return True
    return False


def interrupt_often(work: Callable[[], object], times: int) -> None:
    """Interrupt `work()` so often, at moments that are spread over its time."""
    signal.signal(signal.SIGALRM, interrupt)
    begun = time.monotonic()
    work()
    seconds = time.monotonic() - begun
    interrupts = tries = 0
    while interrupts < times:
        tries += 1
        interrupts += interrupted(max(1e-6, seconds * (tries % 97) / 97), work)


def submit_and_interrupt() -> list[int]:
    """Interrupt submitting and waiting; each future is done in the end."""
    futures: list[tuple[int, Any]] = []
    with penstock.WorkerPool(2, mp_context="fork") as pool:
        pool.submit(functions.square, 1).result()

        def work() -> None:
            for number in range(20):
                futures.append((number, pool.submit(functions.square, number)))
            futures[-1][1].result()

        interrupt_often(work, 100)
        wrong = [number for number, future in futures if future.result() != number * number]
        until(lambda: pool.statistics().waiting == 0)
    return wrong


@pytest.mark.slow
def test_interrupts_at_any_moment_lose_no_call() -> None:
    with fork(submit_and_interrupt) as program:
        assert program.result() == []


def start_and_interrupt() -> None:
    """Interrupt the start of pools."""
    pools: list[penstock.WorkerPool] = []

    def work() -> None:
        pools.append(penstock.WorkerPool(2, mp_context="fork"))
        pools[-1].submit(functions.square, 2).result()

    def work_and_end() -> None:
        try:
            work()
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            while pools:
                pools.pop().shutdown()

    interrupt_often(work_and_end, 15)


@pytest.mark.slow
def test_an_interrupted_start_leaves_no_worker() -> None:
    with fork(start_and_interrupt) as program:
        program.result()


@pytest.mark.limit(30)
@pytest.mark.parametrize("handler", [signal.SIG_IGN, "reap"])
def test_children_are_reaped_by_others(handler: Any) -> None:
    """By the system, or by the program's own handler; also those that the template has forked."""

    def reap(*_: object) -> None:
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass

    def program() -> int:
        before = len(os.listdir("/proc/self/fd"))
        signal.signal(signal.SIGCHLD, reap if handler == "reap" else handler)
        with penstock.WorkerPool(1, mp_context="fork", max_tasks_per_child=1) as pool:
            assert [pool.submit(functions.square, 3).result() for _ in range(3)] == [9] * 3
        assert pool._engine.is_broken is None
        return len(os.listdir("/proc/self/fd")) - before

    with fork(program) as child:
        assert child.result() == 0
