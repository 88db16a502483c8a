"""How the cost of an item grows with the backlog, and with the number of processes."""

from __future__ import annotations

import multiprocessing
import statistics
import time
from collections.abc import Callable
from typing import Any

import penstock

from .payloads import PAYLOADS

_CONTEXT = multiprocessing.get_context("fork")
_SAMPLE = 20_000
_ROUNDS = 5


def backlog(sizes: list[int], tick: Callable[[], None]) -> dict[int, tuple[float, float]]:
    """Nanoseconds of a put and of a get when so many items are queued; the first size should be 0.

    A get is measured on the way back, at the same backlog. The first round at each takes new memory, perhaps
    memory that no program has touched since the machine started, which costs the system more than the
    queue: it is left out, and the median of the others counts.
    """
    queue = penstock.Queue[Any]()
    item = PAYLOADS["tuple"].make()
    put, get = queue.put, queue.get
    costs: dict[int, tuple[float, float]] = {}
    for size in sizes:
        missing = size - queue.qsize()
        while missing > 0:
            queue.put_many([item] * min(missing, 10_000))
            missing -= 10_000
        costs[size] = _rounds(put, get, item)
        tick()
    return costs


def _rounds(put: Callable[[Any], Any], get: Callable[[], Any], item: Any) -> tuple[float, float]:
    _round(put, get, item)
    rounds = [_round(put, get, item) for _ in range(_ROUNDS)]
    puts, gets = zip(*rounds, strict=True)
    return statistics.median(puts), statistics.median(gets)


def _round(put: Callable[[Any], Any], get: Callable[[], Any], item: Any) -> tuple[float, float]:
    start = time.perf_counter()
    for _ in range(_SAMPLE):
        put(item)
    middle = time.perf_counter()
    for _ in range(_SAMPLE):
        get()
    end = time.perf_counter()
    return (middle - start) / _SAMPLE * 1e9, (end - middle) / _SAMPLE * 1e9


def _take_part(queue: penstock.Queue[Any], ready: Any, gate: Any) -> None:
    queue.put(None)
    queue.get()
    ready.release()
    gate.wait()


def participants(counts: list[int], tick: Callable[[], None]) -> dict[int, tuple[float, float]]:
    """Nanoseconds of a put and of a get when so many other processes have used the queue and live."""
    queue = penstock.Queue[Any]()
    item = PAYLOADS["tuple"].make()
    ready, gate = _CONTEXT.Semaphore(0), _CONTEXT.Event()
    processes: list[Any] = []
    costs: dict[int, tuple[float, float]] = {}
    for count in counts:
        while len(processes) < count:
            process = _CONTEXT.Process(target=_take_part, args=(queue, ready, gate))
            process.start()
            processes.append(process)
            ready.acquire()
        costs[count] = _rounds(queue.put, queue.get, item)
        tick()
    gate.set()
    for process in processes:
        process.join()
    return costs
