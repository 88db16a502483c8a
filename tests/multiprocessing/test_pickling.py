"""Which objects can be put, what arrives, and what happens if an object cannot be pickled or rebuilt."""

import array
import collections
import copyreg
import datetime
import decimal
import enum
import fractions
import gc
import io
import os
import pickle
import queue
import sys
import threading
import time
import tracemalloc
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import penstock
from tests.support.arrays import ARRAYS
from tests.support.children import fork

PROTOCOLS = range(pickle.HIGHEST_PROTOCOL + 1)
every_protocol = pytest.mark.parametrize("protocol", PROTOCOLS)
CLASSES = (penstock.Queue, penstock.SimpleQueue, penstock.JoinableQueue)
every_class = pytest.mark.parametrize("make", CLASSES)

KIB = 1024
SIZES = [0, 1, 71, 72, 73, 2047, 2048, 2049, 64 * KIB - 20, 64 * KIB, 64 * KIB + 1, 1000 * KIB, 20_000 * KIB]


class Color(enum.Enum):
    RED = 1


class Flags(enum.Flag):
    A = 1
    B = 2


@dataclass
class Point:
    x: int
    y: float = 0.5
    tags: list[str] = field(default_factory=list)


class Slotted:
    __slots__ = ("a", "b")

    def __init__(self, a: object) -> None:
        self.a = a

    def __getstate__(self) -> dict[str, object]:
        return {"a": self.a}

    def __setstate__(self, state: dict[str, object]) -> None:
        self.a = state["a"]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Slotted) and self.a == other.a

    __hash__ = None  # type: ignore[assignment]


class Named(tuple[int, int]):
    """A subclass of a built-in class, with attributes."""


class Text(str):
    pass


class Bytes(bytes):
    pass


def function(number: int) -> int:
    return number + 1


OBJECTS: list[object] = [
    None,
    True,
    0,
    -1,
    1 << 100,
    1.5,
    complex(1, 2),
    "",
    "text ü \U0001f600",
    b"",
    b"bytes",
    bytearray(b"bytes"),
    (),
    [],
    {},
    set(),
    frozenset({1, 2}),
    [1, "a", (2.5, None), {"k": [b"v"]}],
    Text("text"),
    Bytes(b"bytes"),
    range(3),
    slice(1, 2) if sys.version_info >= (3, 14) else None,
    Ellipsis,
    Color.RED,
    Flags.A | Flags.B,
    Point(1, 2.5, ["a"]),
    Slotted([1]),
    Named((1, 2)),
    collections.Counter("hello"),
    collections.OrderedDict(a=1),
    collections.deque([1, 2], maxlen=3),
    datetime.datetime(2024, 2, 29, 12, tzinfo=datetime.UTC),
    decimal.Decimal("1.10"),
    fractions.Fraction(1, 3),
    Path("/a/b"),
    array.array("d", [1.5, 2.5]),
    len,
    function,
    Point,
    "abc".upper().__class__,
]


# The received object equals the sent one, and is another object.


@every_class
@every_protocol
def test_objects(make: Callable[..., Any], protocol: int) -> None:
    q = make(protocol=protocol)
    for sent in OBJECTS:
        q.put(sent)
        received = q.get()
        assert received == sent
        assert type(received) is type(sent)
    assert q.empty()


def test_mutable_objects_arrive_as_others() -> None:
    q = penstock.Queue[Any]()
    for sent in ([1], {"a": []}, Point(1), bytearray(b"a")):
        q.put(sent)
        assert q.get() is not sent


@pytest.mark.slow
@every_class
@every_protocol
@pytest.mark.parametrize("size", SIZES)
def test_sizes(make: Callable[..., Any], protocol: int, size: int) -> None:
    q = make(protocol=protocol)
    sent = os.urandom(size) if size < 1000 * KIB else bytes(range(256)) * (size // 256)
    q.put(sent)
    assert q.get() == sent
    if protocol >= 3:  # older protocols have no opcode for bytes
        pieces = [sent, "between", sent, bytearray(sent)]
        q.put(pieces)
        assert q.get() == pieces


@every_protocol
def test_structures_that_contain_themselves(protocol: int) -> None:
    q = penstock.Queue[Any](protocol=protocol)
    items: list[Any] = [1]
    items.append(items)
    table: dict[str, Any] = {"list": items}
    table["self"] = table
    point = Point(1)
    point.tags = [point]  # type: ignore[list-item]
    for sent in (items, table, point):
        q.put(sent)
    received_items, received_table, received_point = q.get(), q.get(), q.get()
    assert received_items[1] is received_items
    assert received_table["self"] is received_table
    assert received_table["list"][1] is received_table["list"]
    assert received_point.tags[0] is received_point


def test_what_is_shared_inside_an_item_stays_shared_and_between_items_does_not() -> None:
    q = penstock.Queue[Any]()
    shared = ["shared"]
    q.put([shared, shared])
    q.put([shared])
    first, second = q.get(), q.get()
    assert first[0] is first[1]
    assert first[0] is not second[0]


@every_protocol
def test_the_protocol_is_the_one_asked_for(protocol: int) -> None:
    class Asked:
        def __reduce_ex__(self, number: Any) -> Any:
            return int, (number,)

    q = penstock.Queue[Any](protocol=protocol)
    q.put(Asked())
    assert q.get() == protocol
    default = penstock.Queue[Any]()
    default.put(Asked())
    assert default.get() == pickle.HIGHEST_PROTOCOL


@pytest.mark.slow
@every_protocol
@pytest.mark.parametrize("name", ARRAYS)
def test_numpy_arrays(name: str, protocol: int) -> None:
    q = penstock.Queue[Any](protocol=protocol)
    sent = ARRAYS[name]
    q.put({"array": sent})
    received = q.get()["array"]
    # Before protocol 5 NumPy converts to the machine's byte order. Penstock does so with protocol 5, too.
    assert received.dtype == pickle.loads(pickle.dumps(sent, min(protocol, 4))).dtype
    assert received.shape == sent.shape
    assert np.array_equal(received, sent)


def test_a_received_array_can_be_written_to() -> None:
    q = penstock.Queue[Any]()
    q.put(np.zeros(100_000))
    received = q.get()
    received[:] = 1
    assert received.sum() == 100_000


@pytest.mark.parametrize("size", [10, 100 * KIB])
def test_what_is_changed_after_put_arrives_unchanged(size: int) -> None:
    q = penstock.Queue[Any](maxsize=1)
    sent: list[Any] = [bytearray(b"a" * size), np.ones(size, dtype=np.uint8)]
    for mutable in sent:
        q.put(mutable)
        mutable[:] = bytes(size) if isinstance(mutable, bytearray) else 0
        assert bytes(q.get()) in (b"a" * size, b"\1" * size)


def test_a_bytearray_can_be_resized_after_put() -> None:
    q = penstock.Queue[Any]()
    sent = bytearray(100 * KIB)
    q.put(sent)
    sent.clear()
    assert q.get() == bytes(100 * KIB)


class Raw:
    """Pickles its buffer out of band, as array libraries do."""

    def __init__(self, buffer: Any) -> None:
        self.buffer = buffer

    def __reduce_ex__(self, protocol: Any) -> Any:
        return bytes, (pickle.PickleBuffer(self.buffer),)


@pytest.mark.parametrize("size", [10, 200 * KIB])
def test_pickle_buffers(size: int) -> None:
    q = penstock.Queue[Any]()
    data = os.urandom(size)
    for buffer in (
        data,
        bytearray(data),
        memoryview(data),
        memoryview(bytearray(data)).cast("B", (2, size // 2)),
    ):
        q.put(Raw(buffer))
        assert q.get() == data


@pytest.mark.slow
@pytest.mark.limit(300)
def test_a_gigabyte() -> None:
    available = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if available < 5 << 30:
        pytest.skip("needs 5 GiB of free memory")
    q = penstock.Queue[Any](max_bytes=2 << 30)
    sent = bytes(range(256)) * (1 << 22)
    q.put({"large": sent})
    assert q.get()["large"] == sent
    assert q.empty()


# Objects that cannot be pickled.


class Unpicklable:
    def __reduce__(self) -> Any:
        raise OSError("not today")


def nested(depth: int) -> list[Any]:
    outer: list[Any] = []
    inner = outer
    for _ in range(depth):
        inner.append([])
        inner = inner[0]
    return outer


# Protocols and versions of Python raise different ones.
NOT_PICKLED = (pickle.PicklingError, AttributeError, TypeError)

UNPICKLABLE: dict[str, tuple[Callable[[], Any], Any]] = {
    "lambda": (lambda: lambda: None, NOT_PICKLED),
    "thread lock": (threading.Lock, NOT_PICKLED),
    "open file": (lambda: io.TextIOWrapper(io.BytesIO()), NOT_PICKLED),
    "generator": (lambda: (number for number in ()), NOT_PICKLED),
    "raising reducer": (Unpicklable, OSError),
    "after much else": (lambda: [bytes(200 * KIB), "x" * 100 * KIB, Unpicklable()], OSError),
    "too deep": (lambda: nested(100_000), RecursionError),
}


@pytest.mark.slow
@every_class
@every_protocol
@pytest.mark.parametrize("name", UNPICKLABLE)
def test_an_object_that_cannot_be_pickled(name: str, protocol: int, make: Callable[..., Any]) -> None:
    build, error = UNPICKLABLE[name]
    q = make(protocol=protocol)
    q.put("before")
    before = q.statistics()
    with pytest.raises(error):
        q.put(build())
    assert q.statistics() == before
    q.put("after")
    assert [q.get(), q.get()] == ["before", "after"]


def test_a_full_queue_says_so_before_anything_is_pickled() -> None:
    q = penstock.Queue[Any](maxsize=1)
    q.put(1)
    with pytest.raises(queue.Full):
        q.put_nowait(Unpicklable())


# Objects that cannot be rebuilt.


class Fragile:
    def __init__(self, error: BaseException) -> None:
        self.error = error

    def __setstate__(self, state: dict[str, Any]) -> None:
        raise state["error"]


@every_class
@pytest.mark.parametrize("padding", [0, 10 * KIB, 100 * KIB])
def test_an_object_that_cannot_be_rebuilt(make: Callable[..., Any], padding: int) -> None:
    q = make()
    q.put("before")
    q.put([Fragile(ZeroDivisionError("inside")), bytes(padding)])
    q.put("after")
    assert q.get() == "before"
    with pytest.raises(ZeroDivisionError, match="inside") as raised:
        q.get()
    (note,) = raised.value.__notes__
    assert f"{__name__}.Fragile" in note
    assert q._id.hex() in note
    assert q.get() == "after"
    assert q.empty()


@every_protocol
def test_a_class_that_the_receiver_does_not_have(protocol: int, monkeypatch: pytest.MonkeyPatch) -> None:
    q = penstock.Queue[Any](protocol=protocol)
    q.put(Point(1))
    monkeypatch.delitem(globals(), "Point")
    with pytest.raises(AttributeError, match="Point") as raised:
        q.get()
    (note,) = raised.value.__notes__
    assert f"{__name__}.Point" in note
    assert q.empty()


def ticks_of_two(first: Callable[[], object], second: Callable[[], object]) -> tuple[int, int]:
    """The least CPU time in ns that this thread takes for each of two calls, of five tries."""
    least = [sys.maxsize, sys.maxsize]
    for _ in range(5):
        for number, call in enumerate((first, second)):
            start = time.thread_time_ns()
            call()
            least[number] = min(least[number], time.thread_time_ns() - start)
    return least[0], least[1]


@pytest.mark.slow
@pytest.mark.parametrize("make", CLASSES)
def test_the_note_on_a_large_item_names_its_types_and_takes_no_longer_than_rebuilding_it(
    make: Callable[..., Any],
) -> None:
    sent = [list(range(300_000)), Fragile(ZeroDivisionError("inside"))]
    sound = pickle.dumps(sent[0], pickle.HIGHEST_PROTOCOL)
    q = make()

    def fail() -> None:
        q.put(sent)
        with pytest.raises(ZeroDivisionError) as raised:
            q.get()
        assert f"{__name__}.Fragile" in raised.value.__notes__[0]
        del raised

    def rebuild() -> None:
        q.put(sent[0])
        q.get()
        pickle.loads(sound)

    failing, rebuilding = ticks_of_two(fail, rebuild)
    assert failing < 2 * rebuilding


NAMED: list[tuple[object, list[str]]] = [
    (decimal.Decimal(1), ["decimal.Decimal"]),
    (
        [fractions.Fraction(1, 3), decimal.Decimal(1), fractions.Fraction(1, 2)],
        ["fractions.Fraction", "decimal.Decimal"],
    ),
    ({"a": ("not", "a type")}, []),
    ([Point(1), Point(2), Slotted(1)], [f"{__name__}.Point", f"{__name__}.Slotted"]),
    (
        [collections.OrderedDict(a=1), 10**400, -(10**4000), 1.5, b"b" * 300, "s" * 70_000, bytearray(9)],
        ["collections.OrderedDict"],
    ),
    (["decimal", "Decimal", decimal.Decimal(1), "decimal", "Decimal"], ["decimal.Decimal"]),
    ([str(number) for number in range(70_000)] + [Color.RED], [f"{__name__}.Color"]),
]


@pytest.mark.slow
@every_protocol
@pytest.mark.parametrize("index", range(len(NAMED)))
def test_the_note_names_the_types_in_their_order(index: int, protocol: int) -> None:
    value, expected = NAMED[index]
    q = penstock.Queue[Any](protocol=protocol)
    q.put([value, Fragile(ZeroDivisionError())])
    with pytest.raises(ZeroDivisionError) as raised:
        q.get()
    (note,) = raised.value.__notes__
    named = note.partition("Types named in it: ")[2].rstrip(".").split(", ")
    helpers = (
        "builtins",
        "__builtin__",
        "exceptions",
        "copyreg",
        "copy_reg",
        "_codecs",
        "collections.OrderedDict",
    )
    for name in expected:
        assert name in named
    assert [name for name in named if name in expected] == expected
    ours = {f"{__name__}.Fragile", *expected}
    assert all(name in ours or name.startswith(helpers) for name in named), named


DAMAGED = [
    b"",
    b"X\xff\xff\xff\x7f",
    b"\x96" + b"\xff" * 8,
    b"c",
    b"cdecimal\n",
    b"r\xff\xff\xff\xff",
    b"j\xff\xff\xff\xff",
    b"\xff",
    b"g-1\n",
    b"\x93",
    b"I",
]


@pytest.mark.parametrize("end", DAMAGED)
def test_the_note_on_a_pickle_that_ends_in_damage(end: bytes) -> None:
    receiver, sender = penstock.Pipe(duplex=False)
    sender.send_bytes(b"\x80\x04cfractions\nFraction\n0" + end)
    with pytest.raises(Exception) as raised:  # noqa: PT011
        receiver.recv()
    assert "fractions.Fraction" in raised.value.__notes__[0]


def test_a_module_that_the_receiver_does_not_have(monkeypatch: pytest.MonkeyPatch) -> None:
    module = type(sys)("only_the_sender_has_it")

    class Thing:
        pass

    Thing.__module__, Thing.__qualname__ = module.__name__, "Thing"
    module.Thing = Thing  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, module.__name__, module)
    q = penstock.Queue[Any]()
    q.put([Thing(), Thing()])
    monkeypatch.delitem(sys.modules, module.__name__)
    with pytest.raises(ModuleNotFoundError, match=module.__name__) as raised:
        q.get()
    assert "only_the_sender_has_it.Thing" in raised.value.__notes__[0]


def test_what_is_no_exception_gets_no_note() -> None:
    q = penstock.Queue[Any]()
    q.put(Fragile(KeyboardInterrupt()))
    with pytest.raises(KeyboardInterrupt) as raised:
        q.get()
    assert not hasattr(raised.value, "__notes__")


def test_an_item_that_cannot_be_rebuilt_is_still_to_be_done() -> None:
    q = penstock.JoinableQueue[Any]()
    q.put(Fragile(ZeroDivisionError()))
    with pytest.raises(ZeroDivisionError):
        q.get()
    assert q.statistics().unfinished == 1
    q.task_done()
    q.join()


# Reducers.


class Registered:
    pass


@contextmanager
def reducer(table: dict[Any, Any], answer: str) -> Iterator[None]:
    table[Registered] = lambda _: (str, (answer,))
    yield
    del table[Registered]


def test_reducers_count_from_the_moment_they_are_registered() -> None:
    q = penstock.Queue[Any]()

    def arrives() -> Any:
        q.put([Registered()])
        return q.get()[0]

    assert isinstance(arrives(), Registered)
    with reducer(copyreg.dispatch_table, "copyreg"):
        assert arrives() == "copyreg"
        with reducer(ForkingPickler._extra_reducers, "registered"):  # type: ignore[attr-defined]
            assert arrives() == "registered"
            ForkingPickler.register(Registered, lambda _: (str, ("again",)))
            assert arrives() == "again"
        assert arrives() == "copyreg"
    assert isinstance(arrives(), Registered)


def test_the_reducers_of_multiprocessing() -> None:
    q = penstock.Queue[Any]()
    q.put("method of an instance")
    q.put("abc".upper)  # by a reducer of multiprocessing.reduction
    q.put(list.append)
    assert q.get() == "method of an instance"
    assert q.get()() == "ABC"
    assert q.get() is list.append


class Nosy:
    """Uses the queue while it is pickled and while it is rebuilt."""

    q: penstock.Queue[Any]

    def __reduce__(self) -> Any:
        Nosy.q.put(("put inside a put", bytes(3000)))
        return _rebuild_nosy, (Nosy.q.get()[0],)


def _rebuild_nosy(text: str) -> Any:
    Nosy.q.put("put inside a get")
    return text, Nosy.q.get()


def test_a_reducer_that_uses_the_same_queue() -> None:
    Nosy.q = penstock.Queue()
    try:
        for _ in range(3):
            Nosy.q.put(["a", Nosy(), "b"])
            assert Nosy.q.get() == ["a", ("put inside a put", "put inside a get"), "b"]
        assert Nosy.q.empty()
    finally:
        del Nosy.q


class Slow:
    """Lets other threads run while it is pickled."""

    def __init__(self, number: int) -> None:
        self.number = number

    def __reduce__(self) -> Any:
        threading.Event().wait(0.0001)
        return int, (self.number,)


def test_threads_that_pickle_at_the_same_time() -> None:
    q = penstock.Queue[Any]()

    def produce(start: int) -> None:
        for number in range(start, start + 100):
            q.put([Slow(number), number, Slow(number)])

    threads = [threading.Thread(target=produce, args=(start,)) for start in range(0, 400, 100)]
    for thread in threads:
        thread.start()
    received = [q.get() for _ in range(400)]
    for thread in threads:
        thread.join()
    assert all(item == [item[0]] * 3 for item in received)
    assert sorted(item[0] for item in received) == list(range(400))


# The queue keeps no object.


@every_class
@pytest.mark.parametrize("size", [10, 300 * KIB])
def test_what_was_put_is_not_kept_alive(make: Callable[..., Any], size: int) -> None:
    q = make()
    sent = Point(1, tags=["x" * size])
    seen = weakref.ref(sent)
    q.put([sent, sent])
    del sent
    gc.collect()
    assert seen() is None
    received = q.get()
    seen = weakref.ref(received[0])
    del received
    gc.collect()
    assert seen() is None


def test_a_pickler_that_has_grown_is_not_kept() -> None:
    # Clearing its memo would slow down each later object.
    q = penstock.Queue[Any]()
    q.put(Point(1))
    q.get()
    sent = [str(number) for number in range(8_000)]
    tracemalloc.start()
    try:
        q.put(sent)
        q.get()
        assert tracemalloc.get_traced_memory()[0] < 50 * KIB
    finally:
        tracemalloc.stop()


def test_what_could_not_be_put_is_not_kept_alive() -> None:
    q = penstock.Queue[Any]()
    sent = Point(1)
    seen = weakref.ref(sent)
    with pytest.raises(OSError, match="not today"):
        q.put([sent, Unpicklable()])
    del sent
    gc.collect()
    assert seen() is None


def test_objects_come_from_other_processes() -> None:
    q = penstock.Queue[Any]()
    with fork(q.put, {"array": np.arange(100_000), "point": Point(1)}) as child:
        child.result()
    received = q.get()
    assert received["point"] == Point(1)
    assert np.array_equal(received["array"], np.arange(100_000))
