"""Penstock: its three queues, one item at a time and in batches, and its pipe."""

from __future__ import annotations

from multiprocessing.context import BaseContext
from typing import Any

import penstock

from .interface import End, QueueChannel, Receiver, Rival, Sender, Shape
from .standard_pipe import PipeChannel, both_ways

BATCH = 100


def _open(context: BaseContext, shape: Shape) -> QueueChannel:
    return QueueChannel(penstock.Queue())


def _open_simple(context: BaseContext, shape: Shape) -> QueueChannel:
    return QueueChannel(penstock.SimpleQueue())


class _Joinable(QueueChannel):
    def receiver(self, index: int) -> Receiver:
        get, task_done = self.queue.get, self.queue.task_done

        def get_and_finish() -> Any:
            item = get()
            task_done()
            return item

        return End(get=get_and_finish)


def _open_joinable(context: BaseContext, shape: Shape) -> QueueChannel:
    return _Joinable(penstock.JoinableQueue())


class _Batched(QueueChannel):
    def sender(self, index: int) -> Sender:
        return End(put=self.queue.put_many)

    def receiver(self, index: int) -> Receiver:
        get_many = self.queue.get_many
        return End(get=lambda: get_many(BATCH))


def _open_batched(context: BaseContext, shape: Shape) -> QueueChannel:
    return _Batched(penstock.Queue())


def _open_pipe(context: BaseContext, shape: Shape) -> PipeChannel:
    return PipeChannel(penstock.Pipe(duplex=False))


def _open_duplex(context: BaseContext, shape: Shape) -> PipeChannel:
    return PipeChannel(penstock.Pipe())


RIVALS = [
    Rival("Penstock", _open, is_ours=True),
    Rival("Penstock, batched", _open_batched, batch=BATCH, is_ours=True),
    Rival("Penstock SimpleQueue", _open_simple, is_ours=True),
    Rival("Penstock JoinableQueue", _open_joinable, is_ours=True),
    Rival("Penstock Pipe", _open_pipe, suits=lambda shape: shape == (1, 1), is_ours=True),
    Rival(
        "Penstock Pipe, duplex",
        _open_duplex,
        suits=lambda shape: False,
        is_ours=True,
        duplex=lambda context: both_ways(penstock.Pipe()),
    ),
]
