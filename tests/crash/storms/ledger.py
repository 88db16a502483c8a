"""The ledger: what the processes have done, in memory that outlives them.

A *hand* is a thread that puts or takes. Each has words of its own, which no other hand writes. The storm
reads them while the hand runs, and clears them between two rounds.

    item's number:   roll call (bit 63)   round (bits 40..63)   hand (bits 20..40)   index (bits 0..20)
"""

import mmap
import os
from enum import IntEnum

ROLL_CALL = 1 << 63
HANDS = 4  # of one worker
CHILD = 3  # the hand of a worker's forked child

_PID, _STATE, _BEGUN, _PUT, _REFUSALS, _ARMED, _FIRED, _COUNT = range(8)
_LOGGED = 1016  # items that a hand can log in a round
_WORDS = 8 + _LOGGED


class State(IntEnum):
    """The state of a hand."""

    AWAY = 0
    READY = 1
    """Its process waits for an order."""
    PUTTING = 2
    TAKING = 3
    WORKING = 4
    """It has taken an item and not finished it."""
    DONE = 5
    """It has put all its items, or those that the queue took before it was shut down."""
    PRESENT = 6
    """It has answered the roll call, or learned of the shutdown, and takes no more in this round."""
    BROKEN = 7
    """The queue raised an unexpected exception in it."""
    JOINING = 8
    """It waits in `join()`."""


def number_of(round: int, hand: int, index: int) -> int:
    """The number of a hand's item."""
    return round << 40 | hand << 20 | index


def round_of(item: int) -> int:
    return (item & ~ROLL_CALL) >> 40


def hand_of(item: int) -> int:
    return item >> 20 & 0xFFFFF


def index_of(item: int) -> int:
    return item & 0xFFFFF


class Hand:
    """The words of one hand."""

    def __init__(self, number: int, words: memoryview) -> None:
        self.number = number
        self._words = words

    def clear(self) -> None:
        """Begin a round. Only the pid stays."""
        for word in (_BEGUN, _PUT, _REFUSALS, _ARMED, _FIRED, _COUNT):
            self._words[word] = 0
        self.state = State.READY

    @property
    def pid(self) -> int:
        """The pid in the storm's pid namespace."""
        return self._words[_PID]

    @pid.setter
    def pid(self, pid: int) -> None:
        self._words[_PID] = pid

    @property
    def state(self) -> State:
        return State(self._words[_STATE])

    @state.setter
    def state(self, state: State) -> None:
        self._words[_STATE] = state

    @property
    def begun(self) -> int:
        """The number of its puts that have begun."""
        return self._words[_BEGUN]

    @begun.setter
    def begun(self, count: int) -> None:
        self._words[_BEGUN] = count

    @property
    def put(self) -> int:
        """The number of its puts that have returned."""
        return self._words[_PUT]

    @put.setter
    def put(self, count: int) -> None:
        self._words[_PUT] = count

    @property
    def refusals(self) -> int:
        """The number of its puts that were refused memory, and repeated."""
        return self._words[_REFUSALS]

    @refusals.setter
    def refusals(self, count: int) -> None:
        self._words[_REFUSALS] = count

    @property
    def is_armed(self) -> bool:
        """Whether its mishap is due now."""
        return bool(self._words[_ARMED])

    @is_armed.setter
    def is_armed(self, armed: bool) -> None:
        self._words[_ARMED] = armed

    @property
    def has_fired(self) -> bool:
        """Whether its mishap has happened."""
        return bool(self._words[_FIRED])

    @has_fired.setter
    def has_fired(self, fired: bool) -> None:
        self._words[_FIRED] = fired

    @property
    def is_child(self) -> bool:
        """Whether it is the hand of a worker's forked child."""
        return self.number % HANDS == CHILD

    @property
    def moves(self) -> int:
        """The number of its puts and gets: it grows as the hand makes progress."""
        return self._words[_PUT] + self._words[_COUNT]

    def log(self, item: int) -> None:
        """Log that it has taken the item."""
        count = self._words[_COUNT]
        self._words[8 + count] = item
        self._words[_COUNT] = count + 1

    def logged(self) -> list[int]:
        """The items that it has logged, in the order of taking."""
        return self._words[8 : 8 + self._words[_COUNT]].tolist()


class Ledger:
    """The hands of all workers."""

    def __init__(self, descriptor: int) -> None:
        self._memory = mmap.mmap(descriptor, os.fstat(descriptor).st_size)
        self._words = memoryview(self._memory).cast("Q")

    @staticmethod
    def create(path: str, workers: int) -> "Ledger":
        """Make the file, which is sparse."""
        with open(path, "wb") as file:
            file.truncate(8 * _WORDS * HANDS * workers)
        return Ledger.open(path)

    @staticmethod
    def open(path: str) -> "Ledger":
        """Open the file that the storm has made."""
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        try:
            return Ledger(descriptor)
        finally:
            os.close(descriptor)

    def hand(self, worker: int, which: int = 0) -> Hand:
        """A hand of a worker."""
        number = worker * HANDS + which
        return Hand(number, self._words[number * _WORDS : (number + 1) * _WORDS])
