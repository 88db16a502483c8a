"""`Pipe`: two connected objects that send and receive.

A connection has a queue for each direction. Beside the queues lies the line: a pair of sockets, or a pipe if
messages go one way only. Its ends are open exactly where the connection's sides are: in every process that
has inherited or received the side, until that process closes it or dies. So the kernel reports when no
process is left on the other side. The side's end is also the descriptor for `select`.

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

    `fileno()` is a descriptor for `select` and its like: a socket, or an end of a pipe. It is readable
    exactly while `recv` would not wait, and writable exactly while `send` would not. A program must do
    nothing else with it. See `fileno` for what follows when a process dies in the middle of a call.

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

    def __init__(self, incoming: Channel | None, outgoing: Channel | None, end: int) -> None:
        self._incoming = incoming
        self._outgoing = outgoing
        for channel in (incoming, outgoing):
            if channel is not None:
                channel._use_end(end)
        super().__init__(end, readable=incoming is not None, writable=outgoing is not None)

    def _close(self) -> None:
        incoming, outgoing = self._incoming, self._outgoing
        # The end first, and what names it then: a child that another thread forks in between finds the end
        # here, open or closed.
        for channel in (incoming, outgoing):
            if channel is not None:
                channel._close_end(channel is incoming)
        self._handle = None  # before these: a thread that finds no channel finds the connection closed
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

        Its events are those of a socket in the same state, or of a pipe's end if messages go one way only.
        When the other side has ended, a socket is readable and hung up.

        If a sender is killed or stopped within about 1 us of its `send`, the descriptor may stay unreadable
        until another process of its side uses the connection. Wait with a time-out, then call `poll`, which
        finds the message. If a receiver is killed so, the descriptor may be readable once though there is no
        message for the others that receive at its side, or not writable although there is room.

        Raises OSError if this connection is closed or has no room for another process, and CorruptQueueError.

        >>> import penstock, select
        >>> a, b = penstock.Pipe()
        >>> a.send(1)
        >>> select.select([b], [], [], 0)[0] == [b]
        True
        """
        incoming, outgoing, handle = self._incoming, self._outgoing, self._handle
        if handle is None:
            raise OSError("handle is closed")
        if incoming is not None:
            incoming.watch()
        if outgoing is not None:
            outgoing.watch_room()
        return handle

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
        channels = (self._incoming, self._outgoing)
        self._check_closed()  # after reading them: another thread may be closing this connection
        description = _describe(channels)
        end = _open(channels[0] or channels[1])._with_end(reduction.DupFd)
        return _rebuild, (type(self), description, end)


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
    options = Options(soft_bytes=_BYTES, max_deliveries=3)
    to_first, to_second = Channel(), Channel() if duplex else None
    if to_second is None:
        to_first._create(options, protocol=5)
        there, back = _another(to_first), None
    else:
        to_first._create_pair(to_second, options, protocol=5)
        there, back = _another(to_first), _another(to_second)
    first, second = Channel._make_line(to_second is not None)
    try:
        to_first._set_line(first, second)
        if to_second is not None:
            to_second._set_line(second, first)
    except BaseException:
        os.close(first)
        os.close(second)
        raise
    return Connection(to_first, back, first), Connection(to_second, there, second)


def _another(channel: Channel) -> Channel:
    """Return a channel of the same queue, for the other side."""
    other = Channel()
    other._adopt(channel._id, channel._protocol)
    return other


def _open(channel: Channel | None) -> Channel:
    if channel is None:
        raise OSError("handle is closed")  # by another thread, since the check
    return channel


# How a connection reaches another process. The line's end travels as a descriptor. The memory file of its
# queues travels as in _multiprocessing/reduction.py to a process that is being started, and else as a
# descriptor, because the sender may close the connection at once.


def _describe(channels: tuple[Channel | None, Channel | None]) -> Any:
    """Return the ids of the queues, their protocol, and the file in which both lie."""
    ids = [None if channel is None else channel._id for channel in channels]
    first = channels[0] or channels[1]
    if first is None:
        raise OSError("handle is closed")  # by another thread, since the check
    if context.get_spawning_popen() is not None:
        return ids, *describe(first)[1:]
    return ids, first._protocol, reduction.DupFd(first._fd)


def _rebuild(cls: type[Connection], description: Any, end: Any) -> Connection:
    finalize.arm()
    incoming, outgoing = _reopen(*description)
    number = end.detach()
    try:
        return cls(incoming, outgoing, number)
    except BaseException:
        os.close(number)
        raise


def _reopen(ids: list[bytes | None], protocol: int, duplicate: Any) -> list[Channel | None]:
    channels = [None if id is None else Channel() for id in ids]
    opened = [(channel, id) for channel, id in zip(channels, ids, strict=True) if channel and id]
    first, id = opened[0]
    if isinstance(duplicate, resource_sharer.DupFd):
        fd = duplicate.detach()
        if first._adopt(id, protocol):
            os.close(fd)
        elif not first._attach(fd, id, protocol):
            raise QueueGoneError(
                errno.ESTALE,
                f"queue {id.hex()} is gone: the descriptor {fd}, received as its own, is another queue's",
            )
    else:
        reopen(first, (id, protocol, duplicate))
    for other, id in opened[1:]:
        if not other._adopt(id, protocol) and not other._attach(os.dup(first._fd), id, protocol):
            raise QueueGoneError(errno.ESTALE, f"queue {id.hex()} is gone: it does not lie beside the other")
    return channels
