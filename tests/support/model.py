"""A model of a queue, in plain Python that is too simple to be wrong."""

import queue
from bisect import insort
from dataclasses import dataclass, field
from typing import Any

from penstock import ShutDown


@dataclass(order=True)
class Item:
    """An item. Its number is its place in the order of putting."""

    number: int
    value: Any = field(compare=False)
    """What a get returns: an object, or the type of an exception."""
    is_done: bool = field(default=False, compare=False)
    """Whether `task_done` has finished it while it is queued."""
    redeliveries: int = field(default=0, compare=False)


@dataclass
class Lease:
    """An item that a process has taken and not finished."""

    item: Item
    thread: int
    is_aside: bool = False
    """Whether it is set aside: its thread has asked for another item, and nothing was acknowledged yet."""
    is_in_loop: bool = False
    """Whether it is the item of a loop of its thread, which `task_done` finishes last."""
    is_by_name: bool = False
    """Whether it was taken by name."""

    @property
    def has_name(self) -> bool:
        """Whether it can come back before its process ends."""
        return self.is_by_name or self.is_in_loop


class Model:
    """A queue, for processes and threads that have numbers."""

    def __init__(self, *, maxsize: int, is_joinable: bool, max_deliveries: int) -> None:
        self.maxsize = maxsize
        self.is_joinable = is_joinable
        self.max_deliveries = max_deliveries
        self.ready: list[Item] = []
        self.leases: dict[int, list[Lease]] = {}
        """The leases of each process, in the order of taking."""
        self.is_acknowledged = not is_joinable
        """Whether any process has called `task_done` or `join`."""
        self.aside: list[Item] = []
        """The items that dead processes had set aside."""
        self.orphans = 0
        self.delayed: list[Item] = []
        """Items whose time does not come as long as a test lasts."""
        self.is_shutdown = False
        self.is_closed = False
        """Whether it was shut down at once."""
        self.discarded = 0
        self.blocks: dict[int, int] = {}
        """The producers that have begun, and in how many blocks each of them is."""
        self.begun = 0
        """How many have begun; a process that has left the queue, and comes back, is another one."""
        self.expected = 0
        self.loops: dict[tuple[int, int], Lease] = {}
        """What the loop of each process and thread has in hand, or had."""
        self.dead_letters: list[Item] = []
        self.named: dict[int, list[Lease | None]] = {}
        """What each process has taken by name and not settled; None for an item that was done before."""
        self.puts = 0
        self.redeliveries = 0
        self.high_water = 0

    @property
    def is_full(self) -> bool:
        return 0 < self.maxsize <= len(self.ready)

    @property
    def unfinished(self) -> int:
        if not self.is_joinable:
            return 0
        queued = sum(not item.is_done for item in self.ready)
        return queued + self.taken + self.orphans + len(self.delayed)

    @property
    def taken(self) -> int:
        return sum(map(len, self.leases.values())) + len(self.aside)

    def put(self, value: Any) -> Any:
        if self.is_shutdown:
            return ShutDown
        if self.is_full:
            return queue.Full
        self.puts += 1
        self.ready.append(Item(self.puts, value))
        self.high_water = max(self.high_water, len(self.ready))
        return None

    def put_later(self, value: Any, is_due: bool) -> Any:
        """Put an item with a delay, which is over by now or never. It takes no place."""
        if self.is_shutdown:
            return ShutDown
        self.puts += 1
        item = Item(self.puts, value)
        if is_due:
            self.put_back(item)
        else:
            self.delayed.append(item)
        return None

    def ask(self, process: int, thread: int) -> None:
        """The thread asks for items: those that it took before are set aside."""
        if not self.is_acknowledged:
            for lease in self.leases.get(process, []):
                lease.is_aside |= lease.thread == thread

    def acknowledge(self) -> None:
        """A process calls `task_done` or `join`: items set aside are leased, or redelivered if it died."""
        self.is_acknowledged = True
        for leases in self.leases.values():
            for lease in leases:
                lease.is_aside = False
        for item in self.aside:
            self.come_back(item)
        self.aside = []

    def shut_down(self, immediate: bool) -> None:
        self.is_shutdown = True
        if immediate:
            self.is_closed = True
            self.discarded += len(self.ready) + len(self.delayed)
            self.ready.clear()
            self.delayed.clear()

    @property
    def producers(self) -> int:
        return sum(blocks > 0 for blocks in self.blocks.values())

    def produce(self, process: int, expect: int) -> Any:
        if self.is_shutdown:
            return ShutDown
        self.expected = max(self.expected, expect)
        if process not in self.blocks:
            self.begun += 1
        self.blocks[process] = self.blocks.get(process, 0) + 1
        return None

    def end_producing(self, process: int) -> None:
        self.blocks[process] -= 1
        self.end_if_unproduced()

    def end_if_unproduced(self) -> None:
        if self.begun >= max(self.expected, 1) and not self.producers:
            self.is_shutdown = True

    def is_held(self, process: int, lease: Lease) -> bool:
        return any(held is lease for held in self.leases.get(process, []))

    def next_waits(self, process: int, thread: int) -> bool:
        """Whether the next item of a loop would be waited for."""
        if self.ready or self.aside:
            return not self.ready  # what was set aside may become dead letters
        if not self.is_shutdown or self.is_closed:
            return not self.is_shutdown
        # It finishes its item first.
        its_own = self.loops.get((process, thread))
        held = [
            (holder, lease)
            for holder, leases in self.leases.items()
            for lease in leases
            if lease is not its_own
        ]
        has_own = any((holder, lease.thread) == (process, thread) for holder, lease in held)
        may_return = any(holder != process or lease.has_name for holder, lease in held)
        return bool(self.delayed) or (may_return and not has_own)

    def next(self, process: int, thread: int) -> Any:
        """The next item of a loop, which does not wait."""
        lease = self.loops.pop((process, thread), None)
        if self.is_joinable:
            self.acknowledge()
        if lease is not None and self.is_held(process, lease):
            self.leases[process] = [held for held in self.leases[process] if held is not lease]
        if not self.ready:
            return StopIteration
        before = len(self.leases.get(process, []))
        value = self.get(process, thread)
        leases = self.leases.get(process, [])
        if len(leases) > before:
            leases[-1].is_in_loop = True
            self.loops[process, thread] = leases[-1]
        return value

    def leave_loop(self, process: int, thread: int) -> None:
        lease = self.loops.pop((process, thread), None)
        if lease is not None:
            lease.is_in_loop = False

    def has_in_hand(self, process: int) -> bool:
        """Whether the process has an item that comes back if it dies."""
        return any(not lease.is_aside for lease in self.leases.get(process, []))

    def no_item(self, process: int, waits: bool, thread: int | None = None) -> Any:
        """What a get raises that finds no item; `Empty` if it waits, and finds none in time.

        A lease waits for other threads of its process, and not for its own `thread`; nor for what its process
        took without a name.
        """
        if not self.is_shutdown or self.delayed:
            return queue.Empty
        may_return = not self.is_closed and any(
            (holder != process or lease.has_name) and not lease.is_aside
            for holder, leases in self.leases.items()
            for lease in leases
        )
        has_own = self.has_in_hand(process)
        if thread is not None:
            has_own = any(lease.thread == thread for lease in self.leases.get(process, []))
        return queue.Empty if waits and may_return and not has_own else ShutDown

    def get(self, process: int, thread: int, waits: bool = False) -> Any:
        self.ask(process, thread)
        return self.take(process, thread) if self.ready else self.no_item(process, waits)

    def get_many(self, process: int, thread: int, most: int) -> list[Any]:
        self.ask(process, thread)
        return [self.take(process, thread) for _ in range(min(most, len(self.ready)))]

    def take(self, process: int, thread: int) -> Any:
        item = self.ready.pop(0)
        if self.is_joinable and not item.is_done:
            self.leases.setdefault(process, []).append(Lease(item, thread))
        return item.value

    def hold(self, process: int, thread: int, waits: bool) -> Any:
        """Take an item by name. One that cannot be rebuilt fails."""
        self.acknowledge()
        if not self.ready:
            return self.no_item(process, waits, thread)
        item = self.ready[0]
        was_done = item.is_done
        self.take(process, thread)
        lease = None if was_done else self.leases[process][-1]
        if isinstance(item.value, type):
            if lease is not None:
                del self.leases[process][-1]
                self.come_back(item)
            return item.value
        self.named.setdefault(process, []).append(lease)
        if lease is not None:
            lease.is_by_name = True
        return item.value, item.number, item.redeliveries + 1

    def settle(self, process: int, place: int, verb: str, is_later: bool = False) -> Any:
        """Settle one of the items that the process has taken by name; `is_later` gives it back for good."""
        lease = self.named[process].pop(place)
        mine = self.leases.get(process, [])
        at = next((at for at, other in enumerate(mine) if other is lease), None)
        if at is None:
            return ValueError
        item = mine.pop(at).item
        if verb == "nack":
            self.come_back(item, is_later)
        elif verb == "reject":
            self.dead_letters.append(item)
        elif verb == "release" and self.is_closed:
            self.discarded += 1
        elif verb == "release" and is_later:
            self.delayed.append(item)
        elif verb == "release":
            self.put_back(item)
        return None

    def decide(self, verb: str, count: int | None) -> Any:
        """Requeue or purge the first dead letters, or all of them."""
        if verb == "requeue" and self.is_shutdown:
            return ShutDown
        chosen = self.dead_letters[:count]
        del self.dead_letters[:count]
        for letter in chosen if verb == "requeue" else []:
            letter.redeliveries = 0
            letter.is_done = False
            self.put_back(letter)
        return len(chosen)

    def task_done(self, process: int, thread: int) -> Any:
        self.acknowledge()
        if self.unfinished == len(self.delayed):
            return ValueError
        mine = self.leases.get(process, [])
        of_the_thread = [lease for lease in mine if lease.thread == thread]
        of_the_thread.sort(key=lambda lease: lease.is_in_loop)
        others = [leases for leases in self.leases.values() if leases]
        if mine:
            done = (of_the_thread or mine)[0]
            self.leases[process] = [lease for lease in mine if lease is not done]
        elif others:
            assert len(others) == 1, "whose item is done is not promised"
            del others[0][0]
        elif self.orphans:
            self.orphans -= 1
        else:
            next(item for item in self.ready if not item.is_done).is_done = True
        return None

    def whose_is_clear(self, process: int) -> bool:
        """Whether the queue promises which item `task_done` finishes."""
        others = [leases for leases in self.leases.values() if leases]
        return bool(self.leases.get(process)) or len(others) <= 1

    def leave(self, process: int, ends: bool) -> None:
        """The process leaves in order, and ends, or drops all that it has of the queue.

        What was taken by name comes back: nothing can settle it any more. At the end also what a loop has in
        hand.
        """
        self.stop_producing(process)
        self.named.pop(process, None)
        for lease in self.leases.pop(process, []):
            if lease.is_by_name or (ends and lease.is_in_loop):
                self.come_back(lease.item)
            else:
                self.orphans += 1

    def stop_producing(self, process: int) -> None:
        """It is no participant any more."""
        self.blocks.pop(process, None)
        self.end_if_unproduced()

    def die(self, process: int) -> None:
        """The process dies, and is swept."""
        self.named.pop(process, None)
        for lease in self.leases.pop(process, []):
            if lease.is_aside:
                self.aside.append(lease.item)
            else:
                self.come_back(lease.item)
        self.stop_producing(process)

    def come_back(self, item: Item, is_later: bool = False) -> None:
        """Redeliver the item to its old place, now or later, or make it a dead letter; or discard it."""
        if self.is_closed:
            self.discarded += 1
            return
        if item.redeliveries >= self.max_deliveries:
            self.dead_letters.append(item)
            return
        item.redeliveries += 1
        self.redeliveries += 1
        if is_later:
            self.delayed.append(item)
        else:
            self.put_back(item)

    def put_back(self, item: Item) -> None:
        """The item is in its old place again."""
        insort(self.ready, item)
        self.high_water = max(self.high_water, len(self.ready))
