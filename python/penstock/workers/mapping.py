"""`map` and `amap`: many calls of one function, whose results are taken as fast as the program asks for them.

At most `buffersize` results are under way or waiting to be taken, so a slow program holds its source. By
default that is 4 for each worker and item of a chunk; while calls are so short that the workers run dry, it
doubles, up to 1,024. A chunk grows likewise, as long as it takes less than half a millisecond.
"""

from __future__ import annotations

import contextlib
import time
from collections import deque
from concurrent.futures import CancelledError
from itertools import islice

from . import messages

__all__ = ["Mapping"]

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Generator, Iterable, Iterator
    from typing import Any

    from .engine import Engine
    from .progress import Meter

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
        self._has_one = len(iterables) == 1
        self._source: Iterator[Any] = iter(iterables[0]) if self._has_one else zip(*iterables, strict=False)
        self._is_ordered = is_ordered
        self._are_errors_raised = are_errors_raised
        self._meter = meter
        self._chunk = chunksize or 1
        self._is_chunk_adapted = chunksize is None
        workers = engine.max_workers
        self._workers = workers
        self._room = buffersize or 4 * workers * self._chunk
        self._is_room_adapted = buffersize is None
        self._put_items = self._come = self._taken = 0
        self._fed_at = 0.0
        self._fed = 0  # items put by the last feeding
        self._error_of_source: BaseException | None = None
        self._is_exhausted = self._is_over = False
        self._chunks: dict[int, list[Any]] = {}  # the results of each chunk, None for those not come
        self._ready: dict[int, Any] = {}  # the results of other calls
        self._order: deque[int] = deque()  # of an ordered map: the calls whose results were not taken
        self._arrived: deque[Any] = deque()  # of any other: the results that were not taken
        self._position = 0  # of an ordered map: the next item of the chunk at the head
        self._on_arrival: Callable[[], object] | None = None

    # What the calls of a pool are delivered to. One thread at a time delivers.

    def is_open(self, number: int, index: int) -> bool:
        """Whether the result is awaited."""
        chunk = self._chunks.get(number)
        if chunk is None:
            return number not in self._ready
        return index < len(chunk) and chunk[index] is None

    def deliver(self, result: tuple[int, int, int, Any]) -> bool:
        """Take a result, or several of a chunk; True if the call has no other."""
        number = result[0]
        if result[2] == messages.DROPPED:
            self.fail_whole(number)
            return True
        chunk = self._chunks.get(number)
        if chunk is not None:
            is_whole = self._deliver_of_chunk(chunk, result)
        else:
            if not self._is_ordered and number not in self._ready:
                self._arrived.append(result)
            self._ready[number] = result
            self._come += 1
            is_whole = True
        on_arrival = self._on_arrival
        if on_arrival is not None:
            with contextlib.suppress(RuntimeError):  # the event loop was closed
                on_arrival()
        return is_whole

    def _deliver_of_chunk(self, chunk: list[Any], result: tuple[int, int, int, Any]) -> bool:
        number, index, kind, data = result
        for value in data if kind == messages.VALUES else (data,):
            if chunk[index] is None:
                chunk[index] = (number, index, messages.VALUE if kind == messages.VALUES else kind, value)
                self._come += 1
                if not self._is_ordered:
                    self._arrived.append(chunk[index])
            index += 1
        return None not in chunk

    def fail(self, number: int, index: int, error: BaseException) -> bool:
        """Take an exception of the pool's own; True if the call has no other item."""
        return self.deliver((number, index, _RAISED, error))

    def fail_whole(self, number: int) -> None:
        """Let a call that was cancelled raise so."""
        for index in range(len(self._chunks.get(number, (None,)))):
            self.fail(number, index, CancelledError())

    # The program's side.

    def feed(self) -> None:
        """Put calls until `buffersize` results are under way. An exception of the source is raised later."""
        if self._is_exhausted:
            return
        now = time.monotonic()
        ahead = self._put_items - self._taken
        if 2 * ahead > self._room and now - self._fed_at < 0.001:
            return
        if self._is_room_adapted or self._is_chunk_adapted:
            self._adapt(now)
        self._fed_at, self._fed = now, 0
        while not self._is_exhausted and (room := self._room - (self._put_items - self._taken)) > 0:
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

    def _adapt(self, now: float) -> None:
        """Let more calls be under way, and in a chunk, if the workers have run dry in a short time."""
        seconds = now - self._fed_at
        if not self._fed or self._put_items - self._come >= self._workers * self._chunk:
            return
        if self._is_room_adapted and seconds < _SHORT:
            self._room = min(2 * self._room, _MOST_AHEAD)
        if self._is_chunk_adapted:
            fitting = int(_CHUNK_SECONDS * self._fed / (self._workers * max(seconds, 1e-9)))
            most = self._room // (4 * self._workers)
            self._chunk = max(1, min(fitting, 2 * self._chunk, most, _MOST_OF_A_CHUNK))

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
        self._put_items += len(items)
        self._fed += len(items)
        if len(calls) == len(numbers):
            self._engine.put(self, numbers, calls)
        elif calls:  # the others have failed, because their arguments do not pickle
            self._engine.put(self, [call[0] for call in calls], calls)

    def _single(self, numbers: range, items: list[Any]) -> list[Any]:
        function, retries = self._function, self.retries
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
                pickled = self._engine.pickler.dumps((arguments, {}))
            except Exception as error:
                self.fail(number, 0, error)
                continue
            self._is_room_adapted &= not pickled[1]  # large buffers: what is under way takes memory
            calls.append((number, function, messages.PICKLED, pickled, retries))
        return calls

    def _group(self, number: int, items: list[Any]) -> Any:
        self._chunks[number] = [None] * len(items)
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

    def results(self) -> Generator[Any, None, None]:
        """Yield the results. What was not begun is cancelled when the program takes no more."""
        wait, is_ready, take = self._engine.collector.wait, self._is_ready, self._take
        try:
            while True:
                self.feed()
                if self._taken == self._put_items:
                    break
                if not is_ready():
                    wait(is_ready, None)
                left = self._put_items - self._room // 2  # feed again when so many were taken
                while (result := take()) is not None:
                    yield self._value(result)
                    if self._taken >= left:
                        break
            if self._error_of_source is not None:
                raise self._error_of_source
        finally:
            self.end()

    async def aresults(self) -> AsyncGenerator[Any, None]:
        """Yield the results to a task."""
        import asyncio

        loop, arrived = asyncio.get_running_loop(), asyncio.Event()
        self._on_arrival = lambda: loop.call_soon_threadsafe(arrived.set)
        try:
            while True:
                self.feed()
                if self._taken == self._put_items:
                    break
                while (result := self._take()) is None:
                    await arrived.wait()
                    arrived.clear()
                yield self._value(result)
            if self._error_of_source is not None:
                raise self._error_of_source
        finally:
            self._on_arrival = None
            self.end()

    def _is_ready(self) -> bool:
        """Whether the next result has come."""
        if not self._is_ordered:
            return bool(self._arrived) or self._is_over
        if not self._order:
            return True  # the map has ended
        number = self._order[0]
        if number in self._ready:
            return True
        return number in self._chunks and self._chunks[number][self._position] is not None

    def _take(self) -> Any:
        """Take the next result, or return None if it has not come."""
        if not self._is_ordered:
            if not self._arrived:
                return None
            result = self._arrived.popleft()
            if result[0] in self._ready:
                del self._ready[result[0]]
        else:
            if not self._order:
                return None
            number = self._order[0]
            result = self._ready.pop(number, None)
            if result is not None:
                self._order.popleft()
            elif (chunk := self._chunks.get(number)) is None or (result := chunk[self._position]) is None:
                return None
            else:
                self._position += 1
                if self._position == len(chunk):
                    self._order.popleft()
                    del self._chunks[number]
                    self._position = 0
        self._taken += 1
        return result

    def _value(self, result: tuple[int, int, int, Any]) -> Any:
        """Return the value of a result, or raise."""
        kind, data = result[2], result[3]
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
            self._is_room_adapted &= not data[1]
            try:
                return messages.VALUE, messages.decode(data)
            except Exception as error:
                return _RAISED, error
        if kind == _RAISED:
            return _RAISED, data
        return _RAISED, messages.failure_of(kind, data)

    def end(self) -> None:
        """Await nothing any more; calls that have not begun will not."""
        self._is_over = True
        self._is_exhausted = True
        self._engine.calls.forget_sink(self)
        self._ready.clear()
        self._chunks.clear()
        self._arrived.clear()
        self._order.clear()
        self._remove_function()
        if self._meter is not None:
            self._meter.report(is_last=True)
