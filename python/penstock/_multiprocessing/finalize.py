"""How a process leaves its queues when it ends.

What happens to the items of a `JoinableQueue` that a process has taken and not finished depends on its end.
If it ends in order, they stay unfinished, as with `multiprocessing`. If it ends through an uncaught
exception, they go to another process. This module tells the binding which it is. A process that is killed
runs none of it: the other processes find that it is dead, and take its items back.

Up to Python 3.12 a child of `multiprocessing` runs its finalizers when its main function returns, and waits
for its threads afterwards, daemon threads excepted. Then it leaves its queues when these have ended.
"""

from __future__ import annotations

import os
import sys
import threading
import traceback
from functools import wraps
from multiprocessing.process import BaseProcess

from .._native import _forget_carried, _leave_all
from . import fork_lock

TYPE_CHECKING = False  # without `typing`, whose import takes as long as all of Penstock
if TYPE_CHECKING:
    from typing import Any

_armed = False
_exit_code_of_child: int | None = 0
_last_error_of_parent: BaseException | None = None
_error_of_parent: BaseException | None = None
_is_in_bootstrap = False
_is_put_off = False


class _Registered:
    """For `util.register_after_fork`, whose registration lives as long as its object."""


_registered = _Registered()


def arm() -> None:
    """Register what this process, and each child that it forks, does with its queues at its end.

    Called when the process opens a queue. Not earlier, because `multiprocessing.util` registers its own
    handler for the exit when it is imported, and a program may rely on the order of the handlers.
    """
    global _armed
    if _armed:
        return
    with fork_lock.lock:
        if not _armed:
            from multiprocessing import util

            _settle_at_exit()
            os.register_at_fork(after_in_child=_after_fork)
            # A child of `multiprocessing` clears all finalizers after the handlers of `os.register_at_fork`.
            util.register_after_fork(_registered, lambda _: _settle_at_exit())
            _armed = True  # last: another thread that reads it takes no lock


def _settle_at_exit() -> None:
    from multiprocessing import util

    # Before the process waits for its children, because they may wait for what it holds.
    util.Finalize(None, _settle, exitpriority=0)


def _settle() -> None:
    global _is_put_off
    if _is_in_bootstrap and _has_other_threads():
        _is_put_off = True
    else:
        _leave_all(_ends_by_an_error())


def _has_other_threads() -> bool:
    """Whether the process has other threads for whose end it will wait."""
    this = threading.current_thread()
    return any(thread is not this and not thread.daemon for thread in threading.enumerate())


def _settle_what_was_put_off() -> None:
    """Settle when the threads have ended for which a child waits after its main function has returned."""
    global _is_put_off
    if not _is_put_off:
        return
    _is_put_off = False
    try:
        _leave_all(_exit_code_of_child != 0)
    except Exception:
        traceback.print_exc()  # as `multiprocessing` does with what a finalizer raises


def _ends_by_an_error() -> bool:
    # A child of `multiprocessing`: up to Python 3.12 it ends inside a `finally`, where the exception is still
    # raised; later it ends after `_bootstrap`, and only the exit code is left.
    error = sys.exception()
    # One that the parent handled when it forked is none of the child's.
    if error is not None and error is not _error_of_parent:
        return not (isinstance(error, SystemExit) and error.code in (None, 0))
    if _exit_code_of_child != 0:
        return True
    # The main program: the uncaught exception has been printed. An interactive session only records it, and
    # goes on.
    printed = _last_printed_error()
    return printed is not None and printed is not _last_error_of_parent and not hasattr(sys, "ps1")


def _last_printed_error() -> BaseException | None:
    return getattr(sys, "last_value", None)


def _after_fork() -> None:
    global _last_error_of_parent, _is_put_off
    _is_put_off = False
    _last_error_of_parent = _last_printed_error()
    _forget_carried()
    _settle_at_exit()


def _note_exit_codes() -> None:
    bootstrap = BaseProcess._bootstrap  # type: ignore[attr-defined]

    @wraps(bootstrap)
    def noting(*args: Any, **kwargs: Any) -> Any:
        global _error_of_parent, _exit_code_of_child, _is_in_bootstrap
        _error_of_parent = sys.exception()
        _is_in_bootstrap = True
        try:
            _exit_code_of_child = bootstrap(*args, **kwargs)
        finally:
            _is_in_bootstrap = False
        _settle_what_was_put_off()
        return _exit_code_of_child

    BaseProcess._bootstrap = noting  # type: ignore[attr-defined]


_note_exit_codes()  # at import: in a child that already runs it would be too late
