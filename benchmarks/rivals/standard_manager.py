"""Manager().Queue: a queue.Queue in a server process, reached through sockets."""

from __future__ import annotations

from multiprocessing.context import BaseContext

from .interface import QueueChannel, Rival, Shape


class _Managed(QueueChannel):
    def __init__(self, context: BaseContext, shape: Shape) -> None:
        self._manager = context.Manager()
        super().__init__(self._manager.Queue())

    def close(self) -> None:
        self._manager.shutdown()


RIVALS = [Rival("Manager().Queue", _Managed)]
