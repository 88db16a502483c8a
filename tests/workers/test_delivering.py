"""A result that cannot be delivered ends its own call. The pool, and the calls of others, go on."""

import asyncio
import concurrent.futures
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import penstock
from penstock.errors import QueueMemoryError
from penstock.workers import messages
from tests.workers import functions

Make = Callable[..., penstock.WorkerPool]


def goes_on(pool: penstock.WorkerPool) -> bool:
    """Whether both the waiting thread and the pool's own still get results."""
    own = pool.submit(functions.square, 2)
    assert concurrent.futures.wait([own]).done
    return bool(own.result() == 4 and pool.submit(functions.square, 3).result() == 9)


@pytest.mark.parametrize(
    ("function", "name"),
    [
        (functions.fail_frozen, "Frozen"),
        (functions.fail_exiting, "ExitsWhenRebuilt"),
        (functions.fail_elsewhere, "SystemExit"),
    ],
)
@pytest.mark.limit(20)
def test_exceptions_that_refuse(function: Callable[..., Any], name: str, make_pool: Make) -> None:
    pool = make_pool(1)
    with pytest.raises(penstock.RemoteError) as info:
        pool.submit(function).result()
    assert info.value.type == name
    assert function.__name__ in info.value.traceback
    assert goes_on(pool)
    assert pool.statistics().deaths == 0


@pytest.mark.limit(20)
def test_an_event_loop_that_was_closed(make_pool: Make) -> None:
    pool = make_pool(1)
    loop = asyncio.new_event_loop()
    results = pool.amap(functions.square, range(4), buffersize=4, chunksize=1)
    assert loop.run_until_complete(anext(results)) == 0
    loop.close()
    mapping = results.ag_frame.f_locals["self"]
    pool._engine.calls.put(mapping, numbers := pool._engine.calls.numbers(1), [])
    pool._engine.calls.deliver([(numbers[0], 0, messages.VALUE, 4)])
    assert numbers[0] not in pool._engine.calls.sinks
    assert goes_on(pool)


@pytest.mark.limit(20)
def test_a_sink_that_raises(make_pool: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pool = make_pool(1)
    future = pool.submit(functions.wait_for, str(tmp_path / "go"))

    def deliver(_: object) -> bool:
        raise ValueError("cannot take it")

    monkeypatch.setattr(future, "deliver", deliver)
    (tmp_path / "go").touch()
    with pytest.raises(ValueError, match="cannot take it"):
        future.result()
    assert goes_on(pool)


@pytest.mark.limit(20)
def test_a_callback_that_exits(make_pool: Make, caplog: pytest.LogCaptureFixture) -> None:
    pool = make_pool(1)
    future = pool.submit(functions.square, 2)
    future.add_done_callback(lambda _: exit(3))
    assert concurrent.futures.wait([future]).done
    assert goes_on(pool)


@pytest.mark.parametrize("error", [MemoryError, QueueMemoryError])
@pytest.mark.parametrize("has_items", [True, False])
@pytest.mark.limit(20)
def test_memory_is_short_while_results_are_taken(
    error: type[Exception], has_items: bool, make_pool: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The exception has the results that were taken until then; without any they are still in the queue."""
    pool = make_pool(1)
    assert goes_on(pool)
    get_many = pool._engine.collector._get_many
    raised: list[Exception] = []

    def fail_once(*arguments: Any) -> list[Any]:
        if raised:
            return get_many(*arguments)
        trouble = error("no memory", 1)
        if has_items:
            trouble.items = get_many(*arguments)  # type: ignore[attr-defined]
        raised.append(trouble)
        raise trouble

    monkeypatch.setattr(pool._engine.collector, "_get_many", fail_once)
    assert goes_on(pool)
    assert len(raised) == 1


@pytest.mark.limit(20)
def test_no_memory_for_a_nudge(make_pool: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def put(_: object) -> None:
        raise MemoryError("no memory")

    pool = make_pool(1)
    running = pool.submit(functions.wait_for, str(tmp_path / "go"))
    waiting = pool.submit(functions.square, 2)
    monkeypatch.setattr(pool._engine.kit.results, "put", put)
    pool.kill_workers()
    pool.shutdown()
    assert waiting.cancelled()
    assert running.exception() is not None
