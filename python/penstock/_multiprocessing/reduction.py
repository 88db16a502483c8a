"""How a handle reaches another process.

    inherited by a forked child   nothing to do: the child has what its parent has
    an argument, spawn            the descriptor travels as `multiprocessing` sends descriptors to a process
      and forkserver              that it starts
    inside a message              by name: the receiver opens it through a process that has it open

A name is the queue's id, and the sender's process and descriptor. The kernel gives every descriptor a path,
which leads to the same memory: /proc/<pid>/fd/<descriptor>. A receiver without /proc asks the kernel for a
duplicate of that descriptor.
"""

from __future__ import annotations

import errno
import os
from multiprocessing import context, reduction
from weakref import WeakKeyDictionary

from ..errors import QueueGoneError

TYPE_CHECKING = False  # without `typing`, whose import takes as long as all of Penstock
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Protocol, TypeAlias

    from .._native import Handle

    class _Duplicate(Protocol):
        """A descriptor on its way to a process that is being started, as a `reduction.DupFd`."""

        def detach(self) -> int: ...

    _Seen: TypeAlias = tuple[int, int]
    State: TypeAlias = tuple[bytes, int, _Seen | _Duplicate]
    """What is pickled: the queue's id, the handle's pickle protocol, and where the queue is open."""

# The duplicates for each process that is being started, by the descriptor here.
_duplicates: WeakKeyDictionary[object, dict[int, _Duplicate]] = WeakKeyDictionary()
# Descriptors that this process was started with and that a handle has taken.
_detached: set[int] = set()


def describe(handle: Handle) -> State:
    """Return what `reopen` needs in another process to open the same queue.

    Outside the start of a process, the sender must keep its handle until the receiver has opened the queue. A
    put into a queue of Penstock does that by itself: it keeps the queue open until the receiver is done with
    the message, or, if the message is never taken, until this process ends.
    """
    starting = context.get_spawning_popen()
    if starting is not None:
        # One duplicate for all handles of a queue, and for both queues of a connection: spawn cannot pass a
        # descriptor twice.
        fd, duplicates = handle._fd, _duplicates.setdefault(starting, {})
        if fd not in duplicates:
            duplicates[fd] = reduction.DupFd(fd)
        return handle._id, handle._protocol, duplicates[fd]
    handle._carried()
    return handle._id, handle._protocol, (os.getpid(), handle._fd)


def reopen(handle: Handle, state: State) -> None:
    """Open the queue that `state` describes, in the new object `handle`.

    Raises QueueGoneError if no process has the queue open any more, or if this one may not open it.
    """
    id, protocol, where = state
    if not isinstance(where, tuple):
        _reopen_inherited(handle, id, protocol, where)
    elif not handle._adopt(id, protocol):
        refused: list[str] = []
        if _reopen_path(handle, id, protocol, "/proc/{}/fd/{}".format(*where), refused):
            return
        for path in _paths():
            if _reopen_path(handle, id, protocol, path, []):
                return
        if not _reopen_duplicate(handle, id, protocol, where, refused):
            raise _not_opened(id, where[0], refused)


def _reopen_inherited(handle: Handle, id: bytes, protocol: int, duplicate: _Duplicate) -> None:
    # The first of several handles of a queue takes the descriptor.
    fd = duplicate.detach()
    is_new = fd not in _detached
    _detached.add(fd)
    if handle._adopt(id, protocol):
        if is_new:
            os.close(fd)
    elif not is_new or not handle._attach(fd, id, protocol):
        raise QueueGoneError(
            errno.ESTALE, f"queue {id.hex()} is gone: its descriptor {fd} has been taken and closed"
        )


def _reopen_path(handle: Handle, id: bytes, protocol: int, path: str, refused: list[str]) -> bool:
    try:
        if not os.readlink(path).startswith(f"/memfd:penstock-{id.hex()}"):
            return False
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except PermissionError:
        refused.append(path)
        return False
    except OSError:
        return False  # closed meanwhile, or the process has ended
    _check_owner(fd, id)
    return _attach(handle, fd, id, protocol)


def _attach(handle: Handle, fd: int, id: bytes, protocol: int) -> bool:
    try:
        return handle._attach(fd, id, protocol)
    except OSError:
        return False  # another file by now


def _check_owner(fd: int, id: bytes) -> None:
    """Raise QueueGoneError, and close the descriptor, unless its file belongs to this process's user.

    A privileged process can open the files of others, and unpickles what it finds there.
    """
    owner = os.fstat(fd).st_uid
    if owner != os.geteuid():
        os.close(fd)
        raise QueueGoneError(
            errno.EACCES,
            f"queue {id.hex()} belongs to user {owner}, and this process runs as user {os.geteuid()}: "
            "all processes of a queue run under one user",
        )


def _reopen_duplicate(handle: Handle, id: bytes, protocol: int, seen: _Seen, refused: list[str]) -> bool:
    """For a process that sees no /proc, and so no path."""
    if os.path.exists("/proc/self"):
        return False
    try:
        fd = handle._duplicate_of(*seen)
    except PermissionError:
        refused.append(f"descriptor {seen[1]} of process {seen[0]}")
        return False
    except OSError:
        return False  # closed, the process has ended, or another file by now
    _check_owner(fd, id)
    return _attach(handle, fd, id, protocol)


def _not_opened(id: bytes, sender: int, refused: list[str]) -> QueueGoneError:
    if refused:
        return QueueGoneError(
            errno.EACCES,
            f"queue {id.hex()} cannot be opened: it came in a message from process {sender}, and the "
            f"system does not let this process (user {os.geteuid()}) open {refused[0]}; both must run under "
            "the user that made the queue, and must not have changed their user since they were started. "
            "Pass the queue as an argument when the process is started",
        )
    if not os.path.exists("/proc/self"):
        return QueueGoneError(
            errno.ESTALE,
            f"queue {id.hex()} cannot be found: it came in a message from process {sender}, which has not "
            "kept it, and this process sees no /proc that would lead to another one",
        )
    return QueueGoneError(
        errno.ESTALE,
        f"queue {id.hex()} is gone: it came in a message, and no process of this user has it open "
        "any more; the sender must live and keep the queue until the receiver has opened it",
    )


def _paths() -> Iterator[str]:
    """Every descriptor of every process of this user."""
    try:
        processes = os.listdir("/proc")
    except OSError:
        return  # there is no /proc
    for process in filter(str.isdecimal, processes):
        try:
            if os.stat(f"/proc/{process}").st_uid == os.geteuid():
                for descriptor in os.listdir(f"/proc/{process}/fd"):
                    yield f"/proc/{process}/fd/{descriptor}"
        except OSError:
            continue  # the process has ended
