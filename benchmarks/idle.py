"""What waiting costs: the CPU that threads use that wait on one queue in which nothing happens.

`python -m benchmarks.idle` prints it for 1 and for 1,000 waiters.
"""

from __future__ import annotations

import multiprocessing
import os
import resource
import threading
import time
from typing import Any

import penstock

_CONTEXT = multiprocessing.get_context("fork")
_PROCESSES = 4
_BEFORE = 5.0  # seconds, until all threads have begun to wait for good
_STACK = 256 * 1024  # bytes of each thread


def share_of_a_core(waiters: int, seconds: float = 20.0) -> float:
    """The share of a core that so many waiters use, in several processes, without their start."""
    queue, figures = penstock.Queue[Any](), _CONTEXT.SimpleQueue()
    processes = min(waiters, _PROCESSES)
    children = [
        _CONTEXT.Process(target=_wait, args=(queue, figures, waiters // processes, seconds))
        for _ in range(processes)
    ]
    for child in children:
        child.start()
    share = sum(figures.get() for _ in children)
    for child in children:
        child.join()
    return share


def _wait(queue: penstock.Queue[Any], figures: Any, threads: int, seconds: float) -> None:
    threading.stack_size(_STACK)
    for _ in range(threads):
        threading.Thread(target=queue.get, daemon=True).start()
    time.sleep(_BEFORE)
    used, began = _cpu_seconds(), time.monotonic()
    time.sleep(seconds)
    figures.put((_cpu_seconds() - used) / (time.monotonic() - began))
    os._exit(0)


def _cpu_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


if __name__ == "__main__":
    for count in (1, 1_000):
        print(f"{count:5} waiters: {share_of_a_core(count):.2%} of a core")
