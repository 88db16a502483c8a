"""A hub under trio, through anyio.

No callback runs under trio when a descriptor becomes ready. So one of the tasks that sleep, the *leader*,
sleeps with the hub's descriptor, and wakes the others. When it leaves, another one leads.
"""

from __future__ import annotations

import time

from .turns import Hub, Waiter

TYPE_CHECKING = False  # without `typing`, whose import takes as long as all of Penstock
if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from typing import Any

try:
    import anyio
    import anyio.lowlevel
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        "awaiting a queue under trio needs anyio: pip install 'penstock[anyio]'", name=error.name
    ) from None

_hub: Any = anyio.lowlevel.RunVar("penstock")


class AnyioHub(Hub):
    """What wakes the waiting tasks of one run of trio."""

    def __init__(self) -> None:
        super().__init__()
        self._sleeping: dict[Waiter, None] = {}
        self._leader: Waiter | None = None
        self._leading = anyio.CancelScope()
        self._ends = 0.0  # when the leader's sleep ends

    async def sleep(self, waiter: Waiter) -> None:
        """Sleep on an event, or lead."""
        waiter.sleeping = anyio.Event()
        self._sleeping[waiter] = None
        try:
            if self._leader is None:
                self._leader = waiter
                await self._lead(waiter.sleeping)
            else:
                await waiter.sleeping.wait()
        finally:
            waiter.sleeping = None
            del self._sleeping[waiter]
            if self._leader is waiter:
                self._leader = None
            if self._leader is None and self._sleeping:
                # It sleeps again, and leads; or it has just got what it waits for, and comes here.
                self.wake(next(iter(self._sleeping)))

    async def _lead(self, event: anyio.Event) -> None:
        while not event.is_set():
            left = self.next_tick()
            self._ends = time.monotonic() + left
            with anyio.move_on_after(left) as self._leading:
                await anyio.wait_readable(self.epoll.fileno())
            self.see_events()
            self.tick()

    def begin(self) -> None:
        """Wake the leader if a delayed item is due before its sleep ends."""
        if self._leader is None:
            self.restart_slice()
        elif time.monotonic() + self.next_tick() < self._ends:
            self._leading.cancel()

    async def shielded(self, wait: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Await `wait()` to its end. If the task is cancelled meanwhile, it is cancelled after that."""
        with anyio.CancelScope(shield=True):
            await wait()

    def wake(self, waiter: Waiter) -> None:
        """Set the event on which a task sleeps."""
        if waiter.sleeping is not None:
            waiter.sleeping.set()
            if waiter is self._leader:
                self._leading.cancel()


def known_hub() -> AnyioHub | None:
    """The hub of this run, if it has one."""
    found: AnyioHub | None = _hub.get(None)
    return found


def new_hub() -> AnyioHub:
    """Make the hub of this run."""
    new = AnyioHub()
    _hub.set(new)
    return new


async def checkpoint() -> None:
    """Let other tasks run, and be cancelled, as every call does under trio."""
    await anyio.lowlevel.checkpoint()
