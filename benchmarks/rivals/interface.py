"""What a rival has to offer: a way to pass objects between processes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.context import BaseContext
from typing import Any, Protocol

Shape = tuple[int, int]
"""How many producers, how many consumers."""


class Sender(Protocol):
    """A producer's end, made in its process. A batched rival's `put` takes a list."""

    put: Callable[[Any], Any]

    finish: Callable[[], Any]
    """Has all that was put go on its way, and tells the consumers that this producer has ended if the rival
    needs that from the producer."""


class Receiver(Protocol):
    """A consumer's end, made in its process. A batched rival's `get` returns a list."""

    get: Callable[[], Any]


class Channel(Protocol):
    """What one round uses; made before the processes are."""

    endings: int
    """So many None tell a consumer that all is over."""

    def sender(self, index: int) -> Sender:
        """Open the end of producer `index`."""

    def receiver(self, index: int) -> Receiver:
        """Open the end of consumer `index`."""

    def end_one(self) -> None:
        """Put one ending, when all producers have ended; nothing if the producers did."""

    def close(self) -> None:
        """Give everything back."""


@dataclass(frozen=True)
class Rival:
    """A way to pass objects between processes."""

    name: str
    open: Callable[[BaseContext, Shape], Channel]
    suits: Callable[[Shape], bool] = lambda shape: True
    """Whether items are streamed through it so; a rival that suits nothing only makes round trips."""
    batch: int = 0
    """Items of a call to `put`; 0 for one at a time."""
    is_ours: bool = False
    duplex: Callable[[BaseContext], tuple[Channel, Channel]] | None = None
    """Opens the way there and the way back as one thing; None if they are two."""

    def open_both_ways(self, context: BaseContext) -> tuple[Channel, Channel]:
        """Open a way from one process to another, and a way back."""
        if self.duplex is not None:
            return self.duplex(context)
        return self.open(context, (1, 1)), self.open(context, (1, 1))


@dataclass
class End:
    """A producer's or a consumer's end."""

    put: Callable[[Any], Any] = print
    get: Callable[[], Any] = list
    finish: Callable[[], Any] = lambda: None
    """Sees that all is on its way; by default that is so after each put."""


class QueueChannel:
    """A channel that is one queue with `put` and `get`, shared by all."""

    endings = 1

    def __init__(self, queue: Any) -> None:
        self.queue = queue

    def sender(self, index: int) -> Sender:
        """The queue itself. A standard one sends from a thread."""
        return End(put=self.queue.put, finish=self._flush)

    def _flush(self) -> None:
        if hasattr(self.queue, "join_thread"):
            self.queue.close()
            self.queue.join_thread()

    def receiver(self, index: int) -> Receiver:
        """The queue itself."""
        return End(get=self.queue.get)

    def end_one(self) -> None:
        """One None, for one consumer."""
        self.queue.put(None)

    def close(self) -> None:
        """Close the queue, if it can be closed."""
        getattr(self.queue, "close", lambda: None)()
