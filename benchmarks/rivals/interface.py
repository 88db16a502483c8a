"""The interface of a rival: a way to pass objects between processes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.context import BaseContext
from typing import Any, Protocol

Shape = tuple[int, int]
"""The numbers of producers and of consumers."""


class Sender(Protocol):
    """A producer's end, made in its process. A batched rival's `put` takes a list."""

    put: Callable[[Any], Any]

    finish: Callable[[], Any]
    """Flushes what was put. If the rival's producers send the endings, it also sends this producer's."""


class Receiver(Protocol):
    """A consumer's end, made in its process. A batched rival's `get` returns a list."""

    get: Callable[[], Any]


class Channel(Protocol):
    """The channel of one round; made before its processes."""

    endings: int
    """The number of None after which a consumer ends."""

    def sender(self, index: int) -> Sender:
        """Open the end of producer `index`."""

    def receiver(self, index: int) -> Receiver:
        """Open the end of consumer `index`."""

    def end_one(self) -> None:
        """Put one ending after all producers have ended; does nothing if the producers send them."""

    def close(self) -> None:
        """Release its memory, descriptors and threads."""


@dataclass(frozen=True)
class Rival:
    """A way to pass objects between processes."""

    name: str
    open: Callable[[BaseContext, Shape], Channel]
    suits: Callable[[Shape], bool] = lambda shape: True
    """Whether it streams items in that shape; a rival without a shape only makes round trips."""
    batch: int = 0
    """Items of a call to `put`; 0 for one at a time."""
    is_ours: bool = False
    duplex: Callable[[BaseContext], tuple[Channel, Channel]] | None = None
    """Opens both directions as one object; None if each direction is a channel of its own."""

    def open_both_ways(self, context: BaseContext) -> tuple[Channel, Channel]:
        """Open a channel from one process to another, and one back."""
        if self.duplex is not None:
            return self.duplex(context)
        return self.open(context, (1, 1)), self.open(context, (1, 1))


@dataclass
class End:
    """A producer's or a consumer's end."""

    put: Callable[[Any], Any] = print
    get: Callable[[], Any] = list
    finish: Callable[[], Any] = lambda: None
    """Flushes what was put; by default each put has done so."""


class QueueChannel:
    """A channel that is one queue with `put` and `get`, shared by all."""

    endings = 1

    def __init__(self, queue: Any) -> None:
        self.queue = queue

    def sender(self, index: int) -> Sender:
        """Send through the queue. `finish` waits for the thread of a standard queue."""
        return End(put=self.queue.put, finish=self._flush)

    def _flush(self) -> None:
        if hasattr(self.queue, "join_thread"):
            self.queue.close()
            self.queue.join_thread()

    def receiver(self, index: int) -> Receiver:
        """Receive from the queue."""
        return End(get=self.queue.get)

    def end_one(self) -> None:
        """Put one None, which one consumer takes."""
        self.queue.put(None)

    def close(self) -> None:
        """Close the queue, if it can be closed."""
        getattr(self.queue, "close", lambda: None)()
