"""`Pipe`: two connected objects that send and receive.

A connection's messages go through a queue for each direction. Beside each queue lies a pipe of the system,
whose ends are open exactly where the connection's are: in every process that has inherited or received it,
until it closes it or dies. So the kernel says when nobody is left on the other side, and the pipe is what
`select` looks at: it holds a byte while a message is there.
"""

import io
import os
from collections.abc import Callable
from contextlib import ExitStack
from multiprocessing import connection, context, reduction
from typing import TYPE_CHECKING, Any

from . import leaving, passing
from ._native import Channel

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
    handler that raises, as for Ctrl-C, ends a wait. A closed connection raises OSError, and so does one that
    is asked to go against its direction.

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

    # The checks of state and arguments are inherited, and in nobody's stubs.

    if TYPE_CHECKING:
        _handle: int

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
        for channel in (self._incoming, self._outgoing):
            if channel is not None:
                end = channel._let_go()
                if end >= 0:
                    os.close(end)
        self._incoming = self._outgoing = None

    def _receiving(self) -> Channel:
        self._check_closed()
        self._check_readable()
        assert self._incoming is not None
        return self._incoming

    def _sending(self) -> Channel:
        self._check_closed()
        self._check_writable()
        assert self._outgoing is not None
        return self._outgoing

    def fileno(self) -> int:
        """Return a descriptor for `select` and its like, readable exactly while `recv` would not wait.

        Nothing else may be done with it. Does not block.

        >>> import multiprocessing.connection, penstock
        >>> a, b = penstock.Pipe()
        >>> a.send("hello")
        >>> multiprocessing.connection.wait([a, b]) == [b]
        True
        """
        self._check_closed()
        return self._handle if self._incoming is None else self._incoming.watch()

    def send(self, obj: Any) -> None:
        """Send an object, pickled. Waits while 1 MiB is on its way.

        Raises BrokenPipeError, and what pickling raises.

        >>> import penstock
        >>> a, b = penstock.Pipe()
        >>> a.send([1, 2])
        >>> b.recv()
        [1, 2]
        """
        self._sending().send(obj)

    def recv(self) -> Any:
        """Receive an object, or the one that `send_bytes` was given pickled. Waits for it.

        Raises EOFError, and what unpickling raises.

        >>> import pickle, penstock
        >>> a, b = penstock.Pipe()
        >>> a.send_bytes(pickle.dumps("hello"))
        >>> b.recv()
        'hello'
        """
        return self._receiving().recv()

    def poll(self, timeout: float | None = 0.0) -> bool:
        """Return whether `recv` would not wait, after up to `timeout` seconds; None is for ever.

        >>> import penstock
        >>> a, b = penstock.Pipe()
        >>> a.poll(), a.poll(0.01)
        (False, False)
        >>> b.send(1)
        >>> a.poll(None)
        True
        """
        return self._receiving().poll(timeout)

    def recv_bytes(self, maxlength: int | None = None) -> bytes:
        """Receive what `send_bytes` was given, or the pickle of what `send` was given. Waits for it.

        Raises EOFError, and OSError if there are more than `maxlength` bytes: the message is lost then, and
        nothing more can be received.

        >>> import penstock
        >>> a, b = penstock.Pipe()
        >>> a.send_bytes(b"hello", 1, 3)
        >>> b.recv_bytes()
        b'ell'
        """
        channel = self._receiving()
        if maxlength is not None and maxlength < 0:
            raise ValueError("negative maxlength")
        message = channel.recv_bytes(None)
        assert message is not None
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
        self._check_closed()
        return _rebuild, (type(self), _describe(self._incoming), _describe(self._outgoing))


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
    with ExitStack() as undo:
        there = _make_direction(undo)
        if not duplex:
            sides = Connection(there[0], None), Connection(None, there[1])
        else:
            back = _make_direction(undo)
            sides = Connection(back[0], there[1]), Connection(there[0], back[1])
        undo.pop_all()
    return sides


def _make_direction(undo: ExitStack) -> tuple[Channel, Channel]:
    receiving = Channel()
    receiving._create(
        maxsize=0, max_bytes=None, soft_bytes=_BYTES, protocol=5, acknowledged=False, max_deliveries=3
    )
    sending = Channel()
    sending._adopt(receiving._id, receiving._protocol)
    reader, writer = os.pipe()
    undo.callback(os.close, reader)
    undo.callback(os.close, writer)
    receiving._hold(reader, True)
    sending._hold(writer, False)
    return receiving, sending


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
    with ExitStack() as undo:
        side = cls(_reopen(incoming, undo), _reopen(outgoing, undo))
        undo.pop_all()
    return side


def _reopen(description: Any, undo: ExitStack) -> Channel | None:
    if description is None:
        return None
    state, duplicate = description
    end = duplicate.detach()
    undo.callback(os.close, end)
    channel = Channel()
    passing.reopen(channel, state)
    channel._hold(end, False)
    return channel
