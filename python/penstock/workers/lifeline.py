"""A worker ends with the process of its pool, whichever way that ends.

Only the pool's process has the writing end of a pipe; the kernel closes it when that process ends. Each
worker has asked the kernel for SIGKILL at that moment (`F_SETSIG` with `O_ASYNC`). So a worker ends also if
it is stopped, or in a call that never returns to Python, and an idle one needs no thread that watches.
`PR_SET_PDEATHSIG` would do it when the *thread* ends that has started the worker, and never under a fork
server.

Forked children of the pool's process close the writing end. What is executed in the place of a child has not
got it.
"""

from __future__ import annotations

import fcntl
import os
import select
import signal
from weakref import WeakSet

from .._multiprocessing import fork_lock

__all__ = ["WritingEnd", "end_with_pool", "pipe"]

_F_SETSIG = 10

_writing_ends: WeakSet[WritingEnd] = WeakSet()


class WritingEnd:
    """The end of a pipe that only this process has: its forked children close it."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor: int | None = descriptor
        _writing_ends.add(self)

    def write(self, count: int) -> None:
        """Write so many bytes, as far as there is room. Does nothing if the end is closed."""
        if self._descriptor is not None:
            try:
                os.write(self._descriptor, b"\0" * count)
            except (BlockingIOError, BrokenPipeError):
                return  # as many are on the way as a pipe holds, or no worker is left

    def close(self) -> None:
        """Close the end."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            os.close(descriptor)


def pipe() -> tuple[int, WritingEnd]:
    """Make a pipe whose reading end workers have, and whose writing end only this process has."""
    with fork_lock.lock:  # no fork in between
        reader, writer = os.pipe()
        os.set_blocking(writer, False)
        return reader, WritingEnd(writer)


def _close_in_child() -> None:
    for end in list(_writing_ends):
        end.close()


os.register_at_fork(after_in_child=_close_in_child)


def end_with_pool(reader: int) -> None:
    """Let the kernel kill this process when the pool's process ends, or end now if it has ended."""
    try:
        # An end of its own: the setting belongs to the open file, which all workers would share.
        own = os.open(f"/proc/self/fd/{reader}", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        fcntl.fcntl(own, fcntl.F_SETOWN, os.getpid())
        fcntl.fcntl(own, _F_SETSIG, signal.SIGKILL)
        fcntl.fcntl(own, fcntl.F_SETFL, fcntl.fcntl(own, fcntl.F_GETFL) | os.O_ASYNC)
    except OSError:
        _watch(reader)  # there is no /proc
        return
    if _has_ended(own, 0):
        os.kill(os.getpid(), signal.SIGKILL)


def _has_ended(reader: int, milliseconds: int | None) -> bool:
    poll = select.poll()
    poll.register(reader, select.POLLIN)
    return bool(poll.poll(milliseconds))


def _watch(reader: int) -> None:
    import threading

    def watch() -> None:
        if _has_ended(reader, None):
            os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=watch, name="penstock-lifeline", daemon=True).start()
