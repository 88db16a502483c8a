"""`Pipe`: two connected objects that send and receive.

A connection has a queue for each direction. Beside each queue lies a pipe of the system. Its ends are open
exactly where the connection's sides are: in every process that has inherited or received the side, until that
process closes it or dies. So the kernel reports when no process is left on the other side. The pipe is also
the descriptor for `select`: it holds a byte while a message is there.

Imported when the first connection is made or arrives, because `multiprocessing.connection` imports
`multiprocessing.util` (see `finalize.arm`).
"""

import errno
import io
import os
from collections.abc import Callable
from multiprocessing import connection, context, reduction, resource_sharer
from typing import TYPE_CHECKING, Any

from . import buffers  # noqa: F401  # the binding imports it, perhaps when no file can be opened any more
from ._multiprocessing import (
    finalize,
    greenlets,  # noqa: F401  # as buffers
)
from ._multiprocessing.reduction import describe, reopen
from ._native import Channel, Options
from .errors import QueueGoneError

__all__ = ["Connection", "Pipe"]

# Where a send begins to wait. The standard library's waits as soon as its pipe is full, with 64 KiB.
_BYTES = 1 << 20


class Connection(connection.Connection):
    """One side of a `Pipe`: a `multiprocessing.connection.Connection` over queues of Penstock.

    It has that class's methods, with the same meaning: `send`, `recv`, `send_bytes`, `recv_bytes`,
    `recv_bytes_into`, `poll`, `fileno`, `close`, `closed`, `readable`, `writable`, and `with`. A message
    arrives even if its sender is killed right after `send` has returned. Several threads may send, and
    several receive, at once; each message goes to one of them whole. A `send` waits while 1 MiB is queued.

    `recv` raises EOFError when nothing is left to receive and the other side is closed in every process, or
    its processes have died. `send` raises BrokenPipeError when no process is left that could receive. A
    signal handler that raises, as for Ctrl-C, ends a wait.

    `fileno()` is a descriptor for `select` and its like, readable exactly while `recv` would not wait. A
    program must do nothing else with it. If a sender is killed or stopped within about 1 us of its `send`,
    the descriptor may stay unreadable until another process uses the connection: wait with a time-out.

    A connection travels to another process as the standard one does: inherited, as an argument of a
    `Process`, or inside a message.

    >>> import penstock
    >>> a, b = penstock.Pipe()
    >>> a.send({"x": 1})
    >>> b.poll()
    True
    >>> b.recv()
    {'x': 1}
    >>> a.close()
    >>> b.recv()
    Traceback (most recent call last):
        ...
    EOFError
    """

    # Inherited, but missing in the standard library's stubs.

    if TYPE_CHECKING:
        _handle: int | None

        def _check_closed(self) -> None: ...
        def _check_readable(self) -> None: ...
        def _check_writable(self) -> None: ...
        def _bad_message_length(self) -> None: ...

    _incoming: Channel | None
    _outgoing: Channel | None

    def __init__(self, incoming: Channel | None, outgoing: Channel | None) -> None:
        self._incoming = incoming
        self._outgoing = outgoing
        first = incoming or outgoing
        assert first is not None
        if incoming is not None and outgoing is not None:
            outgoing._pair(incoming._end)
        super().__init__(first._end, readable=incoming is not None, writable=outgoing is not None)

    def _close(self) -> None:
        self._handle = None  # first: another thread that finds no channel then finds the connection closed
        for channel in (self._incoming, self._outgoing):
            if channel is not None:
                end = channel._let_go()
                if end >= 0:
                    os.close(end)
        self._incoming = self._outgoing = None

    def _receiving(self) -> Channel:
        self._check_closed()
        self._check_readable()
        return _open(self._incoming)

    def _sending(self) -> Channel:
        self._check_closed()
        self._check_writable()
        return _open(self._outgoing)

    def fileno(self) -> int:
        """Return a descriptor to wait with. Does not wait itself.

        If a sender is killed or stopped within about 1 us of its `send`, the descriptor may stay unreadable
        until another process uses the connection. Wait with a time-out, then call `poll`, which finds the
        message.

        Raises OSError if this connection is closed or has no room for another process, and CorruptQueueError.

        >>> import penstock, select
        >>> a, b = penstock.Pipe()
        >>> a.send(1)
        >>> select.select([b], [], [], 0)[0] == [b]
        True
        """
        incoming, handle = self._incoming, self._handle
        if handle is None:
            raise OSError("handle is closed")
        return handle if incoming is None else incoming.watch()

    def send(self, obj: Any) -> None:
        """Send an object that pickles. Waits while 1 MiB is queued for the other side.

        Raises BrokenPipeError if no process is left that could receive it, OSError if this connection is
        closed or only receives, QueueMemoryError if there is no memory, and what pickling raises; nothing is
        sent then. If this process is killed meanwhile, the object arrives whole or not at all.

        >>> import penstock
        >>> a, b = penstock.Pipe()
        >>> b.close()
        >>> a.send(1)
        Traceback (most recent call last):
            ...
        BrokenPipeError: [Errno 32] Broken pipe
        """
        self._sending().send(obj)

    def recv(self) -> Any:
        """Receive an object. Waits for one.

        Raises EOFError if all was received and no process is left that could send, OSError if this connection
        is closed or only sends, and what rebuilding the object raises. If this process is killed meanwhile,
        the object is lost, or goes to another process that receives here.

        >>> import penstock
        >>> a, b = penstock.Pipe()
        >>> a.send([1])
        >>> b.recv()
        [1]
        """
        return self._receiving().recv()

    def poll(self, timeout: float | None = 0.0) -> bool:
        """Return whether `recv` would not wait. Waits for that, `timeout` seconds at most (None for ever).

        >>> import penstock
        >>> a, b = penstock.Pipe()
        >>> b.poll(0.01)
        False
        """
        return self._receiving().poll(timeout)

    def recv_bytes(self, maxlength: int | None = None) -> bytes:
        """Receive bytes that were sent by `send_bytes`, or the pickle of an object. Waits for them.

        Raises what `recv` raises, and OSError if there are more than `maxlength` bytes. These are lost then,
        and this connection receives nothing any more.

        >>> import penstock
        >>> a, b = penstock.Pipe()
        >>> a.send_bytes(b"abc")
        >>> b.recv_bytes()
        b'abc'
        """
        channel = self._receiving()
        if maxlength is not None and maxlength < 0:
            raise ValueError("negative maxlength")
        message = channel.recv_bytes()
        if maxlength is not None and len(message) > maxlength:
            self._bad_message_length()
        return message

    # For the inherited `send_bytes` and `recv_bytes_into`.

    def _send_bytes(self, buf: memoryview) -> None:
        self._sending().send_bytes(buf)

    def _recv_bytes(self, maxsize: int | None = None) -> io.BytesIO:
        stream = io.BytesIO()
        stream.write(self.recv_bytes(maxsize))
        return stream

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        channels = self._incoming, self._outgoing
        self._check_closed()  # after reading them: another thread may be closing this connection
        return _rebuild, (type(self), *map(_describe, channels))


def Pipe(duplex: bool = True) -> tuple[Connection, Connection]:
    """Make two connected connections, in the place of `multiprocessing.Pipe`.

    If `duplex` is true, both send and receive; else the first one only receives and the second one only
    sends. Does not block. Raises QueueMemoryError or OSError if the system has no memory or descriptors left.

    >>> import penstock
    >>> receiver, sender = penstock.Pipe(duplex=False)
    >>> sender.send_bytes(b"abc")
    >>> receiver.recv_bytes()
    b'abc'
    """
    finalize.arm()
    there = _make_direction()
    if not duplex:
        return Connection(there[0], None), Connection(None, there[1])
    back = _make_direction()
    return Connection(back[0], there[1]), Connection(there[0], back[1])


def _make_direction() -> tuple[Channel, Channel]:
    receiving = Channel()
    receiving._create(Options(soft_bytes=_BYTES, max_deliveries=3), protocol=5)
    sending = Channel()
    sending._adopt(receiving._id, receiving._protocol)
    reader, writer = os.pipe()
    try:
        receiving._hold(reader, True)
    except BaseException:
        os.close(writer)
        raise
    sending._hold(writer, True)
    return receiving, sending


def _open(channel: Channel | None) -> Channel:
    if channel is None:
        raise OSError("handle is closed")  # by another thread, since the check
    return channel


# How a connection reaches another process. The pipe's end travels as a descriptor. The queue travels as in
# _multiprocessing/reduction.py to a process that is being started, and else as a descriptor, because the
# sender may close the connection at once.


def _describe(channel: Channel | None) -> Any:
    if channel is None:
        return None
    if context.get_spawning_popen() is not None:
        state = describe(channel)
    else:
        state = channel._id, channel._protocol, reduction.DupFd(channel._fd)
    return state, reduction.DupFd(channel._end)


def _rebuild(cls: type[Connection], incoming: Any, outgoing: Any) -> Connection:
    finalize.arm()
    return cls(_reopen(incoming), _reopen(outgoing))


def _reopen(description: Any) -> Channel | None:
    if description is None:
        return None
    state, end = description
    channel = Channel()
    if isinstance(state[2], resource_sharer.DupFd):
        id, protocol, duplicate = state
        fd = duplicate.detach()
        if channel._adopt(id, protocol):
            os.close(fd)
        elif not channel._attach(fd, id, protocol):
            raise QueueGoneError(
                errno.ESTALE,
                f"queue {id.hex()} is gone: the descriptor {fd}, received as its own, is another queue's",
            )
    else:
        reopen(channel, state)
    channel._hold(end.detach(), False)
    return channel
