"""multiprocessing.Pipe: two connections, one process at each."""

from __future__ import annotations

from multiprocessing.context import BaseContext
from typing import Any

from . import End, Receiver, Rival, Sender, Shape


class PipeChannel:
    """A channel that is a pipe from one process to one other."""

    endings = 1

    def __init__(self, ends: tuple[Any, Any]) -> None:
        self._reader, self._writer = ends

    def sender(self, index: int) -> Sender:
        return End(put=self._writer.send)

    def receiver(self, index: int) -> Receiver:
        return End(get=self._reader.recv)

    def end_one(self) -> None:
        self._writer.send(None)

    def close(self) -> None:
        self._reader.close()
        self._writer.close()


def _open(context: BaseContext, shape: Shape) -> PipeChannel:
    return PipeChannel(context.Pipe(duplex=False))


RIVALS = [Rival("multiprocessing.Pipe", _open, suits=lambda shape: shape == (1, 1))]
