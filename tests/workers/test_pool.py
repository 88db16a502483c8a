"""What a pool promises as an executor, under each start method."""

import asyncio
import concurrent.futures
import contextlib
import functools
import gc
import os
import threading
import time
import weakref
from collections.abc import Callable
from concurrent.futures import Future, as_completed
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import pytest

import penstock
from penstock.workers import engine
from tests.support.waiting import until
from tests.workers import functions

Make = Callable[..., penstock.WorkerPool]


def test_it_is_an_executor(method: str, make_pool: Make) -> None:
    pool = make_pool(mp_context=method)
    assert isinstance(pool, concurrent.futures.Executor)
    future = pool.submit(functions.square, 7)
    assert isinstance(future, Future)
    assert future.result() == 49
    assert future.done()
    assert not future.running()
    assert pool.submit(pow, 2, 3, mod=5).result() == 3
    assert pool.submit(functools.partial(pow, 2), 4).result() == 16
    assert pool.submit(functions.Method(3).times, 5).result() == 15
    assert pool.submit(dict, a=[1], b={"c": (2,)}).result() == {"a": [1], "b": {"c": (2,)}}
    assert pool.submit(functions.pid).result() != os.getpid()


def test_exceptions_carry_the_traceback_of_the_worker(method: str, make_pool: Make) -> None:
    pool = make_pool(mp_context=method)
    with pytest.raises(functions.Failed, match="as it should") as info:
        pool.submit(functions.fail).result()
    assert "raise Failed" in str(info.value.__cause__)
    for function, name in (
        (functions.fail_unpicklably, "CannotBePickled"),
        (functions.fail_unrebuildably, "CannotBeRebuilt"),
    ):
        with pytest.raises(penstock.RemoteError) as remote:
            pool.submit(function).result()
        assert remote.value.type == name
        assert f"raise {name}" in remote.value.traceback
    with pytest.raises(SystemExit):
        pool.submit(exit, 3).result()
    assert pool.statistics().deaths == 0


def test_what_does_not_pickle_is_the_future_s(make_pool: Make) -> None:
    pool = make_pool()
    for call in ((lambda: None,), (functions.square, lambda: None), (functions.square, threading.Lock())):
        assert pool.submit(*call).exception() is not None
    assert pool.submit(functions.return_what_does, functions.fail).exception() is not None
    assert pool.submit(functions.square, 2).result() == 4


def test_a_result_that_cannot_be_rebuilt(make_pool: Make) -> None:
    pool = make_pool()
    future = pool.submit(functions.Doing, None, functions.fail)
    with pytest.raises(functions.Failed):
        future.result()


def test_waiting_from_many_threads(make_pool: Make) -> None:
    pool = make_pool()

    def work(begin: int) -> list[int]:
        return [pool.submit(functions.square, number).result() for number in range(begin, begin + 100)]

    with concurrent.futures.ThreadPoolExecutor(8) as threads:
        results = list(threads.map(work, range(0, 800, 100)))
    assert [number for part in results for number in part] == [number * number for number in range(800)]


def test_wait_as_completed_and_callbacks(make_pool: Make) -> None:
    pool = make_pool()
    futures = [pool.submit(functions.square, number) for number in range(50)]
    assert sorted(future.result() for future in as_completed(futures)) == [n * n for n in range(50)]
    done, pending = concurrent.futures.wait([pool.submit(functions.square, 3)])
    assert (len(done), len(pending)) == (1, 0)
    called = threading.Event()
    pool.submit(functions.square, 3).add_done_callback(lambda _: called.set())
    assert called.wait(30)


def test_in_an_event_loop(make_pool: Make) -> None:
    pool = make_pool()

    async def main() -> list[int]:
        loop = asyncio.get_running_loop()
        calls = (loop.run_in_executor(pool, functions.square, number) for number in range(20))
        return list(await asyncio.gather(*calls))

    assert asyncio.run(main()) == [number * number for number in range(20)]


def test_result_with_a_timeout(make_pool: Make, tmp_path: Path) -> None:
    pool = make_pool()
    future = pool.submit(functions.wait_for, str(tmp_path / "go"))
    with pytest.raises(TimeoutError):
        future.result(timeout=0.01)
    until(future.running)
    assert not future.cancel()
    (tmp_path / "go").touch()
    assert future.exception(timeout=30) is None


def test_cancel(make_pool: Make, tmp_path: Path) -> None:
    pool = make_pool(1)
    running = pool.submit(functions.begin_and_wait, str(tmp_path / "begun"), str(tmp_path / "go"))
    until((tmp_path / "begun").exists)
    waiting = [pool.submit(functions.note, str(tmp_path), f"waiting-{number}") for number in range(3)]
    assert waiting[1].cancel()
    assert waiting[1].cancelled()
    assert waiting[1].cancel()
    assert concurrent.futures.wait([waiting[1]]).done
    with pytest.raises(concurrent.futures.CancelledError):
        waiting[1].result()
    assert not running.cancel()
    (tmp_path / "go").touch()
    assert waiting[0].result() is None
    assert waiting[2].result() is None
    assert [(tmp_path / f"waiting-{number}").exists() for number in range(3)] == [True, False, True]


def test_cancel_kills(make_pool: Make, tmp_path: Path) -> None:
    pool = make_pool(1, cancel_kills=True)
    worker = pool.submit(functions.pid).result()
    running = pool.submit(functions.wait_for_ever)
    other = pool.submit(functions.pid)
    until(running.running)
    assert running.cancel()
    assert running.cancelled()
    assert other.result() != worker
    assert pool.statistics().deaths == 1


def test_shutdown_cancels_what_waits(make_pool: Make, tmp_path: Path) -> None:
    pool = make_pool(1)
    running = pool.submit(functions.begin_and_wait, str(tmp_path / "begun"), str(tmp_path / "go"))
    until((tmp_path / "begun").exists)
    waiting = [pool.submit(functions.square, number) for number in range(10)]
    pool.shutdown(wait=False, cancel_futures=True)
    assert all(future.cancelled() for future in waiting)
    (tmp_path / "go").touch()
    pool.shutdown()
    assert running.result() == str(tmp_path / "go")
    with pytest.raises(RuntimeError, match="after shutdown"):
        pool.submit(functions.square, 1)
    with pytest.raises(RuntimeError, match="after shutdown"):
        pool.map(functions.square, [1])


def test_shutdown_waits_for_all_calls(method: str) -> None:
    with penstock.WorkerPool(2, mp_context=method) as pool:
        futures = [pool.submit(functions.square, number) for number in range(100)]
    assert [future.result() for future in futures] == [number * number for number in range(100)]


@pytest.mark.parametrize("end", ["terminate_workers", "kill_workers"])
def test_ending_the_workers(end: str, make_pool: Make) -> None:
    pool = make_pool(1)
    running = pool.submit(functions.wait_for_ever)
    waiting = pool.submit(functions.square, 1)
    until(running.running)
    getattr(pool, end)()
    with pytest.raises(penstock.WorkerDied):
        running.result()
    assert waiting.cancelled()
    with pytest.raises(RuntimeError):
        pool.submit(functions.square, 1)


def test_an_initializer_that_raises_breaks_the_pool(method: str, make_pool: Make) -> None:
    pool = make_pool(mp_context=method, initializer=functions.fail)
    with pytest.raises(BrokenProcessPool, match="initializer") as info:
        pool.submit(functions.square, 1).result()
    assert isinstance(info.value.__cause__, functions.Failed)
    with pytest.raises(BrokenProcessPool, match="initializer"):
        pool.submit(functions.square, 1)


def test_three_early_deaths_break_the_pool(make_pool: Make) -> None:
    pool = make_pool(1, initializer=functions.kill_oneself)
    with pytest.raises(BrokenProcessPool, match="3 workers"):
        pool.submit(functions.square, 1).result()
    assert pool.statistics().started == 3


def no_thread(*_: object) -> None:
    raise RuntimeError("can't start new thread")


@pytest.mark.limit(20)
def test_no_thread_can_be_started(make_pool: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """As beyond a limit of processes, which the workers themselves may just have reached."""
    pool = make_pool()
    monkeypatch.setattr(engine, "start_new_thread", no_thread)
    with pytest.raises(RuntimeError, match="new thread"):
        pool.submit(functions.square, 2)
    with pytest.raises(BrokenProcessPool, match="new thread"):
        pool.submit(functions.square, 2)
    pool.shutdown()


@pytest.mark.limit(20)
def test_threads_cannot_be_started(make_pool: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """As at the end of the interpreter. A call that has a result before that comes out is done."""
    pool = make_pool()
    monkeypatch.setattr(threading.Thread, "start", no_thread)
    with contextlib.suppress(BrokenProcessPool, RuntimeError):
        assert pool.submit(functions.square, 2).result() == 4
    until(pool._engine.warden._has_ended.is_set)
    with pytest.raises(BrokenProcessPool, match="new thread"):
        pool.submit(functions.square, 2)
    monkeypatch.undo()
    pool.shutdown()


def test_initializer_and_finalizer(method: str, tmp_path: Path) -> None:
    with penstock.WorkerPool(
        1,
        mp_context=method,
        initializer=functions.note,
        initargs=(str(tmp_path), "initialized"),
        finalizer=functools.partial(functions.note, str(tmp_path), "finalized"),
    ) as pool:
        worker = pool.submit(functions.pid).result()
        assert (tmp_path / "initialized").read_text() == f"{worker}\n"
    assert (tmp_path / "finalized").read_text() == f"{worker}\n"


def test_shared(method: str, make_pool: Make) -> None:
    np = pytest.importorskip("numpy")
    pool = make_pool(mp_context=method, shared={"model": np.arange(100_000), "name": "a"})
    assert (pool.submit(functions.shared, "model").result() == np.arange(100_000)).all()
    assert pool.submit(functions.shared, "name").result() == "a"
    with pytest.raises(KeyError, match="not shared"):
        pool.submit(functions.shared, "other").result()


def test_large_arrays(method: str, make_pool: Make) -> None:
    np = pytest.importorskip("numpy")
    pool = make_pool(mp_context=method)
    array = np.ones(1 << 17)
    assert list(pool.map(functions.array_sum, [array] * 20)) == [float(1 << 17)] * 20
    made = list(pool.map(functions.ones, [1 << 17] * 5))
    assert all(array.sum() == 1 << 17 for array in made)
    made[0][0] = 2  # the program's own
    model = functools.partial(np.add, np.ones(1 << 17))
    assert [array.sum() for array in pool.map(model, [1, 2])] == [2 << 17, 3 << 17]


def test_a_parent_is_the_pool_s_process(method: str, make_pool: Make) -> None:
    parent, name = make_pool(mp_context=method, name="jobs").submit(functions.parent).result()
    assert parent == os.getpid()
    assert name.startswith("jobs-")


def test_a_pool_in_a_worker(method: str, make_pool: Make) -> None:
    results, workers = make_pool(mp_context=method).submit(functions.squares_in_a_pool_of_its_own, 5).result()
    assert (results, workers) == ([0, 1, 4, 9, 16], 1)


def test_cloudpickle(method: str, make_pool: Make) -> None:
    pytest.importorskip("cloudpickle")
    pool = make_pool(
        mp_context=method,
        serializer="cloudpickle",
        initializer=lambda: None,
        shared={"function": lambda x: x + 1},
    )
    assert pool.submit(lambda x: x * 3, 2).result() == 6
    assert pool.submit(lambda x: penstock.shared["function"](x), 2).result() == 3
    assert list(pool.map(lambda x: x + 1, range(3))) == [1, 2, 3]
    assert pool.submit(lambda: lambda: 5).result()() == 5


def test_options(make_pool: Make, tmp_path: Path) -> None:
    pool = make_pool()
    tenacious = pool.options(retries=2)
    assert tenacious.submit(functions.die_once, str(tmp_path), 3).result() == 9
    with pytest.raises(penstock.TaskTimeoutError):
        pool.options(timeout=0.1).submit(functions.wait_for_ever).result()
    tenacious.shutdown()
    assert pool.submit(functions.square, 2).result() == 4


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"max_workers": 0}, ValueError),
        ({"max_workers": "2"}, TypeError),
        ({"timeout": 0}, ValueError),
        ({"timeout": "1"}, TypeError),
        ({"retries": -1}, ValueError),
        ({"retries": 251}, ValueError),
        ({"spares": -1}, ValueError),
        ({"max_tasks_per_child": 0}, ValueError),
        ({"initializer": 1}, TypeError),
        ({"serializer": "dill"}, ValueError),
        ({"mp_context": "thread"}, ValueError),
    ],
)
def test_arguments(options: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error):
        penstock.WorkerPool(**options)


@pytest.mark.limit(20)
def test_a_forked_child_takes_and_cancels_nothing(make_pool: Make, tmp_path: Path) -> None:
    from tests.support.children import fork

    pool = make_pool(1)
    begun, go = tmp_path / "begun", tmp_path / "go"
    function = functools.partial(functions.begin_and_wait, str(begun))
    results = pool.map(function, [str(go)] * 4, chunksize=1, buffersize=4)
    future = pool.submit(functions.square, 2)
    until(begun.exists)

    def in_child() -> str:
        assert not future.cancel()
        pool.kill_workers()
        with pytest.raises(RuntimeError, match="belong to the process"):
            future.result()
        with pytest.raises(RuntimeError, match="belong to the process"):
            next(results)
        results.close()
        return "done"

    try:
        with fork(in_child) as child:
            assert child.result() == "done"
    finally:
        go.touch()
    assert list(results) == [str(go)] * 4
    assert future.result() == 4


def test_a_forked_child_has_no_part_in_the_pool(make_pool: Make) -> None:
    from tests.support.children import fork

    pool = make_pool()
    assert pool.submit(functions.square, 2).result() == 4

    def in_child() -> str:
        try:
            pool.submit(functions.square, 2)
        except RuntimeError as error:
            pool.shutdown()
            return str(error)
        return ""

    with fork(in_child) as child:
        assert "forked child" in child.result()
    assert pool.submit(functions.square, 3).result() == 9


def test_no_future_is_kept(make_pool: Make) -> None:
    pool = make_pool()
    future = pool.submit(functions.square, 3)
    future.result()
    kept = weakref.ref(future)
    del future
    until(lambda: gc.collect() is not None and kept() is None)


@pytest.mark.slow
def test_idle_workers_sleep(make_pool: Make) -> None:
    """After their last call they take no processor time at all, and neither does the pool's process."""
    pool = make_pool(4)
    list(pool.map(functions.square, range(100)))
    until(lambda: all(member.pid for member in list(pool._engine.crew.members.values())))

    def switches() -> list[str]:
        found = []
        for pid in [m.pid for m in list(pool._engine.crew.members.values())]:
            status = Path(f"/proc/{pid}/status").read_text()
            found += [line for line in status.splitlines() if "ctxt_switches" in line]
        return found

    def sleep_through_a_second() -> bool:
        before = switches()
        time.sleep(1)
        return before == switches()

    until(sleep_through_a_second)
    assert list(pool.map(functions.square, range(4))) == [0, 1, 4, 9]
