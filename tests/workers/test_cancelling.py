"""A call is cancelled while a worker begins it: one of the two has the last word, and the call ends."""

import concurrent.futures
from collections.abc import Callable
from pathlib import Path

import pytest

import penstock
from penstock.workers import board as words
from penstock.workers.board import Board
from tests.support.waiting import until
from tests.workers import functions

Make = Callable[..., penstock.WorkerPool]


def test_a_worker_drops_the_call_while_it_is_cancelled(
    make_pool: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool = make_pool(1)
    begun, go = tmp_path / "begun", tmp_path / "go"
    first = pool.submit(functions.begin_and_wait, str(begun), str(go))
    until(begun.exists)
    future = pool.submit(functions.note, str(tmp_path), "ran")
    cancel = Board.cancel

    def cancel_and_let_it_begin(board: Board, number: int, *mark: int) -> None:
        cancel(board, number, *mark)
        go.touch()
        (slot,) = pool._engine.crew.slots()
        until(lambda: abs(board.number(slot)) == number)

    monkeypatch.setattr(Board, "cancel", cancel_and_let_it_begin)
    is_cancelled = future.cancel()
    monkeypatch.undo()
    assert first.result() == str(go)
    assert concurrent.futures.wait([future]).done
    assert is_cancelled
    assert future.cancelled()
    assert pool.submit(functions.square, 2).result() == 4
    assert not (tmp_path / "ran").exists()


@pytest.mark.limit(20)
def test_a_worker_drops_a_call_that_the_pool_takes_for_running(make_pool: Make, tmp_path: Path) -> None:
    """As if the worker had begun another call before the pool looked."""
    pool = make_pool(1)
    begun, go = tmp_path / "begun", tmp_path / "go"
    pool.submit(functions.begin_and_wait, str(begun), str(go))
    until(begun.exists)
    future = pool.submit(functions.note, str(tmp_path), "ran")
    pool._engine.kit.board.cancel(future.number, words.ASKED)  # type: ignore[attr-defined]
    go.touch()
    assert concurrent.futures.wait([future]).done
    assert future.cancelled()
    assert pool.submit(functions.square, 2).result() == 4
    assert not (tmp_path / "ran").exists()


@pytest.mark.limit(20)
def test_a_running_chunk_is_not_cancelled_by_a_shutdown(make_pool: Make, tmp_path: Path) -> None:
    """Its other items end as they would have, also while the pool asks."""
    pool = make_pool(1)
    begun, go = tmp_path / "begun", tmp_path / "go"
    results = pool.map(functions.begin_and_wait, [str(begun)] * 3, [str(go)] * 3, chunksize=3)
    until(begun.exists)
    (number,) = pool._engine.calls.sinks
    pool._engine.kit.board.cancel(number, words.ASKED)
    go.touch()
    assert list(results) == [str(go)] * 3
