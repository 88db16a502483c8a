"""faster-fifo: a ring of bytes in shared memory, one item at a time and in batches."""

from __future__ import annotations

import queue
from collections.abc import Callable
from multiprocessing.context import BaseContext
from typing import Any

import faster_fifo
import faster_fifo_reduction  # noqa: F401  # makes its queues picklable for new processes

from .interface import End, QueueChannel, Receiver, Rival, Sender, Shape

BATCH = 100
# Bytes: room for several of the largest messages. Its default of 1 MB refuses those.
RING = 64_000_000
PATIENCE = 3600.0  # seconds; after its default of 10 it would raise amid a measurement


def _patient(get: Callable[[], Any]) -> Callable[[], Any]:
    """Repeat a `get` that raises Empty before its time-out, which it does if another consumer was faster."""

    def get_patiently() -> Any:
        while True:
            try:
                return get()
            except queue.Empty:
                continue

    return get_patiently


class _Fifo(QueueChannel):
    def sender(self, index: int) -> Sender:
        put = self.queue.put
        return End(put=lambda item: put(item, timeout=PATIENCE))

    def receiver(self, index: int) -> Receiver:
        get = self.queue.get
        return End(get=_patient(lambda: get(timeout=PATIENCE)))


class _Batched(QueueChannel):
    def sender(self, index: int) -> Sender:
        put_many = self.queue.put_many
        return End(put=lambda items: put_many(items, timeout=PATIENCE))

    def receiver(self, index: int) -> Receiver:
        get_many = self.queue.get_many
        return End(get=_patient(lambda: get_many(timeout=PATIENCE, max_messages_to_get=BATCH)))


def _open(context: BaseContext, shape: Shape) -> QueueChannel:
    return _Fifo(faster_fifo.Queue(max_size_bytes=RING))


def _open_batched(context: BaseContext, shape: Shape) -> QueueChannel:
    return _Batched(faster_fifo.Queue(max_size_bytes=RING))


RIVALS = [Rival("faster-fifo", _open), Rival("faster-fifo, batched", _open_batched, batch=BATCH)]
