"""`multiprocessing.Pool`: tasks and results travel through a SimpleQueue each."""

import os
import signal
import sys
from collections.abc import Callable
from multiprocessing.pool import MaybeEncodingError  # type: ignore[attr-defined]
from typing import Any

import penstock
from tests.support import processes
from tests.support.clients import main, raised_by, wait_for_ever
from tests.support.waiting import until

WORKERS = 2


def square(number: int) -> int:
    return number * number


def sizes(first: bytes, second: bytes) -> int:
    return len(first) + len(second)


def repeat(text: bytes, times: int) -> bytes:
    return text * times


def invert(number: int) -> float:
    return 1 / number


def own_pid(_: object = None) -> int:
    return os.getpid()


def something_that_cannot_be_pickled() -> Any:
    return lambda: 0


def take_part(queue: Any) -> None:
    globals()["started"] = queue


def start_and_never_end(_: object) -> None:
    globals()["started"].put(os.getpid())
    wait_for_ever()


def opened(context: Any, *arguments: Any, **options: Any) -> Any:
    """A pool, after a check that its queues are Penstock's."""
    pool = context.Pool(WORKERS, *arguments, **options)
    assert type(pool._inqueue) is type(pool._outqueue) is penstock.SimpleQueue
    return pool


def done_with(pool: Any) -> None:
    pool.close()
    pool.join()


def pids(pool: Any) -> set[int]:
    return {worker.pid for worker in pool._pool}


def have_ended(these: set[int]) -> bool:
    return all(processes.state(pid) in ("", "Z") for pid in these)


def all_kinds_of_calls(context: Any) -> None:
    with opened(context) as pool:
        squares = [number * number for number in range(300)]
        assert pool.map(square, range(300)) == squares
        assert pool.map(square, range(300), chunksize=1) == squares
        assert list(pool.imap(square, range(300), chunksize=7)) == squares
        assert sorted(pool.imap_unordered(square, range(300))) == squares
        assert pool.starmap(pow, [(number, 2) for number in range(300)]) == squares
        assert pool.apply(int, ("11",), {"base": 2}) == 3
        called: list[int] = []
        answers = [pool.apply_async(square, (number,), callback=called.append) for number in range(300)]
        assert [answer.get() for answer in answers] == squares
        assert sorted(called) == squares
        done_with(pool)


def large_tasks_and_results(context: Any) -> None:
    megabytes = [bytes([number]) * (1 << 20) for number in range(8)]
    with opened(context) as pool:
        assert pool.starmap(sizes, [(piece, piece) for piece in megabytes], chunksize=1) == [2 << 20] * 8
        results = pool.starmap(repeat, [(piece[:1], 1 << 20) for piece in megabytes], chunksize=1)
        assert results == megabytes
        done_with(pool)


def errors_in_tasks_and_results(context: Any) -> None:
    with opened(context) as pool:
        failed = raised_by(pool.map, invert, [1, 0, 2])
        assert isinstance(failed, ZeroDivisionError)
        assert "return 1 / number" in str(failed.__cause__)
        noted: list[BaseException] = []
        answer = pool.apply_async(invert, (0,), error_callback=noted.append)
        assert isinstance(raised_by(answer.get), ZeroDivisionError)
        assert [type(error) for error in noted] == [ZeroDivisionError]
        found = [isinstance(raised_by(next, pool.imap(invert, [0])), ZeroDivisionError) for _ in range(3)]
        assert found == [True] * 3
        for _ in range(3):
            refused = raised_by(pool.apply, something_that_cannot_be_pickled)
            assert isinstance(refused, MaybeEncodingError)
            assert "lambda" in str(refused)
            # The task cannot be pickled.
            assert "lambda" in str(raised_by(pool.apply_async(square, (lambda: 0,)).get))
            assert "lambda" in str(raised_by(pool.map, lambda number: number, [1, 2]))
        assert pool.map(square, range(10)) == [number * number for number in range(10)]
        done_with(pool)


def workers_that_are_replaced_after_some_tasks(context: Any) -> None:
    with opened(context, maxtasksperchild=2) as pool:
        did = pool.map(own_pid, range(10), chunksize=1)
        assert len(set(did)) >= 5
        assert all(did.count(pid) <= 2 for pid in did)
        done_with(pool)


def terminated_while_tasks_are_under_way_and_queued(context: Any) -> None:
    started = context.SimpleQueue()
    pool = opened(context, take_part, (started,))
    # More than a queue takes, so that the pool's task thread waits, too.
    answers = [pool.apply_async(start_and_never_end, (bytes(1 << 16),)) for _ in range(40)]
    at_work = {started.get() for _ in range(WORKERS)}
    assert at_work == pids(pool)
    pool.terminate()
    pool.join()
    assert have_ended(at_work)
    assert not any(answer.ready() for answer in answers)
    assert started.empty()


def terminated_while_idle(context: Any) -> None:
    with opened(context) as pool:
        assert pool.apply(square, (3,)) == 9
    pool.join()


def until_idle(pool: Any) -> None:
    until(lambda: pool._inqueue.statistics().waiting_getters == WORKERS)


def idle_workers_are_killed(context: Any) -> None:
    """See https://github.com/python/cpython/issues/96062: the pool hangs, for a dead worker has the lock."""
    with opened(context) as pool:
        for killed in (1, WORKERS, 1):
            until_idle(pool)
            before = pids(pool)
            for pid in list(before)[:killed]:
                os.kill(pid, signal.SIGKILL)
            assert pool.map(square, range(20), chunksize=1) == [number * number for number in range(20)]
            # The surviving worker does not do all tasks: the pool starts another one.
            did: set[int] = set()
            while len(did - before) < killed:
                did |= set(pool.map(own_pid, range(20), chunksize=1))
        done_with(pool)


def keep_an_idle_pool(context: Any, found: Any) -> None:
    pool = opened(context)
    until_idle(pool)
    found.put(pids(pool))
    wait_for_ever()


def be_silent() -> None:
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())


def keep_a_pool_that_waits_for_room(context: Any, found: Any) -> None:
    pool = opened(context, be_silent)  # a worker prints a traceback, as with the standard queues
    # The pool's result thread does not return from the first result.
    pool.apply_async(own_pid, callback=wait_for_ever)
    pool.starmap_async(repeat, [(bytes(1), 1 << 20)] * 100, chunksize=1)
    until(lambda: pool._outqueue.statistics().waiting_putters == WORKERS)
    found.put(pids(pool))
    wait_for_ever()


def kill_the_owner(context: Any, keep: Callable[[Any, Any], None]) -> None:
    found = context.SimpleQueue()
    owner = context.Process(target=keep, args=(context, found))
    owner.start()
    workers = found.get()
    assert not have_ended(workers)
    owner.kill()
    owner.join()
    owner.close()
    until(lambda: have_ended(workers))


def idle_workers_end_when_the_owner_of_the_pool_is_killed(context: Any) -> None:
    kill_the_owner(context, keep_an_idle_pool)


def workers_that_wait_for_room_end_when_the_owner_of_the_pool_is_killed(context: Any) -> None:
    kill_the_owner(context, keep_a_pool_that_waits_for_room)


PROGRAMS = {
    program.__name__: program
    for program in (
        all_kinds_of_calls,
        large_tasks_and_results,
        errors_in_tasks_and_results,
        workers_that_are_replaced_after_some_tasks,
        terminated_while_tasks_are_under_way_and_queued,
        terminated_while_idle,
        idle_workers_are_killed,
        idle_workers_end_when_the_owner_of_the_pool_is_killed,
        workers_that_wait_for_room_end_when_the_owner_of_the_pool_is_killed,
    )
}

if __name__ == "__main__":
    main(PROGRAMS)
