"""Which task of an event loop, or which greenlet, runs now."""

from __future__ import annotations

import sys

TYPE_CHECKING = False  # without `typing`, whose import takes as long as all of Penstock
if TYPE_CHECKING:
    from typing import Any


# A module that another thread is importing may lack what is asked for here. Then nothing of it runs yet.


def _never() -> bool:
    return False


def running_loop() -> Any:
    """The loop of asyncio, or with its interface, that runs in the calling thread."""
    find = getattr(sys.modules.get("asyncio"), "_get_running_loop", None)
    return None if find is None else find()


def is_trio() -> bool:
    """Whether the caller is a task of trio."""
    lowlevel = getattr(sys.modules.get("trio"), "lowlevel", None)
    return lowlevel is not None and bool(getattr(lowlevel, "in_trio_task", _never)())


def runs_loop() -> bool:
    """Whether an event loop runs in the calling thread."""
    lowlevel = getattr(sys.modules.get("trio"), "lowlevel", None)
    return bool(getattr(lowlevel, "in_trio_run", _never)()) or running_loop() is not None


def current() -> Any:
    """The task of trio or asyncio, or the greenlet of gevent; None if a thread runs none."""
    modules = sys.modules
    if "trio" in modules and is_trio():
        return modules["trio"].lowlevel.current_task()
    loop = running_loop()
    if loop is not None:
        return modules["asyncio"].current_task(loop)
    gevent = modules.get("gevent") if "gevent.monkey" in modules else None
    find = getattr(gevent, "getcurrent", None)
    return None if find is None else find()
