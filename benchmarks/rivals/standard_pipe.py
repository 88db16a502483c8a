"""multiprocessing.Pipe: two connections, one process at each."""

from __future__ import annotations

from multiprocessing.context import BaseContext

from . import End, Receiver, Rival, Sender, Shape


class _Pipe:
    endings = 1

    def __init__(self, context: BaseContext, shape: Shape) -> None:
        self._reader, self._writer = context.Pipe(duplex=False)

    def sender(self, index: int) -> Sender:
        return End(put=self._writer.send)

    def receiver(self, index: int) -> Receiver:
        return End(get=self._reader.recv)

    def end_one(self) -> None:
        self._writer.send(None)

    def close(self) -> None:
        self._reader.close()
        self._writer.close()


RIVALS = [Rival("multiprocessing.Pipe", _Pipe, suits=lambda shape: shape == (1, 1))]
