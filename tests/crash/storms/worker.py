"""A process of a storm: it carries out the storm's orders, and logs what it has done."""

import os
import sys
import threading
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any

from tests.support import stacks

from . import checks
from .contestants import contestant
from .ledger import CHILD, HANDS, ROLL_CALL, Hand, Ledger, State, number_of, round_of

CHILD_PUTS = [10, 2000, 0]  # bytes of a child's items
BUFFER = 50_000  # bytes from which a payload travels beside the pickle


@dataclass(frozen=True)
class Mishap:
    """What the first hand does to itself, and when."""

    name: str
    at: int
    """Items that the hand has put or taken by then; 0 is before its first use of the queue in this round."""
    is_logged: bool = False
    """Whether a consumer logs the item before the mishap, not after it."""
    group: str = ""
    """The control group to enter."""

    def befall(self, worker: "Worker") -> None:
        """Do the mishap."""
        act = checks.enter_control_group(self.group) if self.group else checks.MISHAPS[self.name]
        act(worker)


@dataclass(frozen=True)
class Produce:
    """Put items of these sizes: a list for each hand."""

    round: int
    sizes: list[list[int]]
    mishap: Mishap | None = None


@dataclass(frozen=True)
class Consume:
    """Take items in `hands` threads until the roll call, or until the queue is shut down."""

    round: int
    hands: int
    mishap: Mishap | None = None


@dataclass(frozen=True)
class CallRoll:
    """Put `count` items, each of which one hand answers."""

    round: int
    first: int
    count: int


@dataclass(frozen=True)
class Join:
    """Wait until all items are done."""


@dataclass(frozen=True)
class Report:
    """Send the queue's statistics."""


@dataclass(frozen=True)
class ShutDown:
    """Shut the queue down."""

    immediate: bool


Order = Produce | Consume | CallRoll | Join | Report | ShutDown | None  # None: end


def payload_of(item: int, size: int) -> bytes:
    return bytes([item % 251]) * size


class Worker:
    """A process of the crew."""

    def __init__(self, name: str, queue: Any, ledger: Ledger, control: Connection, number: int) -> None:
        self.contestant = contestant(name)
        self.queue = queue
        self.ledger = ledger
        self.control = control
        self.number = number
        self.round = 0
        self.has_descriptors = True
        self.children: list[BaseProcess] = []

    def run(self) -> None:
        """Carry out orders until the order to end."""
        while (order := self._next_order()) is not None:
            match order:
                case Produce():
                    self._produce(order)
                case Consume():
                    self._consume(order)
                case CallRoll():
                    for index in range(order.first, order.first + order.count):
                        self._put(ROLL_CALL | number_of(order.round, self.number, index), 0)
                    self.control.send("called")
                case Join():
                    hand = self.ledger.hand(self.number)
                    hand.state = State.JOINING
                    self.queue.join()
                    hand.state = State.READY
                    self.control.send("joined")
                case Report():
                    self.control.send(self.queue.statistics())
                case ShutDown():
                    self.queue.shutdown(order.immediate)
                    self.control.send("shut down")

    def _next_order(self) -> Order:
        try:
            order: Order = self.control.recv()
        except (OSError, EOFError):
            if self.has_descriptors:
                raise
            os._exit(0)  # without descriptors it can read no order
        return order

    # ------------------------------------------------------------------------------------------- putting

    def _produce(self, order: Produce) -> None:
        self.round = order.round
        self._with_hands(
            lambda hand, mishap: self._put_all(hand, order.sizes[hand.number % HANDS], mishap),
            len(order.sizes),
            order.mishap,
        )

    def _put_all(self, hand: Hand, sizes: list[int], mishap: Mishap | None) -> None:
        for index, size in enumerate(sizes):
            if mishap is not None and index == mishap.at:
                self._suffer(hand, mishap)
            item = number_of(self.round, hand.number, index)
            hand.state = State.PUTTING
            hand.begun = index + 1
            try:
                while not self._is_accepted(item, size):
                    hand.refusals += 1
                    threading.Event().wait(0.001)
            except self.contestant.ended:
                break
            hand.put = index + 1
        hand.state = State.DONE

    def _is_accepted(self, item: int, size: int) -> bool:
        try:
            self._put(item, size)
        except MemoryError:
            checks.give_address_space_back()
            return False
        return True

    def _put(self, item: int, size: int) -> None:
        payload: bytes | memoryview = payload_of(item, size)
        if size >= BUFFER and self.contestant.is_penstock:
            # A buffer beside the pickle, as arrays have. (Rivals cannot pass it; NumPy imports slowly.)
            payload = memoryview(bytearray(payload))
        self.contestant.put(self.queue, (item, payload))

    # -------------------------------------------------------------------------------------------- taking

    def _consume(self, order: Consume) -> None:
        self.round = order.round
        self._with_hands(self._take_all, order.hands, order.mishap)

    def _take_all(self, hand: Hand, mishap: Mishap | None) -> None:
        taken = 0
        if mishap is not None and mishap.at == 0:
            self._suffer(hand, mishap)
        while True:
            hand.state = State.TAKING
            try:
                item, payload = self.contestant.take(self.queue)
            except self.contestant.ended:
                hand.state = State.PRESENT
                return
            hand.state = State.WORKING
            if payload != payload_of(item, len(payload)):
                raise ValueError(f"item {item:#x} is damaged")
            if isinstance(payload, memoryview):
                # A view is private: after a redelivery the next getter must not see this.
                payload[:] = bytes([255]) * len(payload)
            if not item & ROLL_CALL:
                taken += 1
            if mishap is not None and taken == mishap.at and not hand.has_fired:
                hand.is_armed = True
                if mishap.is_logged:
                    hand.log(item)
                    self._suffer(hand, mishap)
                else:
                    self._suffer(hand, mishap)
                    hand.log(item)
            else:
                hand.log(item)
            if self.contestant.is_joinable:
                self.queue.task_done()
            hand.is_armed = False
            if item & ROLL_CALL and round_of(item) == self.round:
                hand.state = State.PRESENT
                return

    def _suffer(self, hand: Hand, mishap: Mishap) -> None:
        hand.has_fired = True
        mishap.befall(self)

    # -------------------------------------------------------------------------------------- hands, children

    def _with_hands(
        self, work: Callable[[Hand, Mishap | None], None], count: int, mishap: Mishap | None
    ) -> None:
        others = [
            threading.Thread(target=self._guarded, args=(work, self.ledger.hand(self.number, which), None))
            for which in range(1, count)
        ]
        for thread in others:
            thread.start()
        self._guarded(work, self.ledger.hand(self.number), mishap)
        checks.give_address_space_back()
        for thread in others:
            thread.join()
        for child in self.children:
            child.join()
        self.children.clear()

    def _guarded(
        self, work: Callable[[Hand, Mishap | None], None], hand: Hand, mishap: Mishap | None
    ) -> None:
        try:
            work(hand, mishap)
        except BaseException:
            hand.state = State.BROKEN
            print(f"process {hand.pid}:", traceback.format_exc(), file=sys.stderr, flush=True)
            os._exit(1)

    def announce_child(self) -> None:
        """Announce the child's hand, on which the storm counts from now on."""
        self.ledger.hand(self.number, CHILD).clear()

    def be_child(self) -> None:
        """Put some items, and take until the roll call. Runs in a forked child."""
        hand = self.ledger.hand(self.number, CHILD)
        hand.pid = os.getpid()
        self.children = []

        def put_and_take(hand: Hand, _: Mishap | None) -> None:
            self._put_all(hand, CHILD_PUTS, None)
            self._take_all(hand, None)

        self._guarded(put_and_take, hand, None)


def main(
    name: str, queue: Any, ledger: str, control: Connection, number: int, log: str, has_own_pids: bool
) -> None:
    """Run a worker in this process."""
    descriptor = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
    os.dup2(descriptor, 2)
    os.close(descriptor)
    opened = Ledger.open(ledger)
    hand = opened.hand(number)
    hand.pid = os.getpid()
    if has_own_pids:
        child = checks.enter_pid_namespace()
        if child > 0:
            hand.pid = child
            hand.state = State.READY
            checks.wait_as_parent(child)
    stacks.can_be_asked_for()
    if not has_own_pids:
        hand.state = State.READY
    Worker(name, queue, opened, control, number).run()
