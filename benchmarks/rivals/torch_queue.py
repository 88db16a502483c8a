"""torch.multiprocessing.Queue: the standard queue with torch's reducers for tensors."""

from __future__ import annotations

from multiprocessing.context import BaseContext

import torch.multiprocessing

from .interface import QueueChannel, Rival, Shape


def _open(context: BaseContext, shape: Shape) -> QueueChannel:
    return QueueChannel(torch.multiprocessing.get_context("fork").Queue())


RIVALS = [Rival("torch.multiprocessing.Queue", _open)]
