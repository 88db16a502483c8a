"""The thread that looks after the crew: buries the dead, starts others, and keeps the limits.

It sleeps until a worker has ended or a limit may be reached; an idle pool takes no time here.
"""

from __future__ import annotations

import contextlib
import math
import os
import select
import signal
import threading
import time
from functools import partial

from . import board as words
from . import worker
from .errors import TaskTimeoutError, WorkerDied
from .memory import resident_bytes
from .worker import STACK_SIGNAL

__all__ = ["Warden"]

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures.process import BrokenProcessPool
    from typing import Protocol

    from .calls import Calls
    from .collecting import Collector
    from .crew import Crew, Member
    from .kit import Kit

    class Pool(Protocol):
        """What the thread needs of its pool."""

        kit: Kit
        crew: Crew
        calls: Calls
        collector: Collector
        max_workers: int
        spares: int
        limit: float | None
        is_broken: BrokenProcessPool | None
        is_closing: bool
        is_killed: bool

        def fail(self, reason: str, cause: BaseException | None = None) -> None:
            """Break the pool."""

        def end(self) -> None:
            """Give everything back."""


_MEMORY_INTERVAL = 0.1  # seconds between two readings of the workers' memory
_STACK_PATIENCE = 0.3  # seconds for a worker to write its stack
_MOST_EARLY_DEATHS = 3


class Warden:
    """The thread, of one pool."""

    def __init__(self, engine: Pool, name: str) -> None:
        self._engine = engine
        self._words = engine.kit.board.words
        self._event = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._lock = threading.Lock()
        self._wakes_at = 0.0  # when it does by itself; 0 while it is awake
        self._to_kill: list[int] = []  # numbers of cancelled calls
        self._not_before = 0.0  # when the next worker may be started, after deaths before a first call
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._has_ended = threading.Event()

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def join(self) -> None:
        """Wait until the pool has ended."""
        self._has_ended.wait()
        if self._thread.ident is not None:
            self._thread.join()

    def give_up(self) -> None:
        """Be over, because the thread cannot be started."""
        self.close()
        self._has_ended.set()

    def is_this_thread(self) -> bool:
        """Whether this is the thread."""
        return threading.current_thread() is self._thread

    def wake(self) -> None:
        """Let the thread check everything now."""
        with self._lock:
            if self._event >= 0:  # else the pool has ended
                os.eventfd_write(self._event, 1)

    def call_was_put(self, limit: float | None) -> None:
        """Wake the thread if it sleeps longer than a call with this limit may, or a worker is missing."""
        engine = self._engine
        if (
            (limit is not None and time.monotonic() + limit < self._wakes_at)
            or (engine.kit.max_memory is not None and self._wakes_at == math.inf)
            or (engine.kit.idle_timeout is not None and len(engine.crew.members) < engine.max_workers)
        ):
            self.wake()

    def kill_call(self, number: int) -> None:
        """Kill the worker that runs this call."""
        self._to_kill.append(number)
        self.wake()

    def _run(self) -> None:
        engine = self._engine
        try:
            while not self._is_over():
                seconds = self._keep_limits()
                if self._not_before:
                    pause = max(0.0, self._not_before - time.monotonic())
                    seconds = pause if seconds is None else min(pause, seconds)
                    if not pause:
                        self._not_before = 0.0
                self._sleep(seconds)
                self._welcome()
                ended = self._ended()
                if ended:
                    self._bury(ended)
                self._staff()
                engine.calls.tidy()
        except BaseException as error:
            engine.fail(f"the pool's own thread has failed: {error!r}", error)
            raise
        finally:
            self._end()

    def _sleep(self, seconds: float | None) -> None:
        poll = select.poll()
        poll.register(self._event, select.POLLIN)
        for descriptor in self._engine.crew.descriptors():
            poll.register(descriptor, select.POLLIN)
        self._wakes_at = math.inf if seconds is None else time.monotonic() + seconds
        if self._engine.calls.sinks:  # a call may have been put before this thread said how long it sleeps
            least = self._engine.calls.least_limit
            if least is not None and (seconds is None or least < seconds):
                seconds = least
                self._wakes_at = time.monotonic() + seconds
            elif seconds is None and self._engine.kit.max_memory is not None:
                seconds = 0.0
        poll.poll(None if seconds is None else seconds * 1000)
        self._wakes_at = 0.0
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self._event)

    def _welcome(self) -> None:
        """Enter workers that the template has forked."""
        engine = self._engine
        with engine.crew.lock:
            for member in engine.crew.receive():
                if engine.is_broken is not None or engine.is_killed:
                    engine.crew.send(member, signal.SIGKILL)
        if engine.crew.trouble is not None:
            self._check_early_deaths(engine.crew.trouble)

    def _ended(self) -> list[Member]:
        with self._engine.crew.lock:
            members = {
                member.sentinel: member
                for member in self._engine.crew.members.values()
                if member.sentinel >= 0
            }
        poll = select.poll()
        for sentinel in members:
            poll.register(sentinel, select.POLLIN)
        return [members[sentinel] for sentinel, _ in poll.poll(0)]

    def _bury(self, ended: list[Member]) -> None:
        engine = self._engine
        for member in ended:
            with engine.crew.lock:
                death, _ = engine.crew.bury(member)
            engine.collector.collect_now()  # what it has put before it died
            if death is None:
                engine.kit.board.release(member.slot)
            else:
                engine.calls.charge(member.slot, death, member.fate)
        engine.calls.fail_dead_letters()
        engine.calls.ring(len(engine.crew.members))  # parked workers find no calls of the dead
        self._check_early_deaths(str(death or "the last has exited"))

    def _check_early_deaths(self, last: str) -> None:
        engine = self._engine
        early = engine.crew.early_deaths
        if early < _MOST_EARLY_DEATHS:
            return
        self._not_before = time.monotonic() + min(0.1 * 2 ** (early - _MOST_EARLY_DEATHS), 10.0)
        if not engine.crew.has_ready():
            engine.fail(
                f"{_MOST_EARLY_DEATHS} workers, one after the other, have died before their first call: "
                f"{last}. Check the initializer, and that the main module can be imported"
            )

    def _staff(self) -> None:
        """Start workers in the place of those that have ended."""
        engine, crew = self._engine, self._engine.crew
        with crew.lock:
            if engine.is_broken is not None or engine.is_killed or time.monotonic() < self._not_before:
                return
            missing = engine.max_workers - crew.count(are_spare=False)
            if engine.is_closing:
                missing = min(missing, self._unfinished())
            elif engine.kit.idle_timeout is not None:
                missing = min(missing, engine.kit.calls.qsize())
            try:
                for _ in range(missing):
                    if not crew.activate_spare() and not crew.start():
                        return
                if not engine.is_closing:
                    while crew.count(are_spare=True) < engine.spares and crew.start(is_spare=True):
                        pass
            except OSError as error:
                if not crew.members:
                    engine.fail(f"no worker can be started: {error}", error)

    def _unfinished(self) -> int:
        return self._engine.kit.calls.statistics().unfinished if self._engine.calls.sinks else 0

    def _is_over(self) -> bool:
        engine = self._engine
        with engine.crew.lock:
            if engine.crew.members or not engine.is_closing:
                return False
        return engine.is_broken is not None or engine.is_killed or not self._unfinished()

    def _keep_limits(self) -> float | None:
        """Kill the workers beyond their limits, and return in how many seconds the next one may be."""
        engine = self._engine
        while self._to_kill:
            self._kill_cancelled(self._to_kill.pop())
        now = time.monotonic()
        seconds = self._end_finalizers(now) if engine.is_closing else None
        if engine.calls.forget_limits():
            return seconds
        least = engine.calls.least_limit
        seconds = least if seconds is None else min(seconds, least or seconds)
        for member in list(engine.crew.members.values()):
            call = engine.calls.running(member.slot)
            if call is None:
                continue
            number, index, sink = call
            if sink.limit is not None:
                began = self._words[engine.kit.board.base(member.slot) + words.BEGAN] / 1e9
                left = began + sink.limit - now
                if left <= 0:
                    self._kill(member, number, index, partial(_timeout_error, sink.limit))
                elif seconds is None or left < seconds:
                    seconds = left
            most = engine.kit.max_memory
            if most is not None and resident_bytes(member.pid) > most:
                self._kill(member, number, index, None)
        if engine.kit.max_memory is not None:
            seconds = min(seconds or _MEMORY_INTERVAL, _MEMORY_INTERVAL)
        return seconds

    def _end_finalizers(self, now: float) -> float | None:
        """Kill the workers whose finalizers take longer than a call may, so that the pool can end."""
        engine, limit = self._engine, self._engine.limit
        if limit is None:
            return None
        seconds = limit
        for member in list(engine.crew.members.values()):
            base = engine.kit.board.base(member.slot)
            if self._words[base + words.STATE] == words.ENDING:
                left = self._words[base + words.BEGAN] / 1e9 + limit - now
                if left <= 0:
                    engine.crew.send(member, signal.SIGKILL)
                else:
                    seconds = min(seconds, left)
        return seconds

    def _kill_cancelled(self, number: int) -> None:
        for member in list(self._engine.crew.members.values()):
            if self._engine.kit.board.number(member.slot) == number:
                index = self._words[self._engine.kit.board.base(member.slot) + words.INDEX]
                self._kill(member, number, index, _cancelled, is_cancelled=True)

    def _kill(
        self,
        member: Member,
        number: int,
        index: int,
        error_with: Callable[[str | None], BaseException] | None,
        is_cancelled: bool = False,
    ) -> None:
        """Kill a worker in this call, unless the call has just ended. Without an error it may be retried."""
        engine, base = self._engine, self._engine.kit.board.base(member.slot)
        self._words[base + words.DOOM] = words.PAUSED
        member.stack = None if is_cancelled else self._stack(member)
        engine.collector.collect_now()
        is_same = engine.kit.board.number(member.slot) == number and (
            self._words[base + words.INDEX] == index
        )
        sink = engine.calls.sinks.get(number)
        if not is_same or not (is_cancelled or (sink is not None and sink.is_open(number, index))):
            self._words[base + words.DOOM] = 0
            return
        if error_with is None:
            member.is_over_memory = True
            self._words[base + words.DOOM] = words.AGAIN
        else:
            member.fate = error_with(member.stack)
            self._words[base + words.DOOM] = words.FINAL
        engine.crew.send(member, signal.SIGKILL)

    def _stack(self, member: Member) -> str | None:
        """Ask a worker for its stack. One that is stopped, or has no /proc, cannot tell."""
        self._engine.crew.send(member, STACK_SIGNAL)
        deadline = time.monotonic() + _STACK_PATIENCE
        stack = ""
        while time.monotonic() < deadline:
            time.sleep(0.01)
            before, stack = stack, self._engine.kit.board.stack(member.slot)
            if stack and stack == before:
                break
        # Below the call's own frames are those of the worker, and of what has started it.
        own, _, _ = stack.partition(f'\n  File "{worker.__file__}"')
        return own.strip() or None

    def _end(self) -> None:
        try:
            self._engine.end()
        finally:
            self.close()
            self._has_ended.set()

    def close(self) -> None:
        """Close the descriptor that wakes the thread. Does nothing a second time."""
        with self._lock:
            if self._event >= 0:
                os.close(self._event)
            self._event = -1


def _timeout_error(limit: float, stack: str | None) -> TaskTimeoutError:
    where = f" at:\n{stack}" if stack else "; where it was is not known"
    return TaskTimeoutError(
        f"the call took longer than its timeout of {limit:g} s, and its worker was killed{where}",
        limit,
        stack,
    )


def _cancelled(stack: str | None) -> WorkerDied:
    return WorkerDied("the call was cancelled")
