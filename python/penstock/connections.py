"""`Pipe`: two connected objects that send and receive.

A connection's messages go through a queue for each direction. Beside each queue lies a pipe of the system,
whose ends are open exactly where the connection's are: in every process that has inherited or received it,
until it closes it or dies. So the kernel says when nobody is left on the other side, and the pipe is what
`select` looks at: it holds a byte while a message is there.

To be imported when a connection is made or arrives: `multiprocessing.connection` imports
`multiprocessing.util` (see `leaving.arm`).
"""

import errno
import io
import os
from collections.abc import Callable
from multiprocessing import connection, context, reduction, resource_sharer
from typing import TYPE_CHECKING, Any

from . import (
    buffers,  # noqa: F401  # the binding wants it, perhaps when no file can be opened any more
    leaving,
    passing,
)
from ._native import Channel, Options
from .errors import QueueGoneError

__all__ = ["Connection", "Pipe"]

# Where a send begins to wait. The standard library's waits as soon as its pipe is full, with 64 KiB.
_BYTES = 1 << 20


class Connection(connection.Connection):
    """One side of a `Pipe`, in the place of `multiprocessing.connection.Connection`, which it is one of.

    It has that class's methods, with the same meaning: `send`, `recv`, `send_bytes`, `recv_bytes`,
    `recv_bytes_into`, `poll`, `fileno`, `close`, `closed`, `readable`, `writable`, and `with`. What `send`
    was given arrives although the sender is killed next. Several threads may send, and several receive, at
    once; each message goes to one of them whole. A `send` waits while 1 MiB is on its way.

    `recv` raises EOFError when nothing is left to receive and the other side is closed in every process, or
    its processes have died. `send` raises BrokenPipeError when nobody is left who could receive. A signal
    handler that raises, as for Ctrl-C, ends a wait.

    `fileno()` is a descriptor for `select` and its like, readable exactly while `recv` would not wait;
    nothing else may be done with it. A program that only polls descriptors, without a time-out, may not be
    woken by a sender that is killed, or stopped, within a microsecond after its message was sent.

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

    # The checks of state and arguments are inherited, and the stubs do not tell of them.

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
        self._handle = None  # first: who then finds no channel, in another thread, finds it closed, too
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

        Who only polls it, without a time-out, may not be woken by a sender that is killed, or stopped, within
        a microsecond after its message was sent; `poll` and `recv` find the message.

        Raises OSError if this connection is closed, or more processes use it than there is room for, and
        CorruptQueueError.

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
        """Send an object that pickles. Waits while 1 MiB is on its way to the other side.

        Raises BrokenPipeError if nobody is left who could receive it, OSError if this connection is closed or
        only receives, QueueMemoryError if there is no memory, and whatever pickling raises; nothing is sent
        then. If this process is killed meanwhile, the object arrives whole or not at all.

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

        Raises EOFError if all was received and nobody is left who could send, OSError if this connection is
        closed or only sends, and what rebuilding the object raises. If this process is killed meanwhile, the
        object is lost, or goes to another process that receives here.

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

        Raises what `recv` raises; and OSError if there are more than `maxlength` bytes, which are lost then,
        and nothing can be received here any more.

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
        self._check_closed()  # then these are from before another thread closed it, if one does
        return _rebuild, (type(self), *map(_describe, channels))


def Pipe(duplex: bool = True) -> tuple[Connection, Connection]:
    """Make two connected connections, in the place of `multiprocessing.Pipe`.

    If `duplex` is true, both send and receive; else the first one only receives and the second one only
    sends. Does not block. Raises QueueMemoryError and OSError if the system has no memory or descriptor for
    them.

    >>> import penstock
    >>> receiver, sender = penstock.Pipe(duplex=False)
    >>> sender.send_bytes(b"abc")
    >>> receiver.recv_bytes()
    b'abc'
    """
    leaving.arm()
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
        raise OSError("handle is closed")  # by another thread, since that was checked
    return channel


# How a connection reaches another process: the queue as passing.py says, or by its descriptor, because the
# sender may close the connection at once; the pipe's end by its descriptor.


def _describe(channel: Channel | None) -> Any:
    if channel is None:
        return None
    if context.get_spawning_popen() is not None:
        state = passing.describe(channel)
    else:
        state = channel._id, channel._protocol, reduction.DupFd(channel._fd)
    return state, reduction.DupFd(channel._end)


def _rebuild(cls: type[Connection], incoming: Any, outgoing: Any) -> Connection:
    leaving.arm()
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
                f"queue {id.hex()} is gone: what came as its descriptor, {fd}, is another queue's",
            )
    else:
        passing.reopen(channel, state)
    channel._hold(end.detach(), False)
    return channel
