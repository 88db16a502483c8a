"""The hub of the event loop that runs, which is found without importing what the program has not imported."""

from __future__ import annotations

import os
import weakref

from . import turns as _turns
from .tasks import is_trio, running_loop
from .turns import Hub, occupied

TYPE_CHECKING = False  # without `typing`, whose import takes as long as all of Penstock
if TYPE_CHECKING:
    from typing import Any

    from .turns import Handle

# Of each asyncio loop of this process in which a task has waited, a weak reference: the loop itself has its
# hub, as a reader.
_hubs: Any = weakref.WeakKeyDictionary()
_is_armed = False


def known_hub() -> Hub | None:
    """The hub of the running loop, if a task has waited in it."""
    if is_trio():
        from . import under_anyio

        return under_anyio.known_hub()
    loop = running_loop()
    found = None if loop is None else _hubs.get(loop)
    return found and found()


def hub() -> Hub:
    """The hub of the running loop."""
    found = known_hub()
    if found is not None:
        return found
    _arm()
    if is_trio():
        from . import under_anyio

        return under_anyio.new_hub()
    loop = running_loop()
    if loop is None:
        raise RuntimeError("no event loop runs: await a queue in a task of asyncio or trio")
    from .under_asyncio import AsyncioHub

    new = AsyncioHub(loop)
    _hubs[loop] = weakref.ref(new)
    return new


def _arm() -> None:
    # Of two threads at once both may do so. Then it is done twice, and does no harm.
    global _is_armed
    if not _is_armed:
        _is_armed = True
        os.register_at_fork(after_in_parent=_turns.count_fork, after_in_child=_forget)


def _forget() -> None:
    # The loops of the parent do not run in the child.
    _hubs.clear()
    occupied.clear()


def is_behind(handle: Handle, awaited: int) -> bool:
    """Whether tasks of the running loop have waited for that before the caller."""
    if not occupied:
        return False
    found = known_hub()
    turns = found and found.turns.get((handle._id, awaited))
    return bool(turns and turns.waiters)


def tell(handle: Handle, awaited: int) -> None:
    """Wake those tasks of the running loop that wait for that: the caller has brought it about.

    The queue's descriptor would wake them, too, a step of the loop later.
    """
    found = known_hub() if occupied else None
    turns = found and found.turns.get((handle._id, awaited))
    if found and turns and turns.waiters:
        found.wake_next(turns)
