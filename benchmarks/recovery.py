"""How long a death delays the survivors, and what many leases and many processes cost."""

from __future__ import annotations

import mmap
import multiprocessing
import os
import queue
import random
import signal
import statistics
import threading
import time
from collections.abc import Callable
from typing import Any

import penstock

from .measured import Measured
from .resources import children_cpu

_CONTEXT = multiprocessing.get_context("fork")

_QUEUED = 1_000_000
_LEASES = 100_000
_FEW_LEASES, _MANY_LEASES = 1_000, 50_000
_FEW_PROCESSES, _MANY_PROCESSES = 50, 400
_CALLS = 1_000

# Seconds. A longer put found the lock's holder dead, which takes some 50 ms; other puts take microseconds.
_TAKE_OVER = 0.03
_ATTEMPTS = 200
# Seconds. A figure that takes longer is measured in one round only.
_LONG = 5.0

REBUILD = f"rebuilding a queue of {_QUEUED:,} items after its holder's death"
FIRST_BACK = f"{_LEASES:,} leases of a killed worker: the first is back after"
ALL_BACK = f"{_LEASES:,} leases of a killed worker: all are back after"
STALL = f"{_LEASES:,} leases of a killed worker: longest call of another process meanwhile"
STALL_BEFORE = "longest call of that process in half a second before the death"
DONE_FEW = f"task_done() beside {_FEW_LEASES:,} leases of another thread"
DONE_MANY = f"task_done() beside {_MANY_LEASES:,} leases of another thread"
DONE_FEW_QUEUED = f"task_done() after {_FEW_LEASES:,} others, before any get"
DONE_MANY_QUEUED = f"task_done() after {_MANY_LEASES:,} others, before any get"
CPU_FEW = f"CPU of each of {_FEW_PROCESSES} processes that join a queue and get an item"
CPU_MANY = f"CPU of each of {_MANY_PROCESSES} processes that join a queue and get an item"

UNITS = {
    REBUILD: "ms",
    FIRST_BACK: "ms",
    ALL_BACK: "ms",
    STALL: "ms",
    STALL_BEFORE: "ms",
    DONE_FEW: "us",
    DONE_MANY: "us",
    DONE_FEW_QUEUED: "us",
    DONE_MANY_QUEUED: "us",
    CPU_FEW: "ms",
    CPU_MANY: "ms",
}
BOUNDS = {REBUILD: (200.0, "ms"), FIRST_BACK: (200.0, "ms"), ALL_BACK: (500.0, "ms"), STALL: (5.0, "ms")}
"""The most that a figure may be."""
GROWTH = {
    f"{DONE_MANY}, against {_FEW_LEASES:,}": (DONE_FEW, DONE_MANY, 2.0),
    f"{DONE_MANY_QUEUED}, against {_FEW_LEASES:,}": (DONE_FEW_QUEUED, DONE_MANY_QUEUED, 2.0),
    f"{CPU_MANY}, against {_FEW_PROCESSES}": (CPU_FEW, CPU_MANY, 2.0),
}
"""Two figures, and the most times that the second may be the first."""
NOTE = (
    "Rebuilding: a process is killed inside the critical section, and the first put of another one is timed. "
    "What the same takes on an empty queue, where nearly all of it is finding the death out, is subtracted. "
    "Leases: the time since the kill, with finding it out. The longest call contains the time for which the "
    "system gave the processor to others; the row below it shows how long that is without a death."
)

Figures = dict[str, Measured]
"""Rounds of each figure, in its unit."""


def steps(rounds: int) -> int:
    """The number of ticks of `measure`."""
    return 5 * rounds


def measure(rounds: int, tick: Callable[[], None]) -> Figures:
    """Measure all figures in turn, round by round."""
    figures = {name: Measured() for name in UNITS}
    is_too_long = False
    for _ in range(rounds):
        figures[REBUILD].rounds.append(_rebuild() * 1e3)
        tick()
        if not is_too_long:
            first, last, stall, before = redelivery(_LEASES)
            for name, seconds in (
                (FIRST_BACK, first),
                (ALL_BACK, last),
                (STALL, stall),
                (STALL_BEFORE, before),
            ):
                figures[name].rounds.append(seconds * 1e3)
            is_too_long = last > _LONG
        tick()
        for name, count in ((DONE_FEW, _FEW_LEASES), (DONE_MANY, _MANY_LEASES)):
            figures[name].rounds.append(done(count, are_taken=True) * 1e6)
        tick()
        for name, count in ((DONE_FEW_QUEUED, _FEW_LEASES), (DONE_MANY_QUEUED, _MANY_LEASES)):
            figures[name].rounds.append(done(count, are_taken=False) * 1e6)
        tick()
        for name, count in ((CPU_FEW, _FEW_PROCESSES), (CPU_MANY, _MANY_PROCESSES)):
            figures[name].rounds.append(joining_cpu(count) / count * 1e3)
        tick()
    return figures


# ---------------------------------------------------------------------------------------------- taking over


def _rebuild() -> float:
    """Seconds that many queued items add to a take-over."""
    empty, full = penstock.Queue[Any](), penstock.Queue[Any]()
    full.put_many(list(range(_QUEUED)))
    detection = statistics.median(take_over(empty) for _ in range(3))
    return max(0.0, take_over(full) - detection)


def take_over(queue: penstock.Queue[Any]) -> float:
    """Seconds of the first put after a process was killed inside the critical section.

    The process puts and gets without a pause, so that most kills meet it there. The kill is repeated until
    one does.
    """
    queue.put(None)
    for _ in range(_ATTEMPTS):
        reader, writer = os.pipe()
        pid = os.fork()
        if pid == 0:
            _put_and_get_for_ever(queue, writer)
        os.read(reader, 1)
        os.close(reader)
        os.close(writer)
        time.sleep(random.uniform(0.001, 0.005))
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        begin = time.perf_counter()
        queue.put(None)
        seconds = time.perf_counter() - begin
        if seconds > _TAKE_OVER:
            return seconds
    raise RuntimeError(f"none of {_ATTEMPTS} kills met a process inside the critical section")


def _put_and_get_for_ever(queue: penstock.Queue[Any], started: int) -> None:
    """Put and get without a pause until killed."""
    items = list(range(64))
    queue.put_many(items)
    queue.get_many(64)
    os.write(started, b"0")
    while True:
        queue.put_many(items)
        queue.get_many(64)


# ------------------------------------------------------------------------------------------------ redelivery


def redelivery(leases: int) -> tuple[float, float, float, float]:
    """Kill a worker that holds so many leases, while another process puts and gets.

    Returns four durations in seconds: until the first lease is back, until all are back, the longest call of
    the other process meanwhile, and its longest call in the half second before the kill.
    """
    tasks = penstock.JoinableQueue[int]()
    tasks.put_many(list(range(leases)))
    holding, observing = _CONTEXT.Event(), _CONTEXT.Event()
    death = memoryview(mmap.mmap(-1, mmap.PAGESIZE)).cast("d")  # the time of the kill; shared, and 0 before
    ours, its = _CONTEXT.Pipe()
    holder = _CONTEXT.Process(target=_hold, args=(tasks, leases, holding), daemon=True)
    joiner = _CONTEXT.Process(target=tasks.join, daemon=True)  # the waiter that sweeps the worker
    observer = _CONTEXT.Process(target=_observe, args=(tasks, observing, death, its), daemon=True)
    holder.start()
    holding.wait()
    joiner.start()
    observer.start()
    observing.wait()
    time.sleep(0.5)
    death[0] = begin = time.monotonic()
    holder.kill()
    first = _await_redeliveries(tasks, 1) - begin
    last = _await_redeliveries(tasks, leases) - begin
    ours.send(None)
    before, during = ours.recv()
    observer.join()
    joiner.kill()
    joiner.join()
    holder.join()
    return first, last, during, before


def _await_redeliveries(tasks: penstock.JoinableQueue[int], count: int) -> float:
    while tasks.statistics().redeliveries < count:
        time.sleep(0.001)
    return time.monotonic()


def _hold(tasks: penstock.JoinableQueue[int], leases: int, holding: Any) -> None:
    taken = 0
    while taken < leases:
        taken += len(tasks.get_many(1000))
    holding.set()
    signal.pause()


def _observe(tasks: penstock.JoinableQueue[int], observing: Any, death: memoryview, its: Any) -> None:
    """Put and get without a pause, and send the longest call before and after the death."""
    longest = [0.0, 0.0]
    clock = time.monotonic

    def timed(call: Callable[[], Any]) -> Any:
        begin = clock()
        try:
            return call()
        finally:
            end = clock()
            is_after = 0.0 < death[0] < end
            longest[is_after] = max(longest[is_after], end - begin)

    tasks.put(-1)
    tasks.get()
    tasks.task_done()
    observing.set()
    while not its.poll():
        for _ in range(20):
            timed(lambda: tasks.put(-1))
            try:
                timed(tasks.get_nowait)
            except queue.Empty:
                continue
            timed(tasks.task_done)
    its.send(longest)


# -------------------------------------------------------------------------------- task_done() and joining


def done(count: int, *, are_taken: bool) -> float:
    """Seconds of a `task_done()` in a thread that holds no lease.

    If `are_taken`, another thread holds `count` leases. If not, that thread has called `task_done()` `count`
    times ahead of the gets.
    """
    tasks = penstock.JoinableQueue[int]()
    tasks.put_many(list(range(count + _CALLS)))
    for _ in range(count):
        if are_taken:
            tasks.get()
        else:
            tasks.task_done()
    seconds: list[float] = []

    def call() -> None:
        task_done = tasks.task_done
        begin = time.perf_counter()
        for _ in range(_CALLS):
            task_done()
        seconds.append((time.perf_counter() - begin) / _CALLS)

    thread = threading.Thread(target=call)
    thread.start()
    thread.join()
    return seconds[0]


def joining_cpu(count: int) -> float:
    """CPU seconds of `count` processes that become participants, wait for an item and get it."""
    items = penstock.Queue[int]()
    before = children_cpu()
    processes = [_CONTEXT.Process(target=items.get) for _ in range(count)]
    for process in processes:
        process.start()
    while items.statistics().waiting_getters < count:
        time.sleep(0.05)
    for number in range(count):
        items.put(number)
    for process in processes:
        process.join()
    return children_cpu() - before
