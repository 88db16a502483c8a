"""The codec without a queue: `_native.dumps` makes bytes of an object, `_native.loads` an object of bytes."""

import array
import collections
import copyreg
import datetime
import decimal
import multiprocessing
import multiprocessing.queues
import os
import pickle
import resource
import threading
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import penstock
from penstock._native import dumps, loads
from penstock.errors import QueueGoneError
from tests.support.arrays import ARRAYS
from tests.support.children import fork
from tests.support.interpreter import FREE_THREADED

PROTOCOLS = range(pickle.HIGHEST_PROTOCOL + 1)
every_protocol = pytest.mark.parametrize("protocol", PROTOCOLS)
MIB = 1 << 20


@dataclass
class Point:
    x: int
    tags: list[str]


class Raw:
    """Pickles its buffer out of band, as array libraries do."""

    def __init__(self, buffer: Any) -> None:
        self.buffer = buffer

    def __reduce_ex__(self, protocol: Any) -> Any:
        return memoryview, (pickle.PickleBuffer(self.buffer),)


OBJECTS: list[Any] = [
    None,
    True,
    -1,
    1 << 100,
    1.5,
    complex(1, 2),
    "text ü \U0001f600",
    "t" * 100_000,
    b"bytes",
    bytes(300_000),
    bytearray(b"bytes"),
    bytearray(100_000),
    (),
    [1, "a", (2.5, None), {"k": [b"v"]}],
    {"keys": 1, 2: {"nested": [[]]}},
    frozenset({1, 2}),
    list(range(1000)),
    Point(1, ["a"]),
    collections.OrderedDict(a=1),
    datetime.datetime(2024, 2, 29, tzinfo=datetime.UTC),
    decimal.Decimal("1.10"),
    array.array("d", range(2000)),
    len,
    Point,
]


@every_protocol
def test_objects(protocol: int) -> None:
    q = penstock.Queue[Any](protocol=protocol)
    for sent in OBJECTS:
        received = loads(dumps(sent, protocol))
        q.put(sent)
        through_a_queue = q.get()
        assert received == through_a_queue == sent
        assert type(received) is type(through_a_queue) is type(sent)


@every_protocol
def test_without_large_buffers_the_bytes_are_a_pickle_of_the_protocol(protocol: int) -> None:
    sent = [Point(1, ["a"]), {"b": (2.5, b"c" * 10_000)}, bytearray(10_000)]
    message = dumps(sent, protocol)
    assert pickle.loads(message) == loads(message) == sent
    if protocol >= 2:
        assert message[:2] == bytes([0x80, protocol])


def test_the_highest_protocol_is_the_default() -> None:
    assert dumps([1]) == dumps([1], None) == dumps([1], pickle.HIGHEST_PROTOCOL)


def test_what_is_shared_inside_an_object_stays_shared() -> None:
    shared: list[Any] = ["shared"]
    shared.append(shared)
    first, second = loads(dumps([shared, shared]))
    assert first is second
    assert first[1] is first


@pytest.mark.parametrize("is_alone", [True, False])
@pytest.mark.parametrize("protocol", [4, 5])
@pytest.mark.parametrize("name", ARRAYS)
def test_arrays_arrive_writable_and_in_native_byte_order(name: str, protocol: int, is_alone: bool) -> None:
    sent = ARRAYS[name]
    received = loads(dumps(sent, protocol)) if is_alone else loads(dumps({"a": sent}, protocol))["a"]
    assert received.dtype == sent.dtype.newbyteorder("=")
    assert received.shape == sent.shape
    assert np.array_equal(received, sent)
    assert received.flags.writeable
    assert not np.shares_memory(received, sent)


@pytest.mark.parametrize("size", [10, 5000, 1_000_000])
def test_buffers_keep_their_read_only_mark(size: int) -> None:
    for buffer in (bytes(size), bytearray(size)):
        for received in (loads(dumps(Raw(buffer))), loads(dumps(memoryview(buffer)))):
            assert received == buffer
            assert received.readonly == isinstance(buffer, bytes)


def test_bytes_are_independent_of_the_object() -> None:
    sent = np.zeros(10_000)
    message = dumps(sent)
    sent[:] = 1
    first, second = loads(message), loads(message)
    first[:] = 2
    assert not second.any()
    assert not loads(message).any()


# Reducers and picklers of the program.


class Registered:
    pass


@pytest.mark.parametrize("register", ["multiprocessing", "copyreg"])
def test_registered_reducers(register: str, monkeypatch: pytest.MonkeyPatch) -> None:
    table = ForkingPickler._extra_reducers if register == "multiprocessing" else copyreg.dispatch_table
    dumps(Registered())  # by a pickler that the codec keeps
    monkeypatch.setitem(table, Registered, lambda _: (str, ("reduced",)))
    assert loads(dumps([Registered()])) == ["reduced"]
    monkeypatch.undo()
    assert isinstance(loads(dumps([Registered()]))[0], Registered)


class Marked(pickle.Pickler):
    """Writes a format that only its own `loads` reads."""

    @classmethod
    def dumps(cls, obj: Any, protocol: int | None = None) -> bytes:
        return b"\xff mine" + pickle.dumps(obj, protocol)

    @staticmethod
    def loads(data: Any) -> Any:
        assert data.startswith(b"\xff mine")
        return "by Marked", pickle.loads(data[6:])


@pytest.mark.parametrize("place", ["reduction", "queues"])
def test_a_pickler_in_the_place_of_the_standard_one(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert loads(dumps(1)) == 1
    if place == "reduction":
        monkeypatch.setattr(multiprocessing.reduction, "ForkingPickler", Marked)
    else:
        monkeypatch.setattr(multiprocessing.queues, "_ForkingPickler", Marked)
    assert loads(dumps(1)) == ("by Marked", 1)
    assert loads(dumps(Point(1, []))) == ("by Marked", Point(1, []))
    monkeypatch.undo()
    assert loads(dumps(1)) == 1
    assert loads(dumps(Point(1, []))) == Point(1, [])


class Inner:
    def __reduce__(self) -> Any:
        return loads, (dumps([Point(2, []), np.zeros(1000)]),)


def test_a_reducer_that_makes_bytes_itself() -> None:
    point, zeros = loads(dumps({"inner": Inner()}))["inner"]
    assert point == Point(2, [])
    assert zeros.shape == (1000,)


def test_threads() -> None:
    sent = [Point(number, ["a"]) for number in range(100)]
    failed: list[Any] = []

    def work() -> None:
        for _ in range(50):
            if loads(dumps(sent)) != sent:
                failed.append("differs")

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed


# Objects that belong to processes.


def test_a_queue_is_named_by_its_id() -> None:
    q = penstock.Queue[str]()
    message = dumps([q])
    (same,) = loads(message)
    same.put("through the copy")
    assert q.get() == "through the copy"
    del q, same
    with pytest.raises(QueueGoneError):
        loads(message)


SHARED: dict[str, Callable[[], Any]] = {
    "lock": multiprocessing.Lock,
    "queue": lambda: multiprocessing.SimpleQueue(),
}


@pytest.mark.parametrize("name", SHARED)
def test_what_multiprocessing_shares_only_with_a_process_that_it_starts(name: str) -> None:
    shared = SHARED[name]()
    for make in (dumps, ForkingPickler.dumps):
        with pytest.raises(RuntimeError, match="should only be shared"):
            make(shared)


# Errors.


@pytest.mark.parametrize("protocol", [-1, 6])
def test_no_such_protocol(protocol: int) -> None:
    with pytest.raises(ValueError, match=f"protocol must be from 0 to 5, not {protocol}"):
        dumps(1, protocol)


@pytest.mark.parametrize("argument", ["text", bytearray(b"N."), memoryview(b"N."), None])
def test_only_bytes_are_loaded(argument: Any) -> None:
    with pytest.raises(TypeError, match="bytes"):
        loads(argument)


def test_an_object_that_cannot_be_pickled() -> None:
    with pytest.raises((pickle.PicklingError, AttributeError, TypeError)):
        dumps([bytes(100_000), lambda: None])
    assert loads(dumps("after")) == "after"


class Fragile:
    def __setstate__(self, state: Any) -> None:
        raise ZeroDivisionError("inside")


def test_an_object_that_cannot_be_rebuilt() -> None:
    fragile = Fragile()
    fragile.number = 1  # type: ignore[attr-defined]
    for sent in (fragile, [fragile, np.zeros(1000)]):
        with pytest.raises(ZeroDivisionError, match="inside") as raised:
            loads(dumps(sent))
        (note,) = raised.value.__notes__
        assert note.startswith("These bytes could not be rebuilt.")
        assert f"{__name__}.Fragile" in note


MESSAGES = {
    "plain": dumps({"a": [1, "text", None]}),
    "pickled": dumps(Point(1, ["a"])),
    "array": dumps(np.zeros(1000)),
    "objects with buffers": dumps([Point(1, []), np.zeros(1000), memoryview(bytes(5000))]),
}


@pytest.mark.parametrize("name", MESSAGES)
def test_bytes_that_end_early(name: str) -> None:
    message = MESSAGES[name]
    for length in range(0, len(message), 1 if len(message) < 1000 else 37):
        with pytest.raises(Exception):  # noqa: B017, PT011  # any exception of pickle
            loads(message[:length])


@pytest.mark.parametrize("name", ["array", "objects with buffers"])
def test_damage_of_the_table_of_buffers(name: str) -> None:
    message = MESSAGES[name]
    count = int.from_bytes(message[4:8], "little")
    table = [(16 + 16 * entry, 24 + 16 * entry) for entry in range(count)]
    huge = [1 << 62, (1 << 63) - 1, 1 << 32, len(message)]
    for place in [8, *(place for entry in table for place in entry)]:
        for number in huge:
            damaged = message[:place] + number.to_bytes(8, "little") + message[place + 8 :]
            with pytest.raises(pickle.UnpicklingError, match="damaged"):
                loads(damaged)
    for number in (1000, (1 << 32) - 1):
        with pytest.raises(pickle.UnpicklingError, match="damaged"):
            loads(message[:4] + number.to_bytes(4, "little") + message[8:])


def little_memory(size: int) -> None:
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + size, resource.RLIM_INFINITY))


LARGE: dict[str, Callable[[], Any]] = {
    "bytes": lambda: os.urandom(64 * MIB),
    "bytes in a list": lambda: [os.urandom(64 * MIB)],
    "array": lambda: np.zeros(64 * MIB, np.uint8),
    "array in a list": lambda: [np.zeros(64 * MIB, np.uint8)],
}


@pytest.mark.skipif(FREE_THREADED, reason="its allocator keeps address space, which no limit takes away")
@pytest.mark.parametrize("name", LARGE)
def test_no_memory(name: str) -> None:
    sent = LARGE[name]()
    message = dumps(sent)

    def use() -> list[str]:
        little_memory(16 * MIB)
        raised = []
        for call in (lambda: dumps(sent), lambda: loads(message)):
            try:
                call()
            except MemoryError:
                raised.append("MemoryError")
        little_memory(1 << 40)
        assert len(dumps(loads(message))) == len(message)
        return raised

    with fork(use) as child:
        assert child.result() == ["MemoryError"] * 2
