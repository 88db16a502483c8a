"""Delayed items: microseconds of an item with 10,000 of them in one process, beside items without a delay."""

from __future__ import annotations

import time
from collections.abc import Callable

import penstock

from .measured import Measured

Results = dict[str, Measured]
"""Microseconds of an item, by step."""

COUNT = 10_000
SOON = 0.001  # seconds: over before the last one is put
LATER = 3600.0
PUT, PUT_SOON, GET, GET_DUE = "put", "put with a delay", "get", "get of one that is due"
PUT_BESIDE, GET_BESIDE = (f"{verb} beside {COUNT:,} that are delayed" for verb in ("put", "get"))
STEPS = (PUT, PUT_SOON, GET, GET_DUE, PUT_BESIDE, GET_BESIDE)


def _microseconds(work: Callable[[], object]) -> float:
    """The time of each item, in microseconds."""
    began = time.perf_counter()
    work()
    return (time.perf_counter() - began) / COUNT * 1e6


def _put(queue: penstock.Queue[int], delay: float | None) -> None:
    for number in range(COUNT):
        queue.put(number, delay=delay)


def _take(queue: penstock.Queue[int]) -> None:
    for _ in range(COUNT):
        queue.get()


def round_of_all() -> dict[str, float]:
    """Microseconds of an item, for each step once."""
    plain, soon, later = (penstock.Queue[int]() for _ in range(3))
    figures = {
        PUT: _microseconds(lambda: _put(plain, None)),
        PUT_SOON: _microseconds(lambda: _put(soon, SOON)),
        GET: _microseconds(lambda: _take(plain)),
        GET_DUE: _microseconds(lambda: _take(soon)),
    }
    _put(later, LATER)
    figures[PUT_BESIDE] = _microseconds(lambda: _put(later, None))
    figures[GET_BESIDE] = _microseconds(lambda: _take(later))
    return figures


def measure(rounds: int, tick: Callable[[], None]) -> Results:
    """Measure each step in each round."""
    measured = {step: Measured() for step in STEPS}
    for _ in range(rounds):
        for step, microseconds in round_of_all().items():
            measured[step].rounds.append(microseconds)
        tick()
    return measured
