"""A hub under asyncio, or a loop with its interface, as uvloop's."""

from __future__ import annotations

import weakref

from .turns import SLICE, Hub, Waiter

TYPE_CHECKING = False  # without `typing`, whose import takes as long as all of Penstock
if TYPE_CHECKING:
    import asyncio
    import select


class AsyncioHub(Hub):
    """What wakes the waiting tasks of an asyncio loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__()
        self._loop = weakref.ref(loop)  # the loop has the hub
        self._has_timer = False
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
        if future is not None and not future.done():
            future.set_result(None)

    def begin(self) -> None:
        """Have the timer run."""
        if not self._has_timer:
            self._has_timer = True
            self.loop.call_later(SLICE, self._end_slice)

    def _end_slice(self) -> None:
        self._has_timer = False
        if self.end_slice():
            self.begin()

    def change_epoll(self, former: select.epoll) -> None:
        """Let the loop wait with the new descriptor."""
        self.loop.remove_reader(former.fileno())
        self.loop.add_reader(self.epoll.fileno(), self.see_events)
