"""A hub under asyncio, or a loop with its interface, as uvloop's."""

from __future__ import annotations

import time
import weakref

from .turns import Hub, Waiter

TYPE_CHECKING = False  # without `typing`, whose import takes as long as all of Penstock
if TYPE_CHECKING:
    import asyncio
    import select
    from collections.abc import Callable, Coroutine
    from typing import Any


def _tick(hub: weakref.ref[AsyncioHub]) -> None:
    found = hub()
    if found is not None:
        found.end_timer()


class AsyncioHub(Hub):
    """What wakes the waiting tasks of an asyncio loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__()
        self._loop = weakref.ref(loop)  # the loop has the hub
        self._timer: asyncio.TimerHandle | None = None
        self._ends = 0.0  # when it does
        loop.add_reader(self.epoll.fileno(), self.see_events)

    async def sleep(self, waiter: Waiter) -> None:
        """Sleep on a future of the loop."""
        waiter.sleeping = self.loop.create_future()
        try:
            await waiter.sleeping
        finally:
            waiter.sleeping = None

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The loop, which lives while its tasks run."""
        loop = self._loop()
        assert loop is not None
        return loop

    def wake(self, waiter: Waiter) -> None:
        """Set the future, unless the task is on its way already."""
        future = waiter.sleeping
        # The tasks of a closed loop leave when they are collected, and no task of it runs any more.
        if future is not None and not future.done() and not future.get_loop().is_closed():
            future.set_result(None)

    def begin(self) -> None:
        """Have the timer run, until the next tick at the latest."""
        if self._timer is None:
            self.restart_slice()
        left = self.next_tick()
        if self._timer is not None:
            if self._ends <= time.monotonic() + left:
                return
            self._timer.cancel()
        self._ends = time.monotonic() + left
        # A loop that is closed keeps its timers. This one does not keep the hub, and its descriptor.
        self._timer = self.loop.call_later(left, _tick, weakref.ref(self))

    def end_timer(self) -> None:
        """End the slice, perhaps, and have the timer run again while tasks wait."""
        self._timer = None
        if self.tick():
            self.begin()

    async def shielded(self, wait: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Await `wait()` to its end. If the task is cancelled meanwhile, it is cancelled after that.

        In this task, and not in one of its own, which the end of `asyncio.run` would cancel, too.
        """
        import asyncio  # which the loop has imported

        cancelled = None
        while True:
            try:
                await wait()
                break
            except asyncio.CancelledError as error:
                cancelled = error
            except Exception as error:
                if cancelled is None:
                    raise
                raise cancelled from error
        if cancelled is not None:
            raise cancelled

    def change_epoll(self, former: select.epoll) -> None:
        """Let the loop wait with the new descriptor."""
        self.loop.remove_reader(former.fileno())
        self.loop.add_reader(self.epoll.fileno(), self.see_events)
