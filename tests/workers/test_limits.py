"""What a pool limits, and how it replaces workers."""

import contextlib
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

import penstock
from penstock.workers.worker import Worker
from tests.support import processes
from tests.support.waiting import until
from tests.workers import functions

Make = Callable[..., penstock.WorkerPool]


def workers(pool: penstock.WorkerPool) -> set[int]:
    """The pids of its workers, spares included."""
    until(lambda: all(member.pid for member in list(pool._engine.crew.members.values())))
    return {member.pid for member in list(pool._engine.crew.members.values())}


def test_a_call_beyond_its_time(method: str, make_pool: Make) -> None:
    pool = make_pool(mp_context=method, timeout=0.2)
    waiting = pool.submit(functions.wait_for_ever)
    stuck = pool.submit(functions.never_return_to_python)
    others = [pool.submit(functions.square, number) for number in range(10)]
    for future, name in ((waiting, "wait_for_ever"), (stuck, "never_return_to_python")):
        with pytest.raises(penstock.TaskTimeoutError, match=r"timeout of 0\.2 s") as info:
            future.result()
        assert info.value.limit == 0.2
        assert name in (info.value.stack or "")
        assert name in str(info.value)
        (death,) = info.value.deaths
        assert death.signal == signal.SIGKILL
        assert death.stack == info.value.stack
    assert [future.result() for future in others] == [number * number for number in range(10)]


def test_time_outs_are_not_retried(make_pool: Make, tmp_path: Path) -> None:
    pool = make_pool(timeout=0.2, retries=3)
    begun, never = str(tmp_path / "begun"), str(tmp_path / "never")
    with pytest.raises(penstock.TaskTimeoutError):
        pool.submit(functions.begin_and_wait, begun, never).result()
    assert pool.submit(functions.square, 3).result() == 9
    assert pool.statistics().retried == 0
    assert pool.statistics().deaths == 1


def test_the_time_before_a_call_begins_does_not_count(make_pool: Make, tmp_path: Path) -> None:
    pool = make_pool(1)
    begun, go = tmp_path / "begun", tmp_path / "go"
    first = pool.submit(functions.begin_and_wait, str(begun), str(go))
    limited = pool.options(timeout=0.5).submit(functions.square, 3)
    until(begun.exists)
    with pytest.raises(TimeoutError):
        limited.result(timeout=1)
    go.touch()
    assert first.result() == str(go)
    assert limited.result() == 9


@pytest.mark.limit(20)
def test_a_short_limit_beside_a_long_one(make_pool: Make, tmp_path: Path) -> None:
    pool = make_pool(2, timeout=3600)
    begun, go = tmp_path / "begun", tmp_path / "go"
    first = pool.submit(functions.begin_and_wait, str(begun), str(go))
    until(begun.exists)
    until(lambda: pool._engine.warden._wakes_at > time.monotonic() + 1000)
    with pytest.raises(penstock.TaskTimeoutError):
        pool.options(timeout=0.2).submit(functions.wait_for_ever).result()
    go.touch()
    assert first.result() == str(go)


@pytest.mark.limit(20)
def test_a_worker_is_missing_while_another_runs_a_long_call(make_pool: Make, tmp_path: Path) -> None:
    pool = make_pool(2, timeout=3600, idle_timeout=0.1)
    begun, go = tmp_path / "begun", tmp_path / "go"
    first = pool.submit(functions.begin_and_wait, str(begun), str(go))
    until(begun.exists)
    until(lambda: pool.statistics().workers == 1)
    assert pool.submit(functions.square, 2).result() == 4
    assert not first.done()
    go.touch()
    assert first.result() == str(go)


def test_max_tasks_per_child(method: str, make_pool: Make) -> None:
    pool = make_pool(1, mp_context=method, max_tasks_per_child=2)
    pids = [pool.submit(functions.pid).result() for _ in range(6)]
    assert [pids.count(pid) for pid in dict.fromkeys(pids)] == [2, 2, 2]
    assert pool.statistics().deaths == 0


def test_max_memory_between_calls(make_pool: Make) -> None:
    pool = make_pool(1, max_memory_per_child=1)  # a worker always has more
    assert len({pool.submit(functions.pid).result() for _ in range(3)}) >= 2


def test_max_memory_in_a_call(make_pool: Make) -> None:
    pool = make_pool(2, max_memory_per_child=300_000_000)
    with pytest.raises(penstock.WorkerDied) as info:
        pool.submit(functions.use_up_memory).result()
    (death,) = info.value.deaths
    assert death.out_of_memory
    assert "use_up_memory" in (death.stack or "")


def test_idle_workers_end(make_pool: Make) -> None:
    pool = make_pool(2, idle_timeout=0.1)
    assert pool.submit(functions.square, 2).result() == 4
    until(lambda: pool.statistics().workers == 0)
    assert list(pool.map(functions.square, range(10))) == [number * number for number in range(10)]
    assert pool.statistics().deaths == 0


def test_a_spare_takes_the_place_of_a_dead_worker(method: str, make_pool: Make) -> None:
    pool = make_pool(1, mp_context=method, spares=1)
    first = pool.submit(functions.pid).result()
    until(lambda: len(workers(pool)) == 2)
    (spare,) = workers(pool) - {first}
    os.kill(first, signal.SIGKILL)
    assert pool.submit(functions.pid).result() == spare
    until(lambda: pool.statistics().spares == 1)


@pytest.mark.parametrize("retries", [0, 2])
def test_retries(retries: int, method: str, make_pool: Make) -> None:
    pool = make_pool(mp_context=method, retries=retries)
    with pytest.raises(penstock.WorkerDied) as info:
        pool.submit(functions.kill_oneself).result()
    assert len(info.value.deaths) == retries + 1
    assert len({death.pid for death in info.value.deaths}) == retries + 1
    assert pool.statistics().deaths == retries + 1
    assert pool.submit(functions.square, 2).result() == 4


@pytest.mark.limit(20)
@pytest.mark.parametrize("retries", [0, 1])
def test_a_worker_exits_with_a_call_in_hand(
    retries: int, make_pool: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As by the program's own handler of SIGTERM, which forked workers inherit."""
    monkeypatch.setattr(Worker, "_put", lambda *_: sys.exit(0))
    pool = make_pool(1, retries=retries)
    with pytest.raises(penstock.WorkerDied) as info:
        pool.submit(functions.square, 2).result()
    assert [death.exitcode for death in info.value.deaths] == [1] * (retries + 1)
    pool.shutdown()
    assert pool.statistics().started <= retries + 2


def test_exceptions_are_not_retried(make_pool: Make) -> None:
    pool = make_pool(retries=3)
    with pytest.raises(functions.Failed):
        pool.submit(functions.fail).result()
    assert pool.statistics().retried == 0


def test_idle_workers_that_die_lose_no_call(method: str, make_pool: Make) -> None:
    pool = make_pool(mp_context=method)
    for _ in range(3):
        pool.submit(functions.square, 2).result()
        until(lambda: len(workers(pool)) == 2)
        dead = workers(pool)
        for pid in dead:
            os.kill(pid, signal.SIGKILL)
        futures = [pool.submit(functions.square, number) for number in range(20)]
        assert [future.result() for future in futures] == [number * number for number in range(20)]
        until(lambda dead=dead: not workers(pool) & dead)  # type: ignore[misc]


def test_calls_that_wait_survive_all_workers(make_pool: Make, tmp_path: Path) -> None:
    """What has not begun is not charged, whichever worker would have been next."""
    pool = make_pool(2)
    begun = [tmp_path / f"begun-{number}" for number in range(2)]
    running = [pool.submit(functions.begin_and_wait, str(path), str(tmp_path / "go")) for path in begun]
    waiting = [pool.submit(functions.square, number) for number in range(50)]
    until(lambda: all(path.exists() for path in begun))
    for pid in workers(pool):
        os.kill(pid, signal.SIGKILL)
    assert [future.result() for future in waiting] == [number * number for number in range(50)]
    for future in running:
        assert isinstance(future.exception(), penstock.WorkerDied)


def test_a_stopped_worker_delays_only_its_call(make_pool: Make) -> None:
    pool = make_pool(2)
    stopped = pool.submit(functions.stop_oneself)
    until(lambda: any(processes.state(pid) == "T" for pid in workers(pool)))
    assert list(pool.map(functions.square, range(100))) == [number * number for number in range(100)]
    for pid in workers(pool):
        os.kill(pid, signal.SIGCONT)
    with pytest.raises(AssertionError):
        stopped.result()


@pytest.mark.slow
def test_a_storm_of_kills(make_pool: Make, tmp_path: Path) -> None:
    """Every call ends exactly once: in its result, or in `WorkerDied` with its own death."""
    pool = make_pool(3, retries=1)
    results = pool.map(functions.square, range(30_000), chunksize=1, errors="return", buffersize=200)
    done = lost = 0
    for number, result in enumerate(results):
        if isinstance(result, penstock.WorkerDied):
            assert len(result.deaths) == 2
            lost += 1
        else:
            assert result == number * number
            done += 1
        if number % 500 == 0:
            with contextlib.suppress(ProcessLookupError):  # it was the victim before
                os.kill(min(workers(pool)), signal.SIGKILL)
    assert done + lost == 30_000
    assert lost < 100
    assert pool.statistics().deaths > 10
