"""`dead_letters()`, `requeue()` and `purge()`."""

import os
import signal
from collections.abc import Callable
from typing import Any

import pytest

import penstock
from penstock import ShutDown
from tests.conformance.implementations import Promise, needs
from tests.support.children import fork

pytestmark = needs(Promise.LEASES)


def bury(q: Any, *items: Any) -> list[Any]:
    """Make dead letters of these. Returns them."""
    q.put_many(items)
    with q.leases(len(items)) as batch:
        for lease in batch:
            lease.reject()
    letters = q.dead_letters()
    assert len(letters) == q.statistics().dead_letters
    return list(letters)


def figures(q: Any) -> tuple[int, int, int]:
    now = q.statistics()
    assert q.check() == []
    return now.queued, now.unfinished, now.dead_letters


def test_what_a_letter_tells(make: Callable[..., Any]) -> None:
    q = make(max_deliveries=2)
    q.put("first")
    q.put({"a": [1, 2]})
    with q.lease() as kept:
        for _ in range(3):
            with q.lease() as lease:
                lease.nack()
        kept.reject()
    one, other = q.dead_letters()
    assert (one.item, one.id, one.deliveries) == ({"a": [1, 2]}, 2, 3)
    assert (other.item, other.id, other.deliveries) == ("first", 1, 1)
    assert one.item is not one.item, "each is a copy of its own"
    assert one == q.dead_letters()[0]
    assert one != other
    assert len({one, other, *q.dead_letters()}) == 2
    with pytest.raises(AttributeError):
        one.id = 7
    assert figures(q) == (0, 0, 2)


def kill_self() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


class Deadly:
    """An object that kills the process that rebuilds it."""

    def __reduce__(self) -> Any:
        return kill_self, ()


@pytest.mark.parametrize("size", [0, 100_000])
def test_what_kills_its_workers_is_described_in_safety(make: Callable[..., Any], size: int) -> None:
    q = make(max_deliveries=1)
    q.put([bytes(size), Deadly()])
    for _ in range(2):
        with fork(lambda: q.lease().__enter__()) as child:
            assert child.wait() == -signal.SIGKILL
        q.statistics()
    (letter,) = q.dead_letters()
    assert (letter.id, letter.deliveries) == (1, 2)
    assert "item 1" in repr(letter)
    assert q.requeue([letter]) == 1
    with fork(lambda: q.get()) as child:
        assert child.wait() == -signal.SIGKILL
    q.statistics()
    with fork(lambda: q.get()) as child:
        assert child.wait() == -signal.SIGKILL
    q.statistics()
    assert q.purge() == 1
    assert figures(q) == (0, 0, 0)


def test_requeue(make: Callable[..., Any]) -> None:
    q = make()
    letters = bury(q, "a", "b", "c")
    assert q.requeue([letters[1]]) == 1
    assert figures(q) == (1, 1, 2)
    assert q.requeue(letters) == 2
    assert q.requeue(letters) == q.requeue() == q.requeue([]) == 0
    with q.leases(3) as batch:
        assert [(lease.item, lease.id, lease.deliveries) for lease in batch] == [
            ("a", 1, 1),
            ("b", 2, 1),
            ("c", 3, 1),
        ]
    q.join()


def test_requeue_all(make: Callable[..., Any]) -> None:
    q = make(2)
    bury(q, "a", bytes(100_000))
    q.put_many("xy")
    assert q.requeue() == 2
    assert q.qsize() == 4
    assert [q.get() for _ in range(4)] == ["a", bytes(100_000), "x", "y"]


def test_purge(make: Callable[..., Any]) -> None:
    q = make()
    letters = bury(q, "a", bytes(100_000), "c")
    assert q.purge(letters[:2]) == 2
    assert q.dead_letters() == letters[2:]
    assert q.purge() == 1
    assert q.purge(letters) == 0
    assert figures(q) == (0, 0, 0)
    # What was read before is there still.
    assert letters[0].item == "a"


def test_another_process_decides(make: Callable[..., Any]) -> None:
    q = make()
    letters = bury(q, "a", "b")
    with fork(lambda: (q.requeue(q.dead_letters()[:1]), q.purge())) as child:
        assert child.result() == (1, 1)
    assert q.purge(letters) == 0
    assert figures(q) == (1, 1, 0)


def test_letters_of_another_queue(make: Callable[..., Any]) -> None:
    q, other = make(), make()
    letters = bury(q, "a")
    bury(other, "a")
    for call in (other.requeue, other.purge):
        with pytest.raises(ValueError, match="another queue"):
            call(letters)
    assert figures(other) == (0, 0, 1)


def test_after_a_shutdown(make: Callable[..., Any]) -> None:
    q = make()
    bury(q, "a", "b")
    q.shutdown()
    with pytest.raises(ShutDown):
        q.requeue()
    assert len(q.dead_letters()) == 2
    assert q.purge() == 2


def test_an_object_that_cannot_be_rebuilt(make: Callable[..., Any]) -> None:
    q = make(max_deliveries=0)
    q.put(Unloadable())
    with pytest.raises(LookupError), q.lease():
        pass
    (letter,) = q.dead_letters()
    for _ in range(2):
        with pytest.raises(LookupError):
            letter.item  # noqa: B018


class Unloadable:
    def __reduce__(self) -> Any:
        return refuse, ()


def refuse() -> None:
    raise LookupError


@pytest.mark.parametrize("kind", [penstock.Queue, penstock.SimpleQueue])
def test_plain_queues(kind: Callable[[], Any]) -> None:
    """Large items whose takers died while they rebuilt them."""
    q = kind()
    q.put([bytes(100_000), Deadly()])
    q.put("b")
    for _ in range(4):
        with fork(q.get) as child:
            assert child.wait() == -signal.SIGKILL
        q.statistics()
    (letter,) = q.dead_letters()
    assert (letter.id, letter.deliveries) == (1, 4)
    assert q.requeue([letter]) == 1
    with fork(q.get) as child:
        assert child.wait() == -signal.SIGKILL
    q.statistics()
    assert q.purge() == 0
    assert q.check() == []
