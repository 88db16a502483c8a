"""Items per second from producers to consumers, and their upper bounds."""

from __future__ import annotations

import itertools
import mmap
import multiprocessing
import multiprocessing.connection
import os
import pickle
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from .payloads import Payload
from .rivals.interface import Channel, Rival, Shape

LIMIT = "limit"
IN_TURN = "limit, two buffers in turn"
HANDED = "limit, copied in by one process and out by another"
"""Names of upper bounds among the rivals' figures."""

_CONTEXT = multiprocessing.get_context("fork")


class _Round:
    """One round, shared by its processes."""

    def __init__(self, rival: Rival, payload: Payload, shape: Shape, items: int) -> None:
        self.rival, self.payload, self.shape = rival, payload, shape
        producers, consumers = shape
        self.calls = max(1, items // producers // max(1, rival.batch))
        self.channel: Channel = rival.open(_CONTEXT, shape)
        self._gate = _CONTEXT.Barrier(producers + consumers)
        self._started = _CONTEXT.Array("d", producers)
        self._ended = _CONTEXT.Array("d", consumers)
        self._counts = _CONTEXT.Array("q", consumers)
        self._finished = _CONTEXT.Semaphore(0)
        self._may_end = _CONTEXT.Event()

    def produce(self, index: int) -> None:
        sender = self.channel.sender(index)
        put = sender.put
        item = self.payload.make()
        if self.rival.batch:
            item = [item] * self.rival.batch
        self._gate.wait()
        self._started[index] = time.monotonic()
        for _ in range(self.calls):
            put(item)
        sender.finish()
        self._finished.release()
        # Some rivals fetch a message from the process that sent it, so it must not have ended.
        self._may_end.wait()

    def consume(self, index: int) -> None:
        get = self.channel.receiver(index).get
        if self.payload.touch is not None:
            get = _get_and_touch(get, self.payload.touch)
        self._gate.wait()
        count, endings = 0, self.channel.endings
        if self.rival.batch:
            while endings:
                items = get()
                endings -= items[-1] is None
                if count_now := len(items) - (items[-1] is None):
                    count += count_now
                    self._ended[index] = time.monotonic()
        else:
            while endings:
                if get() is None:
                    endings -= 1
                else:
                    count += 1
            self._ended[index] = time.monotonic()
        self._counts[index] = count

    def run(self) -> float:
        producers, consumers = self.shape
        getting = [_CONTEXT.Process(target=self.consume, args=(i,), daemon=True) for i in range(consumers)]
        putting = [_CONTEXT.Process(target=self.produce, args=(i,), daemon=True) for i in range(producers)]
        for process in getting + putting:
            process.start()
        for _ in putting:
            while not self._finished.acquire(timeout=1):
                if any(process.exitcode for process in putting):
                    raise RuntimeError(f"{self.rival.name}: a producer has failed")
        running = [process.sentinel for process in getting]
        for _ in getting:
            self.channel.end_one()
            if self.rival.batch:
                # No consumer may take two endings, so the next is put after a consumer has ended.
                ended = multiprocessing.connection.wait(running)
                running = [sentinel for sentinel in running if sentinel not in ended]
        for process in getting:
            process.join()
        self._may_end.set()
        for process in putting:
            process.join()
        self.channel.close()
        sent = self.calls * max(1, self.rival.batch) * producers
        if sum(self._counts) != sent:
            raise RuntimeError(f"{self.rival.name}: {sum(self._counts)} of {sent} items arrived")
        return sent / (max(self._ended) - min(self._started))


def _get_and_touch(get: Callable[[], Any], touch: Callable[[Any], Any]) -> Callable[[], Any]:
    def get_and_touch() -> Any:
        item = get()
        return None if item is None else touch(item)

    return get_and_touch


def throughput(rival: Rival, payload: Payload, shape: Shape, items: int) -> float:
    """Items per second from the first producer's start until the last consumer has its ending."""
    return _Round(rival, payload, shape, items).run()


def _time(operation: Callable[[], Any], gate: Any, seconds: float, each: Any) -> None:
    """Store the seconds of a call while the other process works, too."""
    operation()
    gate.wait()
    count, start = 0, time.perf_counter()
    while (elapsed := time.perf_counter() - start) < seconds:
        for _ in range(10):
            operation()
        count += 10
    each.value = elapsed / count


def limit(payload: Payload, shape: Shape, seconds: float, targets: int = 1) -> float:
    """Items per second if passing them cost nothing.

    One process pickles while another unpickles. For an array, one process copies it once into one of
    `targets` warm buffers in turn: two are needed if a consumer has one message while the producer writes the
    next. With more than two processes the cores share the work.
    """
    item = payload.make()
    operations: list[Callable[[], Any]]
    if payload.array_bytes:
        source = np.frombuffer(bytes(payload.array_bytes), dtype=np.uint8)
        in_turn = itertools.cycle([np.ones_like(source) for _ in range(targets)])
        operations = [lambda: np.copyto(next(in_turn), source)]
    else:
        pickled = pickle.dumps(item, pickle.HIGHEST_PROTOCOL)
        operations = [
            lambda: pickle.dumps(item, pickle.HIGHEST_PROTOCOL),
            lambda: pickle.loads(pickled),
        ]
    gate = _CONTEXT.Barrier(len(operations))
    each = [_CONTEXT.Value("d", 0.0) for _ in operations]
    processes = [
        _CONTEXT.Process(target=_time, args=(operation, gate, seconds, value))
        for operation, value in zip(operations, each, strict=True)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    costs = [value.value for value in each]
    if payload.array_bytes or shape == (1, 1):
        return 1 / max(costs)
    return min(len(os.sched_getaffinity(0)), sum(shape)) / sum(costs)


def handed(payload: Payload, seconds: float) -> float:
    """Items per second if one process copies an array into shared memory and another copies it out.

    They use four buffers in turn, and poll each other's counter without sleeping.
    """
    buffers, size = 4, payload.array_bytes
    memory = mmap.mmap(-1, mmap.PAGESIZE + buffers * size)
    # Each counter on a cache line of its own.
    written, read = (np.frombuffer(memory, np.int64, 1, offset) for offset in (0, 512))
    shared = [np.frombuffer(memory, np.uint8, size, mmap.PAGESIZE + i * size) for i in range(buffers)]
    count = max(20, round(seconds * 4e9 / size))

    def copy_out() -> None:
        mine = np.ones(size, dtype=np.uint8)
        for number in range(count):
            while written[0] <= number:
                pass
            np.copyto(mine, shared[number % buffers])
            read[0] = number + 1

    source = np.ones(size, dtype=np.uint8)
    reader = _CONTEXT.Process(target=copy_out)
    reader.start()
    for number in range(count):
        if number == buffers:
            start = time.perf_counter()
        while number - read[0] >= buffers:
            pass
        np.copyto(shared[number % buffers], source)
        written[0] = number + 1
    reader.join()
    return (count - buffers) / (time.perf_counter() - start)
