"""What a pool consists of, and how it begins and ends.

It belongs to the pool's threads as well as to the `WorkerPool`, so that a pool that is collected can end.
"""

from __future__ import annotations

import os
import threading
from _thread import allocate_lock, start_new_thread
from concurrent.futures.process import BrokenProcessPool
from weakref import WeakSet

from . import messages
from .calls import Calls
from .collecting import Collector
from .crew import Crew
from .futures import CallFuture
from .kit import Kit
from .lifeline import pipe
from .messages import Pickler
from .warden import Warden

__all__ = ["Engine"]

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from multiprocessing.context import BaseContext
    from typing import Any

_MOST_BYTES_OF_A_NAME = 512  # a longer pickle of a function is not sent with every call
_FUNCTIONS = 256  # so many pickles of functions are kept


class Engine:
    """The parts of one pool."""

    def __init__(
        self,
        *,
        context: BaseContext,
        name: str,
        max_workers: int,
        spares: int,
        serializer: str,
        limit: float | None,
        cancel_kills: bool,
        initializer: Callable[..., object] | None,
        initargs: tuple[Any, ...],
        finalizer: Callable[[], object] | None,
        shared: Mapping[str, Any] | None,
        max_tasks: int | None,
        max_memory: int | None,
        idle_timeout: float | None,
    ) -> None:
        self._pid = os.getpid()
        self._is_foreign = False  # this process is a forked child of the pool's
        self._lock = threading.RLock()
        self.max_workers = max_workers
        self.spares = spares
        self.limit = limit
        self.cancel_kills = cancel_kills
        self.pickler = Pickler(serializer)
        self._lifeline = pipe()
        self._doorbell = pipe()
        self._activation = pipe()
        self.kit = Kit(
            pickler=self.pickler,
            lifeline=self._lifeline[0],
            doorbell=self._doorbell[0],
            activation=self._activation[0],
            initializer=initializer,
            initargs=initargs,
            finalizer=finalizer,
            shared=shared,
            max_tasks=max_tasks,
            max_memory=max_memory,
            idle_timeout=idle_timeout,
        )
        self.crew = Crew(context, self.kit, self._activation[1], name)
        self.calls = Calls(
            self.kit, self._doorbell[1], self.crew.slots, self._initializer_failed, self._nudge
        )
        self.collector = Collector(
            self.kit.results, self.calls.deliver, lambda: bool(self.calls.sinks), f"{name}-collector"
        )
        self.warden = Warden(self, f"{name}-warden")
        self._functions: dict[Any, bytes] = {}
        self._serial = 0
        self._is_started = False
        self._starters: list[int] = []
        self._threads_are_starting = allocate_lock()
        self._threads_are_starting.acquire()
        self.is_closing = False
        self.is_broken: BrokenProcessPool | None = None
        self.is_killed = False
        self.has_ended = False
        _engines.add(self)

    def begin(self) -> None:
        """Raise unless calls may be put; start the workers before the first one."""
        if self._is_started and not self.is_closing and not self.is_broken and not self._is_foreign:
            return
        if self._is_foreign:
            raise RuntimeError(
                f"this pool belongs to process {self._pid}, and not to its forked child: make one here"
            )
        self._check_open()
        with self._lock:
            if not self._is_started:
                try:
                    self._start()
                except BaseException as error:
                    self._abandon_start(error)
                    raise
        self._check_open()

    def _check_open(self) -> None:
        if self.is_broken is not None:
            raise BrokenProcessPool(*self.is_broken.args)
        if self.is_closing or _is_exiting:
            raise RuntimeError("cannot schedule new futures after shutdown")

    def _start(self) -> None:
        with self.crew.lock:
            for number in range(self.max_workers + self.spares):
                self.crew.start(is_spare=number >= self.max_workers)
            self.crew.prepare()  # before this process has threads of ours
        self._start_threads()
        self._is_started = True
        with self._threads_are_starting:  # so that the first call fails if they cannot be started
            pass

    def _start_threads(self) -> None:
        # By a thread, because Ctrl-C in `Thread.start()` would leave a thread half started. The list says
        # whether there is one, also if Ctrl-C comes right after it.
        if not self._starters:
            self._starters.extend(map(start_new_thread, (self._run_starter,), ((),)))

    def _run_starter(self) -> None:
        try:
            self.collector.start()
            self.warden.start()
        except Exception as error:  # no thread can be started any more, for example when the program ends
            self._end_without_threads(error)
        finally:
            self._threads_are_starting.release()

    def _end_without_threads(self, error: Exception) -> None:
        with self.crew.lock:
            self.is_closing = self.is_killed = True
            self.fail(f"the pool's threads cannot be started: {error}", error)
            self._lifeline[1].close()  # this kills the workers
            self.crew.reap_all()
        self.end()
        self.warden.give_up()

    def _abandon_start(self, error: BaseException) -> None:
        """End a pool whose start has failed or was interrupted."""
        self._is_started = self.is_closing = self.is_killed = True
        self.is_broken = BrokenProcessPool(f"the start of the pool has failed: {error!r}. Make another one")
        self._lifeline[1].close()  # this kills the workers
        self._start_threads()  # they bury them, and end the rest
        self.warden.wake()

    def submit(
        self,
        function: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        limit: float | None,
        retries: int,
    ) -> CallFuture:
        """Put one call."""
        self.begin()
        future = CallFuture(self, limit, retries)
        future.number = number = self.calls.numbers(1)[0]
        try:
            name = self._functions.get(function)
            if name is None and messages.is_named(function):
                name = self._name(function)
        except TypeError:  # unhashable
            name = None
        try:
            call: tuple[Any, ...]
            if name is None:
                pickled = self._pickled_whole(function, args, kwargs)
                call = (number, None, messages.WHOLE, pickled, retries)
            elif not kwargs and messages.are_plain(args):
                call = (number, name, messages.ARGUMENTS, args, retries)
            else:
                call = (number, name, messages.PICKLED, self.pickler.dumps((args, kwargs)), retries)
        except Exception as error:  # it is the call's own failure, as with concurrent.futures
            future.fail(number, 0, error)
            return future
        self.put(future, (number,), [call])
        return future

    def _pickled_whole(
        self, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> messages.Pickled:
        if self.pickler.serializer == "cloudpickle":
            return self.pickler.dumps_by_value((function, args, kwargs))
        return self.pickler.dumps((function, args, kwargs))

    def _name(self, function: Callable[..., Any]) -> bytes | None:
        """The pickle of a function that pickles as its name, so that it is sent with each call."""
        try:
            name, buffers = self.pickler.dumps_function(function)
        except Exception:
            return None  # the call fails by itself
        if buffers or len(name) > _MOST_BYTES_OF_A_NAME:
            return None
        if len(self._functions) >= _FUNCTIONS:
            self._functions.clear()
        self._functions[function] = name
        return name

    def put(self, sink: Any, numbers: Any, calls: list[tuple[Any, ...]]) -> None:
        """Put calls, and see that their results are taken and their limits kept."""
        self.begin()
        self.calls.put(sink, numbers, calls)
        self.collector.call_was_put()
        if sink.limit is not None or self.kit.max_memory is not None or self.kit.idle_timeout is not None:
            self.warden.call_was_put()

    def send_function(
        self, function: Callable[..., Any]
    ) -> tuple[bytes | tuple[int, int], Callable[[], None]]:
        """Return how calls name a function that is sent once, and what to do when it is needed no more."""
        pickled = self.pickler.dumps_function(function)
        if not pickled[1] and len(pickled[0]) <= _MOST_BYTES_OF_A_NAME:
            return pickled[0], lambda: None
        place = self.kit.store.add(pickled)
        with self._lock:
            self._serial += 1
            return (self._serial, place), lambda: None if self.has_ended else self.kit.store.remove(place)

    def is_running(self, number: int) -> bool:
        """Whether a worker has begun the call."""
        return self.calls.is_running(number)

    def cancel(self, number: int) -> bool:
        """Cancel a call, unless it runs; with `cancel_kills` a running one is killed."""
        with self._lock:
            if self.calls.cancel(number):
                return True
            if not self.cancel_kills or not self.calls.is_running(number):
                return False
            self.calls.forget((number,))
            self.warden.kill_call(number)
            return True

    def _nudge(self) -> None:
        self.collector.nudge()

    def _initializer_failed(self, error: BaseException) -> None:
        self.fail(f"the initializer of a worker has failed: {type(error).__name__}: {error}", error)

    def fail(self, reason: str, cause: BaseException | None = None) -> None:
        """Break the pool: no call can succeed any more."""
        if self.is_broken is not None:
            return

        def broken() -> BrokenProcessPool:
            error = BrokenProcessPool(reason)
            error.__cause__ = cause
            return error

        self.is_broken = broken()
        self.calls.fail_all(broken)
        self.kill(9)
        self.warden.wake()

    def kill(self, number: int) -> None:
        """Send all workers a signal."""
        with self.crew.lock:
            for member in list(self.crew.members.values()):
                self.crew.send(member, number)

    def shutdown(self, wait: bool, cancel_futures: bool = False) -> None:
        """Take no more calls, and end when all are done."""
        if self._is_foreign:
            return  # a forked child has no part in the pool
        with self._lock:
            if cancel_futures:
                self.cancel_waiting()
            if not self.is_closing:
                self.is_closing = True
                self.kit.calls.shutdown()
                self._doorbell[1].close()
                self._activation[1].close()
            if not self._is_started and not self.has_ended:
                self.end()
        if self._is_started:
            self.warden.wake()
            if wait and not self.warden.is_this_thread():
                try:
                    self.warden.join()
                except BaseException:  # a second Ctrl-C
                    self.kill_all(9)
                    raise

    def cancel_waiting(self, but: int = 0) -> None:
        """Cancel all calls that have not begun, but not so many of the oldest that have no result."""
        for number, sink in sorted(self.calls.sinks.items(), reverse=True)[: -but or None]:
            if isinstance(sink, CallFuture):
                sink.cancel()
            elif self.calls.cancel(number):
                sink.fail_whole(number)  # type: ignore[attr-defined]

    def kill_all(self, number: int) -> None:
        """End the pool by a signal to all workers: what has not begun is cancelled, what runs is lost."""
        self.is_killed = True
        self.shutdown(wait=False, cancel_futures=True)
        self.kill(number)
        self.warden.wake()

    def end(self) -> None:
        """Give everything back. No worker lives any more."""
        if self.has_ended:
            return
        self.has_ended = True
        self.is_closing = True
        self.calls.fail_all(
            lambda: BrokenProcessPool("the pool has ended before this call: its workers were killed")
        )
        if self._is_started:
            self.collector.stop()
            self.crew.close()
        else:
            self.warden.close()
        for reader, writer in (self._lifeline, self._doorbell, self._activation):
            writer.close()
            os.close(reader)
        self.kit.calls.close()
        self.kit.results.close()
        self.kit.store.close()
        self.kit.board.close()

    def figures(self) -> dict[str, int]:
        """Return the figures of `PoolStatistics`."""
        running = 0
        if not self.has_ended:
            running = sum(self.calls.running(slot) is not None for slot in self.crew.slots())
        spare = self.crew.count(are_spare=True)
        open_ = len(self.calls.sinks)
        return {
            "workers": len(self.crew.members) - spare,
            "spares": spare,
            "started": self.crew.started,
            "deaths": self.crew.deaths,
            "submitted": self.calls.submitted,
            "running": running,
            "waiting": max(0, open_ - running),
            "finished": max(0, self.calls.submitted - self.calls.forgotten - open_),
            "retried": self.calls.retried,
        }


_engines: WeakSet[Engine] = WeakSet()
_is_exiting = False


def _shut_down_all() -> None:
    """A program that ends without `shutdown()` waits for its calls, as with concurrent.futures."""
    global _is_exiting
    _is_exiting = True
    for engine in list(_engines):
        engine.shutdown(wait=True)


def _forget_all() -> None:
    global _is_exiting
    for engine in list(_engines):
        engine._is_foreign = True
    _engines.clear()
    _is_exiting = False


threading._register_atexit(_shut_down_all)  # type: ignore[attr-defined]  # before the threads are joined
os.register_at_fork(after_in_child=_forget_all)
