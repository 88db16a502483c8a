"""How the tasks of an event loop wait for queues: in turn, first come, first served.

    queue's descriptor --+
    queue's descriptor --+-> the hub's epoll descriptor -> the loop -> the task whose turn it is -> an attempt

A *hub* belongs to one event loop. It has one descriptor, over those of all the queues for which tasks of the
loop wait, so that the loop waits with this one, and the program's own use of `queue.fileno()` stays its own.
No thread waits, and items are not polled for.

The tasks of one loop that wait for one thing at one queue (an item, room, or the end of all work) take
*turns*. Only the first of them tries, and it takes nothing before it runs again. So a task that is cancelled
has taken nothing, and the next one tries.

While tasks wait, the hub checks ten times a second for dead processes, as every waiting thread does. If a
delayed item is due before that, it wakes up then.

No attempt waits longer than 5 ms for the queue's lock. If a stopped process keeps it, the task is *stuck*: it
tries again at the end of each slice, whatever the descriptor says, and the loop goes on.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from contextlib import suppress

TYPE_CHECKING = False  # without `typing`, whose import takes as long as all of Penstock
if TYPE_CHECKING:
    import select
    from collections.abc import Callable, Coroutine
    from typing import Any, Protocol

    class Handle(Protocol):
        """What a hub needs of a queue."""

        @property
        def _id(self) -> bytes: ...
        @property
        def _closed(self) -> bool: ...
        def _descriptor(self, awaited: int) -> int | None: ...
        def _is_ready(self, awaited: int) -> bool: ...
        def _has_ended(self) -> bool: ...
        def _is_over(self, in_loop: bool, task: int) -> bool: ...
        def _tend(self, slices: int) -> None: ...
        def _time_until_due(self) -> float | None: ...
        def _finishes(self) -> int: ...
        @staticmethod
        def _was_stuck() -> bool: ...


# What a task waits for; the binding knows the first three numbers. For the lock, which a stopped process has,
# there is no descriptor.
ITEM, ROOM, END, LOCK = 0, 1, 2, 3

# The result of an attempt for which it is too early.
NOTHING: Any = object()

# Seconds between two checks for the dead: the slice of a waiting thread.
SLICE = 0.1

# Seconds until the first attempt to take an item that is due, at least.
SOON = 0.001

_NEVER = float("inf")

_IN, _OUT = 0x1, 0x4  # EPOLLIN and EPOLLOUT
_ALWAYS = 0x8 | 0x10  # EPOLLERR and EPOLLHUP: an attempt finds out what is wrong
_EBADF = 9

# How often this process was forked. A child has open what its parent has, also after that was closed here.
# The kernel goes on reporting it to an epoll descriptor that waits for it.
forks = 0


def count_fork() -> None:
    """Count a fork, in the parent."""
    global forks
    forks += 1


# The ids of those turns of this process for which tasks wait, whatever their loops. (Not the turns: a loop
# may be collected with its tasks.)
occupied: set[int] = set()


class Waiter:
    """A task that waits, and the handle with which it does so."""

    __slots__ = ("handle", "sleeping")

    def __init__(self, handle: Handle) -> None:
        self.handle = handle
        self.sleeping: Any = None  # what it sleeps on: an asyncio.Future or an anyio.Event


class Turns:
    """The tasks of one loop that wait for one thing at one queue."""

    __slots__ = ("awaited", "descriptor", "due", "event", "finishes", "is_stuck", "waiters")

    def __init__(self, awaited: int) -> None:
        self.awaited = awaited
        self.waiters: OrderedDict[Waiter, None] = OrderedDict()
        # The queue's descriptor in the hub's epoll descriptor, or -1.
        self.descriptor = -1
        self.event = _OUT if awaited == ROOM else _IN
        # Whether the last attempt did not get the lock, because a stopped process keeps it.
        self.is_stuck = False
        # When a delayed item is due, by the clock of `time.monotonic`.
        self.due = _NEVER
        # How often all was done when the first of those began that wait for that; -1 if none does.
        self.finishes = -1

    def first(self) -> Waiter:
        """The task whose turn it is."""
        return next(iter(self.waiters))

    def may_try(self, waiter: Waiter) -> bool:
        """Whether it is the task's turn. At the end of all work, and with the lock, it is every task's."""
        return self.awaited in (END, LOCK) or self.first() is waiter


class Hub:
    """What wakes the waiting tasks of one event loop. A subclass knows the loop."""

    def __init__(self) -> None:
        self.turns: dict[tuple[bytes, int], Turns] = {}  # by queue and what is awaited
        self.watched: dict[int, dict[int, Turns]] = {}  # by descriptor and event
        self.epoll = _new_epoll()
        self.forks = forks  # when the epoll descriptor was made
        self.slices = 0
        self.slice_ends = time.monotonic() + SLICE
        self.soonest = _NEVER  # when the first delayed item is due for which a task waits

    # What the subclass does.

    async def sleep(self, waiter: Waiter) -> None:
        """Sleep until `wake(waiter)`, or for no reason."""
        raise NotImplementedError

    def wake(self, waiter: Waiter) -> None:
        """Wake a task if it sleeps."""
        raise NotImplementedError

    def begin(self) -> None:
        """Let the loop call `see_events`, and `tick` at the time of `next_tick`, while tasks wait."""

    def change_epoll(self, former: select.epoll) -> None:
        """Let the loop wait with another epoll descriptor."""

    async def shielded(self, wait: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Await `wait()` to its end. If the task is cancelled meanwhile, it is cancelled after that."""
        raise NotImplementedError

    # What it inherits.

    async def wait(
        self,
        handle: Handle,
        awaited: int,
        attempt: Callable[[], Any],
        has_tried: bool,
        *,
        task: int = 0,
        in_loop: bool = False,
    ) -> Any:
        """Return what `attempt` returns, once that is not NOTHING. Those who came before are first.

        A task for which the queue has ended does not wait for its turn: those before it may wait for the item
        that it has in hand. A loop and a lease (`in_loop`) wait longer than a get. `task` is the number of
        the task that has made the call; 0 if that is the current one.
        """
        turns = self.turns.setdefault((handle._id, awaited), Turns(awaited))
        waiter = Waiter(handle)
        is_stuck = has_tried and handle._was_stuck()
        try:
            turns.waiters[waiter] = None
            occupied.add(id(turns))
            while True:
                if turns.may_try(waiter):
                    if not has_tried:
                        result = attempt()
                        if result is not NOTHING:
                            return result
                        is_stuck = handle._was_stuck()
                    turns.is_stuck = is_stuck
                    self.listen(turns, handle)
                elif handle._closed or (awaited == ITEM and handle._is_over(in_loop, task)):
                    result = attempt()  # it raises, unless an item has come back since
                    if result is not NOTHING:
                        return result
                has_tried = False
                self.begin()
                await self.sleep(waiter)
        finally:
            self.leave(turns, waiter)

    def leave(self, turns: Turns, waiter: Waiter) -> None:
        """End a wait, and let the next task try if there may be something left."""
        if waiter not in turns.waiters:
            return  # an exception came before the wait had begun
        was_first = turns.first() is waiter
        del turns.waiters[waiter]
        if not turns.waiters:
            occupied.discard(id(turns))
        elif was_first and turns.awaited != LOCK:
            first = turns.first()
            # Whatever this raises, the caller's result or exception is worth more: the next one tries.
            is_ready = True
            with suppress(Exception):
                is_closed = first.handle._closed
                is_ready = turns.descriptor < 0 or is_closed or first.handle._is_ready(turns.awaited)
            if is_ready:
                self.wake(first)

    def listen(self, turns: Turns, handle: Handle) -> None:
        """Let the loop wake the first task, from now on until it finds that none waits."""
        if turns.awaited == LOCK:
            return
        if turns.is_stuck:
            self.forget(turns)  # it may be readable all the time: the end of the slice tries again
            return
        if turns.awaited == END and turns.finishes < 0:
            turns.finishes = handle._finishes()
        self.watch(turns, handle)
        if turns.awaited == ITEM:
            # Only now, because who puts an item that is due earlier tells it to those that watch.
            self.note_due(turns, handle)

    def note_due(self, turns: Turns, handle: Handle) -> None:
        """Note when the first delayed item is due."""
        due = handle._time_until_due()
        turns.due = _NEVER if due is None else time.monotonic() + max(due, SOON)
        self.soonest = min(self.soonest, turns.due)

    def watch(self, turns: Turns, handle: Handle) -> None:
        """Have the queue's descriptor in the epoll descriptor."""
        if turns.awaited == ITEM and handle._has_ended():
            # Its descriptor is readable for good. What the task waits for is an item that may come back, or
            # is delayed: the end of each slice tries again.
            self.forget(turns)
            return
        descriptor = handle._descriptor(turns.awaited)
        if descriptor is None:
            # A stopped process holds the lock, or the handle is closed: the end of the slice tries again.
            self.forget(turns)
            return
        if descriptor != turns.descriptor:
            self.forget(turns)
            turns.descriptor = descriptor
        by_event = self.watched.setdefault(descriptor, {})
        was_watched = bool(by_event)
        by_event[turns.event] = turns
        # The kernel forgets a descriptor that was closed, and its number may be another's by now.
        try:
            try:
                self.epoll.modify(descriptor, sum(by_event))
            except FileNotFoundError:
                if was_watched and self.forks != forks:
                    # A child has what the number stood for.
                    self._renew()
                    by_event = self.watched.setdefault(descriptor, {})
                    by_event[turns.event] = turns
                    turns.descriptor = descriptor
                self.epoll.register(descriptor, sum(by_event))
        except OSError as error:
            if error.errno != _EBADF:
                raise
            # Another thread has just closed the queue, and the descriptor with it.
            self.forget(turns)
            return
        if handle._closed:
            # The same. The number may be that of another file of the program.
            self.forget(turns)

    def forget(self, turns: Turns) -> None:
        """Let the loop wake none of these tasks any more."""
        descriptor, turns.descriptor = turns.descriptor, -1
        by_event = self.watched.get(descriptor, {})
        if by_event.get(turns.event) is not turns:
            return
        del by_event[turns.event]
        try:
            if by_event:
                self.epoll.modify(descriptor, sum(by_event))
            else:
                del self.watched[descriptor]
                self.epoll.unregister(descriptor)
        except OSError:
            # It was closed, and the kernel has forgotten it; or a child has it still.
            if self.forks != forks:
                self._renew()

    def _renew(self) -> None:
        self.forks = forks
        former, self.epoll = self.epoll, _new_epoll()
        watched, self.watched = self.watched, {}
        for by_event in watched.values():
            for turns in by_event.values():
                turns.descriptor = -1
                if turns.waiters:
                    self.wake(turns.first())  # it listens again
        self.change_epoll(former)
        former.close()

    def see_events(self) -> None:
        """Wake the tasks whose turn it is where a descriptor is ready."""
        epoll = self.epoll
        for descriptor, events in epoll.poll(0):
            if self.epoll is not epoll:
                return  # it was renewed
            if descriptor not in self.watched:
                # It was closed, and a forked process has it still: the kernel would report it for ever.
                self._renew()
                return
            for event, turns in tuple(self.watched[descriptor].items()):
                if not events & (event | _ALWAYS):
                    continue
                if not turns.waiters:
                    # They have left. (Not forgotten at once, so that a task that soon comes back costs less.)
                    self.forget(turns)
                else:
                    self.wake_next(turns)

    def wake_next(self, turns: Turns) -> None:
        """Wake the task whose turn it is. If the queue was shut down, all: it may be over for some."""
        first = turns.first()
        if turns.awaited in (END, LOCK) or (
            turns.awaited == ITEM and len(turns.waiters) > 1 and _has_ended(first.handle)
        ):
            self.wake_all(turns)
        else:
            self.wake(first)

    def wake_all(self, turns: Turns) -> None:
        """Wake all of these tasks."""
        for waiter in turns.waiters:
            self.wake(waiter)

    def next_tick(self) -> float:
        """Seconds until the slice ends, or a delayed item is due."""
        return max(0.0, min(self.slice_ends, self.soonest) - time.monotonic())

    def restart_slice(self) -> None:
        """Begin a slice, if no task has waited since the last one ended."""
        self.slice_ends = max(self.slice_ends, time.monotonic() + SLICE / 2)

    def tick(self) -> bool:
        """Wake tasks that wait for delayed items which are due, and end the slice. False if no task waits."""
        now = time.monotonic()
        if self.soonest <= now:
            for turns in self.turns.values():
                if turns.due <= now:
                    turns.due = _NEVER
                    if turns.waiters:
                        self.wake_next(turns)
            self.soonest = min((turns.due for turns in self.turns.values()), default=_NEVER)
        if now < self.slice_ends:
            return True
        self.slice_ends = now + SLICE
        return self.end_slice()

    def end_slice(self) -> bool:
        """Do what a waiting thread does ten times a second. False if no task waits any more."""
        self.slices += 1
        is_waiting = False
        tended = set()
        for key, turns in tuple(self.turns.items()):
            if not turns.waiters:
                self.forget(turns)
                del self.turns[key]
                continue
            is_waiting = True
            handle = turns.first().handle
            try:
                is_stuck = turns.is_stuck or turns.awaited == LOCK
                if not is_stuck and key[0] not in tended:
                    tended.add(key[0])
                    handle._tend(self.slices)
                if is_stuck or (turns.descriptor < 0 and handle._has_ended()):
                    self.wake_next(turns)
                elif turns.awaited == END and handle._finishes() != turns.finishes:
                    # All was done, and others were put before the loop has seen it.
                    turns.finishes = -1
                    self.wake_all(turns)
                elif turns.descriptor < 0:
                    self.listen(turns, handle)
                elif turns.awaited == ITEM:
                    # Who knew of an item that is due earlier may have left.
                    self.note_due(turns, handle)
                if any(waiter.handle._closed for waiter in turns.waiters):
                    self.wake_all(turns)
            except Exception:
                self.wake_all(turns)  # their attempts raise it
        return is_waiting


def _has_ended(handle: Handle) -> bool:
    try:
        return handle._has_ended()
    except Exception:
        return True  # the attempts of all raise it


def _new_epoll() -> select.epoll:
    import select

    return select.epoll()
