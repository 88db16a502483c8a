"""pebble: each call may have a time limit; here none has."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator
from typing import Any

from pebble import ProcessPool

from .interface import Rival


class _Pool:
    def __init__(self, workers: int) -> None:
        self._pool = ProcessPool(workers, context=multiprocessing.get_context("fork"))

    def map(self, function: Callable[[Any], Any], items: list[Any]) -> Iterator[Any]:
        results: Iterator[Any] = self._pool.map(function, items, chunksize=1).result()
        return results

    def call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        return self._pool.schedule(function, args=arguments).result()

    def send(self, function: Callable[..., Any], *arguments: Any) -> None:
        self._pool.schedule(function, args=arguments)

    def close(self) -> None:
        self._pool.stop()  # type: ignore[no-untyped-call]
        self._pool.join()


RIVALS = [Rival("pebble", _Pool)]
