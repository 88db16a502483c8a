"""Costs of a queue beside the time of an item: creation, memory, and CPU while idle or little used."""

from __future__ import annotations

import multiprocessing
import resource
import subprocess
import sys
import time
from typing import Any

import penstock

from .payloads import PAYLOADS
from .rivals.interface import Channel, Rival

_CONTEXT = multiprocessing.get_context("fork")


def creation(rival: Rival, count: int) -> float:
    """Microseconds to open a channel and to close it."""
    start = time.perf_counter()
    for _ in range(count):
        channel = rival.open(_CONTEXT, (1, 1))
        channel.close()
        del channel
    return (time.perf_counter() - start) / count * 1e6


def _attach(channel: Channel, seconds: Any) -> None:
    start = time.perf_counter()
    channel.receiver(0).get()
    seconds.value = time.perf_counter() - start


def attaching(rival: Rival) -> float:
    """Microseconds of the first get in a new process, with the item in the queue."""
    channel = rival.open(_CONTEXT, (1, 1))
    channel.sender(0).put(None)
    time.sleep(0.01)  # seconds for a feeder thread to send the item
    seconds = _CONTEXT.Value("d", 0.0)
    process = _CONTEXT.Process(target=_attach, args=(channel, seconds))
    process.start()
    process.join()
    channel.close()
    return float(seconds.value) * 1e6


def _wait_for_item(channel: Channel, cpu_seconds: Any) -> None:
    get = channel.receiver(0).get
    get()  # the first call does more than the later ones
    before = time.process_time()
    get()
    cpu_seconds.value = time.process_time() - before


def idle_cpu(rival: Rival, seconds: float) -> float:
    """CPU seconds of a get that waits for `seconds`."""
    channel = rival.open(_CONTEXT, (1, 1))
    cpu_seconds = _CONTEXT.Value("d", 0.0)
    waiter = _CONTEXT.Process(target=_wait_for_item, args=(channel, cpu_seconds))
    waiter.start()
    put = channel.sender(0).put
    put(None)
    time.sleep(seconds)
    put(None)
    waiter.join()
    channel.close()
    return float(cpu_seconds.value)


def _sleep(seconds: float, cpu_seconds: Any) -> None:
    time.sleep(0.1)
    before = time.process_time()
    for _ in range(round(seconds * 10)):
        time.sleep(0.1)
    cpu_seconds.value = time.process_time() - before


def bare_wake_ups(seconds: float) -> float:
    """CPU seconds of ten sleeps a second: the least that a wait with slices of 100 ms can use."""
    cpu_seconds = _CONTEXT.Value("d", 0.0)
    sleeper = _CONTEXT.Process(target=_sleep, args=(seconds, cpu_seconds))
    sleeper.start()
    sleeper.join()
    return float(cpu_seconds.value)


def _pace(put: Any, count: int, per_second: int) -> None:
    item = PAYLOADS["tuple"].make()
    start = time.perf_counter()
    for i in range(count):
        if (early := start + i / per_second - time.perf_counter()) > 0:
            time.sleep(early)
        put(item)


def _steady_producer(channel: Channel, count: int, per_second: int) -> None:
    sender = channel.sender(0)
    _pace(sender.put, count, per_second)
    sender.finish()


def _steady_consumer(channel: Channel) -> None:
    get, endings = channel.receiver(0).get, channel.endings
    while endings:
        endings -= get() is None


def children_cpu() -> float:
    """CPU seconds of all reaped children of this process."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def steady_cpu(rival: Rival | None, count: int, per_second: int) -> float:
    """CPU seconds per million small messages at a steady pace, with the pacing; None measures that alone."""
    before = children_cpu()
    if rival is None:
        pacer = _CONTEXT.Process(target=_pace, args=(lambda item: None, count, per_second))
        pacer.start()
        pacer.join()
    else:
        channel = rival.open(_CONTEXT, (1, 1))
        processes = [
            _CONTEXT.Process(target=_steady_producer, args=(channel, count, per_second)),
            _CONTEXT.Process(target=_steady_consumer, args=(channel,)),
        ]
        for process in processes:
            process.start()
        processes[0].join()
        channel.end_one()
        processes[1].join()
        channel.close()
    return (children_cpu() - before) / count * 1e6


IMPORTED = ("penstock, after multiprocessing.queues", "multiprocessing.queues")
"""What is imported: Penstock, after the module that every program with queues imports, and that module."""

_IMPORT = """
import time
begin = time.perf_counter()
import multiprocessing.queues
middle = time.perf_counter()
import penstock
end = time.perf_counter()
print((end - middle) * 1e3, (middle - begin) * 1e3)
"""


def importing(name: str) -> float:
    """Milliseconds of an import in a new interpreter."""
    done = subprocess.run([sys.executable, "-c", _IMPORT], capture_output=True, text=True, check=True)
    return float(done.stdout.split()[IMPORTED.index(name)])


def memory_of_an_empty_queue(queue: penstock.Queue[Any]) -> int:
    """Bytes of memory behind a new queue."""
    return queue.statistics().memory_bytes


def memory_after_a_flood(queue: penstock.Queue[Any], total: int, item: int) -> tuple[int, int]:
    """Bytes of memory behind a queue with `total` bytes queued, and after all were taken."""
    payload = bytes(item)
    for _ in range(total // item):
        queue.put(payload)
    at_most = queue.statistics().memory_bytes
    for _ in range(total // item):
        queue.get()
    return at_most, queue.statistics().memory_bytes


def memory_beside_an_item(queue: penstock.Queue[Any], count: int) -> tuple[int, int]:
    """Bytes of memory behind a queue with `count` ints, and after all but one were taken and 2 s of use."""
    for first in range(0, count, 1000):
        queue.put_many(range(first, first + 1000))
    at_most = queue.statistics().memory_bytes
    while queue.qsize() > 1:
        queue.get_many(min(64, queue.qsize() - 1))
    end = time.monotonic() + 2
    while time.monotonic() < end:
        queue.put(0)
        queue.get()
        time.sleep(0.01)
    return at_most, queue.statistics().memory_bytes
