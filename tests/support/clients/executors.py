"""`ProcessPoolExecutor`: under `penstock run` a pool of workers.

With a context of Penstock's in a program that is not patched it stays the standard library's. Its results
come through a SimpleQueue, on whose `_reader` it waits beside others.
"""

import os
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import EXTRA_QUEUED_CALLS, BrokenProcessPool
from contextlib import contextmanager
from typing import Any

import penstock
from tests.support.clients import kill_oneself, main, raised_by, wait_for_ever
from tests.support.waiting import until

WORKERS = 2


def square(number: int) -> int:
    return number * number


def invert(number: int) -> float:
    return 1 / number


def repeat(text: bytes, times: int) -> bytes:
    return text * times


def own_pid(_: object = None) -> int:
    return os.getpid()


def something_that_cannot_be_pickled() -> Any:
    return lambda: 0


class KillsItsReceiver:
    """Kills the process that unpickles it, which breaks the executor."""

    def __reduce__(self) -> Any:
        return kill_oneself, ()


class FailsAtItsReceiver:
    def __reduce__(self) -> Any:
        return int, ("not a number",)


def make(kind: type) -> Any:
    return kind()


initial: list[Any] = []


def initialise(*arguments: Any) -> None:
    initial[:] = arguments


def initialised() -> list[Any]:
    return initial


def start_and_wait() -> int:
    started, gate = initial
    started.put(os.getpid())
    gate.get()
    return os.getpid()


def start_and_die() -> None:
    start_and_wait()
    kill_oneself()


def is_pool(context: Any) -> bool:
    """Whether an executor of this context is a pool: the program is patched."""
    return not type(context).__module__.startswith("penstock")


@contextmanager
def opened(context: Any, **options: Any) -> Iterator[ProcessPoolExecutor]:
    """An executor, after a check that it is on Penstock."""
    with ProcessPoolExecutor(WORKERS, mp_context=context, **options) as executor:
        if is_pool(context):
            assert type(executor.__dict__["_penstock_pool"]) is penstock.WorkerPool
        else:
            assert type(executor._result_queue) is penstock.SimpleQueue
        yield executor


def map_and_submit(context: Any) -> None:
    squares = [number * number for number in range(200)]
    with opened(context) as executor:
        assert list(executor.map(square, range(200), chunksize=9)) == squares
        assert list(executor.map(pow, range(200), [2] * 200)) == squares
        futures = [executor.submit(square, number) for number in range(200)]
        assert [future.result() for future in futures] == squares


def initializer(context: Any) -> None:
    with opened(context, initializer=initialise, initargs=(1, "two")) as executor:
        assert [executor.submit(initialised).result() for _ in range(4)] == [[1, "two"]] * 4


def initializer_that_fails(context: Any) -> None:
    with opened(context, initializer=kill_oneself) as executor:
        assert isinstance(raised_by(executor.submit(square, 3).result), BrokenProcessPool)


def large_results(context: Any) -> None:
    with opened(context) as executor:
        results = list(executor.map(repeat, [b"abcd"] * 4, [1 << 21] * 4))
        assert [len(result) for result in results] == [8 << 20] * 4
        assert results[0] == b"abcd" * (1 << 21)


def errors(context: Any) -> None:
    with opened(context) as executor:
        failed = raised_by(executor.submit(invert, 0).result)
        assert isinstance(failed, ZeroDivisionError)
        assert "return 1 / number" in str(failed.__cause__)
        refused = raised_by(executor.submit(something_that_cannot_be_pickled).result)
        assert "lambda" in str(refused)
        assert "lambda" in str(raised_by(executor.submit(square, lambda: 0).result))  # type: ignore[arg-type]
        # The executor goes on.
        assert list(executor.map(square, range(10))) == [number * number for number in range(10)]


def result_that_cannot_be_unpickled(context: Any) -> None:
    with opened(context) as executor:
        broken = raised_by(executor.submit(make, FailsAtItsReceiver).result)
        if is_pool(context):
            assert isinstance(broken, ValueError)
            assert "not a number" in str(broken)
            assert executor.submit(square, 3).result() == 9
            return
        assert isinstance(broken, BrokenProcessPool)
        assert "not a number" in str(broken.__cause__)


def worker_dies_at_work(context: Any) -> None:
    started, gate = context.SimpleQueue(), context.SimpleQueue()
    for _ in range(2):
        with opened(context, initializer=initialise, initargs=(started, gate)) as executor:
            futures: list[Future[Any]] = [executor.submit(start_and_die)]
            started.get()
            if is_pool(context):
                others = [executor.submit(square, number) for number in range(100)]
                gate.put("now")
                assert isinstance(raised_by(futures[0].result), penstock.WorkerDied)
                assert [other.result() for other in others] == [number * number for number in range(100)]
                continue
            futures += [executor.submit(wait_for_ever)]
            futures += [executor.submit(square, number) for number in range(100)]
            gate.put("now")
            assert {type(raised_by(future.result)) for future in futures} == {BrokenProcessPool}
            assert isinstance(raised_by(lambda: executor.submit(square, 3)), BrokenProcessPool)


def idle_worker_is_killed(context: Any) -> None:
    for _ in range(2):
        with opened(context) as executor:
            os.kill(executor.submit(own_pid).result(), signal.SIGKILL)
            if is_pool(context):
                assert executor.submit(square, 3).result() == 9
                continue
            assert isinstance(raised_by(lambda: executor.submit(wait_for_ever).result()), BrokenProcessPool)


def shut_down_with_work_left(context: Any) -> None:
    started, gate = context.SimpleQueue(), context.SimpleQueue()
    with opened(context, initializer=initialise, initargs=(started, gate)) as executor:
        under_way = [executor.submit(start_and_wait) for _ in range(WORKERS)]
        at_work = {started.get() for _ in range(WORKERS)}
        left = [executor.submit(square, number) for number in range(50)]
        shutting_down = threading.Thread(target=executor.shutdown, kwargs={"cancel_futures": True})
        shutting_down.start()
        until(lambda: left[-1].cancelled())
        assert not any(future.done() for future in under_way)
        for _ in range(WORKERS):
            gate.put("now")
        shutting_down.join()
        assert {future.result() for future in under_way} == at_work
        # Tasks that had been handed out are done.
        done = [number for number, future in enumerate(left) if not future.cancelled()]
        assert len(done) <= WORKERS + EXTRA_QUEUED_CALLS
        assert [left[number].result() for number in done] == [number * number for number in done]


PROGRAMS = {
    program.__name__: program
    for program in (
        map_and_submit,
        initializer,
        initializer_that_fails,
        large_results,
        errors,
        result_that_cannot_be_unpickled,
        worker_dies_at_work,
        idle_worker_is_killed,
        shut_down_with_work_left,
    )
}

if __name__ == "__main__":
    main(PROGRAMS)
