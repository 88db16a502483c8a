"""`dead_letters()`, `requeue()` and `purge()`."""

import asyncio
import copy
import os
import pickle
import signal
import time
from collections.abc import Callable
from typing import Any

import pytest

import penstock
from penstock import ShutDown
from tests.conformance.implementations import Promise, needs
from tests.support.children import fork
from tests.support.waiting import until

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
    assert figures(q) == (0, 0, 2)


def test_a_letter_does_not_change(make: Callable[..., Any]) -> None:
    (letter,) = bury(make(), "a")
    before = described(letter)
    for name in ("item", "id", "deliveries", "reason", "traceback", "deaths", "_slot", "new"):
        with pytest.raises(AttributeError, match="does not change"):
            setattr(letter, name, 7)
        with pytest.raises(AttributeError, match="does not change"):
            delattr(letter, name)
    assert described(letter) == before


def described(letter: Any) -> tuple[Any, ...]:
    return letter.item, letter.id, letter.deliveries, letter.reason, letter.traceback, letter.deaths


def taken(q: Any) -> Any:
    with q.lease() as lease:
        return lease.item


def test_a_letter_travels(make: Callable[..., Any]) -> None:
    q = make(max_deliveries=0)
    q.put(["a"])
    with pytest.raises(LookupError), q.lease():
        raise LookupError("no such page")
    q.put(["b"])
    die_with_an_item(q)
    letters = q.dead_letters()
    assert len(letters) == 2
    other = make()
    other.put(letters)
    received = taken(other)
    for found, letter in zip([*received, *pickle.loads(pickle.dumps(letters))], letters * 2, strict=True):
        assert found is not letter
        assert (found, described(found)) == (letter, described(letter))
        assert type(found.deaths) is tuple
    for copied in (copy.copy(letters[0]), *copy.deepcopy(letters)):
        assert copied in letters
    with fork(lambda: q.requeue(taken(other)[:1])) as child:
        other.put(received)
        assert child.wait() == 0
    assert q.purge(pickle.loads(pickle.dumps(received))) == 1
    assert figures(q) == (1, 1, 0)


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


def fail(q: Any, error: BaseException | str | None) -> None:
    with q.lease() as lease:
        lease.nack(error=error)


def test_the_reason(make: Callable[..., Any]) -> None:
    q = make(max_deliveries=1)
    q.put("a")
    fail(q, "no such page")
    fail(q, "no such server \0 at all")
    (letter,) = q.dead_letters()
    assert (letter.reason, letter.traceback, letter.deaths) == ("no such server   at all", "", ())
    assert q.check() == []
    q.requeue()
    fail(q, None)
    with q.lease() as lease:
        lease.reject("it is not ours")
    (letter,) = q.dead_letters()
    assert letter.reason == "it is not ours"
    q.purge()
    bury(q, "b")
    assert q.dead_letters()[0].reason == ""
    assert q.check() == []


def die_with_an_item(q: Any) -> None:
    with fork(lambda: (q.lease().__enter__(), kill_self())) as child:
        child.wait()
    q.statistics()


def test_the_reason_is_that_of_the_last_failure(make: Callable[..., Any]) -> None:
    def raises(q: Any) -> None:
        with pytest.raises(LookupError), q.lease():
            raise LookupError("no such page")

    def says_nothing(q: Any) -> None:
        fail(q, None)

    for steps, reason, has_traceback, deaths in (
        ((die_with_an_item, says_nothing), "", False, 1),
        ((raises, says_nothing), "", False, 0),
        ((raises, die_with_an_item), "process", False, 1),
        ((die_with_an_item, raises), "LookupError", True, 1),
    ):
        q = make(max_deliveries=1)
        q.put("a")
        for step in steps:
            step(q)
        (letter,) = q.dead_letters()
        assert letter.reason.partition(" ")[0].rstrip(":") == reason
        assert bool(letter.traceback) == has_traceback
        assert len(letter.deaths) == deaths
    q = make()
    q.put("a")
    die_with_an_item(q)
    with q.lease() as lease:
        lease.reject()
    assert q.dead_letters()[0].reason == ""


def test_an_exception_leaves_its_traceback(make: Callable[..., Any]) -> None:
    q = make(max_deliveries=0)
    q.put("a")

    def fail_deeply(depth: int) -> None:
        if depth:
            fail_deeply(depth - 1)
        raise LookupError(f"at the bottom {'x' * 5000}")

    with pytest.raises(LookupError), q.lease():
        fail_deeply(3)
    q.put("b")
    with pytest.raises(ZeroDivisionError), q.lease():
        1 / 0  # noqa: B018
    long, short = q.dead_letters()
    assert long.reason.startswith("LookupError: at the bottom")
    assert len(long.traceback.encode()) <= 4096
    assert short.reason == "ZeroDivisionError: division by zero"
    assert short.traceback.startswith("Traceback (most recent call last)")
    assert "1 / 0" in short.traceback
    assert short.traceback.endswith("ZeroDivisionError: division by zero\n")
    q.purge()
    assert q.check() == []


@pytest.mark.parametrize("letter_of_it", ["x", "é", "€", "𝄞", "\udcff"])
@pytest.mark.parametrize("shift", range(4))
def test_a_text_is_cut_at_a_character(make: Callable[..., Any], letter_of_it: str, shift: int) -> None:
    q = make(max_deliveries=0)
    q.put("a")
    words = "." * shift + letter_of_it * 5000 + "." * shift
    with pytest.raises(LookupError), q.lease():
        raise LookupError(words)
    (letter,) = q.dead_letters()
    shown = words.replace("\udcff", "?")
    for text, most, whole in (
        (letter.reason, 1000, f"LookupError: {shown}"),
        (letter.traceback, 4096, f"LookupError: {shown}\n"),
    ):
        assert most - 4 < len(text.encode()) <= most
        assert text in whole, "the beginning or the end, of whole characters"


def test_the_reason_is_the_exceptions_own_line(make: Callable[..., Any]) -> None:
    with_notes = LookupError("no such page")
    with_notes.add_note("a note\nof two lines")
    for error, reason in (
        (with_notes, "LookupError: no such page"),
        (ExceptionGroup("several", [ValueError("a"), KeyError("b")]), "ExceptionGroup: several"),
        (SyntaxError("wrong", ("file", 1, 2, "text", 1, 3)), "SyntaxError: wrong"),
        (LookupError(), "LookupError"),
    ):
        q = make(max_deliveries=0)
        q.put("a")
        fail(q, error)
        (letter,) = q.dead_letters()
        assert letter.reason.startswith(reason)
        assert "\n" not in letter.reason
        assert all(note in letter.traceback for note in getattr(error, "__notes__", ()))


def test_the_deaths(make: Callable[..., Any]) -> None:
    q = make(max_deliveries=2)
    q.put("a")

    def die() -> None:
        q.lease().__enter__()
        os.kill(os.getpid(), signal.SIGKILL)

    def exit_with_seven() -> None:
        q.lease().__enter__()
        os._exit(7)

    pids = []
    before = time.time()
    with fork(die) as child:
        until(child.has_ended)
        q.statistics()  # finds the death, before the process is reaped
        pids.append(child.pid)
        child.wait()
    with fork(exit_with_seven) as child:
        child.wait()
        q.statistics()
        pids.append(child.pid)
    fail(q, "at last")
    (letter,) = q.dead_letters()
    assert letter.reason == "at last"
    first, second = letter.deaths
    assert [first.pid, second.pid] == pids
    assert (first.exitcode, first.signal) in [(None, signal.SIGKILL), (None, None)]
    assert (second.exitcode, second.signal) == (None, None), "it was reaped"
    assert all(before - 2 <= death.at <= time.time() + 1 for death in letter.deaths)
    assert q.check() == []


def test_a_death_is_a_reason(make: Callable[..., Any]) -> None:
    q = make(max_deliveries=1)
    q.put("a")
    fail(q, "an error")
    with fork(lambda: (q.lease().__enter__(), os.kill(os.getpid(), signal.SIGKILL))) as child:
        child.wait()
    q.statistics()
    (letter,) = q.dead_letters()
    assert f"process {child.pid}" in letter.reason
    assert len(letter.deaths) == 1


def test_what_is_done_leaves_no_note(make: Callable[..., Any]) -> None:
    q = make(max_deliveries=5)
    for number in range(20):
        q.put(number)
        fail(q, "once " * 300)
        fail(q, "twice")
        if number % 3 == 0:
            q.get()
            q.task_done()
        elif number % 3 == 1:
            with q.lease():
                pass
        else:
            q.task_done()
            assert q.get() == number
    assert q.check() == []
    q.put("last")
    fail(q, "now")
    q.shutdown(immediate=True)
    assert q.check() == []


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


def test_a_letter_that_was_requeued_and_died_again_is_another_one(make: Callable[..., Any]) -> None:
    q = make()
    old, kept = bury(q, "a", "b")
    assert q.requeue([old]) == 1
    with q.lease() as lease:
        lease.reject("again")
    new = q.dead_letters()[1]
    assert (new.item, new.id, new.deliveries) == (old.item, old.id, old.deliveries)
    assert new != old
    for letters in ([old], pickle.loads(pickle.dumps([old, old]))):
        assert q.purge(letters) == q.requeue(letters) == 0
    assert q.dead_letters() == [kept, new]
    assert q.purge([old, new, new]) == 1
    assert figures(q) == (0, 0, 1)


def test_what_is_no_letter(make: Callable[..., Any]) -> None:
    q = make()
    (letter,) = bury(q, "a")
    for call in (q.requeue, q.purge):
        for wrong in (["a"], [letter, letter.id], [None]):
            with pytest.raises(TypeError, match=rf"{call.__name__}\(\) takes the letters of dead_letters"):
                call(wrong)
        with pytest.raises(TypeError):
            call(7)
    assert figures(q) == (0, 0, 1)


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
    assert letter.reason == "LookupError: there is no such class"
    assert letter.traceback.startswith("Traceback (most recent call last)")
    assert "in refuse" in letter.traceback
    assert q._id.hex() in letter.traceback, "the note that names the queue, and the types in the item"
    for _ in range(2):
        with pytest.raises(LookupError):
            letter.item  # noqa: B018


@pytest.mark.parametrize("size", [0, 100_000])
@pytest.mark.parametrize("many", [False, True])
@pytest.mark.parametrize("by_task", [False, True])
def test_each_way_to_an_object_that_cannot_be_rebuilt(
    make: Callable[..., Any], size: int, many: bool, by_task: bool
) -> None:
    q = make(max_deliveries=0)
    q.put([bytes(size), Unloadable()])
    leasing = q.leases(2) if many else q.lease()

    async def enter() -> None:
        await leasing.__aenter__()

    with pytest.raises(LookupError):
        asyncio.run(enter()) if by_task else leasing.__enter__()
    (letter,) = q.dead_letters()
    assert letter.reason == "LookupError: there is no such class"
    assert "in refuse" in letter.traceback
    assert q.check() == []


def test_a_failed_rebuilding_that_cannot_be_told(
    make: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_memory(_: BaseException) -> list[str]:
        raise MemoryError

    monkeypatch.setattr("penstock.leases.format_exception", no_memory)
    q = make(max_deliveries=0)
    q.put(Unloadable())
    with pytest.raises(LookupError), q.lease():
        pass
    (letter,) = q.dead_letters()
    assert (letter.reason, letter.traceback) == ("", "")


class Unloadable:
    def __reduce__(self) -> Any:
        return refuse, ()


def refuse() -> None:
    raise LookupError("there is no such class")


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
