"""How a handle reaches another process.

    inherited by a forked child   nothing to do: the child has what its parent has
    an argument, spawn            the descriptor travels as `multiprocessing` sends descriptors to a process
      and forkserver              that it starts
    inside a message              by name: the receiver opens it through a process that has it open

A name is the queue's id, and the process and descriptor at which it was last seen. The kernel gives every
descriptor a path, which leads to the same memory: /proc/<pid>/fd/<descriptor>.
"""

from __future__ import annotations

import errno
import os
from multiprocessing import context, reduction
from weakref import WeakKeyDictionary

from .errors import QueueGoneError

TYPE_CHECKING = False  # without `typing`, whose import takes as long as all of Penstock
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Protocol, TypeAlias

    from ._native import Handle

    class _Duplicate(Protocol):
        """A descriptor on its way to a process that is being started, as a `reduction.DupFd`."""

        def detach(self) -> int: ...

    _Seen: TypeAlias = tuple[int, int]
    State: TypeAlias = tuple[bytes, int, _Seen | _Duplicate]
    """What is pickled: the queue's id, the handle's pickle protocol, and where to get at the queue."""

# What was duplicated for a process that is being started, by queue.
_duplicates: WeakKeyDictionary[object, dict[bytes, _Duplicate]] = WeakKeyDictionary()
# Descriptors that this process was started with and that were used up.
_detached: set[int] = set()


def describe(handle: Handle) -> State:
    """Return what `reopen` needs in another process to open the same queue.

    Outside the start of a process, the sender must keep its handle until the receiver has opened the queue; a
    put into one of our queues sees to that by itself: it keeps the queue open until the receiver is done with
    the message, or, if nobody ever takes the message, until this process ends.
    """
    starting = context.get_spawning_popen()
    if starting is not None:
        # One descriptor for all handles of a queue: under spawn none may be passed twice.
        duplicates = _duplicates.setdefault(starting, {})
        if handle._id not in duplicates:
            duplicates[handle._id] = reduction.DupFd(handle._fd)
        return handle._id, handle._protocol, duplicates[handle._id]
    handle._carried()
    return handle._id, handle._protocol, (os.getpid(), handle._fd)


def reopen(handle: Handle, state: State) -> None:
    """Make `handle`, a new object, a handle of the queue that `state` describes.

    Raises QueueGoneError if no process has the queue open any more.
    """
    id, protocol, where = state
    if not isinstance(where, tuple):
        _reopen_inherited(handle, id, protocol, where)
    elif not handle._adopt(id, protocol):
        for path in _paths(*where):
            if _reopen_path(handle, id, protocol, path):
                return
        raise QueueGoneError(
            errno.ESTALE,
            f"queue {id.hex()} is gone: it came in a message, and no process of this user has it open "
            "any more; the sender must live and keep the queue until the receiver has opened it",
        )


def _reopen_inherited(handle: Handle, id: bytes, protocol: int, duplicate: _Duplicate) -> None:
    # Of several handles of a queue the first one uses the descriptor up.
    fd = duplicate.detach()
    is_new = fd not in _detached
    _detached.add(fd)
    if handle._adopt(id, protocol):
        if is_new:
            os.close(fd)
    elif not is_new or not handle._attach(fd, id, protocol):
        raise QueueGoneError(
            errno.ESTALE, f"queue {id.hex()} is gone: its descriptor {fd} was used up before"
        )


def _reopen_path(handle: Handle, id: bytes, protocol: int, path: str) -> bool:
    try:
        if not os.readlink(path).startswith(f"/memfd:penstock-{id.hex()}"):
            return False
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return False  # closed meanwhile, ended meanwhile, or not ours to open
    _check_owner(fd, id)
    try:
        return handle._attach(fd, id, protocol)
    except OSError:
        return False


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


def _paths(pid: int, fd: int) -> Iterator[str]:
    """Where the queue was seen last, then every descriptor of every process of this user."""
    yield f"/proc/{pid}/fd/{fd}"
    for process in filter(str.isdecimal, os.listdir("/proc")):
        try:
            if os.stat(f"/proc/{process}").st_uid == os.geteuid():
                for descriptor in os.listdir(f"/proc/{process}/fd"):
                    yield f"/proc/{process}/fd/{descriptor}"
        except OSError:
            continue  # ended meanwhile
