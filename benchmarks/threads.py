"""Items per second through one queue between threads of one process, and between processes.

With a GIL threads take turns, so one core works. Without a GIL they work at the same time, as processes do.
"""

from __future__ import annotations

import multiprocessing
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import penstock

from .measured import Measured, interleave

_CONTEXT = multiprocessing.get_context("fork")
_SHAPES = [(1, 1), (2, 2)]

Results = dict[str, dict[str, Measured]]
"""Items per second by scenario, and by threads or processes."""

OURS = "Penstock, threads"
OURS_BY_PROCESSES = "Penstock, processes"


def _records() -> Any:
    """An object that pickle takes some time for."""
    return [{"id": number, "name": f"name {number}", "weight": number / 3} for number in range(100)]


_ITEMS: dict[str, tuple[Any, int]] = {
    "tuple": ((12345, "task", 1.5), 100_000),
    "100 records": (_records(), 6_000),
}
"""The objects, and how many of each are put in a round."""


def kind_of_interpreter() -> str:
    """Whether threads of this process take turns."""
    return "with a GIL" if getattr(sys, "_is_gil_enabled", lambda: True)() else "without a GIL"


def _rate(
    open_queue: Callable[[], Any], start: Callable[..., Any], item: Any, count: int, shape: tuple[int, int]
) -> float:
    queue = open_queue()
    producers, consumers = shape
    each = count // producers
    gate = _CONTEXT.Barrier(producers + consumers + 1)

    def produce() -> None:
        put = queue.put
        gate.wait()
        for _ in range(each):
            put(item)

    def consume() -> None:
        get = queue.get
        gate.wait()
        while get() is not None:
            pass

    putting = [start(target=produce) for _ in range(producers)]
    getting = [start(target=consume) for _ in range(consumers)]
    for worker in putting + getting:
        worker.start()
    gate.wait()
    begin = time.perf_counter()
    for worker in putting:
        worker.join()
    for _ in getting:
        queue.put(None)
    for worker in getting:
        worker.join()
    return each * producers / (time.perf_counter() - begin)


def measure(rounds: int, tick: Callable[[], None]) -> Results:
    """Measure every scenario."""
    ways: dict[str, tuple[Callable[[], Any], Callable[..., Any]]] = {
        OURS: (penstock.Queue, threading.Thread),
        OURS_BY_PROCESSES: (penstock.Queue, _CONTEXT.Process),
        "multiprocessing.Queue, threads": (_CONTEXT.Queue, threading.Thread),
        "multiprocessing.Queue, processes": (_CONTEXT.Queue, _CONTEXT.Process),
    }
    results: Results = {}
    for payload, (item, count) in _ITEMS.items():
        for shape in _SHAPES:
            measures = {name: partial(_rate, *way, item, count, shape) for name, way in ways.items()}
            results[f"{payload}, {shape[0]}x{shape[1]}"] = interleave(rounds, measures, tick)
    return results


def steps(rounds: int) -> int:
    """The number of ticks of `measure`."""
    return len(_ITEMS) * len(_SHAPES) * 4 * rounds
