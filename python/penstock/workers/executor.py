"""`concurrent.futures.ProcessPoolExecutor` on a `WorkerPool`, with its own interface.

While Penstock is patched in, the executor's methods call these functions. `map` stays the standard one: it
submits all chunks at once, and its `timeout` is the time of the whole map.
"""

from __future__ import annotations

import multiprocessing
import operator
from concurrent.futures import _base as standard
from concurrent.futures.process import EXTRA_QUEUED_CALLS

from .pool import _MOST_WORKERS, WorkerPool, _processors

__all__ = ["end_by_a_signal", "initialize", "is_ours", "shutdown", "submit"]

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from concurrent.futures import Future
    from typing import Any

_POOL = "_penstock_pool"


def is_ours(executor: Any) -> bool:
    """Whether the executor was made while Penstock was patched in."""
    return _POOL in executor.__dict__


def initialize(
    executor: Any,
    max_workers: int | None,
    mp_context: Any,
    initializer: Callable[..., object] | None,
    initargs: Iterable[Any],
    max_tasks_per_child: int | None,
) -> None:
    """Do what the constructor does. Raises what that raises, in the same words."""
    if max_workers is None:
        max_workers = _processors()
    elif max_workers <= 0:
        raise ValueError("max_workers must be greater than 0")
    if mp_context is None:
        mp_context = multiprocessing.get_context(None if max_tasks_per_child is None else "spawn")
    if initializer is not None and not callable(initializer):
        raise TypeError("initializer must be a callable")
    if max_tasks_per_child is not None:
        if not isinstance(max_tasks_per_child, int):
            raise TypeError("max_tasks_per_child must be an integer")
        if max_tasks_per_child <= 0:
            raise ValueError("max_tasks_per_child must be >= 1")
        if mp_context.get_start_method(allow_none=False) == "fork":
            raise ValueError(
                "max_tasks_per_child is incompatible with the 'fork' multiprocessing start method; supply a "
                "different mp_context."
            )
    executor._max_workers = max_workers
    executor._mp_context = mp_context
    executor.__dict__[_POOL] = WorkerPool(
        min(int(operator.index(max_workers)), _MOST_WORKERS),
        mp_context=mp_context,
        initializer=None if initializer is None else _Logged(initializer),
        initargs=tuple(initargs),
        max_tasks_per_child=None if max_tasks_per_child is None else int(max_tasks_per_child),
        name="ProcessPoolExecutor",
    )


def submit(
    executor: Any, fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Future[Any]:
    """Do what `submit` does."""
    pool: WorkerPool = executor.__dict__[_POOL]
    return pool.submit(fn, *args, **kwargs)


def shutdown(executor: Any, wait: bool, cancel_futures: bool) -> None:
    """Do what `shutdown` does. As many of the oldest calls as the standard queue holds are not cancelled."""
    pool: WorkerPool = executor.__dict__[_POOL]
    if cancel_futures:
        pool._engine.cancel_waiting(but=pool._max_workers + EXTRA_QUEUED_CALLS)
    pool.shutdown(wait)


def end_by_a_signal(executor: Any, name: str) -> None:
    """Do what `terminate_workers` and `kill_workers` do."""
    getattr(executor.__dict__[_POOL], name)()


class _Logged:
    """An initializer whose exception is logged in the worker, as the standard executor does."""

    def __init__(self, initializer: Callable[..., object]) -> None:
        self._initializer = initializer

    def __call__(self, *arguments: Any) -> None:
        try:
            self._initializer(*arguments)
        except BaseException:
            standard.LOGGER.critical("Exception in initializer:", exc_info=True)
            raise
