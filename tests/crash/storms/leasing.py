"""Storms on queues whose items are leased: producers that die in their blocks, workers of all kinds, a clerk.

A *round* has a `JoinableQueue` of its own. Producers put items in a block of `producing()`, some of them
delayed. Workers take them by leases, by batches of leases, by loops, by `get()` and in tasks, and settle them
by every verb. A clerk requeues and purges dead letters. Producers, workers and the clerk are killed at any
moment, and others come in their places; some are stopped for a while. In some rounds the queue is shut down
in the middle, or at once.

Each process writes down, before and after each step, what it does (`Journal`). A write to a file outlives its
process. The queue ends by itself when the last producer has gone: then every worker's loop has to end, and
the books are closed (`close`). Each item whose put has returned was finished once, is a dead letter, was
purged or was discarded. While one process had it in hand, no other one was given it.

`python -m tests.crash.storms.leasing --help` plays more rounds.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import signal
import struct
import sys
import tempfile
import threading
import time
from collections import Counter, defaultdict
from contextlib import suppress
from dataclasses import dataclass, field, fields
from enum import IntEnum
from pathlib import Path
from typing import Any

from penstock import Backoff, JoinableQueue, ShutDown
from tests.support.children import Child, ChildFailed, fork

PRODUCERS, WORKERS = 2, 3
ITEMS = 60  # that each producer puts
SIZES = [0, 10, 500, 3000, 70_000]  # bytes of a payload
WATCHDOG = 60.0  # seconds after which a round hangs
MOST_KILLS = 12  # in a round
WAYS = ("lease", "batch", "loop", "get", "threads", "tasks")


class Step(IntEnum):
    """What a process writes down of an item."""

    PUTTING = 0
    PUT = 1
    TAKEN = 2
    """`extra` is the number of deliveries, or 0 if the process cannot know it."""
    FINISHING = 3
    FINISHED = 4
    GIVING_BACK = 5
    """It fails, or is released."""
    REJECTING = 6
    PURGING = 7
    PURGED = 8
    REQUEUING = 9


_RECORD = struct.Struct("=qqhh")


@dataclass(frozen=True)
class Entry:
    """A line of a journal."""

    at: int
    item: int
    step: Step
    extra: int
    process: int


class Journal:
    """What one process writes down. Each entry is one write, so a death leaves whole entries."""

    def __init__(self, folder: Path, process: int) -> None:
        self._descriptor = os.open(
            folder / str(process), os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600
        )

    def note(self, item: int, step: Step, extra: int = 0) -> None:
        """Write an entry."""
        os.write(self._descriptor, _RECORD.pack(time.monotonic_ns(), item, step, extra))


def entries(folder: Path) -> list[Entry]:
    """The entries of all processes, in the order of time."""
    found = []
    for file in folder.iterdir():
        for at, item, step, extra in _RECORD.iter_unpack(file.read_bytes()):
            found.append(Entry(at, item, Step(step), extra, int(file.name)))
    return sorted(found, key=lambda entry: entry.at)


# ------------------------------------------------------------------------------------------------- processes


def payload_of(item: int, size: int) -> tuple[int, bytes]:
    return item, bytes([item % 251]) * size


def whole(taken: tuple[int, bytes]) -> int:
    """The number of an item that has arrived."""
    item, payload = taken
    if payload != bytes([item % 251]) * len(payload):
        raise ValueError(f"item {item} is damaged")
    return item


def produce(queue: Any, journal: Journal, seed: str, numbers: range) -> None:
    """Put items in a block of `producing()`, as far as the queue takes them."""
    rng = random.Random(seed)
    with suppress(ShutDown), queue.producing(expect=PRODUCERS):
        for number in numbers:
            delay = rng.choice([None, None, None, 0.001, 0.02])
            journal.note(number, Step.PUTTING)
            queue.put(payload_of(number, rng.choice(SIZES)), delay=delay)
            journal.note(number, Step.PUT)
            if rng.randrange(4) == 0:
                time.sleep(0.001)


def settle(lease: Any, journal: Journal, rng: random.Random) -> None:
    """Settle a lease by one of the verbs, or leave that to its block."""
    item = whole(lease.item)
    journal.note(item, Step.TAKEN, lease.deliveries)
    if rng.randrange(3) == 0:
        time.sleep(rng.random() * 0.002)
    verb = rng.choice(["ack", "ack", "ack", "block", "nack", "later", "release", "release later", "reject"])
    if verb in ("ack", "block"):
        journal.note(item, Step.FINISHING)
        lease.ack()
        journal.note(item, Step.FINISHED)
    elif verb == "reject":
        journal.note(item, Step.REJECTING)
        lease.reject("no use")
    else:
        journal.note(item, Step.GIVING_BACK)
        match verb:
            case "nack":
                lease.nack(error="it has failed")
            case "later":
                lease.nack(delay=0.005)
            case "release":
                lease.release()
            case _:
                lease.release(delay=0.005)


def work_by_lease(queue: Any, journal: Journal, rng: random.Random) -> None:
    with suppress(ShutDown):
        while True:
            with queue.lease() as lease:
                settle(lease, journal, rng)


def work_by_batch(queue: Any, journal: Journal, rng: random.Random) -> None:
    with suppress(ShutDown):
        while True:
            with queue.leases(4) as batch:
                for lease in batch:
                    settle(lease, journal, rng)
                    if rng.randrange(4) == 0:
                        break


def finish(queue: Any, journal: Journal, item: int) -> None:
    journal.note(item, Step.FINISHING)
    queue.task_done()
    journal.note(item, Step.FINISHED)


def work_by_loop(queue: Any, journal: Journal, rng: random.Random) -> None:
    """A loop finishes its item when it asks for the next one, or its body does."""
    last = None
    for taken in queue:
        if last is not None:
            journal.note(last, Step.FINISHED)
        item = whole(taken)
        journal.note(item, Step.TAKEN)
        if rng.randrange(2):
            finish(queue, journal, item)
            last = None
        else:
            journal.note(item, Step.FINISHING)
            last = item
    if last is not None:
        journal.note(last, Step.FINISHED)


def work_by_get(queue: Any, journal: Journal, rng: random.Random) -> None:
    with suppress(ShutDown):
        while True:
            item = whole(queue.get())
            journal.note(item, Step.TAKEN)
            finish(queue, journal, item)


def work_by_threads(queue: Any, journal: Journal, rng: random.Random) -> None:
    ways = [work_by_lease, work_by_loop, work_by_batch]
    threads = [
        threading.Thread(target=way, args=(queue, journal, random.Random(rng.random()))) for way in ways
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def work_by_tasks(queue: Any, journal: Journal, rng: random.Random) -> None:
    async def by_lease() -> None:
        with suppress(ShutDown):
            while True:
                async with queue.lease() as lease:
                    settle(lease, journal, rng)
                    await asyncio.sleep(0)

    async def by_loop() -> None:
        last = None
        async for taken in queue:
            if last is not None:
                journal.note(last, Step.FINISHED)
            last = whole(taken)
            journal.note(last, Step.TAKEN)
            await asyncio.sleep(0.001)
            journal.note(last, Step.FINISHING)
        if last is not None:
            journal.note(last, Step.FINISHED)

    async def both() -> None:
        await asyncio.gather(by_lease(), by_loop())

    asyncio.run(both())


def work(queue: Any, folder: Path, process: int, seed: str, way: str) -> None:
    """Take items until the queue ends."""
    act = globals()[f"work_by_{way}"]
    act(queue, Journal(folder, process), random.Random(seed))


def decide(queue: Any, folder: Path, process: int, seed: str) -> None:
    """Requeue and purge dead letters until the queue ends."""
    journal, rng = Journal(folder, process), random.Random(seed)
    while not queue.is_shutdown:
        time.sleep(rng.random() * 0.01)
        letters = queue.dead_letters()
        chosen = [letter for letter in letters if rng.randrange(2)]
        if rng.randrange(2):
            for letter in chosen:
                journal.note(whole(letter.item), Step.REQUEUING)
            with suppress(ShutDown):
                queue.requeue(chosen)
            continue
        for letter in chosen:
            item = whole(letter.item)
            journal.note(item, Step.PURGING)
            if queue.purge([letter]):
                journal.note(item, Step.PURGED)


# ----------------------------------------------------------------------------------------------------- books


@dataclass
class Books:
    """Counts of rounds. The last four are broken promises."""

    rounds: int = 0
    kills: int = 0
    stops: int = 0
    shutdowns: int = 0
    immediate: int = 0
    items: int = 0
    """Items whose put has returned."""
    deliveries: int = 0
    finished: int = 0
    letters: int = 0
    purged: int = 0
    discarded: int = 0
    redelivered: int = 0
    """Deliveries after the death of a process that had the item."""
    in_doubt: int = 0
    """Items that a process was finishing, or purging, when it was killed, and that are gone."""
    lost: int = 0
    doubled: int = 0
    shared: int = 0
    """Deliveries while another process had the item in hand."""
    wrong: list[str] = field(default_factory=list)

    def add(self, other: Books) -> None:
        """Add the figures of a round."""
        for each in fields(self):
            setattr(self, each.name, getattr(self, each.name) + getattr(other, each.name))

    def failures(self) -> list[str]:
        """The broken promises, one line each."""
        counts = {"lost": self.lost, "doubled": self.doubled, "shared": self.shared}
        return [f"{count} {what}" for what, count in counts.items() if count] + self.wrong


def close(books: Books, found: list[Entry], dead: dict[int, int], letters: set[int], most: int) -> None:
    """Close the books of a round. `dead` has the times of deaths by process; `most` is `max_deliveries`."""
    by_item: dict[int, list[Entry]] = defaultdict(list)
    for entry in found:
        by_item[entry.item].append(entry)
    gone: Counter[str] = Counter()
    unexplained = 0
    for item, steps in by_item.items():
        done = [step.step for step in steps]
        is_put = Step.PUT in done
        finished, purged = done.count(Step.FINISHED), done.count(Step.PURGED)
        books.items += is_put
        books.finished += min(finished, 1)
        books.purged += purged
        if finished + purged + (item in letters) > 1:
            books.doubled += 1
            books.wrong.append(f"item {item}: {steps}, a letter: {item in letters}")
        elif finished + purged + (item in letters) == 0 and is_put:
            may_be_gone = any(
                step.step in (Step.FINISHING, Step.PURGING) and step.process in dead for step in steps
            )
            gone["in doubt" if may_be_gone else "missing"] += 1
            if not may_be_gone:
                unexplained += 1
        _follow(books, item, steps, dead, most)
    books.letters += len(letters)
    books.in_doubt += gone["in doubt"]
    # What is missing was discarded; so may be what is in doubt.
    books.lost += max(0, unexplained - books.discarded)


def _follow(books: Books, item: int, steps: list[Entry], dead: dict[int, int], most: int) -> None:
    """Follow an item from hand to hand."""
    holder: Entry | None = None
    for step in steps:
        if step.step is Step.TAKEN:
            books.deliveries += 1
            if holder is not None:
                if dead.get(holder.process, step.at + 1) > step.at:
                    books.shared += 1
                    books.wrong.append(f"item {item} was shared: {holder} {step}")
                books.redelivered += 1
            if step.extra > most + 1:
                books.wrong.append(f"item {item} was delivered {step.extra} times")
            holder = step
        elif step.step in (Step.FINISHING, Step.GIVING_BACK, Step.REJECTING):
            # From here on another process may have it.
            holder = None


# ---------------------------------------------------------------------------------------------------- rounds


@dataclass
class _Member:
    child: Child
    number: int
    is_producer: bool = False


class Round:
    """A round, which `play` plays once."""

    def __init__(self, seed: str) -> None:
        self.rng = random.Random(seed)
        self.seed = seed
        self.most = self.rng.choice([0, 1, 3, 10])
        retry = self.rng.choice([0.0, 0.002, Backoff(0.001, 2.0, 0.01, 0.5)])
        self.queue: Any = JoinableQueue(
            self.rng.choice([0, 0, 5]), max_deliveries=self.most, retry_delay=retry
        )
        self.books = Books(rounds=1)
        self.dead: dict[int, int] = {}
        self.members: list[_Member] = []
        self.started = 0
        self.next_item = 0
        self.ends_at = time.monotonic() + WATCHDOG

    def play(self) -> Books:
        """Play the round."""
        with tempfile.TemporaryDirectory(prefix="penstock-leasing-") as name:
            self.folder = Path(name)
            try:
                # Until the last producer has begun, which may be killed before.
                with self.queue.producing():
                    self._start_all()
                    self._strike()
                self._end()
            except ChildFailed as failed:
                self.books.wrong.append(f"a process has failed: {failed}")
            except TimeoutError as error:
                self.books.wrong.append(f"hung: {error}: {self.queue.statistics()}")
            finally:
                for member in self.members:
                    with member.child:
                        member.child.kill()
            if not self.books.wrong:
                self._close()
        self.queue.close()
        return self.books

    def _start(self, kind: str) -> None:
        self.started += 1
        number, seed = self.started, f"{self.seed} {self.started}"
        if kind == "producer":
            numbers = range(self.next_item, self.next_item + ITEMS)
            self.next_item += ITEMS

            def act() -> None:
                produce(self.queue, Journal(self.folder, number), seed, numbers)
        elif kind == "clerk":

            def act() -> None:
                decide(self.queue, self.folder, number, seed)
        else:
            way = self.rng.choice(WAYS)

            def act() -> None:
                work(self.queue, self.folder, number, seed, way)

        self.members.append(_Member(fork(act), number, kind == "producer"))

    def _start_all(self) -> None:
        for kind in ["producer"] * PRODUCERS + ["worker"] * WORKERS + ["clerk"]:
            self._start(kind)

    def _strike(self) -> None:
        """Kill some, and start others in their places; stop some; perhaps shut the queue down."""
        for _ in range(self.rng.randrange(MOST_KILLS)):
            time.sleep(self.rng.random() * 0.02)
            victim = self.rng.choice(self.members)
            if victim.child.has_ended():
                continue
            if self.rng.randrange(4) == 0:
                victim.child.kill(signal.SIGSTOP)
                time.sleep(self.rng.random() * 0.05)
                victim.child.kill(signal.SIGCONT)
                self.books.stops += 1
                continue
            self._kill(victim)
            self._start("producer" if victim.is_producer else self.rng.choice(["worker", "worker", "clerk"]))
        match self.rng.randrange(6):
            case 0:
                self.queue.shutdown()
                self.books.shutdowns += 1
            case 1:
                self.queue.shutdown(immediate=True)
                self.books.immediate += 1

    def _kill(self, victim: _Member) -> None:
        # Before the kill, after which its items may be in other hands at once.
        self.dead[victim.number] = time.monotonic_ns()
        victim.child.kill()
        if victim.child.wait() == -signal.SIGKILL:
            self.books.kills += 1
        else:
            del self.dead[victim.number]
        victim.child.close()
        self.members.remove(victim)

    def _end(self) -> None:
        """Wait until all have ended by themselves; the last worker may be killed, and another one comes."""
        while any(member.is_producer for member in self.members):
            self._reap()
        if self.rng.randrange(3) == 0 and self.members:
            self._kill(self.rng.choice(self.members))
        # At least one worker that begins when the queue may have ended already.
        self._start("worker")
        while self.members:
            self._reap()
        if not self.queue.is_shutdown:
            raise TimeoutError("the last producer has gone, and the queue has not ended")
        self.queue.join()

    def _reap(self) -> None:
        for member in list(self.members):
            if member.child.has_ended():
                self.members.remove(member)
                member.child.result()
                member.child.close()
        if time.monotonic() > self.ends_at:
            raise TimeoutError(f"{len(self.members)} processes have not ended")
        time.sleep(0.001)

    def _close(self) -> None:
        books, found = self.books, self.queue.statistics()
        books.discarded = found.discarded
        letters = Counter(whole(letter.item) for letter in self.queue.dead_letters())
        if any(count > 1 for count in letters.values()):
            books.wrong.append("an item is a dead letter twice")
        close(books, entries(self.folder), self.dead, set(letters), self.most)
        left = found.queued, found.delayed, found.unfinished, found.taken
        if any(left):
            books.wrong.append(f"something is left: {found}")
        if found.puts != found.gets + found.dead_letters + found.discarded:
            books.wrong.append(f"the statistics' books do not balance: {found}")
        if not books.items <= found.puts:
            books.wrong.append(f"{books.items} puts have returned: {found}")
        if findings := self.queue.check():
            books.wrong.append(f"not sound: {findings}")
        if books.failures():
            books.wrong.append(f"seed {self.seed!r}")


def play(seed: int, number: int) -> Books:
    """Play the round of that number. The seed decides everything but the timing."""
    return Round(f"{seed} {number}").play()


def main() -> int:
    """Play rounds for some time, and print their figures."""
    parser = argparse.ArgumentParser(prog="python -m tests.crash.storms.leasing")
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--seed", type=int)
    parser.add_argument("--round", type=int, help="one round alone, as a failure names it")
    chosen = parser.parse_args()
    seed = chosen.seed if chosen.seed is not None else int.from_bytes(os.urandom(4), "big")
    print(f"seed {seed}", flush=True)
    if chosen.round is not None:
        total = play(seed, chosen.round)
    else:
        total, end = Books(), time.monotonic() + 60 * chosen.minutes
        while time.monotonic() < end and not total.failures():
            total.add(play(seed, total.rounds))
    for each in fields(total):
        if each.name != "wrong":
            print(f"{each.name.replace('_', ' '):<12} {getattr(total, each.name):,}")
    for failure in total.failures():
        print(f"FAILED: {failure}")
    return 1 if total.failures() else 0


if __name__ == "__main__":
    sys.exit(main())
