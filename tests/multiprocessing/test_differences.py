"""docs/differences.md is true: each row names tests that exist. Tests of no other file are here."""

import multiprocessing
import multiprocessing.queues
import pickle
import re
from collections.abc import Callable
from multiprocessing import connection
from multiprocessing.synchronize import SEM_VALUE_MAX
from typing import Any

import pytest

import penstock
from tests.asynchronous.cpython.differences import DIFFERENCES as DIFFERENCES_OF_ASYNCIO
from tests.multiprocessing.cpython.differences import DIFFERENCES
from tests.support.programs import METHODS, ROOT

DOCUMENT = ROOT / "docs" / "differences.md"
PAIRS = [
    (multiprocessing.Queue, penstock.Queue),
    (multiprocessing.SimpleQueue, penstock.SimpleQueue),
    (multiprocessing.JoinableQueue, penstock.JoinableQueue),
]
every_pair = pytest.mark.parametrize(
    ("standard", "ours"), PAIRS, ids=["Queue", "SimpleQueue", "JoinableQueue"]
)


def rows(heading: str) -> list[list[str]]:
    """The cells of the table below a heading."""
    section = DOCUMENT.read_text().split(f"\n## {heading}\n")[1].split("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[1:]]


# -------------------------------------------------------------------------------------- the document


@pytest.mark.parametrize(
    ("heading", "differences"),
    [
        ("In the interpreter's own tests", DIFFERENCES),
        ("In the interpreter's tests of asyncio.Queue", DIFFERENCES_OF_ASYNCIO),
    ],
)
def test_document_lists_the_interpreters_tests_that_differ(heading: str, differences: list[Any]) -> None:
    written = [(name.strip("`"), reason) for name, reason in rows(heading)]
    assert written == [(difference.test, difference.reason) for difference in differences]


def test_document_names_tests_that_exist() -> None:
    table = rows("In behaviour")
    assert len(table) > 10
    for what, standard, ours, why, shown_by in table:
        assert all([what, standard, ours, why])
        named = re.findall(r"`([\w.]+)::(\w+)`", shown_by)
        assert named, f"no test shows: {what}"
        for file, test in named:
            # The name of a test file is unique in all folders.
            [path] = (ROOT / "tests").rglob(file)
            assert re.search(rf"^def {test}\(", path.read_text(), re.MULTILINE), f"{file}::{test}"


# --------------------------------------------------------------------------------------- what it says


@every_pair
def test_classes(standard: Callable[[], Any], ours: type) -> None:
    penstock.patch()
    try:
        patched = standard()
    finally:
        penstock.unpatch()
    assert type(patched) is ours
    assert type(standard()).__module__ == "multiprocessing.queues"
    assert isinstance(ours(), getattr(multiprocessing.queues, ours.__name__))


@every_pair
def test_private_attributes(standard: Callable[[], Any], ours: Callable[[], Any]) -> None:
    for name in ("_reader", "_writer", "_rlock"):
        assert hasattr(standard(), name)
        assert hasattr(ours(), name)
    assert hasattr(standard(), "_poll")
    for name in ("_poll", "_buffer", "_thread", "_wlock", "_sem"):
        assert not hasattr(ours(), name)
    assert ours()._closed is False


@every_pair
def test_faces_can_be_waited_for(standard: Callable[[], Any], ours: Callable[[], Any]) -> None:
    queue, another = ours(), ours()
    queue.put("item")
    assert queue._reader in connection.wait([queue._reader, another._reader])
    assert another._reader not in connection.wait([queue._reader, another._reader])
    assert len({queue._reader, queue._reader, queue._writer, queue._writer, another._reader}) == 3
    assert queue._reader != queue._writer != another._writer


@every_pair
def test_pickling_a_queue(standard: Callable[[], Any], ours: Callable[[], Any]) -> None:
    with pytest.raises(RuntimeError, match="inheritance"):
        pickle.dumps(standard())
    queue = ours()
    queue.put("item")
    assert pickle.loads(pickle.dumps(queue)).get() == "item"


def put_start_method(queue: Any) -> None:
    queue.put(multiprocessing.get_start_method())


@pytest.mark.slow
@pytest.mark.parametrize("process_method", METHODS)
@pytest.mark.parametrize("queue_method", METHODS)
def test_queue_of_any_context_goes_to_any_process(queue_method: str, process_method: str) -> None:
    context = multiprocessing.get_context(process_method)
    queue = penstock.get_context(queue_method).Queue()
    process = context.Process(target=put_start_method, args=(queue,))
    process.start()
    assert queue.get() == process_method
    process.join()
    assert process.exitcode == 0


def test_maxsize_beyond_every_semaphore() -> None:
    with pytest.raises((OverflowError, OSError, ValueError)):
        multiprocessing.Queue(SEM_VALUE_MAX + 1)
    queue = penstock.Queue[int](SEM_VALUE_MAX + 1)
    queue.put(1)
    assert not queue.full()
    assert queue.get() == 1


def put_and_cancel(queue: Any) -> None:
    queue.put(bytes(5_000_000))
    queue.cancel_join_thread()


@pytest.mark.parametrize("ours", [penstock.Queue, penstock.JoinableQueue])
def test_cancel_join_thread_loses_nothing(ours: Callable[[], Any]) -> None:
    queue = ours()
    process = multiprocessing.get_context("fork").Process(target=put_and_cancel, args=(queue,))
    process.start()
    process.join()
    assert queue.get(block=False) == bytes(5_000_000)
