"""The crash table: what becomes of a call, and of the pool, whatever fails in whatever stage of the call.

After each failure all other calls have their results, and the pool has as many workers as before.
"""

import os
import signal
from collections.abc import Callable
from itertools import product
from typing import Any

import pytest

import penstock
from tests.support import children
from tests.support.waiting import until
from tests.workers import functions
from tests.workers.functions import Doing, Failed

FAILURES: dict[str, Callable[..., Any]] = {
    "exception": functions.fail,
    "exit": functions.exit_hard,
    "SIGKILL": functions.kill_oneself,
    "SIGSEGV": functions.violate_memory,
    "out of memory": functions.use_up_memory,
    "SIGSTOP": functions.stop_oneself,
}

STAGES = ("pickling the call", "taking it", "running it", "sending the result", "in a finalizer")

LIMIT = 1.0  # seconds for a call that stops its worker
MEMORY = 300_000_000  # bytes of a worker


def raised(kind: type[BaseException], **facts: Any) -> Any:
    """The future raises this, and its last death has these facts."""
    return kind, facts


EXCEPTION = raised(Failed)
EXIT = raised(penstock.WorkerDied, exitcode=7, signal=None, out_of_memory=False)
KILLED = raised(penstock.WorkerDied, exitcode=None, signal=signal.SIGKILL)
VIOLATED = raised(penstock.WorkerDied, exitcode=None, signal=signal.SIGSEGV, out_of_memory=False)
FULL = raised(penstock.WorkerDied, signal=signal.SIGKILL, out_of_memory=True)
STOPPED = raised(penstock.TaskTimeoutError, signal=signal.SIGKILL)

# The program itself pickles: if it dies, so do its workers; if it is stopped, it may be continued.
DIES, CONTINUES = "the program dies, and leaves no worker", "the program is continued, and has all results"
# No call is lost, and the worker's death is counted.
DEATH, NO_DEATH = "a death", "no death"

OUTCOMES: dict[tuple[str, str], Any] = {
    ("pickling the call", "exception"): EXCEPTION,
    ("pickling the call", "exit"): DIES,
    ("pickling the call", "SIGKILL"): DIES,
    ("pickling the call", "SIGSEGV"): DIES,
    ("pickling the call", "out of memory"): raised(MemoryError),
    ("pickling the call", "SIGSTOP"): CONTINUES,
    **{
        (stage, failure): outcome
        for stage in ("taking it", "running it", "sending the result")
        for failure, outcome in {
            "exception": EXCEPTION,
            "exit": EXIT,
            "SIGKILL": KILLED,
            "SIGSEGV": VIOLATED,
            "out of memory": FULL,
            "SIGSTOP": STOPPED,
        }.items()
    },
    ("in a finalizer", "exception"): NO_DEATH,
    ("in a finalizer", "exit"): DEATH,
    ("in a finalizer", "SIGKILL"): DEATH,
    ("in a finalizer", "SIGSEGV"): DEATH,
    ("in a finalizer", "out of memory"): NO_DEATH,
    ("in a finalizer", "SIGSTOP"): DEATH,
}


# These wait for a limit to be reached.
SLOW = ("out of memory", "SIGSTOP")

CELLS = [
    pytest.param(stage, failure, marks=[pytest.mark.slow] if failure in SLOW else [])
    for stage, failure in product(STAGES, FAILURES)
]


def submit(pool: penstock.WorkerPool, stage: str, failure: Callable[..., Any]) -> Any:
    if stage == "pickling the call":
        return pool.submit(functions.square, Doing(on_pickling=failure))
    if stage == "taking it":
        return pool.submit(functions.square, Doing(on_rebuilding=failure))
    if stage == "running it":
        return pool.submit(failure)
    return pool.submit(functions.return_what_does, failure)


def end_for_want_of_memory(*_: Any) -> None:
    raise MemoryError


@pytest.mark.parametrize(("stage", "failure"), CELLS)
def test_crash(stage: str, failure: str, make_pool: Callable[..., penstock.WorkerPool]) -> None:
    outcome = OUTCOMES[stage, failure]
    fails = FAILURES[failure]
    if stage == "in a finalizer":
        check_finalizer(outcome, end_for_want_of_memory if failure == "out of memory" else fails)
    elif outcome in (DIES, CONTINUES):
        check_program(outcome, fails)
    else:
        if outcome == raised(MemoryError):
            fails = end_for_want_of_memory
        limit = LIMIT if outcome is STOPPED else None
        memory = MEMORY if outcome is FULL else None
        pool = make_pool(timeout=limit, max_memory_per_child=memory)
        check_call(pool, stage, fails, *outcome)


def check_call(
    pool: penstock.WorkerPool, stage: str, fails: Callable[..., Any], kind: type[BaseException], facts: Any
) -> None:
    before = [pool.submit(functions.square, number) for number in range(3)]
    failing = submit(pool, stage, fails)
    after = [pool.submit(functions.square, number) for number in range(3)]
    with pytest.raises(kind) as info:
        failing.result()
    assert [future.result() for future in before + after] == [0, 1, 4] * 2
    if issubclass(kind, penstock.WorkerDied | penstock.TaskTimeoutError):
        (death,) = info.value.deaths  # type: ignore[attr-defined]
        assert {name: getattr(death, name) for name in facts} == facts
        assert not os.path.exists(f"/proc/{death.pid}")
    now = pool.statistics()
    assert now.deaths == bool(facts)
    until(lambda: pool.statistics().workers == 2)
    assert list(pool.map(functions.square, range(100))) == [number * number for number in range(100)]


def check_finalizer(outcome: str, fails: Callable[..., Any]) -> None:
    with penstock.WorkerPool(
        2, mp_context="fork", max_tasks_per_child=1, finalizer=fails, timeout=LIMIT
    ) as pool:
        futures = [pool.submit(functions.square, number) for number in range(2)]
        assert [future.result() for future in futures] == [0, 1]
    deaths = pool.statistics().deaths
    assert deaths >= 1 if outcome == DEATH else deaths == 0


def program_that_pickles(fails: Callable[..., Any]) -> list[int]:
    with penstock.WorkerPool(2, mp_context="fork") as pool:
        futures = [pool.submit(functions.square, number) for number in range(3)]
        pool.submit(functions.square, Doing(on_pickling=fails))
        return [future.result() for future in futures]


def stop_and_go_on() -> None:
    os.kill(os.getpid(), signal.SIGSTOP)


def check_program(outcome: str, fails: Callable[..., Any]) -> None:
    if outcome == CONTINUES:
        fails = stop_and_go_on
    with children.fork(program_that_pickles, fails) as program:
        if outcome == CONTINUES:
            until(program.is_stopped)
            program.kill(signal.SIGCONT)
            assert program.result() == [0, 1, 4]
        else:
            program.wait()  # the end of the test finds workers that are left
