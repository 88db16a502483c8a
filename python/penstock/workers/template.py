"""Where forked workers come from: a process that was forked before the pool started its threads.

A fork copies one thread only. A lock that another thread holds at that moment stays locked in the child for
ever, so a process with threads should not fork workers. The template is forked when the pool starts, has no
threads, and forks all workers that replace the first ones.

Its messages are (kind, slot, value); with STARTED comes a descriptor that is readable when the worker has
ended.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import socket
import struct
from multiprocessing import process

from .lifeline import end_with_pool
from .worker import main as work

__all__ = ["Template", "close_ended"]

TYPE_CHECKING = False
if TYPE_CHECKING:
    from multiprocessing.context import BaseContext
    from typing import Any

    from .kit import Kit

_MESSAGE = struct.Struct("<iii")
START, START_SPARE, STARTED, NOT_STARTED, ENDED = range(5)
UNKNOWN = 1 << 16  # in the place of an exit code, if another has reaped the worker


class Template:
    """The pool's side."""

    def __init__(self, context: BaseContext, kit: Kit, name: str) -> None:
        self.socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self.process: Any = context.Process(  # type: ignore[attr-defined]
                target=_serve, args=(theirs, self.socket, kit, name), name=f"{name}-template"
            )
            self.process.start()

    def start(self, slot: int, is_spare: bool) -> None:
        """Let the template fork a worker; `receive` tells when it has. Raises OSError if it has ended."""
        self.socket.send(_MESSAGE.pack(START_SPARE if is_spare else START, slot, 0))

    def receive(self, timeout: float) -> tuple[int, int, int, list[int]] | None:
        """Return the next message, with descriptors, or None. Raises EOFError if the template has ended."""
        self.socket.settimeout(timeout)
        try:
            message, descriptors, _, _ = socket.recv_fds(self.socket, _MESSAGE.size, 1)
        except (BlockingIOError, TimeoutError):
            return None
        except OSError as error:
            raise EOFError(str(error)) from None
        if not message:
            raise EOFError("its socket is closed")
        for descriptor in descriptors:
            os.set_inheritable(descriptor, False)
        return *_MESSAGE.unpack(message), descriptors

    def close(self) -> None:
        """Let the template end, and wait for it."""
        with contextlib.suppress(OSError):  # the template has been killed
            # Closing alone does not end it: workers of other pools, forked later, have this descriptor, too.
            self.socket.shutdown(socket.SHUT_RDWR)
        self.socket.close()
        self.process.join()
        close_ended(self.process)


def close_ended(ended: Any) -> None:
    """Close a process that was joined, also if the program, or the system for it, has reaped it."""
    try:
        ended.close()
    except ValueError:  # `multiprocessing` takes one whose exit code it does not know for running
        ended._popen.close()
        process._children.discard(ended)  # type: ignore[attr-defined]


def _serve(commands: socket.socket, theirs: socket.socket, kit: Kit, name: str) -> None:
    """Fork workers, and tell how they end, until the pool closes its side."""
    theirs.close()
    end_with_pool(kit.lifeline)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the pool and for the calls
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # the program may ignore it, or reap its children by it
    signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGINT,))  # blocked by the crew
    context: Any = process.current_process()
    Process = type(context)
    parent = process.parent_process()
    children: dict[int, tuple[int, Any]] = {}
    with selectors.DefaultSelector() as selector:
        selector.register(commands, selectors.EVENT_READ)
        while True:
            for key, _ in selector.select():
                if key.fileobj is commands:
                    message = commands.recv(_MESSAGE.size)
                    if not message:
                        return
                    kind, slot, _ = _MESSAGE.unpack(message)
                    child = Process(
                        target=_work,
                        args=(commands, children, selector, parent, kit, slot, kind == START_SPARE),
                        name=f"{name}-{slot}",
                    )
                    try:
                        child.start()
                        pidfd = os.pidfd_open(child.pid)
                    except OSError as error:
                        commands.send(_MESSAGE.pack(NOT_STARTED, slot, error.errno or 0))
                        continue
                    children[pidfd] = (slot, child)
                    selector.register(pidfd, selectors.EVENT_READ)
                    socket.send_fds(commands, [_MESSAGE.pack(STARTED, slot, child.pid)], [pidfd])
                else:
                    slot, child = children.pop(key.fd)
                    selector.unregister(key.fd)
                    os.close(key.fd)
                    child.join()
                    exitcode = UNKNOWN if child.exitcode is None else child.exitcode
                    commands.send(_MESSAGE.pack(ENDED, slot, exitcode))
                    close_ended(child)


def _work(
    commands: socket.socket,
    siblings: dict[int, tuple[int, Any]],
    selector: selectors.BaseSelector,
    pool: Any,
    kit: Kit,
    slot: int,
    is_spare: bool,
) -> None:
    commands.close()
    selector.close()
    for pidfd in siblings:
        os.close(pidfd)
    siblings.clear()
    process._parent_process = pool  # type: ignore[attr-defined]  # the pool's process is a worker's parent
    work(kit, slot, is_spare)
