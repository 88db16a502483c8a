"""multiprocessing.JoinableQueue: each item is acknowledged."""

from __future__ import annotations

from multiprocessing.context import BaseContext
from typing import Any

from .interface import End, QueueChannel, Receiver, Rival, Shape


class _Joinable(QueueChannel):
    def receiver(self, index: int) -> Receiver:
        get, task_done = self.queue.get, self.queue.task_done

        def get_and_finish() -> Any:
            item = get()
            task_done()
            return item

        return End(get=get_and_finish)


def _open(context: BaseContext, shape: Shape) -> QueueChannel:
    return _Joinable(context.JoinableQueue())


RIVALS = [Rival("multiprocessing.JoinableQueue", _open)]
