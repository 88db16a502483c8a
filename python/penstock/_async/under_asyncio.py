"""A hub under asyncio, or a loop with its interface, as uvloop's."""

from __future__ import annotations

import time
import weakref

from .turns import Hub, Waiter

TYPE_CHECKING = False  # without `typing`, whose import takes as long as all of Penstock
if TYPE_CHECKING:
    import asyncio
    import select
    from collections.abc import Coroutine
    from typing import Any


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
        self._timer = self.loop.call_later(left, self._tick)

    def _tick(self) -> None:
        self._timer = None
        if self.tick():
            self.begin()

    async def shielded(self, waiting: Coroutine[Any, Any, None]) -> None:
        """Await it to its end. If the task is cancelled meanwhile, it is cancelled after that."""
        import asyncio  # which the loop has imported

        task = self.loop.create_task(waiting)
        cancelled = None
        while not task.done():
            try:
                await asyncio.wait([task])
            except asyncio.CancelledError as error:
                cancelled = error
        task.result()
        if cancelled is not None:
            raise cancelled

    def change_epoll(self, former: select.epoll) -> None:
        """Let the loop wait with the new descriptor."""
        self.loop.remove_reader(former.fileno())
        self.loop.add_reader(self.epoll.fileno(), self.see_events)
