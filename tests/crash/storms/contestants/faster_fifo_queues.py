"""faster-fifo: a ring of bytes in shared memory, guarded by a pthread mutex."""

import queue as standard
from typing import Any

from . import Contestant, Options

_BYTES = 8 << 20  # of the ring: room for all items that are queued at once in any round
_FOR_EVER = 1e6  # seconds; the default is 10, and there is no wait without a time-out


def _new_queue(context: Any, options: Options) -> Any:
    import faster_fifo
    import faster_fifo_reduction  # noqa: F401  makes its queues picklable for spawned processes

    return faster_fifo.Queue(max_size_bytes=_BYTES, maxsize=options.maxsize or 1_000_000)


def _take(queue: Any) -> Any:
    # It may raise Empty before its time-out, if another getter was faster.
    while True:
        try:
            return queue.get(timeout=_FOR_EVER)
        except standard.Empty:
            continue


def _put(queue: Any, item: Any) -> None:
    while True:
        try:
            return queue.put(item, timeout=_FOR_EVER)
        except standard.Full:
            continue


CONTESTANTS = [
    Contestant(
        "faster_fifo.Queue",
        _new_queue,
        does_not_apply=frozenset({"max_bytes reached", "control group full", "kill idle in join"}),
        take=_take,
        put=_put,
    )
]
