"""`map` and `amap`: many calls of one function, whose results are taken as fast as the program asks for them.

At most `buffersize` results are under way or waiting to be taken, so a slow program holds its source. By
default that is 4 for each worker and item of a chunk; while calls are so short that the workers run dry, it
doubles, up to 1,024. A chunk grows likewise, as long as it takes less than half a millisecond.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from concurrent.futures import CancelledError
from itertools import islice

from . import messages

__all__ = ["Mapping"]

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable, Iterator
    from typing import Any

    from .engine import Engine
    from .progress import Meter

_OPEN = object()  # in the place of a result that has not come
_TAKEN = object()  # in the place of one that was taken, of a map without order
_RAISED = -1  # the kind of an exception of the pool's own
_MOST_AHEAD = 1024
_MOST_OF_A_CHUNK = 64
_SHORT = 0.005  # seconds: workers that have run dry within it have short calls
_CHUNK_SECONDS = 0.0005
_BATCH = 64


class Mapping:
    """The calls of one map; results are delivered here."""

    def __init__(
        self,
        engine: Engine,
        function: Callable[..., Any],
        iterables: tuple[Iterable[Any], ...],
        *,
        limit: float | None,
        retries: int,
        chunksize: int | None,
        buffersize: int | None,
        is_ordered: bool,
        are_errors_raised: bool,
        meter: Meter | None,
    ) -> None:
        self.limit = limit
        self.retries = retries
        self._engine = engine
        self._function, self._remove_function = engine.send_function(function)
        self._source: Iterator[Any] = iter(iterables[0]) if len(iterables) == 1 else zip(*iterables)
        self._has_one = len(iterables) == 1
        self._is_ordered = is_ordered
        self._are_errors_raised = are_errors_raised
        self._meter = meter
        self._chunk = chunksize or 1
        self._is_chunk_fixed = chunksize is not None
        workers = engine.max_workers
        self._workers = workers
        self._room = buffersize or 4 * workers * self._chunk
        self._is_room_fixed = buffersize is not None
        self._ahead = 0  # items put whose results were not taken
        self._fed_at = 0.0
        self._fed = 0
        self._error_of_source: BaseException | None = None
        self._is_exhausted = False
        self._results: dict[int, list[Any]] = {}
        self._order: deque[int] = deque()
        self._arrived: deque[tuple[int, int]] = deque()
        self._condition = threading.Condition()
        self._on_arrival: Callable[[], object] | None = None

    # What the calls of a pool are delivered to.

    def is_open(self, number: int, index: int) -> bool:
        """Whether the result is awaited."""
        items = self._results.get(number)
        return items is not None and index < len(items) and items[index] is _OPEN

    def deliver(self, number: int, index: int, kind: int, data: Any) -> bool:
        """Take a result, or several of a chunk; True if the call has no other."""
        items = self._results.get(number)
        if items is None:
            return True
        if kind == messages.VALUES:
            for place, value in enumerate(data, index):
                self._enter(number, items, place, (messages.VALUE, value))
        else:
            self._enter(number, items, index, (kind, data))
        if self._on_arrival is not None:
            self._on_arrival()
        return len(items) == 1 or not any(item is _OPEN for item in items)

    def _enter(self, number: int, items: list[Any], index: int, result: tuple[int, Any]) -> None:
        if items[index] is _OPEN:
            items[index] = result
            if not self._is_ordered:
                self._arrived.append((number, index))

    def fail(self, number: int, index: int, error: BaseException) -> bool:
        """Take an exception of the pool's own; True if the call has no other item."""
        return self.deliver(number, index, _RAISED, error)

    def fail_whole(self, number: int) -> None:
        """Let a call that was cancelled raise so."""
        for index in range(len(self._results.get(number, ()))):
            self.fail(number, index, CancelledError())

    # The program's side.

    def feed(self) -> None:
        """Put calls until `buffersize` results are under way. An exception of the source is raised later."""
        if self._is_exhausted:
            return
        now = time.monotonic()
        room = self._room - self._ahead
        if room * 2 < self._room and now - self._fed_at < 0.001:
            return
        if not self._is_room_fixed or not self._is_chunk_fixed:
            self._adapt(now)
            room = self._room - self._ahead
        self._fed_at, self._fed = now, 0
        while room > 0:
            count = min(room, _BATCH * self._chunk)
            items: list[Any] = []
            try:
                items.extend(islice(self._source, count))
            except Exception as error:
                self._error_of_source = error
                self._is_exhausted = True
            if len(items) < count:
                self._is_exhausted = True
            if items:
                self._put(items)
            if self._is_exhausted:
                return
            room -= len(items)

    def _adapt(self, now: float) -> None:
        """Let more calls be under way, and in a chunk, if the workers have run dry in a short time."""
        seconds = now - self._fed_at
        if not self._fed or self._ahead - self._waiting() >= self._workers * self._chunk:
            return
        if not self._is_room_fixed and seconds < _SHORT:
            self._room = min(2 * self._room, _MOST_AHEAD)
        if not self._is_chunk_fixed:
            each = seconds * self._workers / self._fed
            most = self._room // (4 * self._workers)
            fitting = int(_CHUNK_SECONDS / max(each, 1e-9))
            self._chunk = max(1, min(fitting, 2 * self._chunk, most, _MOST_OF_A_CHUNK))

    def _waiting(self) -> int:
        """How many results have come and were not taken."""
        return sum(item is not _OPEN for items in list(self._results.values()) for item in items)

    def _put(self, items: list[Any]) -> None:
        chunk = self._chunk
        if chunk == 1:
            numbers = self._engine.calls.numbers(len(items))
            calls = self._single(numbers, items)
        else:
            groups = [items[at : at + chunk] for at in range(0, len(items), chunk)]
            numbers = self._engine.calls.numbers(len(groups))
            calls = [self._group(number, group) for number, group in zip(numbers, groups, strict=True)]
        if self._is_ordered:
            self._order.extend(numbers)
        self._ahead += len(items)
        self._fed += len(items)
        if len(calls) == len(numbers):
            self._engine.put(self, numbers, calls)
        elif calls:  # the others have failed, because their arguments do not pickle
            self._engine.put(self, [call[0] for call in calls], calls)

    def _single(self, numbers: range, items: list[Any]) -> list[Any]:
        function, retries = self._function, self.retries
        for number in numbers:
            self._results[number] = [_OPEN]
        if self._has_one and messages.are_plain(items):
            return [
                (number, function, messages.ONE, item, retries)
                for number, item in zip(numbers, items, strict=True)
            ]
        calls: list[Any] = []
        for number, item in zip(numbers, items, strict=True):
            arguments = (item,) if self._has_one else item
            if messages.are_plain(arguments):
                calls.append((number, function, messages.ARGUMENTS, arguments, retries))
                continue
            try:
                calls.append(
                    (number, function, messages.PICKLED, self._engine.pickler.dumps((arguments, {})), retries)
                )
            except Exception as error:
                self.fail(number, 0, error)
        return calls

    def _group(self, number: int, items: list[Any]) -> Any:
        self._results[number] = [_OPEN] * len(items)
        if self._has_one and messages.are_plain(items):
            return (number, self._function, messages.CHUNK, items, self.retries)
        pickled: list[Any] = []
        for index, item in enumerate(items):
            try:
                pickled.append(self._engine.pickler.dumps(((item,) if self._has_one else item, {})))
            except Exception as error:
                self.fail(number, index, error)
                pickled.append(None)
        return (number, self._function, messages.PICKLED_CHUNK, pickled, self.retries)

    def results(self) -> Iterator[Any]:
        """Yield the results. What was not begun is cancelled when the program takes no more."""
        wait, is_ready = self._engine.collector.wait, self._is_ready
        try:
            while True:
                self.feed()
                if not self._ahead:
                    break
                if not is_ready():
                    wait(is_ready, self._follow, None)
                while True:
                    yield self._next()
                    if not self._ahead or not is_ready():
                        break
                    if 2 * self._ahead <= self._room:
                        break
            if self._error_of_source is not None:
                raise self._error_of_source
        finally:
            self.end()

    async def aresults(self) -> AsyncIterator[Any]:
        """Yield the results to a task."""
        import asyncio

        loop, arrived = asyncio.get_running_loop(), asyncio.Event()
        self._on_arrival = lambda: loop.call_soon_threadsafe(arrived.set)
        try:
            while True:
                self.feed()
                if not self._ahead:
                    break
                while not self._is_ready():
                    await arrived.wait()
                    arrived.clear()
                yield self._next()
            if self._error_of_source is not None:
                raise self._error_of_source
        finally:
            self._on_arrival = None
            self.end()

    def _follow(self, seconds: float) -> bool:
        def notify() -> None:
            with self._condition:
                self._condition.notify_all()

        with self._condition:
            self._on_arrival = notify
            try:
                return self._is_ready() or self._condition.wait(seconds)
            finally:
                self._on_arrival = None

    def _is_ready(self) -> bool:
        if not self._is_ordered:
            return bool(self._arrived)
        items = self._results[self._order[0]]
        return items[self._taken_of(items)] is not _OPEN

    def _taken_of(self, items: list[Any]) -> int:
        return 0 if len(items) == 1 else self._position

    _position = 0  # of an ordered map: the next item of the chunk at the head

    def _next(self) -> Any:
        if self._is_ordered:
            number = self._order[0]
            items = self._results[number]
            index = self._position
            if index + 1 == len(items):
                self._order.popleft()
                del self._results[number]
                self._position = 0
            else:
                self._position = index + 1
        else:
            number, index = self._arrived.popleft()
            items = self._results[number]
        kind, data = items[index]
        if not self._is_ordered:
            items[index] = _TAKEN
            if len(items) == 1 or all(item is _TAKEN for item in items):
                del self._results[number]
        self._ahead -= 1
        if kind != messages.VALUE:
            kind, data = self._outcome(kind, data)
        if self._meter is not None:
            self._meter.count(kind == _RAISED)
        if kind == _RAISED and self._are_errors_raised:
            try:
                raise data
            finally:
                del data  # the traceback refers to this frame
        return data

    def _outcome(self, kind: int, data: Any) -> tuple[int, Any]:
        if kind == messages.PICKLED_VALUE:
            try:
                return messages.VALUE, messages.decode(data)
            except Exception as error:
                return _RAISED, error
        if kind == _RAISED:
            return _RAISED, data
        return _RAISED, messages.failure_of(kind, data)

    def end(self) -> None:
        """Await nothing any more; calls that have not begun will not."""
        self._is_exhausted = True
        self._engine.calls.forget(list(self._results))
        self._results.clear()
        self._arrived.clear()
        self._order.clear()
        self._remove_function()
        if self._meter is not None:
            self._meter.report(is_last=True)
