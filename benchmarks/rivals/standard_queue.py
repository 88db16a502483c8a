"""multiprocessing.Queue: what programs use today, and what ratios refer to."""

from __future__ import annotations

from multiprocessing.context import BaseContext

from .interface import QueueChannel, Rival, Shape


def _open(context: BaseContext, shape: Shape) -> QueueChannel:
    return QueueChannel(context.Queue())


RIVALS = [Rival("multiprocessing.Queue", _open)]
