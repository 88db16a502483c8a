"""multiprocessing.Pool: `imap` and `apply`."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator
from typing import Any

from .interface import Rival


class _Pool:
    def __init__(self, workers: int) -> None:
        self._pool = multiprocessing.get_context("fork").Pool(workers)

    def map(self, function: Callable[[Any], Any], items: list[Any]) -> Iterator[Any]:
        return self._pool.imap(function, items, chunksize=1)

    def call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        return self._pool.apply(function, arguments)

    def send(self, function: Callable[..., Any], *arguments: Any) -> None:
        self._pool.apply_async(function, arguments)

    def close(self) -> None:
        self._pool.terminate()
        self._pool.join()


RIVALS = [Rival("multiprocessing.Pool", _Pool)]
