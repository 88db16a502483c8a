"""`map` and `amap`: bounded, ordered or not, in chunks or not."""

import asyncio
import contextlib
import itertools
import os
import pickle
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import penstock
from penstock.workers import kit
from tests.support.waiting import until
from tests.workers import functions
from tests.workers.functions import Failed

Make = Callable[..., penstock.WorkerPool]

SQUARES = [number * number for number in range(1000)]


@pytest.mark.parametrize("chunksize", [None, 1, 7])
@pytest.mark.parametrize("buffersize", [None, 1, 50])
def test_ordered(chunksize: int | None, buffersize: int | None, make_pool: Make) -> None:
    pool = make_pool()
    results = pool.map(functions.square, range(1000), chunksize=chunksize, buffersize=buffersize)
    assert list(results) == SQUARES


@pytest.mark.parametrize("chunksize", [None, 1, 7])
def test_unordered(chunksize: int | None, make_pool: Make) -> None:
    results = make_pool().map(functions.square, range(1000), chunksize=chunksize, ordered=False)
    assert sorted(results) == SQUARES


def test_under_each_start_method(method: str, make_pool: Make) -> None:
    assert list(make_pool(mp_context=method).map(functions.square, range(1000))) == SQUARES


def test_several_iterables(make_pool: Make) -> None:
    pool = make_pool()
    assert list(pool.map(pow, [2, 3, 4], [2, 2])) == [4, 9]
    assert list(pool.map(pow, [2, 3], [2, 2], chunksize=2)) == [4, 9]
    assert list(pool.map(functions.square, [])) == []
    with pytest.raises(TypeError):
        pool.map(functions.square)


@pytest.mark.parametrize("chunksize", [None, 1, 7])
@pytest.mark.parametrize("buffersize", [1, 10])
def test_a_slow_consumer_holds_its_source(chunksize: int | None, buffersize: int, make_pool: Make) -> None:
    consumed = 0

    def source() -> Iterator[int]:
        nonlocal consumed
        for consumed in itertools.count(1):
            yield consumed - 1

    pool = make_pool()
    results = pool.map(functions.square, source(), chunksize=chunksize, buffersize=buffersize)
    assert consumed == buffersize
    for taken in range(100):
        assert consumed <= taken + buffersize
        assert next(results) == taken * taken
    results.close()


def test_the_first_result_does_not_wait_for_the_source(make_pool: Make, tmp_path: Path) -> None:
    """A source that waits for a result of its own map gets it."""
    pool = make_pool()
    seen = threading.Event()

    def source() -> Iterator[int]:
        yield 1
        yield 2
        assert seen.wait(30)
        yield 3

    results = pool.map(functions.square, source(), buffersize=2)
    assert next(results) == 1
    seen.set()
    assert list(results) == [4, 9]


@pytest.mark.parametrize("ordered", [True, False])
def test_a_result_does_not_wait_for_a_slow_call(ordered: bool, make_pool: Make, tmp_path: Path) -> None:
    pool = make_pool()
    go = str(tmp_path / "go")
    Path(tmp_path / "there").touch()
    paths = [str(tmp_path / "there"), str(tmp_path / "there"), go]
    results = pool.map(functions.wait_for, paths, ordered=ordered)
    assert [next(results) for _ in range(2)] == paths[:2]
    Path(go).touch()
    assert list(results) == [go]


def test_errors_are_raised_in_their_place(make_pool: Make) -> None:
    pool = make_pool()
    results = pool.map(divide, [1, 2, 0, 3])
    assert [next(results), next(results)] == [1.0, 0.5]
    with pytest.raises(ZeroDivisionError):
        next(results)
    assert list(results) == []


@pytest.mark.parametrize("chunksize", [None, 1, 3])
def test_errors_are_returned(chunksize: int | None, make_pool: Make) -> None:
    pool = make_pool()
    results = list(pool.map(divide, [1, 0, 2, 0], chunksize=chunksize, errors="return"))
    assert [type(result) for result in results] == [float, ZeroDivisionError, float, ZeroDivisionError]
    arguments = [1, threading.Lock(), functions.Doing(on_rebuilding=functions.fail), 4]
    first, second, third, fourth = pool.map(identity, arguments, chunksize=chunksize, errors="return")
    assert (first, fourth) == (1, 4)
    assert isinstance(second, TypeError)
    assert isinstance(third, Failed)


def divide(number: int) -> float:
    return 1 / number


def identity(obj: Any) -> Any:
    return obj


@pytest.mark.parametrize("ordered", [True, False])
def test_the_source_raises(ordered: bool, make_pool: Make) -> None:
    def source() -> Iterator[int]:
        yield 1
        yield 2
        raise Failed

    results = make_pool().map(functions.square, source(), ordered=ordered)
    assert sorted([next(results), next(results)]) == [1, 4]
    with pytest.raises(Failed):
        next(results)


def test_an_iterator_that_is_closed_cancels_what_waits(make_pool: Make, tmp_path: Path) -> None:
    pool = make_pool(1)
    go = tmp_path / "go"
    numbers = [1, 2, 3]
    results = pool.map(note_or_wait, [str(tmp_path)] * 3, numbers, [None, str(go), None], buffersize=3)
    assert next(results) == 1
    until((tmp_path / "2").exists)  # the second one runs
    results.close()
    go.touch()
    assert pool.submit(functions.square, 3).result() == 9
    assert not (tmp_path / "3").exists()


def note_or_wait(folder: str, number: int, path: str | None) -> int:
    functions.note(folder, number)
    if path is not None:
        functions.wait_for(path)
    return number


@pytest.mark.parametrize("chunksize", [1, 5, None])
def test_a_death_loses_one_item(chunksize: int | None, make_pool: Make, tmp_path: Path) -> None:
    pool = make_pool()
    results = list(pool.map(square_or_die, range(40), chunksize=chunksize, errors="return"))
    lost = [number for number, result in enumerate(results) if isinstance(result, penstock.WorkerDied)]
    assert lost == [13]
    assert [results[n] for n in range(40) if n != 13] == [n * n for n in range(40) if n != 13]


def square_or_die(number: int) -> int:
    if number == 13:
        functions.kill_oneself()
    return number * number


@pytest.mark.parametrize("chunksize", [1, 5])
def test_items_are_retried(chunksize: int, make_pool: Make, tmp_path: Path) -> None:
    pool = make_pool(retries=1)
    results = pool.map(functions.die_once, [str(tmp_path)] * 12, range(12), chunksize=chunksize)
    assert list(results) == [number * number for number in range(12)]
    assert pool.statistics().retried == 12
    assert pool.statistics().deaths == 12


def test_the_time_limit_is_an_item_s(make_pool: Make) -> None:
    pool = make_pool()
    results = list(pool.map(square_or_wait, range(10), chunksize=5, timeout=0.3, errors="return"))
    assert isinstance(results[3], penstock.TaskTimeoutError)
    assert "square_or_wait" in (results[3].stack or "")
    assert results[:3] + results[4:] == [n * n for n in range(10) if n != 3]


def square_or_wait(number: int) -> int:
    if number == 3:
        functions.wait_for_ever()
    return number * number


def test_items_left_at_shutdown(make_pool: Make) -> None:
    pool = make_pool()
    results = pool.map(functions.square, itertools.count(), buffersize=4, chunksize=1)
    pool.shutdown()
    assert [next(results) for _ in range(2)] == [0, 1]
    with pytest.raises(RuntimeError, match="after shutdown"):
        list(results)


@pytest.mark.parametrize("ordered", [True, False])
def test_amap(ordered: bool, make_pool: Make) -> None:
    pool = make_pool()

    async def main() -> list[int]:
        return [result async for result in pool.amap(functions.square, range(1000), ordered=ordered)]

    assert sorted(asyncio.run(main())) == SQUARES


def test_the_first_call_fails_before_it_is_put(make_pool: Make) -> None:
    with pytest.raises((AttributeError, TypeError, pickle.PicklingError)):
        make_pool().map(lambda number: number, [1])
    assert list(make_pool().map(functions.square, [])) == []
    assert make_pool().submit(lambda: None).exception() is not None


def test_two_maps_at_once(make_pool: Make) -> None:
    pool = make_pool()
    squares, others = pool.map(functions.square, range(500)), pool.map(abs, range(500))
    assert [*zip(squares, others, strict=True)] == [(number * number, number) for number in range(500)]


def test_a_bar_on_a_terminal(make_pool: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("rich")
    pool = make_pool()
    pool.submit(functions.square, 1).result()  # its workers must not inherit the terminal
    terminal, program = os.openpty()
    drawn = b""

    def read() -> None:
        nonlocal drawn
        with contextlib.suppress(OSError):  # the other side is closed
            while part := os.read(terminal, 4096):
                drawn += part

    reader = threading.Thread(target=read)
    reader.start()
    with open(program, "w") as stderr:
        monkeypatch.setattr("sys.stderr", stderr)
        monkeypatch.setenv("TERM", "xterm")
        results = list(pool.map(functions.square, range(3), progress="squares"))
        monkeypatch.undo()
    reader.join()
    os.close(terminal)
    assert results == [0, 1, 4]
    assert b"squares" in drawn
    assert b"3/3" in drawn


def test_progress(make_pool: Make, capsys: pytest.CaptureFixture[str]) -> None:
    pool = make_pool()
    states: list[penstock.Progress] = []
    list(pool.map(divide, [1, 0, 2], errors="return", progress=states.append))
    assert (states[-1].done, states[-1].failed, states[-1].total, states[-1].is_last) == (3, 1, 3, True)
    assert [state.is_last for state in states[:-1]] == [False] * (len(states) - 1)
    list(pool.map(functions.square, range(3), progress="squares"))
    assert "squares: 3 of 3 done" in capsys.readouterr().err


@pytest.mark.limit(30)
def test_a_chunk_is_delivered_too_often(make_pool: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """All its items without a result fail, those that have not begun as well."""
    monkeypatch.setattr(kit, "JoinableQueue", lambda **_: penstock.JoinableQueue(max_deliveries=3))
    pool = make_pool(2)
    results = list(pool.map(functions.exit_hard, range(8), chunksize=8, errors="return"))
    assert [type(result) for result in results] == [penstock.WorkerDied] * 8
    assert all(len(result.deaths) == 1 for result in results[:2])
    assert pool.submit(functions.square, 2).result() == 4
