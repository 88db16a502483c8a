"""The board: a small shared mapping in which workers say what they do, and are told to stop.

One writer a word, so no lock is needed. First come the pool's words, then a word for each worker with the
number of the call that it has begun last (0 before the first). Behind these, each worker has a slot:

    word      writer   meaning
    INDEX     worker   of a chunk: the item that has begun
    REPORTED  worker   of a chunk: results of items below this one are in the results' queue
    BEGAN     worker   when the call, or the item, has begun: `time.monotonic_ns()`
    STATE     worker   STARTING, READY or ENDING
    PARKED    worker   1 while it sleeps, or is about to, until the doorbell rings
    DOOM      pool     what becomes of the worker's call: see below
    GOING     worker   the number of the call that it has decided to run
    IN_HAND   worker   1 from the beginning of a call until the queue knows that it has ended

A slot outlives its worker until the call that the worker had begun has ended. A worker to which that call is
delivered again finds its number in the slots of the dead, so often as it was begun, and by `DOOM` whether it
may be run.

A worker writes the call's number before it reads `DOOM`, and begins nothing while that is not 0. The pool
writes `DOOM`, waits, and reads the number again: so it kills a worker in the call that it means, or not at
all.

A worker that has begun a call reads the call's byte, and then writes `GOING`, or it drops the call: it writes
the number with a minus sign. So a pool that cancels a call finds out which of the two came first.

Behind the words lie the places into which workers write their stacks, and behind these a byte for each call,
which is `ASKED` while the pool cancels the call, and `CANCELLED` from then on. The file is sparse: it has
memory only where something was written.
"""

from __future__ import annotations

import mmap
import os
import threading
from heapq import heappop, heappush
from sys import byteorder

__all__ = ["Board"]

SLOTS = 2048
WORDS = 8

# The pool's own words. USED: the numbers of slots from this one on are 0.
HINT, CANCELS, USED = range(3)

NUMBERS = 512  # the word of the first worker's number

INDEX, REPORTED, BEGAN, STATE, PARKED, DOOM, GOING, IN_HAND = range(8)

STARTING, READY, ENDING = range(3)

# PAUSED: begin nothing. Of a dead worker: its call may be tried again (AGAIN), or not (FINAL).
PAUSED, AGAIN, FINAL = 1, 2, 3

# A call's byte. ASKED: a worker that has not begun the call drops it, and puts a result that says so.
# CANCELLED: a worker drops it, also in the middle of a chunk, and puts nothing.
ASKED, CANCELLED = 1, 2

_FIRST_SLOT = NUMBERS + SLOTS
_BYTES = (_FIRST_SLOT + SLOTS * WORDS) * 8
_STACK_BYTES = 1 << 16
_STACKS = 1 << 20
_CANCELLED = _STACKS + SLOTS * _STACK_BYTES


class Board:
    """The mapping, in the pool's process and in each worker."""

    def __init__(self, descriptor: int | None = None) -> None:
        if descriptor is None:
            descriptor = os.memfd_create("penstock-board", os.MFD_CLOEXEC)
            os.ftruncate(descriptor, _BYTES)
        self._lock = threading.Lock()
        self.descriptor = descriptor
        self._map = mmap.mmap(descriptor, _BYTES)
        self.words = memoryview(self._map).cast("q")
        self._free = list(range(SLOTS))  # a heap: the lowest first

    def base(self, slot: int) -> int:
        """Return the index of the slot's first word."""
        return _FIRST_SLOT + slot * WORDS

    def claim(self) -> int | None:
        """Take a free slot, with all words 0. None if there is none."""
        if not self._free:
            return None
        slot = heappop(self._free)
        for word in range(self.base(slot), self.base(slot) + WORDS):
            self.words[word] = 0
        self.words[NUMBERS + slot] = 0
        self.words[USED] = max(self.words[USED], slot + 1)
        self._clear_stack(slot)
        return slot

    def release(self, slot: int) -> None:
        """Give the slot back."""
        self.words[NUMBERS + slot] = 0
        heappush(self._free, slot)

    def number(self, slot: int) -> int:
        """Return the number of the call that the slot's worker has begun last, negative if it was dropped."""
        return self.words[NUMBERS + slot]

    def was_begun(self, number: int) -> bool:
        """Whether any worker has begun the call. May say so in error."""
        begin = NUMBERS * 8
        end = begin + self.words[USED] * 8
        return self._map.find(number.to_bytes(8, byteorder), begin, end) >= 0

    def begun(self, number: int) -> list[tuple[int, int, int]]:
        """INDEX, REPORTED and DOOM of each worker that has begun the call, the dead ones included."""
        words, found = self.words, []
        for slot in range(words[USED]):
            if words[NUMBERS + slot] == number:
                base = self.base(slot)
                found.append((words[base + INDEX], words[base + REPORTED], words[base + DOOM]))
        return found

    def cancel(self, number: int, mark: int = CANCELLED) -> None:
        """Say that no worker may begin the call, or, by 0, take that back. Does nothing after `close()`."""
        with self._lock:
            if self.descriptor >= 0:
                os.pwrite(self.descriptor, bytes((mark,)), _CANCELLED + number)
                self.words[CANCELS] = 1

    def mark(self, number: int) -> int:
        """Return the call's byte: 0, ASKED or CANCELLED."""
        byte = os.pread(self.descriptor, 1, _CANCELLED + number)
        return byte[0] if byte else 0

    def forget_cancelled(self) -> None:
        """Give back the memory of the bytes of cancelled calls, of which none may be waiting any more."""
        if self.words[CANCELS]:
            self.words[CANCELS] = 0
            os.ftruncate(self.descriptor, _CANCELLED)

    def open_stack(self, slot: int) -> int:
        """Return a descriptor at the place for the stack of the worker. Raises OSError without /proc."""
        descriptor = os.open(f"/proc/self/fd/{self.descriptor}", os.O_WRONLY | os.O_CLOEXEC)
        os.lseek(descriptor, _STACKS + slot * _STACK_BYTES, os.SEEK_SET)
        return descriptor

    def _clear_stack(self, slot: int) -> None:
        """Remove what an earlier worker of the slot has written."""
        if os.pread(self.descriptor, 1, _STACKS + slot * _STACK_BYTES) not in (b"", b"\0"):
            os.pwrite(self.descriptor, bytes(_STACK_BYTES), _STACKS + slot * _STACK_BYTES)

    def stack(self, slot: int) -> str:
        """Return what the worker has written, or an empty text."""
        written = os.pread(self.descriptor, _STACK_BYTES, _STACKS + slot * _STACK_BYTES)
        return written.partition(b"\0")[0].decode(errors="replace")

    def close(self) -> None:
        """Unmap the board, and close its file."""
        with self._lock:
            os.close(self.descriptor)
            self.descriptor = -1
            self.words.release()
            self._map.close()
