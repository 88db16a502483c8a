"""A worker: takes a call, says that it has begun, runs it, and puts its result.

    step                                        if the worker dies right after it
    the call is taken                           it is delivered again, as if nothing had happened
    **its number is on the board** (it began)   the pool charges the death to this call
    it ran, its result is in the results' queue the pool has the result; the death is charged to none
    `task_done()`                               the same

A worker takes no call ahead, and puts each result at once, so there is one call at most that it loses. Only a
chunk is several calls for the queue, and one for the board: its results may wait for up to 1 ms, but for the
one that took longer than that.
"""

from __future__ import annotations

import faulthandler
import os
import signal
import sys
import time
from queue import Empty
from traceback import print_exc

from ..errors import ShutDown
from . import board as words
from . import messages
from .lifeline import end_with_pool
from .memory import resident_bytes
from .shared import shared

__all__ = ["STACK_SIGNAL", "main"]

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType
    from typing import Any

    from .kit import Kit

# By this signal a worker is asked for its stack before it is killed.
STACK_SIGNAL = signal.SIGRTMIN + 11

# Seconds after which a worker without calls parks: until then it polls ten times a second for dead processes.
_AWAKE = 0.25

_HESITATION = 0.25  # seconds after a SIGINT until the next call begins

_UNREPORTED_NS = 1_000_000  # so long at most a chunk's results wait

_FUNCTIONS = 64  # so many functions a worker keeps

is_worker = False
"""Whether this process is a worker of a pool: a pool made here has one worker by default."""


def main(kit: Kit, slot: int, is_spare: bool) -> None:
    """Work until the pool is shut down, or as long as a worker may."""
    global is_worker
    is_worker = True
    end_with_pool(kit.lifeline)
    worker = Worker(kit, slot)
    signal.signal(signal.SIGINT, worker.interrupt)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGINT,))  # blocked by the crew
    try:
        worker.stack = kit.board.open_stack(slot)
        faulthandler.register(STACK_SIGNAL, file=worker.stack, all_threads=False)
    except (OSError, RuntimeError):
        worker.stack = None  # without /proc; then a death tells no stack
    if not worker.initialize():
        sys.exit(1)
    if is_spare and not os.read(kit.activation, 1):
        worker.finish()  # the pool has ended
        return
    try:
        worker.work()
    except SystemExit as error:
        # By a signal handler of the program's. The queue takes a process that exits with 0 for one that has
        # left its call on purpose, and would deliver it to nobody.
        sys.exit(error.code or 1)
    finally:
        worker.finish()


class Worker:
    """One worker process."""

    def __init__(self, kit: Kit, slot: int) -> None:
        self._kit = kit
        self._slot = slot
        self._words = kit.board.words
        self._base = kit.board.base(slot)
        self._number = words.NUMBERS + slot
        self._index = self._base + words.INDEX
        self._began, self._doom = self._base + words.BEGAN, self._base + words.DOOM
        self._going = self._base + words.GOING
        self._functions: dict[Any, Callable[..., Any]] = {}
        self._is_in_call = False
        self._is_interrupted = False
        self.stack: int | None = None

    def interrupt(self, number: int, frame: FrameType | None) -> None:
        """On SIGINT: end the call, not the worker."""
        self._is_interrupted = True
        if self._is_in_call:
            self._is_in_call = False
            raise KeyboardInterrupt

    def initialize(self) -> bool:
        """Run the initializer; if it raises, tell the pool and return False."""
        kit = self._kit
        try:
            if kit.shared_place is not None:
                shared._objects = kit.store.read(kit.shared_place, is_kept=True)
            elif kit.shared is not None:
                shared._objects = kit.shared
            if isinstance(kit.ends[0], bytes):  # by cloudpickle
                kit.ends = messages.decode(kit.ends)
            initializer, initargs, _ = kit.ends
            if initializer is not None:
                initializer(*initargs)
        except BaseException as error:
            kit.results.put((messages.INITIALIZER_FAILED, self._slot, *messages.failure(error, kit.pickler)))
            return False
        self._words[self._base + words.STATE] = words.READY
        return True

    def finish(self) -> None:
        """Run the finalizer."""
        self._words[self._began] = time.monotonic_ns()
        self._words[self._base + words.STATE] = words.ENDING
        finalizer = self._kit.ends[2]
        if finalizer is not None:
            try:
                finalizer()
            except Exception:
                print_exc()  # no call is lost, so nothing else can tell of it

    def work(self) -> None:
        """Take calls until the queue is shut down, or this worker's time is over."""
        get, task_done, run = self._kit.calls.get, self._kit.calls.task_done, self._run
        left = self._kit.max_tasks or 0
        most_memory = self._kit.max_memory
        in_hand = self._base + words.IN_HAND
        while True:
            try:
                call = get(True, _AWAKE)
            except Empty:
                if not self._park():
                    return
                continue
            except ShutDown:
                return
            self._words[in_hand] = 1
            run(*call)
            task_done()
            self._words[in_hand] = 0
            left -= 1
            if left == 0 or (most_memory is not None and resident_bytes() > most_memory):
                return

    def _park(self) -> bool:
        """Sleep until the doorbell rings; False after the idle time. This takes no processor time at all."""
        board, kit = self._words, self._kit
        board[self._base + words.PARKED] = 1
        board[words.HINT] = 1
        time.sleep(0)  # a full fence: the pool puts a call and then reads HINT
        try:
            if not kit.calls.empty() or kit.calls.is_shutdown:
                return True
            if kit.idle_timeout is not None and not _is_readable(kit.doorbell, kit.idle_timeout):
                return False
            os.read(kit.doorbell, 1)
            return True
        finally:
            board[self._base + words.PARKED] = 0

    def _run(self, number: int, function: Any, kind: int, data: Any, retries: int) -> None:
        """Run a call, unless it was cancelled or has begun too often, and put its result."""
        board, kit = self._words, self._kit
        if self._is_interrupted:  # Ctrl-C: the program may be about to cancel this call
            self._is_interrupted = False
            time.sleep(_HESITATION)
        again: list[tuple[int, int, int]] = []
        if kit.board.was_begun(number):
            again = kit.board.begun(number)
        if kind >= messages.CHUNK:
            self._run_chunk(number, function, kind, data, retries, again)
            return
        if board[self._index]:  # of the chunk before
            board[self._index] = 0
        board[self._began] = time.monotonic_ns()
        board[self._number] = number
        while board[self._doom]:
            time.sleep(0.001)  # the pool is about to kill this worker, or finds that it need not
        if board[words.CANCELS] and (mark := kit.board.mark(number)):
            self._drop(number, mark)
            return
        if again and (len(again) > retries or any(doom == words.FINAL for _, _, doom in again)):
            board[self._number] = -number
            return  # the pool has seen that, too
        board[self._going] = number
        self._put(number, 0, *self._outcome(function, kind, data))

    def _drop(self, number: int, mark: int) -> None:
        """Do not run a call that was cancelled. The pool may have taken that back by now: then tell it."""
        self._words[self._number] = -number
        if mark == words.ASKED:
            self._put(number, 0, messages.DROPPED, None)

    def _outcome(self, function: Any, kind: int, data: Any) -> tuple[int, Any]:
        """Run a call, and return the kind and the data of its result. Raises nothing."""
        try:
            try:
                self._is_in_call = True
                called = self._function(function)
                if kind == messages.ONE:
                    value = called(data)
                elif kind == messages.ARGUMENTS:
                    value = called(*data)
                else:
                    if kind == messages.PICKLED:
                        arguments, named = messages.decode(data)
                    else:
                        called, arguments, named = messages.decode(data)
                    value = called(*arguments, **named)
                if type(value) in messages.PLAIN:
                    self._is_in_call = False
                    return messages.VALUE, value
                pickled = self._kit.pickler.dumps(value)
                self._is_in_call = False
                return messages.PICKLED_VALUE, pickled
            except BaseException as error:
                self._is_in_call = False
                return messages.failure(_without(error, 1), self._kit.pickler)
        except KeyboardInterrupt as error:  # by a SIGINT that came after the call had failed
            self._is_in_call = False
            return messages.failure(error, self._kit.pickler)

    def _function(self, function: Any) -> Any:
        known = self._functions.get(function)
        if known is None and function is not None:
            if isinstance(function, bytes):
                known = messages.decode_name(function)
            else:
                known = self._kit.store.read(function[1], is_kept=False)
            if len(self._functions) >= _FUNCTIONS:
                self._functions.clear()
            self._functions[function] = known
        return known

    def _put(self, number: int, index: int, kind: int, data: Any) -> None:
        try:
            self._kit.results.put((number, index, kind, data))
        except Exception as error:  # no memory for it
            outcome = messages.failure(error, self._kit.pickler)
            self._kit.results.put((number, index, *outcome))

    def _run_chunk(
        self,
        number: int,
        function: Any,
        kind: int,
        items: list[Any],
        retries: int,
        again: list[tuple[int, int, int]],
    ) -> None:
        """Run the items of which no result has come, but for those that have killed too many workers."""
        board, base, kit = self._words, self._base, self._kit
        begin = first = max((reported for _, reported, _ in again), default=0)
        if first == len(items):
            return
        board[self._index] = board[base + words.REPORTED] = first
        board[self._began] = reported_at = time.monotonic_ns()
        board[self._number] = number
        one = messages.ONE if kind == messages.CHUNK else messages.PICKLED
        values: list[Any] = []
        for index in range(first, len(items)):
            deaths = [doom for begun, _, doom in again if begun == index] if again else ()
            began = time.monotonic_ns()
            board[self._began] = began
            board[self._index] = index
            while board[self._doom]:
                time.sleep(0.001)
            mark = kit.board.mark(number) if board[words.CANCELS] else 0
            if index == first:
                if mark:
                    self._drop(number, mark)
                    return
                board[self._going] = number
            elif mark == words.CANCELLED:
                break
            if began - reported_at > _UNREPORTED_NS:
                self._report(number, begin, values)
                begin, values, reported_at = index, [], began
            if deaths and (len(deaths) > retries or words.FINAL in deaths):
                self._report(number, begin, values)
                begin, values = index + 1, []
                continue
            outcome = self._outcome(function, one, items[index])
            if outcome[0] == messages.VALUE:
                values.append(outcome[1])
            else:
                self._report(number, begin, values)
                self._put(number, index, *outcome)
                begin, values = index + 1, []
                board[base + words.REPORTED] = begin
        self._report(number, begin, values)

    def _report(self, number: int, begin: int, values: list[Any]) -> None:
        if values:
            self._put(number, begin, messages.VALUES, values)
            self._words[self._base + words.REPORTED] = begin + len(values)


def _without(error: BaseException, frames: int) -> BaseException:
    """Leave out the frames of this file at the beginning of the traceback."""
    trace = error.__traceback__
    for _ in range(frames):
        if trace is not None:
            trace = trace.tb_next
    return error.with_traceback(trace)


def _is_readable(descriptor: int, seconds: float) -> bool:
    import select

    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(seconds * 1000))
