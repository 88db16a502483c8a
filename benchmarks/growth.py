"""How the cost of an item grows with the backlog, and with the number of processes."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable
from typing import Any

import penstock

from .measured import Measured
from .payloads import PAYLOADS

_CONTEXT = multiprocessing.get_context("fork")
_SAMPLE = 20_000
_ROUNDS = 5

Costs = dict[int, tuple[Measured, Measured]]
"""Nanoseconds of a put and of a get, by backlog or by number of processes."""


def backlog(sizes: list[int], tick: Callable[[], None]) -> Costs:
    """Nanoseconds of a put and of a get at a backlog of each size.

    At each size an empty queue is measured in turn with the full one: the rounds of the cost at 0. Gets are
    measured while the backlog shrinks, at the same sizes. The first round at each size is left out: it takes
    new memory from the system, which costs more than the queue. All other rounds use that memory again.
    """
    queue, empty = penstock.Queue[Any](), penstock.Queue[Any]()
    item = PAYLOADS["tuple"].make()
    costs: Costs = {0: (Measured(), Measured())}
    for size in sizes:
        missing = size - queue.qsize()
        while missing > 0:
            queue.put_many([item] * min(missing, 10_000))
            missing -= 10_000
        costs[size] = Measured(), Measured()
        _measure({0: empty, size: queue}, costs, item)
        tick()
    return costs


def _measure(queues: dict[int, penstock.Queue[Any]], costs: Costs, item: Any) -> None:
    """Measure the queues in turn, and add the rounds to their costs."""
    for queue in queues.values():
        _round(queue, item)
    for _ in range(_ROUNDS):
        for key, queue in queues.items():
            for measured, cost in zip(costs[key], _round(queue, item), strict=True):
                measured.rounds.append(cost)


def _round(queue: penstock.Queue[Any], item: Any) -> tuple[float, float]:
    put, get = queue.put, queue.get
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


def participants(counts: list[int], tick: Callable[[], None]) -> Costs:
    """Nanoseconds of a put and of a get on a queue with so many other participants alive.

    In turn with it a queue without other participants is measured: the rounds of the cost at 0.
    """
    queue, alone = penstock.Queue[Any](), penstock.Queue[Any]()
    item = PAYLOADS["tuple"].make()
    ready, gate = _CONTEXT.Semaphore(0), _CONTEXT.Event()
    processes: list[Any] = []
    costs: Costs = {0: (Measured(), Measured())}
    for count in counts:
        while len(processes) < count:
            process = _CONTEXT.Process(target=_take_part, args=(queue, ready, gate))
            process.start()
            processes.append(process)
            ready.acquire()
        costs[count] = Measured(), Measured()
        _measure({0: alone, count: queue}, costs, item)
        tick()
    gate.set()
    for process in processes:
        process.join()
    return costs
