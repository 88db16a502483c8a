"""Large buffers: one copy in, none out, and a receiver may write to the memory that it gets."""

import array
import gc
import mmap
import multiprocessing
import os
import pickle
import signal
import sys
import threading
import tracemalloc
from collections.abc import Callable
from multiprocessing.reduction import ForkingPickler
from typing import Any

import numpy as np
import pandas
import pyarrow as arrow
import pytest

import penstock
from tests.support.children import fork
from tests.support.waiting import until

KIB = 1024
# Bytes of a buffer: copied in the pickle; beside it and copied out; beside it and mapped.
SIZES = [64, 4 * KIB, 100 * KIB, 8192 * KIB]
LARGE = 1024 * KIB
CLASSES = (penstock.Queue, penstock.SimpleQueue, penstock.JoinableQueue)
every_class = pytest.mark.parametrize("make", CLASSES)
every_size = pytest.mark.parametrize("size", SIZES)


def numbers(size: int, seed: int = 1) -> Any:
    return np.random.default_rng(seed).integers(0, 256, size, dtype=np.uint8)


def mapped_kib(received: Any, figure: str = "Anonymous") -> int:
    """KiB of the array's pages that this process has copied; -1 if it is not in a queue's memory."""
    address = received.ctypes.data
    with open("/proc/self/smaps") as smaps:
        inside = False
        for line in smaps:
            fields = line.split()
            if "-" in fields[0] and not fields[0].endswith(":"):
                start, end = (int(number, 16) for number in fields[0].split("-"))
                inside = start <= address < end and "penstock-" in line
            elif inside and fields[0] == f"{figure}:":
                return int(fields[1])
    return -1


@every_class
@every_size
def test_arrays_arrive(make: Callable[[], Any], size: int) -> None:
    q = make()
    sent = numbers(size)
    for order in (sent, sent.reshape(-1, 8), np.asfortranarray(sent.reshape(-1, 8)), sent[::2], sent[:0]):
        q.put(order)
        received = q.get()
        assert np.array_equal(received, order)
        assert received.flags.f_contiguous == order.flags.f_contiguous or not order.flags.contiguous
        assert received.flags.writeable


@every_class
def test_a_large_array_is_not_copied_out(make: Callable[[], Any]) -> None:
    q = make()
    q.put(numbers(LARGE))
    received = q.get()
    assert mapped_kib(received) == 0
    assert received.sum() == numbers(LARGE).sum()
    assert mapped_kib(received) == 0
    received[0] = 1
    assert mapped_kib(received) > 0, "a page that was written to is the receiver's own"
    assert received.ctypes.data % 64 == 0


@every_class
@every_size
def test_a_received_array_is_the_receivers_own(make: Callable[[], Any], size: int) -> None:
    q = make()
    sent = numbers(size)
    q.put(sent)
    first = q.get()
    first[:] = 7
    q.put(sent)
    second = q.get()
    assert np.array_equal(second, sent)
    second[:] = 9
    assert (first == 7).all()
    assert np.array_equal(sent, numbers(size))


def test_held_arrays_survive_producer_and_queue() -> None:
    def produce(q: Any) -> None:
        for seed in range(4):
            q.put(numbers(LARGE, seed))

    def held_arrays() -> list[Any]:
        q = penstock.Queue[Any]()
        with fork(produce, q) as child:
            child.result()
        return [q.get() for _ in range(4)]

    held = held_arrays()
    gc.collect()
    for seed, received in enumerate(held):
        assert np.array_equal(received, numbers(LARGE, seed))


def test_held_arrays_block_nobody_and_go_in_any_order() -> None:
    q = penstock.Queue[Any](maxsize=2)
    held = []
    for seed in range(20):
        q.put(numbers(LARGE, seed), timeout=10)
        held.append(q.get())
    assert q.empty()
    assert q.statistics().memory_bytes >= 20 * LARGE
    for seed in (13, 2, 19, 7):
        assert np.array_equal(held[seed], numbers(LARGE, seed))
        held[seed] = None
    for seed in range(20, 24):  # takes the memory of those dropped
        q.put(numbers(LARGE, seed))
        held.append(q.get())
    for seed, received in enumerate(held):
        assert received is None or np.array_equal(received, numbers(LARGE, seed))
    del received
    held.clear()
    assert q.check() == []
    statistics = q.statistics()
    assert statistics.puts == statistics.gets == 24


@pytest.mark.slow
def test_many_streams_of_large_arrays_keep_their_memory_small() -> None:
    q = penstock.Queue[Any]()
    for seed in range(100):
        q.put(numbers(LARGE, seed % 3))
        assert np.array_equal(q.get(), numbers(LARGE, seed % 3))
    assert q.statistics().memory_bytes < 8 * LARGE


def test_held_arrays_have_a_bound_and_leave_the_puts_theirs() -> None:
    q = penstock.Queue[Any](max_bytes=16 * LARGE)
    held = []
    for seed in range(20):
        q.put(numbers(LARGE, seed))
        held.append(q.get())
    for seed, received in enumerate(held):
        assert np.array_equal(received, numbers(LARGE, seed))
    assert mapped_kib(held[0]) >= 0 > mapped_kib(held[-1])
    q.put_nowait(bytes(15 * LARGE))
    assert len(q.get()) == 15 * LARGE
    assert q.check() == []


@pytest.mark.parametrize("how", [sys.exit, lambda: None])
def test_a_worker_that_ends_in_order_with_an_array(how: Callable[[], Any]) -> None:
    q = penstock.JoinableQueue[Any]()
    q.put(numbers(LARGE))
    q.put("small")
    context = multiprocessing.get_context("fork")
    held: list[Any] = []

    def work() -> None:
        held.extend([q.get(), q.get()])
        how()

    worker = context.Process(target=work)
    worker.start()
    worker.join()
    assert worker.exitcode == 0
    worker.close()
    until(lambda: q.statistics().participants == 1)
    statistics = q.statistics()
    assert (statistics.queued, statistics.redeliveries, statistics.unfinished) == (0, 0, 2)
    assert q.check() == []
    q.task_done()
    q.task_done()
    q.join()


def test_a_queue_in_a_message_is_let_go_when_its_receiver_keeps_but_an_array() -> None:
    q = penstock.Queue[Any]()
    before = len(os.listdir("/proc/self/fd"))
    held = []
    for seed in range(20):
        reply = penstock.Queue[int]()
        q.put((reply, numbers(LARGE, seed)))
        received, payload = q.get()
        received.put(seed)
        assert reply.get() == seed
        held.append(payload)
        del reply, received
    q.put((penstock.Queue[int](), "the last"))
    q.get()
    assert len(os.listdir("/proc/self/fd")) - before < 8
    for seed, payload in enumerate(held):
        assert np.array_equal(payload, numbers(LARGE, seed))


def test_an_array_of_a_killed_holder_is_gone() -> None:
    q = penstock.Queue[Any]()
    q.put(numbers(LARGE))
    q.put("next")

    def hold() -> None:
        received = q.get()
        received[:] = 0
        os.kill(os.getpid(), signal.SIGKILL)

    with fork(hold) as child:
        assert child.wait() == -signal.SIGKILL
    assert q.get(timeout=10) == "next"
    q.put("last")
    assert q.get(timeout=10) == "last"
    assert q.statistics().redeliveries == 0
    assert q.check() == []


def test_an_array_of_a_killed_worker_comes_again_as_it_was_put() -> None:
    q = penstock.JoinableQueue[Any]()
    q.put(numbers(LARGE))

    def spoil() -> None:
        received = q.get()
        received[:] = 0
        os.kill(os.getpid(), signal.SIGKILL)

    with fork(spoil) as child:
        assert child.wait() == -signal.SIGKILL
    received = q.get(timeout=10)
    assert np.array_equal(received, numbers(LARGE))
    q.task_done()
    received[0] = 1
    q.join()
    assert q.check() == []


def test_a_forked_child_has_arrays_of_its_own() -> None:
    q = penstock.Queue[Any]()
    again = penstock.Queue[str]()
    q.put(numbers(LARGE))
    received = q.get()

    held = [received]

    def look() -> bool:
        assert again.get() == "go on"
        return np.array_equal(held[0], numbers(LARGE))

    with fork(look) as child:
        received[:] = 0
        del received
        held.clear()
        gc.collect()
        # Later payloads in the array's old memory must not show in the child's array.
        for _ in range(3):
            q.put(np.zeros(LARGE, dtype=np.uint8))
        again.put("go on")
        assert child.result()
        assert [q.get().any() for _ in range(3)] == [False] * 3


def test_children_share_what_was_copied_for_the_first() -> None:
    q = penstock.Queue[Any]()
    go_on = penstock.Queue[str]()
    q.put(numbers(LARGE))
    received = q.get()
    with fork(go_on.get) as first, fork(go_on.get) as second:
        assert mapped_kib(received) >= LARGE // KIB
        proportional = mapped_kib(received, "Pss")
        assert proportional < LARGE // KIB * 0.4, "the pages of three processes"
        go_on.put_many(["go on", "go on"])
        first.result()
        second.result()


def test_a_forked_childs_arrays_outlive_the_parent() -> None:
    q = penstock.Queue[Any]()
    go_on, answer = penstock.Queue[str](), penstock.Queue[bool]()

    def parent() -> None:
        received = q.get()
        if os.fork() == 0:
            go_on.get()
            answer.put(np.array_equal(received, numbers(LARGE)))
            os._exit(0)
        os.kill(os.getpid(), signal.SIGKILL)

    q.put(numbers(LARGE))
    with fork(parent) as child:
        assert child.wait() == -signal.SIGKILL
    until(lambda: q.statistics().participants == 1)
    for _ in range(3):
        q.put(np.zeros(LARGE, dtype=np.uint8))
    go_on.put("go on")
    assert answer.get(timeout=30)


def test_without_a_descriptor_arrays_are_copied() -> None:
    q = penstock.Queue[Any]()

    def use() -> bool:
        os.closerange(3, 3000)
        for seed in range(3):
            q.put(numbers(LARGE, seed))
            received = q.get()
            if not np.array_equal(received, numbers(LARGE, seed)) or mapped_kib(received) >= 0:
                return False
        return True

    def report() -> None:
        os._exit(0 if use() else 1)

    with fork(report) as child:
        assert child.wait() == 0


@every_class
@every_size
def test_other_memory(make: Callable[[], Any], size: int) -> None:
    q = make()
    data = numbers(size).tobytes()
    for sent in (
        bytearray(data),
        array.array("d", data),
        memoryview(data),
        memoryview(bytearray(data)).cast("d"),
        memoryview(bytearray(data)).cast("B", (2, size // 2)),
        memoryview(data)[::2],
        memoryview(bytearray(data))[::2],
        memoryview(b""),
    ):
        q.put(["beside", sent])
        _, received = q.get()
        assert type(received) is type(sent)
        assert memoryview(received).tobytes() == memoryview(sent).tobytes()  # numbers may be NaN
        if isinstance(sent, memoryview):
            assert (received.format, received.shape) == (sent.format, sent.shape)
        assert memoryview(received).readonly == memoryview(sent).readonly


def test_the_same_array_twice_is_one() -> None:
    q = penstock.Queue[Any]()
    sent = numbers(LARGE)
    q.put([sent, sent, numbers(LARGE, 2)])
    first, second, third = q.get()
    assert first is second
    assert np.array_equal(third, numbers(LARGE, 2))
    del first, second, sent
    assert np.array_equal(third, numbers(LARGE, 2))


@every_size
def test_types_of_numbers_are_kept(size: int) -> None:
    q = penstock.Queue[Any]()
    for dtype in (
        *(np.dtype(code) for code in "?bBhHiIlLqQefdFD"),
        np.dtype(">f8"),
        np.dtype("M8[s]"),
        np.dtype([("a", "i4"), ("b", "f4")]),
        np.dtype("f8", metadata={"unit": "m"}),
        np.dtype("U4"),
    ):
        sent = np.zeros(size // dtype.itemsize, dtype)
        for message in (sent, [sent]):
            q.put(message)
            received = q.get()
            received = received[0] if isinstance(received, list) else received
            assert received.dtype == dtype.newbyteorder("=")
            assert received.dtype.metadata == dtype.metadata
            assert received.shape == sent.shape


def doubled(array: Any) -> Any:
    return np.array, (array.tolist() * 2,)


@pytest.mark.parametrize("size", [64, LARGE])
def test_reducers_of_programs_come_first(size: int) -> None:
    q = penstock.Queue[Any]()
    ForkingPickler.register(np.ndarray, doubled)
    try:
        q.put(np.ones(size // 8))
        q.put([np.ones(size // 8)])
    finally:
        del ForkingPickler._extra_reducers[np.ndarray]  # type: ignore[attr-defined]
    assert q.get().shape == (size // 4,)
    assert q.get()[0].shape == (size // 4,)


@every_size
def test_a_rebuilt_buffer_has_one_type(size: int) -> None:
    for q in (penstock.Queue[Any](), penstock.Queue[Any](max_bytes=4 * max(size, 64 * KIB))):
        for buffer in (bytes(size), bytearray(size)):
            q.put(Rebuilt(buffer))
            received = q.get().buffer
            assert isinstance(received, type(buffer) if size < 4 * KIB else memoryview)
            assert memoryview(received).readonly == isinstance(buffer, bytes)


class Rebuilt:
    """Rebuilt from its buffer, as arrays of libraries are."""

    def __init__(self, buffer: Any) -> None:
        self.buffer = buffer

    def __reduce_ex__(self, protocol: Any) -> Any:
        return type(self), (pickle.PickleBuffer(self.buffer),)


def test_a_buffer_may_be_anything_contiguous() -> None:
    q = penstock.Queue[Any]()
    with mmap.mmap(-1, LARGE) as memory:
        memory[:5] = b"hello"
        q.put(Rebuilt(memory))
        received = q.get().buffer
        assert bytes(received[:5]) == b"hello"
        assert len(received) == LARGE
    with pytest.raises(pickle.PicklingError, match="non-contiguous"):
        q.put(Rebuilt(memoryview(bytes(LARGE))[::2]))
    assert q.empty()


def raise_error(buffer: Any) -> Any:
    raise RuntimeError("cannot be rebuilt")


def test_memory_is_lent_to_a_put_that_waits() -> None:
    q = penstock.Queue[Any](maxsize=1)
    q.put("first")
    sent, text = numbers(LARGE), bytearray(100 * KIB)
    putting = threading.Thread(target=q.put, args=([sent, text],))
    putting.start()
    until(lambda: q.statistics().waiting_putters == 1)
    with pytest.raises(BufferError):
        text.append(1)
    sent[:] = 0
    assert q.get() == "first"
    putting.join()
    text.append(1)
    received, _ = q.get()
    assert not received.any()


class NotRebuilt(Rebuilt):
    def __reduce_ex__(self, protocol: Any) -> Any:
        return raise_error, (pickle.PickleBuffer(self.buffer),)


@every_class
def test_what_cannot_be_rebuilt_keeps_no_memory(make: Callable[[], Any]) -> None:
    q = make()
    for _ in range(3):
        q.put(NotRebuilt(bytes(LARGE)))
        with pytest.raises(RuntimeError, match="cannot be rebuilt") as caught:
            q.get()
        assert "raise_error" in caught.value.__notes__[0]
        del caught
        gc.collect()
        if isinstance(q, penstock.JoinableQueue):
            q.task_done()
    assert q.check() == []
    q.put("after")
    assert q.get() == "after"


def test_dead_letters_have_buffers() -> None:
    q = penstock.JoinableQueue[Any](max_deliveries=0)
    q.put(numbers(LARGE))
    with fork(lambda: (q.get(), os.kill(os.getpid(), signal.SIGKILL))) as child:
        child.wait()
    q.join()
    (letter,) = q.dead_letters()
    assert np.array_equal(letter.item, numbers(LARGE))


def test_many_at_once() -> None:
    q = penstock.Queue[Any]()
    q.put_many([numbers(size, seed) for seed, size in enumerate(SIZES)] + ["end"])
    *received, end = q.get_many()
    assert end == "end"
    for seed, size in enumerate(SIZES):
        assert np.array_equal(received[seed], numbers(size, seed))


def test_pandas() -> None:
    q = penstock.Queue[Any]()
    sent = pandas.DataFrame({"a": np.arange(200_000), "b": np.arange(200_000) * 0.5, "c": ["x"] * 200_000})
    q.put(sent)
    received = q.get()
    pandas.testing.assert_frame_equal(received, sent)
    received.loc[0, "a"] = 17
    assert sent.loc[0, "a"] == 0
    assert received.loc[0, "a"] == 17


def test_arrow() -> None:
    q = penstock.Queue[Any]()
    sent = arrow.table({"a": np.arange(200_000), "b": ["x"] * 200_000})
    before = arrow.total_allocated_bytes()
    q.put(sent)
    received = q.get()
    assert received.equals(sent)
    assert arrow.total_allocated_bytes() - before < 100_000, "its memory is the queue's"


def peak(call: Callable[[], object]) -> int:
    """The most bytes of Python's objects during the call, beyond those before it."""
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        result = call()
        most = tracemalloc.get_traced_memory()[1]
        del result
    finally:
        tracemalloc.stop()
    return most - before


@every_class
@pytest.mark.parametrize(
    "sent",
    [bytes(10_000 * KIB), "a" * 10_000 * KIB, [bytes([i]) * 1000 * KIB for i in range(10)]],
    ids=["bytes", "str", "list of bytes"],
)
def test_large_objects_are_copied_no_more_than_pickle_needs(make: Callable[[], Any], sent: Any) -> None:
    q = make()
    pickled = pickle.dumps(sent, pickle.HIGHEST_PROTOCOL)
    # The pickle is never made in one piece.
    assert peak(lambda: q.put(sent)) < 100 * KIB
    received = []
    assert peak(lambda: received.append(q.get())) < peak(lambda: pickle.loads(pickled)) + 100 * KIB
    assert received == [sent]
