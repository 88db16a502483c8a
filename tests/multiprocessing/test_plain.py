"""Plain messages, which the codec writes without pickle, arrive as pickle would deliver them."""

import copyreg
import multiprocessing
import multiprocessing.reduction
import os
import pickle
import pickletools
import resource
import signal
import struct
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, ClassVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

import penstock
from tests.support.children import fork
from tests.support.interpreter import FREE_THREADED

PROTOCOLS = (4, 5)
LONG = "ü" * 300  # 600 bytes; a plain message of a container has at most 512


def look(value: Any) -> object:
    """Describe an object and all its parts: types, values and signs, and which parts are one object."""
    numbers: dict[int, int] = {}

    def describe(part: Any) -> object:
        kind = type(part)
        if kind in (tuple, list, dict, str, bytes):
            known = id(part) in numbers
            number = numbers.setdefault(id(part), len(numbers))
            if known and kind is not tuple:
                return number
            if kind is dict:
                return dict, number, [(describe(key), describe(item)) for key, item in part.items()]
            if kind in (tuple, list):
                return kind, number, [describe(item) for item in part]
        return kind, struct.pack("d", part) if kind is float else repr(part)

    return describe(value)


def atoms() -> some.SearchStrategy[Any]:
    edges = [2**n + d for n in (7, 8, 15, 16, 31, 32, 62, 63, 64, 200) for d in (-1, 0, 1)]
    return some.one_of(
        some.none(),
        some.booleans(),
        some.sampled_from([*edges, *(-edge for edge in edges)]),
        some.integers(-(2**66), 2**66),
        some.floats(),
        some.text(some.characters(), max_size=20),  # lone surrogates, too
        some.binary(max_size=20),
        some.sampled_from(["", "a", "ab", b"", b"b", b"bc", LONG, LONG.encode(), (), "x" * 255, "x" * 256]),
    )


def containers(items: some.SearchStrategy[Any]) -> some.SearchStrategy[Any]:
    return some.one_of(
        some.lists(items, max_size=6),
        some.lists(items, max_size=6).map(tuple),
        some.lists(items, max_size=40),
        some.dictionaries(atoms(), items, max_size=6),
        items.map(lambda item: [item, item]),
        items.map(lambda item: {"k": (item, (item,))}),
    )


objects = some.recursive(atoms(), containers, max_leaves=30)


@pytest.mark.slow
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_what_arrives_is_what_pickle_delivers(protocol: int) -> None:
    q = penstock.Queue[Any](protocol=protocol)

    @settings(deadline=None, max_examples=500, database=None)
    @given(objects)
    def check(value: Any) -> None:
        expected = pickle.loads(pickle.dumps(value, protocol))
        q.put(value)
        assert look(q.get()) == look(expected)

    check()


def run_in_new_process(function: Callable[[], Any]) -> Any:
    """Run the function in a new process, in which the codec has used nothing of pickle yet."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(function)


def put_and_die(q: penstock.JoinableQueue[Any], values: Iterable[Any]) -> None:
    for value in values:
        q.put(value)
    for _ in values:
        q.get()
    os.kill(os.getpid(), signal.SIGKILL)


PLAIN: list[Any] = [
    None,
    True,
    False,
    0,
    255,
    256,
    65535,
    65536,
    -1,
    2**31 - 1,
    2**31,
    -(2**31) - 1,
    2**63 - 1,
    -(2**63),
    1.5,
    -0.0,
    float("inf"),
    "",
    "text ü \U0001f600",
    "x" * 255,
    "x" * 300,
    "x" * 100_000,
    b"",
    b"bytes",
    bytes(range(256)) * 8,
    bytes(100_000),
    (),
    (1,),
    (1, "two"),
    (1, "two", 3.0),
    (1, "two", 3.0, None, (b"4", [])),
    [],
    [1, 2, 3],
    {},
    {"a": 1, 2: [b"v", {"k": (1, 0)}], None: True},
    "x" * 127,
    "x" * 128,
    [0] * 31,
    [[[[]]]],
    [b"x" * 501],  # 512 bytes with the last opcode
]


def test_a_plain_message_is_a_pickle() -> None:
    # Dead letters are read by pickle, not by the codec.
    q = penstock.JoinableQueue[Any](max_deliveries=0)
    with fork(put_and_die, q, PLAIN) as child:
        assert child.wait() == -signal.SIGKILL
    q.join()
    letters = q.dead_letters()
    assert [look(letter.item) for letter in letters] == [look(value) for value in PLAIN]


def bytes_of(value: Any) -> int:
    """The bytes of the value's message."""
    q = penstock.Queue[Any]()
    q.put(value)
    q.get()
    return q.statistics().bytes


def plain_length(value: Any) -> int:
    """The bytes of a plain message: pickle's, without frame and memo, by fewer kinds of opcodes."""
    pickled = pickle.dumps(value, 5)
    length = len(pickled)
    for opcode, argument, _ in pickletools.genops(pickled):
        match opcode.name:
            case "FRAME":
                length -= 9
            case "MEMOIZE":
                length -= 1
            case "APPEND" | "SETITEM":  # instead of MARK and APPENDS or SETITEMS
                length += 1
            case "LONG1":  # always with 8 bytes
                length += 8 - (max(argument, ~argument).bit_length() // 8 + 1)
    return length


@pytest.mark.parametrize("index", range(len(PLAIN)))
def test_it_has_no_frame_and_no_memo(index: int) -> None:
    assert bytes_of(PLAIN[index]) == plain_length(PLAIN[index])


def get_without_pickle() -> list[Any]:
    def loads(_: bytes) -> object:
        raise AssertionError("pickle was asked")

    pickle.loads = loads  # type: ignore[assignment]
    q = penstock.Queue[Any]()
    for value in PLAIN:
        q.put(value)
    return [q.get() for _ in PLAIN]


def test_it_is_read_without_pickle() -> None:
    received = run_in_new_process(get_without_pickle)
    assert [look(value) for value in received] == [look(value) for value in PLAIN]


# Opcodes that the codec reads, in orders that it never writes. The results, or errors, are pickle's.
STRANGE = [
    b"](K\x01e(K\x02e.",
    b"}K\x01(K\x02\x86t\x87.",
    b"]((e]e.",
    b"}(K\x01K\x02u(K\x01K\x03u.",
    b"K\x01K\x02.",
    b"(K\x01e.",
    b")(e.",
    b")(u.",
    b"}(K\x01u.",
    b"}(](K\x01eK\x02u.",
    b"](t.",
    b"K\x01((tt.",
    b"X\xff\xff\xff\xff.",
    b"X\x03\x00\x00\x00\xed\xa0\x80.",
    b"\x8a\x01\x01.",
    b"K\x01",
    b".",
    b"",
]


def outcome(call: Callable[[], object]) -> object:
    try:
        return look(call())
    except Exception as error:
        return type(error), str(error)


def test_opcodes_in_another_order_mean_what_they_mean_to_pickle() -> None:
    receiver, sender = penstock.Pipe(duplex=False)
    with receiver, sender:
        for strange in STRANGE:
            raw = b"\x80\x04" + strange
            sender.send_bytes(raw)  # sent as they are; recv() reads them as a pickle
            assert outcome(receiver.recv) == outcome(lambda raw=raw: pickle.loads(raw))


class Nosy(multiprocessing.reduction.ForkingPickler):
    """Asks for every object by `persistent_id`."""

    seen: ClassVar[list[object]] = []

    def persistent_id(self, value: object) -> None:
        self.seen.append(value)


def put_with_own_pickler() -> list[object]:
    multiprocessing.reduction.ForkingPickler = Nosy  # type: ignore[misc]
    q = penstock.Queue[Any]()
    q.put((1, "two"))
    assert q.get() == (1, "two")
    return Nosy.seen


def test_a_pickler_put_in_the_place_of_the_standard_one_sees_every_object() -> None:
    assert run_in_new_process(put_with_own_pickler) == [(1, "two"), 1, "two"]


@pytest.mark.slow
@pytest.mark.skipif(FREE_THREADED, reason="its allocator keeps address space, which no limit takes away")
@pytest.mark.parametrize("is_wrapped", [False, True])
@pytest.mark.parametrize("kind", [bytes, str])
def test_without_memory_for_the_object(kind: type, is_wrapped: bool) -> None:
    size = 200 << 20
    value: Any = b"x" * size if kind is bytes else "x" * size
    if is_wrapped:
        value = (1, value)

    def get_in_little_memory(q: penstock.Queue[Any]) -> str:
        q.put(value)
        used = int(Path("/proc/self/statm").read_text().split()[0]) * 4096
        resource.setrlimit(resource.RLIMIT_AS, (used + size // 2, used + size // 2))
        try:
            q.get()
        except MemoryError as error:
            return error.__notes__[0]
        return "there was memory"

    q = penstock.Queue[Any]()
    with fork(get_in_little_memory, q) as child:
        assert "could not be rebuilt" in child.result()
    q.put("next")
    assert q.get() == value  # the item has returned to the queue
    assert q.get() == "next"


def test_long_strings_in_containers() -> None:
    q = penstock.Queue[Any]()
    for value in [(1, b"x" * 5000), (True, "x" * 5000), (1, 2, b"x" * 100_000), (b"x" * 513,)]:
        q.put(value)
        assert q.get() == value


class Text(str):
    pass


@pytest.mark.parametrize(
    "value", [Text("x"), 1 << 64, "\ud800", [LONG, 1], [0] * 33, [[[[[1]]]]], {"k": {1, 2}}]
)
def test_what_is_not_plain_is_left_to_pickle(value: Any) -> None:
    assert bytes_of(value) == len(pickle.dumps(value, 5))


def test_a_reducer_for_an_exact_type_is_not_asked_by_pickle_either() -> None:
    def reduce(value: object) -> Any:
        raise AssertionError("it was asked")

    value = (1, "two", [3.0])
    try:
        for kind in (int, str, float, list, tuple):
            copyreg.pickle(kind, reduce)
        assert pickle.loads(pickle.dumps(value)) == value
        q = penstock.Queue[Any]()
        q.put(value)
        assert q.get() == value
    finally:
        for kind in (int, str, float, list, tuple):
            copyreg.dispatch_table.pop(kind, None)


def test_a_structure_that_contains_itself_is_not_written_for_ever() -> None:
    q = penstock.Queue[Any]()
    ring: list[Any] = [1]
    ring.append(ring)
    table: dict[str, Any] = {}
    table["self"] = (table,)
    for value in (ring, table):
        q.put(value)
    ring = q.get()
    assert ring[1] is ring
    table = q.get()
    assert table["self"][0] is table
