"""multiprocessing.Pipe: two connections, one process at each, for one direction or both (the default)."""

from __future__ import annotations

from multiprocessing.context import BaseContext
from typing import Any

from .interface import End, Receiver, Rival, Sender, Shape


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


def _open_duplex(context: BaseContext, shape: Shape) -> PipeChannel:
    return PipeChannel(context.Pipe())


def both_ways(ends: tuple[Any, Any]) -> tuple[PipeChannel, PipeChannel]:
    """The two channels of a duplex pipe."""
    left, right = ends
    return PipeChannel((right, left)), PipeChannel((left, right))


RIVALS = [
    Rival("multiprocessing.Pipe", _open, suits=lambda shape: shape == (1, 1)),
    Rival(
        "multiprocessing.Pipe, duplex",
        _open_duplex,
        suits=lambda shape: False,
        duplex=lambda context: both_ways(context.Pipe()),
    ),
]
