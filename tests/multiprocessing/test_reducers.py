"""Picklers that programs put in place of multiprocessing's."""

import copyreg
import io
import multiprocessing.connection
import multiprocessing.queues
import multiprocessing.reduction
import pickle
import subprocess
import sys
from collections.abc import Callable
from multiprocessing import context
from pathlib import Path
from typing import Any

import pytest

import penstock

STANDARD = multiprocessing.reduction.AbstractReducer.ForkingPickler


class Marked(pickle.Pickler):
    """Writes a format that only its own `loads` reads."""

    @classmethod
    def dumps(cls, obj: Any, protocol: int | None = None) -> bytes:
        return b"\xff mine" + pickle.dumps(("by Marked", obj), protocol)

    @staticmethod
    def loads(data: Any) -> Any:
        assert data.startswith(b"\xff mine")
        return pickle.loads(data[6:])

    @staticmethod
    def register(cls: type, reduce: Any) -> None:
        copyreg.pickle(cls, reduce)


class Reversed(Marked):
    """Writes a pickle backwards, and returns a view of it."""

    @classmethod
    def dumps(cls, obj: Any, protocol: int | None = None) -> Any:
        return io.BytesIO(pickle.dumps(("by Reversed", obj), protocol)[::-1]).getbuffer()

    @staticmethod
    def loads(data: Any) -> Any:
        return pickle.loads(bytes(data)[::-1])


class Reducer(multiprocessing.reduction.AbstractReducer):
    ForkingPickler = Marked  # type: ignore[assignment]


class Whole:
    """Pickled by code of the program."""

    def __init__(self, number: int) -> None:
        self.number = number

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Whole) and other.number == self.number

    __hash__ = None  # type: ignore[assignment]


OBJECTS: list[Any] = [
    1,
    "two",
    [3.0],
    b"4" * 3000,
    {"5": (None,)},
    Whole(6),
    bytes(300_000),
    list(range(500)),
]


def through_a_queue(make: Callable[[], Any]) -> list[Any]:
    q = make()
    for item in OBJECTS:
        q.put(item)
    received = [q.get() for _ in OBJECTS[:3]]
    received += q.get_many()
    q.put_many(OBJECTS)
    return received + q.get_many()


def through_a_pipe() -> list[Any]:
    a, b = penstock.Pipe()
    received = []
    for item in OBJECTS * 2:
        a.send(item)
        received.append(b.recv())
    return received


WAYS: dict[str, Callable[[], list[Any]]] = {
    "Queue": lambda: through_a_queue(penstock.Queue),
    "JoinableQueue": lambda: through_a_queue(penstock.JoinableQueue),
    "SimpleQueue": lambda: through_a_queue(penstock.SimpleQueue),
    "Pipe": through_a_pipe,
}
every_way = pytest.mark.parametrize("way", WAYS)


def by(name: str) -> list[Any]:
    return [(f"by {name}", item) for item in OBJECTS * 2]


@every_way
@pytest.mark.parametrize("pickler", [Marked, Reversed])
@pytest.mark.parametrize("place", ["reduction", "reducer of a context", "its own module"])
def test_a_pickler_in_the_place_of_the_standard_one(
    way: str, pickler: Any, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if place == "reduction":
        monkeypatch.setattr(multiprocessing.reduction, "ForkingPickler", pickler)
    elif place == "reducer of a context":
        former = context.reduction  # type: ignore[attr-defined]
        monkeypatch.setattr(context, "reduction", former)  # to be restored
        monkeypatch.setattr(Reducer, "ForkingPickler", pickler)
        penstock.get_context("fork").reducer = Reducer()
    else:
        module = multiprocessing.connection if way == "Pipe" else multiprocessing.queues
        monkeypatch.setattr(module, "_ForkingPickler", pickler)
    assert WAYS[way]() == by(pickler.__name__)
    monkeypatch.undo()
    assert WAYS[way]() == OBJECTS * 2


@every_way
def test_parts_of_the_standard_pickler_replaced(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(STANDARD, "dumps", Marked.dumps)
    monkeypatch.setattr(STANDARD, "loads", Marked.loads)
    assert WAYS[way]() == by("Marked")


@every_way
def test_a_method_added_to_the_standard_pickler(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def override(self: Any, obj: Any) -> Any:
        return (int, (7,)) if isinstance(obj, Whole) else NotImplemented

    monkeypatch.setattr(STANDARD, "reducer_override", override, raising=False)
    assert WAYS[way]() == [7 if isinstance(item, Whole) else item for item in OBJECTS * 2]


def test_a_pickler_for_a_queue_that_is_open_already(monkeypatch: pytest.MonkeyPatch) -> None:
    q = penstock.Queue[Any]()
    a, b = penstock.Pipe()
    monkeypatch.setattr(multiprocessing.queues, "_ForkingPickler", Marked)
    monkeypatch.setattr(multiprocessing.connection, "_ForkingPickler", Reversed)
    q.put(Whole(1))
    assert q.get() == ("by Marked", Whole(1))
    a.send(Whole(2))
    assert b.recv() == ("by Reversed", Whole(2))


def test_queues_inside_such_a_message(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(multiprocessing.reduction, "ForkingPickler", Marked)
    q = penstock.Queue[Any]()
    q.put([penstock.Queue(), "beside it"])
    _, (inner, _) = q.get()
    inner.put("inside")
    assert inner.get() == ("by Marked", "inside")


@every_way
def test_a_pickler_that_cannot(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pickler without the `dumps` that `multiprocessing` needs is refused with a message."""
    monkeypatch.setattr(multiprocessing.reduction, "ForkingPickler", pickle.Pickler)
    with pytest.raises(AttributeError, match="dumps"):
        WAYS[way]()


PROGRAM = """
import io, multiprocessing, pickle, sys
import multiprocessing.reduction as reduction

class Other(pickle.Pickler):
    def reducer_override(self, obj):
        return (str, ("a lambda",)) if getattr(obj, "__name__", "") == "<lambda>" else NotImplemented
    @classmethod
    def dumps(cls, obj, protocol=None):
        file = io.BytesIO()
        cls(file, protocol).dump(obj)
        return file.getvalue()
    register = staticmethod(lambda *arguments: None)
    loads = staticmethod(pickle.loads)

def dump(obj, file, protocol=None):
    Other(file, protocol).dump(obj)

class Reducer(reduction.AbstractReducer):
    ForkingPickler = Other
    # As class attributes of an instance these would be bound, in the standard class, too.
    register = staticmethod(Other.register)
    dump = staticmethod(dump)

way, method = sys.argv[1:3]
if way == "modules":
    reduction.ForkingPickler, reduction.dump, reduction.register = Other, dump, Other.register
elif way == "queues":
    import multiprocessing.connection, multiprocessing.queues
    multiprocessing.queues._ForkingPickler = multiprocessing.connection._ForkingPickler = Other
elif way == "reducer":
    multiprocessing.get_context(method).reducer = Reducer()
{prepare}

def work(tasks, results, connection):
    results.put(tasks.get())
    results.put(lambda: 1)
    connection.send(lambda: 2)

if __name__ == "__main__":
    context = {context}
    tasks, results, (here, there) = context.JoinableQueue(), context.SimpleQueue(), context.Pipe()
    process = context.Process(target=work, args=(tasks, results, there))
    process.start()
    tasks.put(lambda: 0)
    print(results.get(), results.get(), here.recv())
    process.join()
    print(type(tasks).__module__)
"""


@pytest.mark.slow
@pytest.mark.parametrize("way", ["modules", "queues", "reducer"])
@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
@pytest.mark.parametrize("use", ["context", "patch", "run"])
def test_a_whole_program(way: str, method: str, use: str, tmp_path: Path) -> None:
    if (way, method) == ("reducer", "forkserver"):
        return  # the standard AbstractReducer lacks what a fork server needs
    ours = "import penstock" + ("; penstock.patch()" if use == "patch" else "")
    make = "penstock" if use == "context" else "multiprocessing"
    program = tmp_path / "program.py"
    source = PROGRAM.replace("{prepare}", "" if use == "run" else ours)
    program.write_text(source.replace("{context}", f"{make}.get_context(method)"))
    command = [sys.executable, *(["-m", "penstock", "run"] if use == "run" else []), program, way, method]
    done = subprocess.run(command, capture_output=True, text=True, timeout=50)
    assert done.stderr == ""
    assert done.stdout == "a lambda a lambda a lambda\npenstock.queues\n"
