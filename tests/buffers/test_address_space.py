"""Queues leave a program its address space, and say so where they need more of it than there is."""

import ctypes
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from penstock import JoinableQueue, Pipe, Queue, SimpleQueue
from penstock.errors import QueueMemoryError
from tests.support.children import fork
from tests.support.interpreter import FREE_THREADED
from tests.support.waiting import until

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(FREE_THREADED, reason="its allocator keeps address space, which no limit takes away"),
]

MIB = 1 << 20
GIB = 1 << 30
KINDS: list[Callable[..., Any]] = [Queue, SimpleQueue, JoinableQueue]


def used() -> int:
    """Bytes of address space that this process takes."""
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()


def mapped() -> int:
    """Bytes of address space that the queues of this process take."""
    total = 0
    for line in Path("/proc/self/maps").read_text().splitlines():
        if "memfd:penstock" in line:
            start, end = line.split()[0].split("-")
            total += int(end, 16) - int(start, 16)
    return total


def limit_address_space(limit: int) -> None:
    """Limit it, so that the limit can be raised again."""
    resource.setrlimit(resource.RLIMIT_AS, (limit, resource.RLIM_INFINITY))


def free_address_space() -> None:
    limit_address_space(resource.RLIM_INFINITY)


@pytest.mark.parametrize("kind", KINDS)
def test_an_empty_queue_maps_little(kind: Callable[..., Any]) -> None:
    def use() -> int:
        before = mapped()
        queue = kind()
        queue.put([1])
        assert queue.get() == [1]
        return mapped() - before

    with fork(use) as child:
        assert 0 < child.result() <= 16 * MIB


def test_an_empty_pipe_maps_little() -> None:
    def use() -> int:
        before = mapped()
        ends = Pipe()
        ends[0].send([1])
        assert ends[1].recv() == [1]
        return mapped() - before

    with fork(use) as child:
        assert 0 < child.result() <= 32 * MIB  # a queue in each direction


def test_a_program_beside_many_queues() -> None:
    def use() -> int:
        limit_address_space(used() + 3 * GIB)
        queues = [kind() for _ in range(20) for kind in KINDS] + [Pipe() for _ in range(20)]
        queue = Queue[bytes]()
        queue.put(bytes(100_000_000))
        assert len(queue.get()) == 100_000_000
        assert len(bytearray(GIB)) == GIB
        return len(queues)

    with fork(use) as child:
        assert child.result() == 80


def test_queues_take_a_quarter() -> None:
    def use() -> tuple[int, int]:
        limit = used() + 800 * MIB
        limit_address_space(limit)
        queues = [Queue[bytes]() for _ in range(3)]
        count = 0

        def fill() -> None:
            nonlocal count
            while True:
                queues[count % 3].put(bytes(5_000_000))
                count += 1

        with pytest.raises(QueueMemoryError, match=r"no address space for .* a quarter of its limit"):
            fill()
        assert mapped() <= limit // 4
        assert sum(len(queues[number % 3].get()) for number in range(count)) == count * 5_000_000
        queues[0].put(b"still works")
        return count, len(queues[0].get())

    with fork(use) as child:
        count, length = child.result()
        assert count >= 10
        assert length == 11


def take_without_address_space(queue: Any, turn: Any) -> Any:
    """Try to take an item when others have added memory, and again when there is address space for it."""
    queue.put(b"first")
    assert queue.get() == b"first"
    limit_address_space(used() + 2 * MIB)
    turn.put(1)
    with pytest.raises(QueueMemoryError, match="no address space"):
        queue.get()
    turn.put(2)
    until(lambda: turn.empty())
    with pytest.raises(QueueMemoryError, match="no address space"):
        queue.put(b"last")
    size = queue.qsize() if hasattr(queue, "qsize") else None
    free_address_space()
    taken = queue.get()
    if isinstance(queue, JoinableQueue):
        queue.task_done()
        queue.task_done()
    return size, taken


@pytest.mark.parametrize("kind", [Queue, JoinableQueue])
def test_a_getter_without_address_space_takes_nothing(kind: Callable[..., Any]) -> None:
    queue, turn = kind(), Queue[int]()
    with fork(take_without_address_space, queue, turn) as child:
        assert turn.get() == 1
        # It waits for an item meanwhile.
        until(lambda: queue.statistics().waiting_getters == 1)
        # The first one needs memory that it has not mapped.
        for number in range(40):
            queue.put(bytes([number]) * (500_000 if number else 20 * MIB))
        assert turn.get() == 2
        assert queue.statistics().queued == 40
        assert child.result() == (40, bytes(20 * MIB))
    assert [queue.get()[0] for _ in range(39)] == list(range(1, 40))


def wait_in_vain(queue: Any) -> str:
    limit_address_space(used() + 2 * MIB)
    try:
        queue.get()
    except QueueMemoryError:
        return "no address space"
    return "an item"


def test_another_getter_takes_what_one_cannot() -> None:
    queue = Queue[bytes]()
    with fork(wait_in_vain, queue) as poor:
        until(lambda: queue.statistics().waiting_getters == 1)
        with fork(queue.get) as rich:
            until(lambda: queue.statistics().waiting_getters == 2)
            queue.put(bytes(20 * MIB))
            assert len(rich.result()) == 20 * MIB
        for number in range(2):
            queue.put(bytes([number]) * 20 * MIB)
        assert poor.result() == "no address space"
    assert queue.get()[0] == 0


def lock_what_is_mapped() -> bool:
    mcl_future = 2
    return ctypes.CDLL(None, use_errno=True).mlockall(mcl_future) == 0


@pytest.mark.parametrize("kind", KINDS)
def test_a_process_that_locks_its_memory(kind: Callable[..., Any]) -> None:
    def use() -> list[int] | None:
        if not lock_what_is_mapped():
            return None
        queue = kind()
        memory = [queue.statistics().memory_bytes]
        queue.put(bytes(20 * MIB))
        memory.append(queue.statistics().memory_bytes)
        assert queue.get() == bytes(20 * MIB)
        return memory

    with fork(use) as child:
        memory = child.result()
    if memory is None:
        pytest.skip("mlockall is forbidden")
    assert memory[0] <= 64 << 10
    assert memory[1] < 21 * MIB


def test_small_files() -> None:
    def use() -> Any:
        resource.setrlimit(resource.RLIMIT_FSIZE, (MIB, MIB))
        results = []
        for kind in KINDS:
            queue = kind()
            queue.put([1])
            results.append(queue.get())
            queue.put(bytes(100_000))
            with pytest.raises(QueueMemoryError):
                queue.put(bytes(2 * MIB))
            results.append(queue.get() == bytes(100_000))
        sender, receiver = Pipe()
        sender.send([2])
        results.append(receiver.recv())
        with pytest.raises(QueueMemoryError):
            sender.send(bytes(2 * MIB))
        return results

    with fork(use) as child:
        assert child.result() == [[1], True] * 3 + [[2]]


def fill(queue: Any) -> QueueMemoryError:
    """Put numbers until there is no memory for one."""
    number = 0
    try:
        while True:
            queue.put(number)
            number += 1
    except QueueMemoryError as error:
        return error


@pytest.mark.parametrize("mebibytes", [1, 3, 20])
def test_small_files_hold_what_they_promise(mebibytes: int) -> None:
    def use() -> list[tuple[int, bool]]:
        resource.setrlimit(resource.RLIMIT_FSIZE, (mebibytes * MIB, mebibytes * MIB))
        results = []
        for kind in (Queue, JoinableQueue):
            queue = kind()
            error = fill(queue)
            assert error.used is not None
            assert error.limit is not None
            assert error.used + error.needed > error.limit
            count = queue.qsize()
            results.append((count, [queue.get() for _ in range(count)] == list(range(count))))
        return results

    with fork(use) as child:
        for count, is_whole in child.result():
            assert count >= mebibytes * MIB // 8 // 128
            assert is_whole


LARGE_PROGRAM = """
import multiprocessing as mp

def work(number):
    return len(bytes(160_000_000)), bytes(20_000_000)

if __name__ == "__main__":
    with mp.Pool(2) as pool:
        print(sum(size + len(data) for size, data in pool.map(work, range(4))))
"""


def test_a_large_program_under_a_limit(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(LARGE_PROGRAM)
    command = f"ulimit -v 2500000; exec '{sys.executable}' -m penstock run {program}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=120)
    assert done.stdout == "720000000\n", done.stderr
