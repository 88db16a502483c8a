"""The interface of a pool of worker processes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Any, Protocol


class Pool(Protocol):
    """An open pool."""

    def map(self, function: Callable[[Any], Any], items: list[Any]) -> Iterator[Any]:
        """Call the function for each item, one call at a time for a worker. Yields the results in order."""

    def call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Call the function in a worker, and wait for its result."""

    def send(self, function: Callable[..., Any], *arguments: Any) -> None:
        """Let a worker call the function, and do not wait."""

    def close(self) -> None:
        """End the workers, and wait for that."""


@dataclass(frozen=True)
class Rival:
    """A kind of pool."""

    name: str
    open: Callable[[int], Pool]
    """Opens a pool of so many workers. They are forked if the pool can do that."""
    is_ours: bool = False


class ExecutorPool:
    """A pool that is a `concurrent.futures.Executor`."""

    def __init__(self, executor: Executor) -> None:
        self._executor = executor

    def map(self, function: Callable[[Any], Any], items: list[Any]) -> Iterator[Any]:
        """Map with chunks of one item."""
        return self._executor.map(function, items, chunksize=1)

    def call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Wait for the future's result."""
        return self._executor.submit(function, *arguments).result()

    def send(self, function: Callable[..., Any], *arguments: Any) -> None:
        """Drop the future."""
        self._executor.submit(function, *arguments)

    def close(self) -> None:
        """Shut the executor down."""
        self._executor.shutdown()
