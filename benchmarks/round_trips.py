"""Microseconds that an int takes to another process and back."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from dataclasses import dataclass
from multiprocessing.context import BaseContext
from typing import Any

import numpy as np

from .rivals.interface import Channel, End, Receiver, Rival, Sender, Shape

_CONTEXT = multiprocessing.get_context("fork")
_WARM_UP = 200


class _BytePipe:
    """A pipe of the system that carries one byte: it wakes the other process and does nothing else."""

    endings = 1

    def __init__(self) -> None:
        self._reader, self._writer = os.pipe()

    def sender(self, index: int) -> Sender:
        return End(put=self._put)

    def receiver(self, index: int) -> Receiver:
        return End(get=self._get)

    def _put(self, item: Any) -> None:
        os.write(self._writer, b"0")

    def _get(self) -> bytes:
        return os.read(self._reader, 1)

    def end_one(self) -> None:
        self._put(None)

    def close(self) -> None:
        os.close(self._reader)
        os.close(self._writer)


def _open(context: BaseContext, shape: Shape) -> _BytePipe:
    return _BytePipe()


LIMIT = Rival("limit, a byte through two pipes", _open)
"""A round trip that wakes the other process and passes no object."""


@dataclass
class RoundTrips:
    """Percentiles in microseconds."""

    p50: float
    p99: float
    p999: float


def _echo(requests: Channel, replies: Channel, count: int, core: int | None) -> None:
    if core is not None:
        os.sched_setaffinity(0, {core})
    get, put = requests.receiver(0).get, replies.sender(0).put
    for _ in range(count):
        put(get())
    signal.pause()  # until killed: a socket may lose the last reply when its process ends


def _ask(requests: Channel, replies: Channel, count: int, core: int | None, seconds: object) -> None:
    if core is not None:
        os.sched_setaffinity(0, {core})
    get, put = replies.receiver(0).get, requests.sender(0).put
    taken = np.frombuffer(seconds.get_obj())  # type: ignore[attr-defined]
    for _ in range(_WARM_UP):
        put(0)
        get()
    clock = time.perf_counter
    for i in range(count):
        start = clock()
        put(i)
        get()
        taken[i] = clock() - start


def round_trips(rival: Rival, count: int, *, one_core: bool = False) -> RoundTrips:
    """Measure `count` round trips, with both processes on one core or where the system places them."""
    core = min(os.sched_getaffinity(0)) if one_core else None
    requests, replies = rival.open_both_ways(_CONTEXT)
    seconds = _CONTEXT.Array("d", count)
    processes = [
        _CONTEXT.Process(target=_echo, args=(requests, replies, count + _WARM_UP, core), daemon=True),
        _CONTEXT.Process(target=_ask, args=(requests, replies, count, core, seconds), daemon=True),
    ]
    for process in processes:
        process.start()
    processes[1].join()
    processes[0].kill()
    processes[0].join()
    requests.close()
    replies.close()
    p50, p99, p999 = np.percentile(np.frombuffer(seconds.get_obj()), [50, 99, 99.9]) * 1e6
    return RoundTrips(p50, p99, p999)
