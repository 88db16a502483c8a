"""`ProcessPoolExecutor` while Penstock is patched in, where it is not as the standard library's."""

import multiprocessing
import os
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any

import pytest

import penstock

METHODS = ("fork", "spawn", "forkserver")


@pytest.fixture(params=METHODS)
def executor(request: pytest.FixtureRequest) -> Iterator[Any]:
    penstock.patch()
    try:
        with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context(request.param)) as made:
            penstock.unpatch()  # the executor stays a pool
            yield made
    finally:
        penstock.unpatch()


def tell_and_wait(pids: Any, gate: Any) -> None:
    pids.put(os.getpid())
    gate.get()


def raise_error(error: type[BaseException]) -> None:
    raise error("cannot be rebuilt")


class CannotBeRebuilt:
    def __init__(self, error: type[BaseException]) -> None:
        self.error = error

    def __reduce__(self) -> Any:
        return raise_error, (self.error,)


def test_a_killed_worker_takes_its_own_call_only(executor: Any) -> None:
    pids, gate = penstock.SimpleQueue[int](), penstock.SimpleQueue[int]()
    lost = executor.submit(tell_and_wait, pids, gate)
    others = [executor.submit(pow, 2, number) for number in range(20)]
    os.kill(pids.get(), signal.SIGKILL)
    error = lost.exception()
    assert isinstance(error, penstock.WorkerDied)
    assert isinstance(error, BrokenProcessPool)
    assert [other.result() for other in others] == [2**number for number in range(20)]
    assert executor.submit(pow, 2, 8).result() == 256


@pytest.mark.parametrize("error", [ValueError, SystemExit])
def test_what_cannot_be_rebuilt_fails_alone(executor: Any, error: type[BaseException]) -> None:
    for future in (executor.submit(id, CannotBeRebuilt(error)), executor.submit(CannotBeRebuilt, error)):
        with pytest.raises(error, match="cannot be rebuilt"):
            future.result()
    assert executor.submit(pow, 2, 8).result() == 256


def test_all_workers_start_with_the_first_call(executor: Any) -> None:
    pool = executor._penstock_pool
    assert pool.statistics().workers == 0
    executor.submit(pow, 2, 8).result()
    assert pool.statistics().workers == 2


def test_cancel_works_until_a_worker_has_begun(executor: Any) -> None:
    pids, gate = penstock.SimpleQueue[int](), penstock.SimpleQueue[int]()
    begun = [executor.submit(tell_and_wait, pids, gate) for _ in range(2)]
    waiting = executor.submit(pow, 2, 8)
    for _ in begun:
        pids.get()
    assert not any(future.cancel() for future in begun)
    assert waiting.cancel()
    for _ in begun:
        gate.put(0)
    assert [future.result() for future in begun] == [None, None]


def test_a_shutdown_leaves_the_oldest_calls(executor: Any) -> None:
    futures = [executor.submit(time.sleep, 0.1) for _ in range(20)]
    executor.shutdown(cancel_futures=True)
    left = [future for future in futures if not future.cancelled()]
    assert 3 <= len(left) <= 8
    assert [future.result() for future in left] == [None] * len(left)


def test_private_attributes(executor: Any) -> None:
    assert executor._max_workers == 2
    assert isinstance(executor._mp_context, multiprocessing.context.BaseContext)
    for name in ("_processes", "_call_queue", "_result_queue", "_broken", "_executor_manager_thread"):
        assert not hasattr(executor, name)


@pytest.mark.parametrize(
    ("arguments", "options", "error"),
    [
        ((0,), {}, ValueError),
        ((-1,), {}, ValueError),
        ((1,), {"initializer": 1}, TypeError),
        ((1,), {"max_tasks_per_child": 0}, ValueError),
        ((1,), {"max_tasks_per_child": 1.0}, TypeError),
        ((1, multiprocessing.get_context("fork")), {"max_tasks_per_child": 1}, ValueError),
    ],
)
def test_errors_of_the_constructor(
    arguments: tuple[Any, ...], options: dict[str, Any], error: type[Exception]
) -> None:
    with pytest.raises(error) as standard:
        ProcessPoolExecutor(*arguments, **options)
    penstock.patch()
    try:
        with pytest.raises(error) as ours:
            ProcessPoolExecutor(*arguments, **options)
    finally:
        penstock.unpatch()
    assert str(ours.value) == str(standard.value)


def test_an_executor_made_before_stays_the_standard_one() -> None:
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("fork")) as made:
        penstock.patch()
        try:
            assert made.submit(abs, -1).result() == 1
            assert list(made.map(abs, [-1, -2])) == [1, 2]
            made.shutdown()
        finally:
            penstock.unpatch()


def test_map_takes_everything_at_once_and_has_a_time_for_all(executor: Any) -> None:
    taken: list[int] = []

    def numbers() -> Iterator[int]:
        for number in range(500):
            taken.append(number)
            yield number

    results = executor.map(abs, numbers())
    assert len(taken) == 500
    assert list(results) == taken
    with pytest.raises(TimeoutError):
        list(executor.map(time.sleep, [0, 3], timeout=1))
    assert executor._penstock_pool.statistics().deaths == 0
