"""The calls that have no result yet: where each result goes, and whom a worker's death is charged to.

    a worker dies                          its call
    before the call has begun              is delivered again, as if nothing had happened
    in the call, its result not put        is delivered again, `retries` times at most; else `WorkerDied`
    after the result was put               has its result

The queue delivers the call of a dead worker again by itself, perhaps before the pool knows of the death. So
the worker that takes it decides by the same rule, and from the same words of the board, whether it runs it.
"""

from __future__ import annotations

import fcntl
import struct
import termios
import threading
import time

from ..errors import ShutDown
from . import board as words
from . import messages
from .errors import TaskTimeoutError, WorkerDied

__all__ = ["Calls"]

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from typing import Any, Protocol

    from ..letters import Death
    from .kit import Kit
    from .lifeline import WritingEnd

    class Sink(Protocol):
        """What the results of a call are delivered to."""

        limit: float | None
        retries: int

        def is_open(self, number: int, index: int) -> bool:
            """Whether the result is awaited."""

        def deliver(self, result: tuple[int, int, int, Any]) -> bool:
            """Take a result; True if the call has no other. May be called twice."""

        def fail(self, number: int, index: int, error: BaseException) -> bool:
            """Take an exception of the pool's own; True if the call has no other item."""


_DECISION = 1.0  # seconds for a worker to decide whether it runs a call that is being cancelled


class Calls:
    """The table of the calls, and the queue that they are put into."""

    def __init__(
        self,
        kit: Kit,
        doorbell: WritingEnd,
        living: Callable[[], Iterable[int]],
        on_initializer_failure: Callable[[BaseException], None],
        nudge: Callable[[], None],
    ) -> None:
        self._kit = kit
        self._board = kit.board
        self._words = kit.board.words
        self._put_many = kit.calls.put_many
        self._doorbell = doorbell
        self._living = living
        self._nudge = nudge
        self._on_initializer_failure = on_initializer_failure
        self._lock = threading.RLock()
        self._next = 1
        self.sinks: dict[int, Sink] = {}
        self._deaths: dict[tuple[int, int], list[Death]] = {}
        self._dead_slots: dict[int, list[int]] = {}
        self.least_limit: float | None = None
        self.submitted = self.forgotten = self.retried = 0

    def numbers(self, count: int) -> range:
        """Return numbers for so many calls."""
        with self._lock:
            first = self._next
            self._next += count
        return range(first, first + count)

    def put(self, sink: Sink, numbers: Sequence[int], calls: list[tuple[Any, ...]]) -> None:
        """Put calls whose results go to `sink`. Raises RuntimeError after a shutdown, and as a put does."""
        done: list[None] = []
        try:
            if sink.limit is None:
                self.sinks.update(dict.fromkeys(numbers, sink))
            else:
                with self._lock:  # the warden forgets the limit only while there is no sink
                    self.sinks.update(dict.fromkeys(numbers, sink))
                    if self.least_limit is None or sink.limit < self.least_limit:
                        self.least_limit = sink.limit
            # Without a step of the interpreter after the put, so that Ctrl-C cannot hide that it was done.
            done.extend(map(self._put_many, (calls,)))
        except BaseException as error:
            self.forget(numbers)
            if isinstance(error, ShutDown) or (isinstance(error, ValueError) and self._board.descriptor < 0):
                raise RuntimeError("cannot schedule new futures after shutdown") from None
            raise
        self.submitted += len(numbers)
        if self._words[words.HINT]:
            self.ring(len(calls))

    def ring(self, count: int) -> None:
        """Wake so many parked workers, as far as there are any."""
        try:
            self._words[words.HINT] = 0
            parked = sum(self._words[self._board.base(slot) + words.PARKED] for slot in list(self._living()))
            called = struct.unpack("i", fcntl.ioctl(self._kit.doorbell, termios.FIONREAD, bytes(4)))[0]
            if parked > called:
                self._doorbell.write(min(count, parked - called))
            if parked > count:
                self._words[words.HINT] = 1
        except BaseException:  # Ctrl-C: the next call wakes them
            self._words[words.HINT] = 1
            raise

    def forget_limits(self) -> bool:
        """Start over with the least limit, if no call is left. Return whether that is so."""
        with self._lock:
            if self.sinks:
                return False
            self.least_limit = None
            return True

    def forget(self, numbers: Iterable[int]) -> None:
        """Await nothing of these calls any more; those that have not begun will not."""
        for number in numbers:
            if self.sinks.pop(number, None) is not None:
                self.forgotten += 1
                self._board.cancel(number)
                self._release_slots(number)

    def forget_sink(self, sink: Sink) -> None:
        """Do the same for all calls of this sink."""
        self.forget([number for number, of in list(self.sinks.items()) if of is sink])

    def cancel(self, number: int) -> bool:
        """Cancel a call that has not begun. Return whether it is cancelled."""
        if number not in self.sinks:
            return False
        is_first = not self._words[words.CANCELS]
        self._board.cancel(number, words.ASKED)
        if is_first:
            threading.Event().wait(0.001)  # a worker that has begun by now has written so
        if self._has_gone(number):
            self._board.cancel(number, 0)
            return False
        if self.sinks.pop(number, None) is None:
            return False
        self._board.cancel(number)
        self.forgotten += 1
        self._nudge()
        return True

    def _has_gone(self, number: int) -> bool:
        """Whether a worker runs the call that was asked to drop it. Waits until it has decided.

        True also of a worker that does not decide within `_DECISION` seconds, or has decided on another call
        since: if it has dropped this one, its result says so.
        """
        deadline = time.monotonic() + _DECISION
        for slot in list(self._living()):
            if self._board.number(slot) != number:
                continue
            while (begun := self._board.number(slot)) == number:
                if self._words[self._board.base(slot) + words.GOING] == number or number not in self.sinks:
                    return True
                if time.monotonic() > deadline:
                    return True
                time.sleep(0)
            return begun != -number
        return False

    def is_running(self, number: int) -> bool:
        """Whether a living worker has begun the call, and its result has not come."""
        return number in self.sinks and any(
            self._board.number(slot) == number for slot in list(self._living())
        )

    def running(self, slot: int) -> tuple[int, int, Sink] | None:
        """Return the call, and the item of it, that the slot's worker runs."""
        number = self._board.number(slot)
        sink = self.sinks.get(number)
        index = self._words[self._board.base(slot) + words.INDEX]
        return None if sink is None or not sink.is_open(number, index) else (number, index, sink)

    def deliver(self, results: list[tuple[int, int, int, Any]]) -> None:
        """Hand out results. May be called with the same ones twice."""
        sinks = self.sinks
        find, end = sinks.get, sinks.pop
        for result in results:
            number = result[0]
            sink = find(number)
            if sink is not None:
                if result[2] == messages.DROPPED:
                    self.forgotten += 1
                if _hand_over(sink, result):
                    if self._dead_slots:
                        self._release_slots(number)
                    end(number, None)
            elif number == messages.INITIALIZER_FAILED:
                self._on_initializer_failure(messages.failure_of(*result[2:]))

    def _end(self, number: int) -> None:
        self._release_slots(number)
        self.sinks.pop(number, None)

    def charge(self, slot: int, death: Death, error: BaseException | None) -> None:
        """Settle what the dead worker of the slot has begun. All its results must have been delivered.

        `error` ends the call, whatever its `retries`.
        """
        call = self.running(slot)
        number = self._board.number(slot)
        if call is None:
            if number > 0 and number not in self.sinks:
                self._board.cancel(number)  # its result has come: it must not be run again
                self._board.release(slot)
            elif number > 0:  # a chunk whose other items are still awaited
                self._dead_slots.setdefault(number, []).append(slot)
            else:
                self._board.release(slot)
            return
        number, index, sink = call
        deaths = self._deaths.setdefault((number, index), [])
        deaths.append(death)
        self._dead_slots.setdefault(number, []).append(slot)
        if isinstance(error, (TaskTimeoutError, WorkerDied)):
            error.deaths = tuple(deaths)
        elif error is None and len(deaths) > sink.retries:
            error = WorkerDied(_told(deaths), tuple(deaths))
        if error is None:
            self.retried += 1
        else:
            if sink.fail(number, index, error):
                self._board.cancel(number)
                self._end(number)
            self._nudge()

    def fail_dead_letters(self) -> None:
        """Fail the calls that so many workers have died with that the queue delivers them no more."""
        if self._kit.calls.statistics().dead_letters:
            for letter in self._kit.calls.dead_letters():
                number = letter.item[0]
                sink = self.sinks.get(number)
                if sink is not None:
                    self._fail_open_items(number, sink, letter.deliveries)
                    self._end(number)
                    self._nudge()
                self._kit.calls.purge([letter])

    def _fail_open_items(self, number: int, sink: Sink, deliveries: int) -> None:
        """Fail a call, or each item of a chunk that has no result, with the deaths that are known of it."""
        index, is_whole = 0, False
        while not is_whole:
            deaths = tuple(self._deaths.get((number, index), ()))
            is_whole = sink.fail(
                number, index, WorkerDied(f"{deliveries} workers died with the call", deaths)
            )
            index += 1

    def fail_all(self, error: Callable[[], BaseException]) -> None:
        """End all calls that have no result with this exception."""
        for number, sink in list(self.sinks.items()):
            index = 0
            while not sink.fail(number, index, error()):
                index += 1
            self._end(number)
        self._nudge()

    def _release_slots(self, number: int) -> None:
        slots = self._dead_slots.pop(number, None)
        if slots is not None:
            self._board.cancel(number)
            for slot in slots:
                self._board.release(slot)
            for key in [key for key in self._deaths if key[0] == number]:
                del self._deaths[key]

    def tidy(self) -> None:
        """Give back what is kept for cancelled calls, once no call is left."""
        if (
            self._words[words.CANCELS]
            and not self.sinks
            and not self._kit.calls.is_shutdown
            and not self._kit.calls.statistics().unfinished
        ):
            with self._lock:
                if not self.sinks:
                    self._board.forget_cancelled()


def _hand_over(sink: Sink, result: tuple[int, int, int, Any]) -> bool:
    """Deliver a result. One that cannot be delivered ends its own call, and no other."""
    try:
        return sink.deliver(result)
    except Exception as error:
        return sink.fail(*result[:2], error)


def _told(deaths: list[Death]) -> str:
    told = str(deaths[-1])
    if len(deaths) > 1:
        told = f"{len(deaths)} workers died in it, the last as follows: {told}"
    remedy = "WorkerPool(retries=...) runs such a call again; the pool itself goes on"
    return f"the call was lost with its worker: {told}. {remedy}"
