"""mpire: its workers are kept from one map to the next."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from mpire.pool import WorkerPool

from .interface import Rival


class _Pool:
    def __init__(self, workers: int) -> None:
        self._pool = WorkerPool(workers, start_method="fork", keep_alive=True)

    def map(self, function: Callable[[Any], Any], items: list[Any]) -> Iterator[Any]:
        results: Iterator[Any] = self._pool.imap(function, items, chunk_size=1)
        return results

    def call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        return self._pool.apply(function, arguments)

    def send(self, function: Callable[..., Any], *arguments: Any) -> None:
        self._pool.apply_async(function, arguments)

    def close(self) -> None:
        self._pool.terminate()


RIVALS = [Rival("mpire", _Pool)]
