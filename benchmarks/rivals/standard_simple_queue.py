"""multiprocessing.SimpleQueue: a pipe with two locks, and no thread."""

from __future__ import annotations

from multiprocessing.context import BaseContext

from .interface import QueueChannel, Rival, Shape


def _open(context: BaseContext, shape: Shape) -> QueueChannel:
    return QueueChannel(context.SimpleQueue())


RIVALS = [Rival("multiprocessing.SimpleQueue", _open)]
