"""Plain messages, which the binding pickles itself: what arrives is what pickle would deliver."""

import copyreg
import os
import pickle
import pickletools
import signal
from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

import penstock
from tests.support.children import fork

PROTOCOLS = (4, 5)
LONG = "ü" * 300  # more than a plain container holds


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
        return kind, repr(part)

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
]


def test_a_plain_message_is_a_pickle() -> None:
    # Dead letters are read by pickle itself.
    q = penstock.JoinableQueue[Any](max_deliveries=0)
    with fork(put_and_die, q, PLAIN) as child:
        assert child.wait() == -signal.SIGKILL
    q.join()
    letters = q.dead_letters()
    assert [look(letter) for letter in letters] == [look(value) for value in PLAIN]


def bytes_of(value: Any) -> int:
    """How many bytes the message has."""
    q = penstock.Queue[Any]()
    q.put(value)
    q.get()
    return q.statistics().bytes


def plain_length(value: Any) -> int:
    """How many bytes a plain message has: pickle's, without frame and memo, by fewer kinds of opcodes."""
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
