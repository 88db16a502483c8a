"""What survivors find after a death, and that the queue goes on."""

from dataclasses import dataclass
from typing import Any

from penstock import JoinableQueue

from .children import fork
from .waiting import until

LARGE = 130_000  # bytes: copied outside the lock

Item = tuple[str, bytes | memoryview]


def item(name: str, size: int = 0) -> Item:
    return name, name.encode() * size


def name_of(got: Item) -> str:
    name, payload = got
    assert payload == name.encode() * len(payload), f"item {name} is damaged"
    return name


def get_name(queue: Any) -> str:
    return name_of(queue.get())


@dataclass(frozen=True)
class Left:
    """What survivors find: the queue's items in order, and the figures of `statistics()`."""

    items: str
    redeliveries: int = 0
    orphans: int = 0
    """Items that stay unfinished because their holder left in order."""
    finished: int = 0
    """Queued items that are finished already."""
    aside: int = 0
    """Of the items, those that were set aside, and redelivered at the first acknowledgement."""
    given_up: int = 0
    """Items set aside whose payload was freed for others."""


def take(queue: Any, count: int, unfinished: int) -> str:
    """Take `count` items, finish `unfinished`, and put one, in a survivor. Returns the items' names."""
    got = "".join(name_of(queue.get()) for _ in range(count))
    for _ in range(unfinished):
        queue.task_done()
    queue.put(item("Z"))
    return got


def acknowledge(queue: Any) -> None:
    """Begin the acknowledged phase by a `join()` in a process that is killed. It finishes no item."""
    with fork(queue.join) as joiner:
        until(lambda: joiner.has_ended() or queue.statistics().waiting_joiners == 1)
        joiner.kill()
        joiner.wait()


def leftovers(queue: Any, size: int = 0) -> Left:
    """Take everything from the queue and use it, in this process and in another. Returns what was found.

    Fails if the figures do not balance, if a dead process is still a participant or a waiter, or if memory is
    lost: as many items of `size` bytes have to fit as there were.
    """
    is_joinable = isinstance(queue, JoinableQueue)
    found = queue.statistics()
    assert found.puts == found.gets + found.queued + found.dead_letters + found.discarded
    assert found.dead_letters == 0
    assert found.participants == 1, "the dead have not been removed"
    assert (found.waiting_getters, found.waiting_putters, found.waiting_joiners) == (0, 0, 0)
    assert queue.empty() == (found.queued == 0)
    queued_before = found.queued
    if is_joinable:
        acknowledge(queue)
        found = queue.statistics()
        assert found.dead_letters == 0
        assert found.puts == found.gets + found.queued
    surplus = found.unfinished - found.queued if is_joinable else 0

    with fork(take, queue, found.queued, found.unfinished) as survivor:
        items = survivor.result()
    assert get_name(queue) == "Z"
    if is_joinable:
        queue.task_done()
        queue.join()
    end = queue.statistics()
    assert (end.queued, end.unfinished, end.dead_letters) == (0, 0, 0)
    assert end.puts == end.gets

    if size >= LARGE:
        for name in items or "A":
            queue.put(item(name, size), block=False)
        for name in items or "A":
            assert get_name(queue) == name
            if is_joinable:
                queue.task_done()
    return Left(
        items,
        found.redeliveries,
        orphans=max(0, surplus),
        finished=max(0, -surplus),
        aside=found.queued - queued_before,
        given_up=found.given_up,
    )
