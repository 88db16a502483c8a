"""Who takes the results: the thread that waits for one, or else the pool's own.

A hand-over between two threads of an interpreter takes longer than a small call. So a thread that waits for
a result, in `future.result()` or in the iterator of a `map`, takes results out of the queue itself, its own
and those of others, as long as it waits. One thread at a time has that turn. The pool's thread takes it when
results are due and no other thread has taken any for some milliseconds: then the program waits elsewhere, as
in `concurrent.futures.wait` or in an event loop, or does not wait at all.

    state of the thread   until
    PARKED                a call is put; an idle pool takes no time in the pool's process
    WATCHING              no other thread has collected for `_TICK` seconds, then LEADING
    LEADING               another thread has waited for it: then it returns to WATCHING, so that the other one
                          can collect the next results itself

A result is in the queue or in the inbox until it is delivered, and delivering twice does nothing. So Ctrl-C
at any moment loses none: the pool's thread delivers what is left.
"""

from __future__ import annotations

import contextlib
import threading
import time
from _thread import allocate_lock
from collections import deque
from queue import Empty

from ..errors import PenstockError, ShutDown

__all__ = ["Collector"]

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from ..queues import Queue

_BATCH = 64
_TICK = 0.005  # seconds
_FIRST_TICK = 0.001
_LINGER = 0.25  # seconds without a call until the thread parks
_LONG = 3600.0
_MEMORY_PAUSE = 0.01  # seconds until results are taken again, after memory was short


class Collector:
    """Takes results out of the queue and delivers them.

    `deliver` gets a list of results, and may get one twice. `is_due` says whether any call has no result yet.
    """

    def __init__(
        self,
        results: Queue[Any],
        deliver: Callable[[list[Any]], None],
        is_due: Callable[[], bool],
        name: str,
    ) -> None:
        self._results = results
        self._get_many = results.get_many
        self._deliver = deliver
        self._is_due = is_due
        self._inbox: deque[list[Any]] = deque()
        self._turn = threading.Lock()
        self._delivery = threading.Lock()
        self._delivered = 0
        self._followers: dict[int, tuple[Any, Callable[[], bool]]] = {}
        self._entering = 0  # Ctrl-C may leave it too high; then turns are shorter than they need be
        self._is_wanted = False
        self._count = 0  # of collections by other threads
        self._is_parked = False
        self._is_ending = False
        self.is_foreign = False  # this process is a forked child of the pool's
        self._event = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """Start the pool's thread."""
        self._thread.start()

    def call_was_put(self) -> None:
        """Make sure that some thread takes the result."""
        if self._is_parked:
            self._event.set()

    def wait(self, is_done: Callable[[], bool], timeout: float | None) -> bool:
        """Wait until a delivery has made `is_done()` true. Return whether it is."""
        deadline = None if timeout is None else time.monotonic() + timeout
        while not is_done():
            if self.is_foreign:
                raise RuntimeError("the results of this pool belong to the process that made it")
            left = _LONG if deadline is None else deadline - time.monotonic()
            if left <= 0:
                return False
            if self._turn.locked():
                self._follow(is_done, left)
            else:
                self._lead(is_done, left)
        return True

    def _lead(self, is_done: Callable[[], bool], left: float) -> None:
        deadline = time.monotonic() + left
        self._entering += 1
        try:
            with self._turn:  # a lock in C: Ctrl-C at any moment finds it held in the block, or free
                self._entering -= 1
                while not is_done() and left > 0 and not self._is_ending:
                    self._count += 1
                    with contextlib.suppress(Empty):
                        self._take(min(left, _LONG))
                    left = deadline - time.monotonic()
                    if self._entering:  # another thread found the turn free, too: it waits for it
                        break
        finally:
            if self._followers or self._inbox:
                self._event.set()
        if self._is_ending:
            time.sleep(0.001)  # the pool's thread ends soon, and delivers all that there is

    def _follow(self, is_done: Callable[[], bool], left: float) -> None:
        """Wait while another thread collects. With locks in C only: a `Condition` does not stand Ctrl-C."""
        woken = allocate_lock()
        woken.acquire()
        try:
            self._followers[id(woken)] = (woken, is_done)
            if self._turn.locked() and not is_done():  # else the leader may not have known of this one
                self._is_wanted = True
                woken.acquire(True, left)
        finally:
            self._followers.pop(id(woken), None)

    def _wake_followers(self) -> None:
        for key, (woken, is_done) in list(self._followers.items()):
            if is_done() and self._followers.pop(key, None) is not None:
                woken.release()

    def _take(self, timeout: float) -> None:
        """Take what is there, and wait for a result if nothing is. Raises Empty."""
        if not self._inbox:
            try:
                # Without a step of the interpreter in between, so that no signal handler can lose what was
                # taken.
                self._inbox.extend(map(self._get_many, (_BATCH,), (True,), (timeout,)))
            except MemoryError as error:  # QueueMemoryError is one
                taken = list(getattr(error, "items", ()))
                if not taken:
                    time.sleep(_MEMORY_PAUSE)  # the results are still in the queue: another try takes them
                    raise Empty from None
                self._inbox.append(taken)
        self._empty_inbox()

    def _empty_inbox(self) -> None:
        with self._delivery:
            while self._inbox:
                batch = self._inbox[0]
                self._deliver(batch)
                self._delivered += len(batch)
                self._inbox.popleft()
                if self._followers:
                    self._wake_followers()

    def collect_now(self) -> None:
        """Deliver all results that have been put by now, whichever thread has the turn."""
        statistics = self._results.statistics()
        put, has_taken = statistics.puts - statistics.dead_letters, False
        while True:
            try:
                self._take(0.0)
                has_taken = True
            except Empty:
                if self._delivered >= put:
                    break
                time.sleep(0.001)  # another thread has taken some, and has not entered them yet
        if has_taken and self._turn.locked():
            self.nudge()  # the thread that leads may have waited for one of them

    def nudge(self) -> None:
        """Let the thread that waits for a result check whether it still has to. Without memory: nothing."""
        with contextlib.suppress(MemoryError):
            self._results.put((0, 0, 0, None))  # of no call

    def _run(self) -> None:
        """The pool's thread."""
        is_leading = False
        seen, idle_since = -1, time.monotonic()
        tick = _FIRST_TICK
        while not self._is_ending:
            if self._is_due():
                idle_since = time.monotonic()
            elif time.monotonic() - idle_since > _LINGER:
                self._park()
                is_leading, tick, idle_since = False, _FIRST_TICK, time.monotonic()
                continue
            if is_leading and self._turn.acquire(blocking=False):
                try:
                    self._take(_LINGER)
                except Empty:
                    continue
                except (ShutDown, PenstockError, ValueError, OSError):
                    return  # the queue is closed
                finally:
                    self._turn.release()
                if not self._is_wanted:
                    continue
                self._is_wanted = False
                seen, tick = self._count, _FIRST_TICK
            self._event.wait(tick)
            self._event.clear()
            is_leading = self._count == seen or bool(self._followers)
            seen, tick = self._count, _TICK

    def _park(self) -> None:
        self._is_parked = True
        if not self._is_due() and not self._is_ending:  # a call that is put now finds the flag
            self._event.wait()
        self._is_parked = False
        self._event.clear()

    def stop(self) -> None:
        """End the pool's thread, and deliver what is left."""
        self._is_ending = True
        self._event.set()
        self.nudge()
        if self._thread is not threading.current_thread() and self._thread.ident is not None:
            self._thread.join()
        self.collect_now()
