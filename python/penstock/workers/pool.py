"""`WorkerPool`."""

from __future__ import annotations

import itertools
import multiprocessing
import os
from concurrent.futures import Executor
from weakref import finalize

from . import worker
from .engine import Engine
from .mapping import Mapping
from .progress import Meter, reporter
from .statistics import PoolStatistics

__all__ = ["WorkerPool"]

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Generator, Iterable
    from collections.abc import Mapping as AnyMapping
    from concurrent.futures import Future
    from multiprocessing.context import BaseContext
    from types import TracebackType
    from typing import Any, Literal, ParamSpec, TypeVar

    from .progress import Progress

    P = ParamSpec("P")
    T = TypeVar("T")

_MOST_WORKERS = 1024
_MOST_RETRIES = 250

_counter = itertools.count(1)


class _Unset:
    """In the place of an argument that was not given."""

    def __repr__(self) -> str:
        return "..."


_UNSET = _Unset()


class _Submitter(Executor):
    """What a pool and its `options()` have in common."""

    _engine: Engine
    _limit: float | None
    _retries: int

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Run `fn(*args, **kwargs)` in a worker, and return its future at once.

        The first call starts the workers. What does not pickle is the future's exception. If the call's
        worker dies, the call is run again, as often as the pool's `retries` say; then the future raises
        WorkerDied. No other call notices.

        `future.cancel()` works until a worker has begun the call.

        Raises RuntimeError after a shutdown, BrokenProcessPool if no worker can be started or initialized,
        and QueueMemoryError if there is no memory for the arguments.

        >>> import penstock
        >>> with penstock.WorkerPool(1) as pool:
        ...     pool.submit(pow, 2, 10).result()
        1024
        """
        return self._engine.submit(fn, args, kwargs, self._limit, self._retries)

    def map(
        self,
        fn: Callable[..., T],
        *iterables: Iterable[Any],
        timeout: float | _Unset | None = _UNSET,
        chunksize: int | None = None,
        buffersize: int | None = None,
        ordered: bool = True,
        errors: Literal["raise", "return"] = "raise",
        progress: bool | str | Callable[[Progress], object] = False,
    ) -> Generator[T, None, None]:
        """Call `fn` for each item of the iterables, and return an iterator over the results.

        Begins at once, and takes items from the iterables only as results are taken: at most `buffersize`
        results are under way or waiting. By default that is 4 for each worker and item of a chunk, and up to
        1,024 while the calls are so short that the workers would run dry.

        `timeout` is the time of one call in seconds; its worker is killed then, and the call raises
        TaskTimeoutError. It is the pool's by default. It is not the time of the whole map, as with
        `concurrent.futures`.

        `chunksize` is how many calls a worker takes at once, by default as many as take half a millisecond,
        64 at most. Each call of a chunk fails, is timed and is retried by itself. But a call that had ended
        within the last millisecond before the worker's death may be run twice: with a `chunksize` of 1 none
        is.

        `ordered=False` gives results as they come. `errors="return"` gives exceptions as results; otherwise
        the first one is raised, and ends the map. An exception of an iterable is raised after the results of
        the items before it.

        `progress` is told how far the map is, ten times a second at most, as results are taken: a callable
        gets a `Progress`; True or a label draws rich's bar on a terminal, if rich is installed, and else
        writes lines to standard error.

        The iterator takes results itself while it waits. An iterator that is closed, or collected, cancels
        what has not begun. After `shutdown()` it yields what was put before, and then raises RuntimeError if
        items are left.

        >>> import penstock
        >>> with penstock.WorkerPool(1) as pool:
        ...     list(pool.map(pow, [1, 2, 3], [2, 2, 2]))
        [1, 4, 9]
        """
        return self._mapping(
            fn, iterables, timeout, chunksize, buffersize, ordered, errors, progress
        ).results()

    def amap(
        self,
        fn: Callable[..., T],
        *iterables: Iterable[Any],
        timeout: float | _Unset | None = _UNSET,
        chunksize: int | None = None,
        buffersize: int | None = None,
        ordered: bool = True,
        errors: Literal["raise", "return"] = "raise",
        progress: bool | str | Callable[[Progress], object] = False,
    ) -> AsyncGenerator[T, None]:
        """Do the same for a task of asyncio: `async for result in pool.amap(...)`.

        The iterables are asked in the event loop, so they should not block.

        >>> import asyncio, penstock
        >>> async def main():
        ...     with penstock.WorkerPool(1) as pool:
        ...         return [result async for result in pool.amap(abs, [-1, -2])]
        >>> asyncio.run(main())
        [1, 2]
        """
        return self._mapping(
            fn, iterables, timeout, chunksize, buffersize, ordered, errors, progress
        ).aresults()

    def _mapping(
        self,
        fn: Callable[..., Any],
        iterables: tuple[Iterable[Any], ...],
        timeout: float | _Unset | None,
        chunksize: int | None,
        buffersize: int | None,
        ordered: bool,
        errors: str,
        progress: bool | str | Callable[[Progress], object],
    ) -> Mapping:
        for name, value in (("chunksize", chunksize), ("buffersize", buffersize)):
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, not {value}")
        if errors not in ("raise", "return"):
            raise ValueError(f'errors must be "raise" or "return", not {errors!r}')
        if not iterables:
            raise TypeError("map() takes at least one iterable")
        engine = self._engine
        engine.begin()
        meter = None
        if progress is not False:
            label = getattr(fn, "__name__", type(fn).__name__)
            total = _total(iterables)
            meter = Meter(reporter(progress, label), total, lambda: engine.calls.retried)
        mapping = Mapping(
            engine,
            fn,
            iterables,
            limit=self._limit if isinstance(timeout, _Unset) else _seconds("timeout", timeout),
            retries=self._retries,
            chunksize=chunksize,
            buffersize=buffersize,
            is_ordered=ordered,
            are_errors_raised=errors == "raise",
            meter=meter,
        )
        mapping.feed()
        return mapping

    def options(self, *, timeout: float | _Unset | None = _UNSET, retries: int | _Unset = _UNSET) -> Options:
        """Return an executor of the same workers, whose calls have another `timeout` or other `retries`.

        Its `shutdown()` does nothing; the pool's ends both.

        >>> import penstock
        >>> with penstock.WorkerPool(1, timeout=60) as pool:
        ...     patient = pool.options(timeout=None)
        ...     patient.submit(len, "abc").result()
        3
        """
        return Options(
            self._engine,
            self._limit if isinstance(timeout, _Unset) else _seconds("timeout", timeout),
            self._retries if isinstance(retries, _Unset) else _retries(retries),
        )


class Options(_Submitter):
    """The workers of a pool, with other defaults: from `WorkerPool.options()`."""

    def __init__(self, engine: Engine, limit: float | None, retries: int) -> None:
        self._engine = engine
        self._limit = limit
        self._retries = retries

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Do nothing: the workers belong to the pool."""


class WorkerPool(_Submitter):
    """A pool of worker processes that loses at most the one call whose worker dies.

    It is a `concurrent.futures.Executor`, in the place of `ProcessPoolExecutor`, and starts its workers with
    the first call. The default of `max_workers` is the number of processors that this process may use; in a
    worker of a pool it is 1. `mp_context` is a context of `multiprocessing` or the name of a start method.

    `initializer(*initargs)` runs in each worker before its calls, and `finalizer()` after them, if the worker
    ends in order. An initializer that raises breaks the pool, as do three workers that die one after the
    other before their first call.

    `timeout` is how many seconds a call may take; its worker is killed then, and the call raises
    TaskTimeoutError with the worker's stack. `retries` is how often a call is run again whose worker has
    died; exceptions and time-outs are never retried. `max_tasks_per_child` is how many calls a worker runs
    until another takes its place (a chunk counts as one). `max_memory_per_child` bounds a worker's resident
    bytes: one that has more after a call is replaced, and one that has more in a call is killed, within a
    tenth of a second. `idle_timeout` is after how many idle seconds a worker ends; others are started for
    later calls. `spares` is how many more workers are kept ready to replace one that ends.

    `shared` has objects that each worker gets once: calls read `penstock.shared["model"]`. Forked workers
    inherit them; others map the arrays in them. `serializer="cloudpickle"` sends what pickle refuses, and
    functions of a notebook. With `cancel_kills`, `future.cancel()` kills the worker of a running call. `name`
    is in the names of processes and threads.

    Leaving a `with` block waits for all calls; after Ctrl-C it cancels those that have not begun, and a
    second Ctrl-C kills the workers. A program that ends without `shutdown()` waits for its calls. Workers end
    with the process that made the pool, whichever way that ends.

    Raises ValueError and TypeError for arguments out of range, and OSError if the system has no memory or
    descriptor left.

    >>> import penstock
    >>> with penstock.WorkerPool(2) as pool:
    ...     sorted(pool.map(abs, [-3, -2, -1]))
    [1, 2, 3]
    """

    def __init__(
        self,
        max_workers: int | None = None,
        *,
        mp_context: BaseContext | str | None = None,
        initializer: Callable[..., object] | None = None,
        initargs: tuple[Any, ...] = (),
        finalizer: Callable[[], object] | None = None,
        timeout: float | None = None,
        retries: int = 0,
        max_tasks_per_child: int | None = None,
        max_memory_per_child: int | None = None,
        idle_timeout: float | None = None,
        spares: int = 0,
        shared: AnyMapping[str, object] | None = None,
        cancel_kills: bool = False,
        name: str | None = None,
        serializer: Literal["pickle", "cloudpickle"] = "pickle",
    ) -> None:
        if max_workers is None:
            max_workers = 1 if worker.is_worker else _processors()
        _whole("max_workers", max_workers, 1, _MOST_WORKERS)
        _whole("spares", spares, 0, _MOST_WORKERS)
        for what, bound in (
            ("max_tasks_per_child", max_tasks_per_child),
            ("max_memory_per_child", max_memory_per_child),
        ):
            if bound is not None:
                _whole(what, bound, 1)
        for what, function in (("initializer", initializer), ("finalizer", finalizer)):
            if function is not None and not callable(function):
                raise TypeError(f"{what} must be a callable, not {type(function).__name__}")
        if mp_context is None or isinstance(mp_context, str):
            mp_context = multiprocessing.get_context(mp_context)
        self._limit = _seconds("timeout", timeout)
        self._retries = _retries(retries)
        self._max_workers = max_workers
        self._engine = Engine(
            context=mp_context,
            name=name or f"WorkerPool-{next(_counter)}",
            max_workers=max_workers,
            spares=spares,
            serializer=serializer,
            limit=self._limit,
            cancel_kills=cancel_kills,
            initializer=initializer,
            initargs=initargs,
            finalizer=finalizer,
            shared=shared,
            max_tasks=max_tasks_per_child,
            max_memory=max_memory_per_child,
            idle_timeout=_seconds("idle_timeout", idle_timeout),
        )
        # A pool that is collected ends when its calls are done.
        finalize(self, self._engine.shutdown, wait=False).atexit = False

    def statistics(self) -> PoolStatistics:
        """Return the pool's figures. Does not wait.

        >>> import penstock
        >>> penstock.WorkerPool(1).statistics().started
        0
        """
        return PoolStatistics(**self._engine.figures())

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more calls; the workers end when all calls are done.

        Waits for that, unless `wait` is False. `cancel_futures` cancels the calls that have not begun. Ctrl-C
        during the wait kills the workers. May be called again.

        >>> import penstock
        >>> pool = penstock.WorkerPool(1)
        >>> pool.shutdown()
        >>> pool.submit(abs, -1)
        Traceback (most recent call last):
            ...
        RuntimeError: cannot schedule new futures after shutdown
        """
        self._engine.shutdown(wait, cancel_futures)

    def terminate_workers(self) -> None:
        """End the pool by SIGTERM to all workers.

        Calls that have not begun are cancelled, and running ones raise WorkerDied. Does not wait. A
        worker that ignores SIGTERM goes on until its call has ended.

        >>> import penstock
        >>> penstock.WorkerPool(1).terminate_workers()
        """
        self._engine.kill_all(15)

    def kill_workers(self) -> None:
        """End the pool by SIGKILL to all workers.

        Calls that have not begun are cancelled, and running ones raise WorkerDied. Does not wait.

        >>> import penstock
        >>> penstock.WorkerPool(1).kill_workers()
        """
        self._engine.kill_all(9)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        is_interrupted = kind is not None and not issubclass(kind, Exception)
        self.shutdown(wait=True, cancel_futures=is_interrupted)


def _processors() -> int:
    count: Callable[[], int | None] = getattr(os, "process_cpu_count", os.cpu_count)
    return count() or 1


def _whole(name: str, value: int, least: int, most: int | None = None) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{name} must be an int, not {type(value).__name__}")
    if value < least or (most is not None and value > most):
        bounds = f"at least {least}" if most is None else f"from {least} to {most}"
        raise ValueError(f"{name} must be {bounds}, not {value}")
    return value


def _retries(value: int) -> int:
    return _whole("retries", value, 0, _MOST_RETRIES)


def _seconds(name: str, value: float | None) -> float | None:
    if value is None:
        return None
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        raise TypeError(f"{name} must be a number of seconds, not {type(value).__name__}")
    if not value > 0:
        raise ValueError(f"{name} must be more than 0 seconds, not {value}")
    return float(value)


def _total(iterables: tuple[Iterable[Any], ...]) -> int | None:
    try:
        return min(len(iterable) for iterable in iterables)  # type: ignore[arg-type]
    except TypeError:
        return None
