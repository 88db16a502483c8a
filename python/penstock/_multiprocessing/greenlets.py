"""Waiting under gevent.

A wait of the core blocks its thread, and with it all greenlets of the thread. `multiprocessing` waits for an
item with `select`, which gevent patches so that the other greenlets run meanwhile. Under such a patch the
binding waits with what `sleeper` returns: for an item, for room, and in `join`.

A connection's `send` that has no room blocks the thread.
"""

from __future__ import annotations

import sys

TYPE_CHECKING = False  # without `typing`, whose import takes as long as all of Penstock
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any


def sleeper() -> Callable[[int | None, float, bool], None] | None:
    """Return what lets other greenlets run, or None if this thread may block.

    The binding asks at each wait, once gevent has been imported.
    """
    monkey: Any = sys.modules.get("gevent.monkey")
    if monkey is None or not (monkey.is_module_patched("select") or monkey.is_module_patched("threading")):
        return None
    import gevent  # type: ignore[import-untyped]

    # The hub itself runs the others, so a callback of the hub cannot let them run.
    return None if gevent.getcurrent() is gevent.get_hub() else _sleep


class _Over(Exception):
    """The time of a sleep is over."""


def _sleep(descriptor: int | None, seconds: float, is_writing: bool) -> None:
    """Let other greenlets run until the descriptor is readable or writable, `seconds` at most."""
    import gevent
    from gevent import socket

    if descriptor is None:
        gevent.sleep(seconds)
        return
    over = _Over()
    try:
        wait = socket.wait_write if is_writing else socket.wait_read
        wait(descriptor, seconds, over)
    except _Over as error:
        if error is not over:
            raise
