"""A pool's figures."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["PoolStatistics"]


@dataclass(frozen=True)
class PoolStatistics:
    """What a pool has, and what it has done so far.

    The figures are read one after the other while the pool works.

    >>> import math, penstock
    >>> with penstock.WorkerPool(1) as pool:
    ...     pool.submit(math.sqrt, 4).result()
    ...     now = pool.statistics()
    2.0
    >>> now.submitted, now.finished, now.waiting, now.deaths
    (1, 1, 0, 0)
    """

    workers: int
    """Living workers that take calls."""
    spares: int
    """Living workers that wait to replace one of them."""
    started: int
    """Workers started so far."""
    deaths: int
    """Workers that have died: not those that ended in order."""
    submitted: int
    """Calls put so far. A chunk of a `map` is one."""
    waiting: int
    """Calls that no worker has begun, or whose results are on their way."""
    running: int
    """Calls that a worker runs."""
    finished: int
    """Calls that have ended, with a result or with an exception; not those that were cancelled."""
    retried: int
    """How often a call was delivered again because its worker had died in it."""
