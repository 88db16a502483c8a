"""Limits of memory raise exceptions, and the queue goes on. A drained queue returns its memory."""

import asyncio
import contextlib
import itertools
import mmap
import os
import queue as standard
import resource
import select
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from penstock import JoinableQueue, Pipe, Queue, SimpleQueue
from penstock.errors import PenstockError, QueueMemoryError
from tests.support import processes
from tests.support.children import fork
from tests.support.waiting import until

pytestmark = pytest.mark.slow

MIB = 1 << 20
every_kind = pytest.mark.parametrize("kind", [Queue, SimpleQueue, JoinableQueue])


def drain(queue: Any) -> int:
    """Take all items. Returns their number."""
    count = 0
    while not queue.empty():
        queue.get()
        if isinstance(queue, JoinableQueue):
            queue.task_done()
        count += 1
    return count


def fill(queue: Any, size: int) -> int:
    """Put items until one is refused memory. Returns the number of the others."""
    count = 0
    try:
        while True:
            queue.put(bytes(size))
            count += 1
    except QueueMemoryError:
        return count


# ------------------------------------------------------------------------------------------- max_bytes


@pytest.mark.parametrize("kind", [Queue, JoinableQueue])
@pytest.mark.parametrize("size", [10, 1000, 100_000])
def test_limit_is_reached_again_and_again(kind: Callable[..., Any], size: int) -> None:
    queue = kind(max_bytes=4 * MIB)
    counts = []
    for _ in range(3):
        counts.append(fill(queue, size))
        assert queue.qsize() == counts[-1]
        # The items are whole, and a get makes room for one put.
        assert queue.get() == bytes(size)
        if kind is JoinableQueue:
            queue.task_done()
        queue.put(bytes(size))
        assert drain(queue) == counts[-1]
    assert counts[0] == counts[1] == counts[2]
    assert size * counts[0] <= 4 * MIB
    # Beside its bytes an item costs at most its slot, and 40 % by rounding.
    assert counts[0] * (size * 1.4 + 256) >= 4 * MIB


def test_error_says_what_is_the_matter() -> None:
    queue = Queue[bytes](max_bytes=MIB)
    queue.put(bytes(600_000))
    with pytest.raises(QueueMemoryError) as raised:
        queue.put(bytes(600_000), timeout=3600)  # no get could help, so it does not wait
    error = raised.value
    assert isinstance(error, standard.Full)
    assert isinstance(error, MemoryError)
    assert isinstance(error, PenstockError)
    assert error.limit == MIB
    assert error.needed > 600_000
    assert error.used is not None
    assert error.used > 600_000
    assert error.used + error.needed > error.limit
    assert "max_bytes" in str(error)


def test_limit_is_reached_by_a_batch() -> None:
    queue = Queue[bytes](max_bytes=1 << 20)
    with pytest.raises(QueueMemoryError) as raised:
        queue.put_many(bytes(1000) for _ in itertools.count())
    count = raised.value.items_put  # type: ignore[attr-defined]
    assert count > 500
    received: list[bytes] = []
    while not queue.empty():
        received += queue.get_many()
    assert received == [bytes(1000)] * count


def test_limit_is_of_all_processes_together() -> None:
    queue = Queue[bytes](max_bytes=4 * MIB)
    children = [fork(fill, queue, 100_000) for _ in range(4)]
    counts = [child.result() for child in children]
    for child in children:
        child.close()
    assert fill(queue, 100_000) == 0
    assert drain(queue) == sum(counts)
    with fork(fill, queue, 100_000) as child:
        assert child.result() == sum(counts)


def test_memory_of_a_dead_producer_counts_no_more() -> None:
    queue = Queue[bytes](max_bytes=4 * MIB)
    for _ in range(20):
        # A producer dies at any moment of a put, with memory claimed or not.
        with fork(fill_for_ever, queue) as child:
            while queue.empty() and not child.has_ended():
                pass
            child.kill()
            child.wait()
        drain(queue)
    assert fill(queue, MIB - 1000) >= 3


def fill_for_ever(queue: Any) -> None:
    while True:
        try:
            queue.put(bytes(MIB // 2))
        except QueueMemoryError:
            drain(queue)


# ---------------------------------------------------------------------------------- the process's limits


def test_small_address_space() -> None:
    def use() -> tuple[int, int]:
        # Not from zero: modules that other tests have imported need memory as well.
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + 300 * MIB, used + 300 * MIB))
        queue = Queue[bytes]()
        filled = fill(queue, MIB)
        drained = drain(queue)
        queue.put(b"still works")
        assert queue.get() == b"still works"
        return filled, drained

    with fork(use) as child:
        filled, drained = child.result()
    assert filled == drained
    assert filled > 10


def test_small_files() -> None:
    def use() -> Any:
        resource.setrlimit(resource.RLIMIT_FSIZE, (4 * MIB, 4 * MIB))
        queue = Queue[Any]()
        queue.put([1])
        sender, receiver = Pipe()
        sender.send([2])
        return queue.get() + receiver.recv()

    with fork(use) as child:
        assert child.result() == [1, 2]


class Box:
    """An object that needs pickle."""

    def __init__(self, number: int) -> None:
        self.number = number


ITEMS: dict[str, list[Any]] = {
    "small": list(range(1000, 6000)),
    "nested": [(number, str(number), [float(number), {"key": number}]) for number in range(2000)],
    "pickled": [Box(number) for number in range(2000)],
    "large": [bytes([number % 256]) * 5000 for number in range(300)],
    "mapped": [bytearray(300_000 + number) for number in range(20)],
}


def exhaust() -> Callable[[], None]:
    """Use up this process's memory but for some hundred bytes. The returned function gives it back."""
    hard = resource.getrlimit(resource.RLIMIT_AS)[1]
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    blocks: list[Any] = [None] * 100_000
    resource.setrlimit(resource.RLIMIT_AS, (used + 3 * MIB, hard))
    count = 0
    for size in (50_000, 5000, 600):
        with contextlib.suppress(MemoryError):
            while True:
                blocks[count] = bytes(size)
                count += 1

    def give_back() -> None:
        blocks.clear()
        resource.setrlimit(resource.RLIMIT_AS, (hard, hard))

    return give_back


def as_numbers(items: list[Any]) -> list[Any]:
    return [item.number if isinstance(item, Box) else item for item in items]


@every_kind
@pytest.mark.parametrize("items", ITEMS)
@pytest.mark.parametrize("call", ["get", "get_many"])
def test_nothing_is_lost_without_memory(kind: Callable[[], Any], items: str, call: str) -> None:
    def take() -> bool:
        queue, received = kind(), []
        put = ITEMS[items][:2] if kind is SimpleQueue and items == "mapped" else ITEMS[items]
        put = put[:100] if kind is SimpleQueue else put
        queue.put_many(put)
        give_back = exhaust()
        for _ in range(3):
            try:
                received.append(queue.get_many(10_000) if call == "get_many" else [queue.get()])
            except MemoryError as error:
                received.append(getattr(error, "items", []))
        give_back()
        while not queue.empty():
            received.append(queue.get_many())
        return as_numbers([item for items in received for item in items]) == as_numbers(put)

    with fork(take) as child:
        assert child.result()


TAKES: dict[str, Callable[[], tuple[Callable[[Any], object], Callable[[], Any]]]] = {
    "get": lambda: (q := Queue[Any]()) and (q.put, q.get),
    "get of a JoinableQueue": lambda: (q := JoinableQueue[Any]()) and (q.put, q.get),
    "get_many": lambda: (q := Queue[Any]()) and (q.put, lambda: q.get_many()[0]),
    "recv": lambda: (pipe := Pipe()) and (pipe[0].send, pipe[1].recv),
    "recv_bytes": lambda: (pipe := Pipe()) and (pipe[0].send_bytes, pipe[1].recv_bytes),
}
"""For each name a function that puts an item, and one that takes it."""


@pytest.mark.parametrize("take", TAKES)
def test_an_item_larger_than_the_memory_stays_in_the_queue(take: str) -> None:
    def use() -> bool:
        put, get = TAKES[take]()
        item = bytes(8 * MIB)
        put(item)
        give_back = exhaust()
        for _ in range(3):
            with pytest.raises(MemoryError):
                get()
        give_back()
        return bool(get() == item)

    with fork(use) as child:
        assert child.result()


has_memory = True


class Hungry:
    def __reduce__(self) -> Any:
        return feed, ()


def feed() -> str:
    if not has_memory:
        raise MemoryError
    return "fed"


def test_an_item_whose_buffers_are_mapped_already_stays_in_the_queue(monkeypatch: pytest.MonkeyPatch) -> None:
    queue = Queue[Any]()
    queue.put([memoryview(bytes(MIB)), Hungry()])
    monkeypatch.setitem(globals(), "has_memory", False)
    with pytest.raises(MemoryError):
        queue.get()
    monkeypatch.undo()
    buffer, fed = queue.get(timeout=1)
    assert (len(buffer), fed) == (MIB, "fed")


CALLS: dict[str, Callable[[Any, Any], object]] = {
    "put": lambda queue, items: queue.put(items[0]),
    "put_many": lambda queue, items: queue.put_many(items),
    "put_many of a generator": lambda queue, items: queue.put_many(item for item in items),
    "check": lambda queue, items: queue.check(),
    "statistics": lambda queue, items: queue.statistics(),
    "dead_letters": lambda queue, items: queue.dead_letters(),
    "another queue": lambda queue, items: type(queue)(),
    "Pipe": lambda queue, items: Pipe(),
}


@every_kind
@pytest.mark.parametrize("items", ["small", "nested", "pickled", "large"])
@pytest.mark.parametrize("call", CALLS)
def test_no_memory_is_an_exception(kind: Callable[[], Any], items: str, call: str) -> None:
    def use() -> str:
        queue, objects = kind(), ITEMS[items][:100]
        queue.put_many(objects)
        give_back = exhaust()
        what = "nothing"
        try:
            for _ in range(50):
                CALLS[call](queue, objects[:1] if kind is SimpleQueue else objects)
        except (MemoryError, OSError):
            what = "raised"
        give_back()
        assert queue.check() == []
        return what

    with fork(use) as child:
        assert child.result() in ("nothing", "raised")


@pytest.mark.parametrize("call", ["send", "recv", "send_bytes", "recv_bytes"])
@pytest.mark.parametrize("items", ITEMS)
def test_no_memory_is_an_exception_of_a_pipe(items: str, call: str) -> None:
    def use() -> bool:
        a, b = Pipe()
        payload = ITEMS[items][0] if "bytes" not in call else bytes(100_000)
        send = a.send_bytes if "bytes" in call else a.send
        send(payload)
        calls = {"send": lambda: a.send(payload), "recv": lambda: b.recv()}
        calls |= {"send_bytes": lambda: a.send_bytes(payload), "recv_bytes": lambda: b.recv_bytes()}
        give_back = exhaust()
        with contextlib.suppress(MemoryError):
            calls[call]()
        give_back()
        send(payload)
        return b.poll(1)

    with fork(use) as child:
        assert child.result()


IN_A_CONTAINER = """
import sys
from pathlib import Path

Path(sys.argv[1], "cgroup.procs").write_text("0")
import penstock
from penstock.errors import QueueMemoryError

queue = penstock.Queue()
filled = 0
try:
    while True:
        queue.put(bytes(1 << 20))
        filled += 1
except QueueMemoryError as error:
    limit = error.limit
for _ in range(filled):
    queue.get()
queue.put("goes on")
print(queue.get(), filled, limit)
"""


def memory_group(limit: int) -> Path:
    """A control group with a limit of `limit` bytes, as a container has. The caller removes it."""
    version_2 = Path("/sys/fs/cgroup/cgroup.controllers").exists()
    parent = Path("/sys/fs/cgroup" if version_2 else "/sys/fs/cgroup/memory")
    group = parent / f"penstock-test-{os.getpid()}"
    try:
        group.mkdir()
    except OSError as error:
        pytest.skip(f"NOT TESTED in a container's memory limit: no control group can be made: {error}")
    try:
        (group / ("memory.max" if version_2 else "memory.limit_in_bytes")).write_text(str(limit))
    except OSError as error:
        group.rmdir()
        pytest.skip(f"NOT TESTED in a container's memory limit: it cannot be set: {error}")
    return group


def test_memory_limit_of_a_container_is_respected() -> None:
    group = memory_group(200 * MIB)
    try:
        command = [sys.executable, "-c", IN_A_CONTAINER, str(group)]
        done = subprocess.run(command, capture_output=True, text=True)
        # Beyond the limit the kernel would kill the program.
        assert done.returncode == 0, done.stderr
        filled, limit = map(int, done.stdout.removeprefix("goes on ").split())
        assert 50 < filled < 200
        assert limit < 200 * MIB
    finally:
        until(lambda: not (group / "cgroup.procs").read_text())
        group.rmdir()


def test_no_address_space_at_all() -> None:
    def use() -> bool:
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        _, hard = resource.getrlimit(resource.RLIMIT_AS)
        resource.setrlimit(resource.RLIMIT_AS, (used + MIB // 4, hard))
        with pytest.raises((MemoryError, OSError)):
            Queue()
        resource.setrlimit(resource.RLIMIT_AS, (hard, hard))
        return bool(Queue().empty())

    with fork(use) as child:
        assert child.result()


def test_no_descriptor_left() -> None:
    def use() -> int:
        resource.setrlimit(resource.RLIMIT_NOFILE, (60, 60))
        queues: list[Queue[int]] = []

        def make_and_use_queues() -> None:
            while True:
                queues.append(Queue())
                queues[-1].put(len(queues))

        with pytest.raises(OSError, match=r"[Tt]oo many open files"):
            make_and_use_queues()
        # The existing queues go on.
        return sum(queue.get() == number for number, queue in enumerate(queues[:10], start=1))

    with fork(use) as child:
        assert child.result() == 10


# ---------------------------------------------------------------------------------------- given back


def resident(queue: Any) -> int:
    """Bytes of memory behind the queue, as the kernel counts them."""
    return os.fstat(queue._fd).st_blocks * 512


@pytest.mark.parametrize(
    ("size", "count"), [(MIB, 512), (10 * MIB, 50), (3000, 40_000), (20, 200_000)], ids=str
)
def test_memory_comes_back_when_the_queue_is_drained(size: int, count: int) -> None:
    queue = Queue[bytes]()
    queue.put(b"")
    queue.get()
    before = queue.statistics().memory_bytes
    assert before == resident(queue)
    for _ in range(count):
        queue.put(bytes(size))
    assert queue.statistics().memory_bytes >= before + size * count
    assert drain(queue) == count

    def has_come_back() -> bool:
        # A drained queue keeps its memory for a moment. A waiting getter then returns it.
        with pytest.raises(standard.Empty):
            queue.get(timeout=0.1)
        return queue.statistics().memory_bytes <= before + 16 * MIB

    until(has_come_back)
    assert queue.statistics().memory_bytes == resident(queue)


@pytest.mark.parametrize("kind", [Queue, JoinableQueue], ids=lambda kind: kind.__name__)
def test_memory_comes_back_though_the_queue_is_in_use(kind: Callable[[], Any]) -> None:
    queue = kind()
    is_joinable = kind is JoinableQueue
    for _ in range(300):
        queue.put_many(range(1000))
    for _ in range(40):
        queue.put(bytes(MIB))
    queue.put(0)
    assert queue.statistics().memory_bytes >= 70 * MIB
    while queue.qsize() > 1:
        queue.get()
        if is_joinable:
            queue.task_done()
    until(lambda: in_use_it_has_at_most(queue, 16 * MIB))
    assert queue.qsize() == 1
    assert queue.check() == []


def in_use_it_has_at_most(queue: Any, most: int) -> bool:
    """Put and take an item. Returns whether no more bytes of memory are behind the queue."""
    queue.put(1)
    queue.get()
    if isinstance(queue, JoinableQueue):
        queue.task_done()
    time.sleep(0.01)
    return queue.statistics().memory_bytes <= most


@pytest.mark.parametrize("kind", [Queue, JoinableQueue], ids=lambda kind: kind.__name__)
def test_memory_comes_back_beside_what_is_held(kind: Callable[[], Any]) -> None:
    queue = kind()
    queue.put(memoryview(bytearray(MIB)))
    for _ in range(300):
        queue.put_many(range(1000))
    # An array that is mapped, and of a JoinableQueue a lease too.
    held = queue.get()
    assert drain(queue) == 300_000
    until(lambda: in_use_it_has_at_most(queue, 16 * MIB + len(held)))
    assert queue.check() == []


BURSTS = [(60, MIB), (60, MIB), (200, MIB), (200_000, 20)]


def test_the_get_that_empties_the_queue_gives_memory_back_behind_a_selector() -> None:
    queue = Queue[bytes]()
    queue.fileno()
    for count, size in BURSTS:
        for _ in range(count):
            queue.put(bytes(size))
        while select.select([queue], [], [], 0)[0]:
            queue.get()
        assert queue.statistics().memory_bytes <= 16 * MIB, (count, size)


def test_the_get_that_empties_the_queue_gives_memory_back_in_an_event_loop() -> None:
    queue = Queue[bytes]()

    async def take(count: int) -> None:
        loop = asyncio.get_running_loop()
        done = loop.create_future()
        taken = 0

        def take_one() -> None:
            nonlocal taken
            queue.get_nowait()
            taken += 1
            if taken == count:
                done.set_result(None)

        loop.add_reader(queue.fileno(), take_one)
        await done
        loop.remove_reader(queue.fileno())

    for count, size in BURSTS:
        # The event loop watches when the burst comes.
        queue.fileno()
        for _ in range(count):
            queue.put(bytes(size))
        asyncio.run(take(count))
        assert queue.statistics().memory_bytes <= 16 * MIB, (count, size)
    assert queue.check() == []


def test_memory_is_used_again_and_not_added_to() -> None:
    queue = Queue[bytes]()
    high = []
    for _ in range(20):
        for _ in range(20):
            queue.put(bytes(MIB))
        high.append(queue.statistics().memory_bytes)
        drain(queue)
    assert max(high) <= 20 * MIB + 16 * MIB


def test_memory_is_gone_with_the_last_handle() -> None:
    queue = Queue[bytes]()
    queue.put(bytes(10 * MIB))
    name = f"/memfd:penstock-{queue._id.hex()}"
    assert name in Path("/proc/self/maps").read_text()
    del queue
    assert name not in Path("/proc/self/maps").read_text()
    # No process has a descriptor of it.
    assert processes.holding(f"{name} (deleted)") == []


@every_kind
def test_new_queue_costs_little(kind: Callable[[], Any]) -> None:
    queue = kind()
    queue.put(1)
    queue.get()
    # What it can do and was not asked to do takes no page.
    assert queue.statistics().memory_bytes <= 4 * mmap.PAGESIZE


# -------------------------------------------------------------------------------------------- waiting


@pytest.mark.parametrize("waits_in", ["get", "put"])
def test_waiting_costs_no_processor_time(waits_in: str) -> None:
    queue = Queue[int](maxsize=1)
    if waits_in == "put":
        queue.put(0)
    before = time.process_time()
    if waits_in == "put":
        with pytest.raises(standard.Full):
            queue.put(1, timeout=2)
    else:
        with pytest.raises(standard.Empty):
            queue.get(timeout=2)
    assert time.process_time() - before < 0.05
