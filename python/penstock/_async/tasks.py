"""Which task of an event loop, or which greenlet, runs now."""

from __future__ import annotations

import sys

TYPE_CHECKING = False  # without `typing`, whose import takes as long as all of Penstock
if TYPE_CHECKING:
    from typing import Any


def runs_loop() -> bool:
    """Whether an event loop runs in the calling thread."""
    trio = sys.modules.get("trio")
    if trio is not None and trio.lowlevel.in_trio_run():
        return True
    asyncio = sys.modules.get("asyncio")
    return asyncio is not None and asyncio._get_running_loop() is not None


def current() -> Any:
    """The task of trio or asyncio, or the greenlet of gevent; None if a thread runs none."""
    modules = sys.modules
    trio = modules.get("trio")
    if trio is not None and trio.lowlevel.in_trio_task():
        return trio.lowlevel.current_task()
    asyncio = modules.get("asyncio")
    if asyncio is not None:
        loop = asyncio._get_running_loop()
        if loop is not None:
            return asyncio.current_task(loop)
    gevent = modules.get("gevent") if "gevent.monkey" in modules else None
    return gevent.getcurrent() if gevent is not None else None
