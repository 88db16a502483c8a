"""Producers and consumers are killed at random, hundreds of times; then every item is accounted for."""

import mmap
import os
import random
import signal
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from penstock import JoinableQueue, Queue, SimpleQueue
from tests.support.children import Child, fork
from tests.support.waiting import until

ROUNDS = 500
WORKERS = 3  # producers, and as many consumers
LOGGED = 10_000_000  # items that one consumer, with its successors, can write down; sparse memory
# Small ones in the slot and beside it, and one that is copied outside the lock.
SIZES = [0, 10, 50, 300, 1500, 100_000]


class Ledger:
    """What the workers have done, in memory that outlives them. A word has one writer at a time."""

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, 8 * (2 * (ROUNDS + WORKERS) + 1 + WORKERS * (1 + LOGGED)))
        self._words = memoryview(self._memory).cast("Q")
        used = 0

        def region(size: int) -> memoryview:
            nonlocal used
            used += size
            return self._words[used - size : used]

        self.begun = region(ROUNDS + WORKERS)
        """For each producer, how many puts it has begun."""
        self.put = region(ROUNDS + WORKERS)
        """For each producer, how many puts have returned."""
        self.is_over = region(1)
        self._counts = region(WORKERS)
        self._logs = [region(LOGGED) for _ in range(WORKERS)]

    def log(self, consumer: int, producer: int, number: int) -> None:
        """Note that this consumer has this item."""
        count = self._counts[consumer]
        self._logs[consumer][count] = producer << 32 | number
        self._counts[consumer] = count + 1

    def logged(self) -> int:
        """How many items the consumers have noted."""
        return sum(self._counts)

    def logs(self) -> list[list[tuple[int, int]]]:
        """For each consumer the producers and numbers of its items, in its order."""
        return [
            [(word >> 32, word & 0xFFFFFFFF) for word in log[:count]]
            for log, count in zip(self._logs, self._counts, strict=True)
        ]


def payload_of(producer: int, number: int) -> bytes:
    # One in six is of each size, and the bytes say whose it is.
    return bytes([(producer * 7 + number) % 256]) * SIZES[(producer + number) % len(SIZES)]


def produce(queue: Any, ledger: Ledger, producer: int) -> None:
    number = 0
    while not ledger.is_over[0]:
        ledger.begun[producer] = number + 1
        queue.put((producer, number, payload_of(producer, number)))
        number += 1
        ledger.put[producer] = number


def consume(queue: Any, ledger: Ledger, consumer: int) -> None:
    while (item := queue.get()) is not None:
        producer, number, payload = item
        assert payload == payload_of(producer, number), f"item {number} of {producer} is damaged"
        ledger.log(consumer, producer, number)
        if isinstance(queue, JoinableQueue):
            queue.task_done()
    if isinstance(queue, JoinableQueue):
        queue.task_done()


class Storm:
    """The workers, and who has been killed."""

    def __init__(self, queue: Any, seed: int) -> None:
        self.queue = queue
        self.random = random.Random(seed)
        self.ledger = Ledger()
        self.producers_begun = 0
        self.killed_producers: list[int] = []
        self.killed_consumers = 0
        self.workers: list[Child] = []
        self.numbers: list[int] = []
        for place in range(2 * WORKERS):
            self.workers.append(None)  # type: ignore[arg-type]
            self.numbers.append(0)
            self.start(place)

    def start(self, place: int) -> None:
        """Start a worker: producers in the first places, consumers in the others."""
        if place < WORKERS:
            number = self.producers_begun
            self.producers_begun += 1
            self.workers[place] = fork(produce, self.queue, self.ledger, number)
        else:
            number = place - WORKERS
            self.workers[place] = fork(consume, self.queue, self.ledger, number)
        self.numbers[place] = number

    def rage(self) -> None:
        """Kill and replace one worker a round, each time after the consumers have got on by some items."""
        for _ in range(ROUNDS):
            self.wait_for_items(self.random.randrange(20))
            if ended := self.find_ended():
                pytest.fail(f"a worker has ended by itself: {ended.result()}")
            place = self.random.randrange(2 * WORKERS)
            worker = self.workers[place]
            if self.random.random() < 0.1:
                worker.kill(signal.SIGSTOP)
                until(worker.is_stopped)
                if self.random.random() < 0.5:
                    worker.kill(signal.SIGCONT)
            worker.kill()
            assert worker.wait() == -signal.SIGKILL
            worker.close()
            if place < WORKERS:
                self.killed_producers.append(self.numbers[place])
            else:
                self.killed_consumers += 1
            self.start(place)

    def wait_for_items(self, count: int) -> None:
        """Wait until the consumers have so many more, or a worker has ended."""
        goal = self.ledger.logged() + count
        until(lambda: self.ledger.logged() >= goal or self.find_ended() is not None)

    def find_ended(self) -> Child | None:
        """A worker that has ended without being killed."""
        return next((worker for worker in self.workers if worker.has_ended()), None)

    def calm_down(self) -> None:
        """Let the producers come to an end, and then the consumers, when they have taken everything."""
        self.ledger.is_over[0] = 1
        for worker in self.workers[:WORKERS]:
            worker.result()
        # Which looks for the dead: what they held is in the queue again before the last items come.
        self.queue.statistics()
        for _ in range(WORKERS):
            self.queue.put(None)
        for worker in self.workers[WORKERS:]:
            worker.result()

    def end(self) -> None:
        """Leave no process behind, however it went."""
        for worker in self.workers:
            with worker:
                pass


def disorder(log: list[tuple[int, int]]) -> int:
    """How many items came after a later one of the same producer."""
    last: dict[int, int] = {}
    count = 0
    for producer, number in log:
        count += number < last.get(producer, -1)
        last[producer] = max(number, last.get(producer, -1))
    return count


@pytest.mark.limit(120)
@pytest.mark.parametrize(
    "new_queue",
    [
        lambda: Queue(maxsize=50),
        lambda: SimpleQueue(),
        lambda: JoinableQueue(maxsize=50, max_deliveries=255),
    ],
    ids=["Queue", "SimpleQueue", "JoinableQueue"],
)
def test_storm(new_queue: Callable[[], Any]) -> None:
    seed = int.from_bytes(os.urandom(4), "big")
    print(f"seed {seed}")
    queue = new_queue()
    is_joinable = isinstance(queue, JoinableQueue)
    storm = Storm(queue, seed)
    try:
        storm.rage()
        storm.calm_down()
    finally:
        storm.end()
    if is_joinable:
        queue.join()

    ledger = storm.ledger
    found = queue.statistics()
    logs = ledger.logs()
    received = Counter(item for log in logs for item in log)
    returned = {
        (producer, number)
        for producer in range(storm.producers_begun)
        for number in range(ledger.put[producer])
    }
    # A put that was cut off may have put its item, but no other.
    cut_off = {
        (producer, ledger.put[producer])
        for producer in storm.killed_producers
        if ledger.begun[producer] > ledger.put[producer]
    }
    lost = returned - set(received)
    print(f"{found}; killed {len(storm.killed_producers)} producers and {storm.killed_consumers} consumers")

    assert set(received) - returned <= cut_off
    assert found.puts == found.gets
    assert (found.queued, found.unfinished, found.dead_letters) == (0, 0, 0)
    assert found.participants == 1
    assert len(returned) + WORKERS <= found.puts <= len(returned) + WORKERS + len(cut_off)
    if is_joinable:
        assert lost == set()
        # An item comes again if its worker died after writing it down.
        assert received.total() - len(received) <= found.redeliveries
        assert received.total() - len(received) <= storm.killed_consumers
    else:
        assert received.total() == len(received), "an item came twice"
        # Each killed consumer had at most one in its hands, and so had nobody else.
        in_dead_hands = found.gets - WORKERS - len(received)
        assert len(lost) <= in_dead_hands <= storm.killed_consumers
        # A producer's items come in its order, but for those that came back from the dead.
        assert sum(disorder(log) for log in logs) <= found.redeliveries

    queue.put("still whole")
    with fork(queue.get) as child:
        assert child.result() == "still whole"
