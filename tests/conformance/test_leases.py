"""`lease()` and `leases()`: an item is settled by name, by what its holder says or by how its block ends."""

# How a `with` block ends is what these tests are about: the block that raises is that of the lease.
# ruff: noqa: PT012, PT031

import _thread
import gc
import math
import os
import pickle
import signal
import threading
import time
import warnings
import weakref
from collections.abc import Callable
from contextlib import suppress
from queue import Empty
from typing import Any

import numpy as np
import pytest

import penstock
from penstock import ShutDown
from tests.conformance.implementations import Promise, needs
from tests.support.children import fork
from tests.support.waiting import until

pytestmark = needs(Promise.LEASES)

VERBS = ("ack", "nack", "release", "reject")
every_verb = pytest.mark.parametrize("verb", VERBS)


class Failed(Exception):
    pass


def figures(q: Any) -> tuple[int, int, int, int]:
    now = q.statistics()
    assert q.check() == []
    return now.queued, now.unfinished, now.taken, now.dead_letters


def take(q: Any) -> Any:
    """Take an item and finish it."""
    with q.lease(timeout=20) as lease:
        return lease.item


def test_leaving_the_block_finishes(make: Callable[..., Any]) -> None:
    q = make()
    q.put_many("ab")
    with q.lease() as lease:
        assert (lease.item, lease.id, lease.deliveries) == ("a", 1, 1)
        assert figures(q) == (1, 2, 1, 0)
    assert figures(q) == (1, 1, 0, 0)
    with q.lease(timeout=1) as lease:
        assert (lease.item, lease.id, lease.deliveries) == ("b", 2, 1)
    q.join()


def test_an_exception_gives_it_back_as_failed(make: Callable[..., Any]) -> None:
    q = make(max_deliveries=2)
    q.put_many("ab")
    for deliveries in (1, 2, 3):
        with pytest.raises(Failed), q.lease() as lease:
            assert (lease.item, lease.id, lease.deliveries) == ("a", 1, deliveries)
            raise Failed
    assert figures(q) == (1, 1, 0, 1)
    assert take(q) == "b"


def test_how_long_an_item_has_waited(make: Callable[..., Any]) -> None:
    q = make()
    q.put("before the first lease")
    with q.lease() as lease:
        assert lease.waited is None
    put_at = time.monotonic()
    q.put_many("ab")
    for least in (0.1, 0.2):
        time.sleep(0.1)
        with q.leases(2) as batch:
            for lease in batch:
                # A step of each of the clocks.
                assert least - 0.04 <= lease.waited <= time.monotonic() - put_at + 0.04
                lease.release()


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit, GeneratorExit, "asyncio"])
def test_what_is_no_failure_gives_it_back_uncounted(make: Callable[..., Any], kind: Any) -> None:
    if kind == "asyncio":
        import asyncio

        kind = asyncio.CancelledError
    q = make()
    q.put("a")
    for _ in range(5):
        with pytest.raises(kind), q.lease() as lease:
            assert lease.deliveries == 1
            raise kind
        assert figures(q) == (1, 1, 0, 0)


@every_verb
def test_after_a_verb_the_block_does_nothing(make: Callable[..., Any], verb: str) -> None:
    q = make()
    q.put_many("ab")
    with q.lease() as lease:
        getattr(lease, verb)()
        left = {"ack": (1, 1, 0, 0), "reject": (1, 1, 0, 1)}.get(verb, (2, 2, 0, 0))
        assert figures(q) == left
        for again in VERBS:
            with pytest.raises(ValueError, match="settled before"):
                getattr(lease, again)()
    assert figures(q) == left
    with pytest.raises(ValueError, match="settled before"):
        lease.ack()
    with q.lease() as lease:
        assert lease.deliveries == (2 if verb == "nack" else 1)
        assert lease.item == ("b" if verb in ("ack", "reject") else "a")


@every_verb
def test_after_a_verb_an_exception_does_nothing(make: Callable[..., Any], verb: str) -> None:
    q = make()
    q.put("a")
    with pytest.raises(Failed), q.lease() as lease:
        getattr(lease, verb)()
        raise Failed
    if verb in ("nack", "release"):
        with q.lease() as lease:
            assert lease.deliveries == (2 if verb == "nack" else 1)


def test_task_done_settles_what_it_meets(make: Callable[..., Any]) -> None:
    q = make()
    q.put_many("ab")
    with q.lease() as first:
        with q.lease() as second:
            q.task_done()
            assert figures(q) == (0, 1, 1, 0)
            with pytest.raises(ValueError, match="settled before"):
                first.nack()
            assert second.item == "b"
        assert figures(q) == (0, 0, 0, 0)
    with pytest.raises(ValueError, match="too many"):
        q.task_done()


def test_it_comes_back_to_its_old_place(make: Callable[..., Any]) -> None:
    q = make()
    q.put_many("abc")
    with q.lease() as first, q.lease() as second:
        second.release()
        first.nack()
    assert [take(q) for _ in range(3)] == ["a", "b", "c"]


def test_it_may_exceed_maxsize(make: Callable[..., Any]) -> None:
    q = make(1)
    q.put("a")
    with q.lease() as lease:
        q.put("b")
        lease.release()
    assert (q.qsize(), q.full()) == (2, True)


def test_no_item_in_time(make: Callable[..., Any]) -> None:
    q = make()
    with pytest.raises(Empty), q.lease(timeout=0):
        pass
    with pytest.raises(Empty), q.lease(0.01):
        pass
    with pytest.raises(Empty), q.leases(3, 0.01):
        pass


def test_it_waits(make: Callable[..., Any]) -> None:
    q = make()
    with fork(take, q) as taker:
        until(lambda: q.statistics().waiting_getters == 1)
        q.put("a")
        assert taker.result() == "a"


def test_a_waiter_takes_what_is_released(make: Callable[..., Any]) -> None:
    q = make()
    q.put("a")
    with q.lease() as lease, fork(take, q) as taker:
        until(lambda: q.statistics().waiting_getters == 1)
        lease.release()
        assert taker.result() == "a"


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_lease_ends_with_its_process(make: Callable[..., Any], number: int) -> None:
    q = make()
    q.put_many("ab")
    told = penstock.Queue()

    def work() -> None:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        with q.lease() as lease, q.lease():
            told.put(lease.item)
            threading.Event().wait()

    with fork(work) as worker:
        assert told.get() == "a"
        worker.kill(number)
        worker.wait()
        for item in ("a", "b"):
            with q.lease(timeout=20) as lease:
                assert (lease.item, lease.deliveries) == (item, 2)


@every_verb
def test_a_forked_child_has_no_lease(make: Callable[..., Any], verb: str) -> None:
    q = make()
    q.put("a")
    with q.lease() as lease:

        def settle() -> bool:
            with pytest.raises(ValueError, match="forked child"):
                getattr(lease, verb)()
            return True

        with fork(settle) as child:
            assert child.result()
        assert figures(q) == (0, 1, 1, 0)
    assert figures(q) == (0, 0, 0, 0)


def test_a_block_that_ends_in_a_forked_child(make: Callable[..., Any]) -> None:
    q = make()
    q.put("a")
    with q.lease():
        pid = os.fork()
    if pid == 0:
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0
    assert figures(q) == (0, 0, 0, 0)


def test_another_thread_settles(make: Callable[..., Any]) -> None:
    q = make()
    q.put_many("ab")
    with q.lease() as first, q.lease() as second:
        for verb in (first.ack, second.release):
            thread = threading.Thread(target=verb)
            thread.start()
            thread.join()
        assert figures(q) == (1, 1, 0, 0)


@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_what_is_collected_unsettled_stays_in_hand(make: Callable[..., Any]) -> None:
    q = make()
    q.put("a")
    with pytest.warns(ResourceWarning, match="unsettled"):
        q.lease().__enter__()
        gc.collect()
    assert figures(q) == (0, 1, 1, 0)
    q.task_done()
    assert figures(q) == (0, 0, 0, 0)


def test_a_queue_that_its_lease_leads_to_is_collected() -> None:
    q: Any = penstock.JoinableQueue()  # the fixture would keep it
    q.put("a")
    with q.lease() as lease:
        pass
    q.lease_of_its_own = lease
    watched = weakref.ref(q)
    del q, lease
    gc.collect()
    assert watched() is None


def test_a_lease_of_another_queue_of_the_same_object(make: Callable[..., Any]) -> None:
    q = make()
    q.put("a")
    lease = q.lease().__enter__()
    q.__init__()
    q.put("b")
    with q.lease() as other:
        with pytest.raises(ValueError, match="settled before"):
            lease.ack()
        assert figures(q) == (0, 1, 1, 0)
        assert other.item == "b"


class Interrupts:
    """Its rebuilding is interrupted by Ctrl-C, which Python notices after it."""

    def __reduce__(self) -> Any:
        return _thread.interrupt_main, ()


@pytest.mark.parametrize("many", [False, True])
def test_ctrl_c_before_the_block(make: Callable[..., Any], many: bool) -> None:
    q = make()
    q.put(Interrupts())
    former = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt), q.leases(2) if many else q.lease():
            pytest.fail("the block has begun")
    finally:
        signal.signal(signal.SIGINT, former)
    assert figures(q) == (1, 1, 0, 0)
    assert q.statistics().redeliveries == 0


def test_a_failure_that_cannot_be_told(make: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    q = make(max_deliveries=0)
    q.put("a")

    def no_memory(_: BaseException) -> list[str]:
        raise MemoryError

    monkeypatch.setattr("penstock.leases.format_exception", no_memory)
    with pytest.raises(Failed), q.lease():
        raise Failed
    assert figures(q) == (0, 0, 0, 1)
    assert [letter.traceback for letter in q.dead_letters()] == [""]


def test_the_end_of_a_block_is_interrupted(make: Callable[..., Any]) -> None:
    """By Ctrl-C, before anything has changed. The block has ended all the same."""
    q = make()
    q.put_many("abc")

    class Interrupted:
        def __init__(self, hold: Any) -> None:
            self.hold = hold

        def finish(self) -> bool:
            raise KeyboardInterrupt

        def __getattr__(self, name: str) -> Any:
            return getattr(self.hold, name)

    with pytest.raises(KeyboardInterrupt), q.lease() as lease:
        lease._hold = Interrupted(lease._hold)
    assert figures(q) == (2, 2, 0, 0)
    with pytest.raises(KeyboardInterrupt), q.leases(2) as batch:
        lease = next(batch)
        lease._hold = Interrupted(lease._hold)
    assert figures(q) == (1, 1, 0, 0)


def test_an_interrupted_acknowledgement_of_a_batch(make: Callable[..., Any]) -> None:
    q = make()
    q.put_many("abc")
    with pytest.raises(KeyboardInterrupt), q.leases(3) as batch:
        first = next(batch)
        finish = first._hold

        class Interrupted:
            def finish(self) -> bool:
                first._hold = finish
                raise KeyboardInterrupt

        first._hold = Interrupted()
        next(batch)
    assert figures(q) == (2, 2, 0, 0)


def test_what_is_acknowledged_gives_its_memory_back(make: Callable[..., Any]) -> None:
    q = make()
    q.put(bytes(64 << 20))
    with q.lease():
        assert q.statistics().memory_bytes > 64 << 20
    assert q.statistics().memory_bytes < 32 << 20


def test_what_is_settled_is_collected_silently(make: Callable[..., Any]) -> None:
    q = make()
    q.put_many("abcd")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for verb in VERBS:
            lease = q.lease().__enter__()
            getattr(lease, verb)()
            del lease
        lease = q.lease().__enter__()
        q.task_done()
        del lease
        gc.collect()


def test_a_lease_is_not_entered_twice(make: Callable[..., Any]) -> None:
    q = make()
    q.put_many("ab")
    leasing = q.lease()
    with leasing, pytest.raises(RuntimeError, match="entered before"), leasing:
        pass
    assert figures(q) == (1, 1, 0, 0)
    batch = q.leases(1)
    with batch, pytest.raises(RuntimeError, match="entered before"), batch:
        pass


def test_a_lease_does_not_travel(make: Callable[..., Any]) -> None:
    q = make()
    q.put("a")
    with q.lease() as lease, pytest.raises(TypeError, match="belongs to its process"):
        pickle.dumps(lease)


class Unloadable:
    """An object that cannot be rebuilt."""

    def __init__(self, kind: type[BaseException]) -> None:
        self.kind = kind

    def __reduce__(self) -> Any:
        return refuse, (self.kind,)


def refuse(kind: type[BaseException]) -> None:
    raise kind("cannot be rebuilt")


@pytest.mark.parametrize("size", [0, 100_000])
def test_what_cannot_be_rebuilt_has_failed(make: Callable[..., Any], size: int) -> None:
    q = make(max_deliveries=1)
    q.put([bytes(size), Unloadable(LookupError)])
    q.put("b")
    for _ in range(2):
        with pytest.raises(LookupError, match="cannot be rebuilt"), q.lease():
            pass
    assert figures(q) == (1, 1, 0, 1)
    assert take(q) == "b"


def test_an_interrupted_rebuilding_is_no_failure(make: Callable[..., Any]) -> None:
    q = make(max_deliveries=0)
    q.put(Unloadable(KeyboardInterrupt))
    for _ in range(3):
        with pytest.raises(KeyboardInterrupt), q.lease():
            pass
        assert figures(q) == (1, 1, 0, 0)


@pytest.mark.parametrize("verb", ["nack", "release", "ack"])
def test_an_array_stays_as_it_was_received(make: Callable[..., Any], verb: str) -> None:
    """The item may be another process's by then, and its memory another item's."""
    q = make()
    q.put(np.arange(300_000))
    with q.lease() as lease:
        array = lease.item
        array[0] = 7
        getattr(lease, verb)()
    if verb != "ack":
        assert np.array_equal(take(q), np.arange(300_000))
    for _ in range(3):
        q.put(np.zeros(300_000))
        assert not take(q).any()
    assert array[0] == 7
    assert np.array_equal(array[1:], np.arange(1, 300_000))
    assert figures(q) == (0, 0, 0, 0)


def test_a_batch(make: Callable[..., Any]) -> None:
    q = make()
    q.put_many(range(5))
    with q.leases(3) as batch:
        assert len(batch) == 3
        for number, lease in enumerate(batch):
            assert (lease.item, lease.id) == (number, number + 1)
            # The ones before it are finished.
            assert figures(q) == (2, 5 - number, 3 - number, 0)
    assert figures(q) == (2, 2, 0, 0)
    with q.leases(10) as batch:
        assert [lease.item for lease in batch] == [3, 4]
    q.join()


def test_a_batch_that_is_left_early(make: Callable[..., Any]) -> None:
    q = make()
    q.put_many(range(5))
    with q.leases(5) as batch:
        for lease in batch:
            if lease.item == 1:
                break
    assert figures(q) == (3, 3, 0, 0)
    with q.lease() as lease:
        assert (lease.item, lease.deliveries) == (2, 1)
    with q.leases(5):
        pass
    assert figures(q) == (2, 2, 0, 0)


def test_a_batch_that_fails(make: Callable[..., Any]) -> None:
    q = make()
    q.put_many(range(4))
    with pytest.raises(Failed), q.leases(4) as batch:
        for lease in batch:
            if lease.item == 1:
                raise Failed
    assert figures(q) == (3, 3, 0, 0)
    with q.leases(4) as batch:
        assert [(lease.item, lease.deliveries) for lease in batch] == [(1, 2), (2, 1), (3, 1)]


def test_verbs_in_a_batch(make: Callable[..., Any]) -> None:
    q = make()
    q.put_many(range(5))
    with q.leases(5) as batch:
        for lease in batch:
            verb = ("ack", "nack", "release", "reject", None)[lease.item]
            if verb:
                getattr(lease, verb)()
    assert figures(q) == (2, 2, 0, 1)
    with q.leases(5) as batch:
        assert [(lease.item, lease.deliveries) for lease in batch] == [(1, 2), (2, 1)]


def test_a_batch_with_an_object_that_cannot_be_rebuilt(make: Callable[..., Any]) -> None:
    q = make(max_deliveries=1)
    q.put_many(["a", Unloadable(LookupError), "c", bytes(100_000)])
    for _ in range(2):
        with pytest.raises(LookupError, match="cannot be rebuilt"), q.leases(10):
            pass
    assert figures(q) == (3, 3, 0, 1)
    with q.leases(10) as batch:
        assert [lease.deliveries for lease in batch] == [1, 1, 1]


def test_the_size_of_a_batch(make: Callable[..., Any]) -> None:
    q = make()
    q.put_many(range(200))
    for asked, taken in ((150, 64), (65, 64), (64, 64), (63, 63), (1, 1)):
        with q.leases(asked) as batch:
            assert len(batch) == taken
    assert figures(q) == (200, 200, 0, 0)


def test_arguments_out_of_range_raise_at_once(make: Callable[..., Any]) -> None:
    q = make()
    for wrong in (0, -1, 1 << 70):
        with pytest.raises(ValueError, match="max_items"):
            q.leases(wrong)
    for no_number in ("3", 1.5, None):
        with pytest.raises(TypeError):
            q.leases(no_number)
    for call in (q.lease, lambda timeout: q.leases(1, timeout)):
        with pytest.raises(TypeError):
            call("3")
        with pytest.raises(ValueError, match="timeout"):
            call(math.nan)


def test_after_a_shutdown(make: Callable[..., Any]) -> None:
    q = make()
    q.put_many("ab")
    with q.lease() as lease:
        q.shutdown()
        with fork(take, q) as other:
            assert other.result() == "b"
        with fork(take, q) as other:
            until(lambda: q.statistics().waiting_getters == 1)
            lease.nack()
            assert other.result() == "a"
    with pytest.raises(ShutDown), q.lease():
        pass
    q.join()


@pytest.mark.parametrize("by", ["lease", "loop"])
@pytest.mark.parametrize("comes_back", [False, True])
def test_other_threads_wait_for_it_after_a_shutdown(
    make: Callable[..., Any], by: str, comes_back: bool
) -> None:
    """What one thread has in hand is another one's if it comes back, and no thread leaves before that."""
    q = make()
    q.put("a")
    taken = []

    def work() -> None:
        if by == "loop":
            taken.extend(q)
            return
        with suppress(ShutDown):
            while True:
                with q.lease() as lease:
                    taken.append(lease.item)

    with q.lease() as lease:
        q.shutdown()
        others = [threading.Thread(target=work) for _ in range(3)]
        for other in others:
            other.start()
        until(lambda: q.statistics().waiting_getters == 3)
        if comes_back:
            lease.nack()
    for other in others:
        other.join()
    assert taken == ["a"] * comes_back
    q.join()
    assert figures(q) == (0, 0, 0, 0)


def test_no_thread_waits_for_itself_after_a_shutdown(make: Callable[..., Any]) -> None:
    q = make()
    q.put_many("ab")
    seen = []
    for item in q:
        q.shutdown()
        seen.append((item, [inner for inner in q if inner == "b"]))
        with pytest.raises(ShutDown), q.lease():
            pass
    assert seen == [("a", ["b"])]
    q.join()


def test_no_thread_waits_for_one_that_has_failed(make: Callable[..., Any]) -> None:
    """Its item stays in hand, and nobody is left to settle it: the others of its process end."""
    q = make()
    q.put("a")

    def fail_with_an_item() -> None:
        def fail() -> None:
            for _ in q:
                return  # as an exception would

        thread = threading.Thread(target=fail)
        thread.start()
        thread.join()
        q.shutdown()
        assert list(q) == []
        with pytest.raises(ShutDown), q.lease():
            pass
        os.kill(os.getpid(), signal.SIGKILL)

    with fork(fail_with_an_item) as failed:
        assert failed.wait() == -signal.SIGKILL
    assert list(q) == ["a"]
    q.join()


@every_verb
def test_after_an_immediate_shutdown(make: Callable[..., Any], verb: str) -> None:
    q = make()
    q.put("a")
    with q.lease() as lease:
        q.shutdown(immediate=True)
        getattr(lease, verb)()
    assert figures(q) == (0, 0, 0, int(verb == "reject"))
    assert q.statistics().discarded == int(verb in ("nack", "release"))
    q.join()


def test_a_closed_handle_settles(make: Callable[..., Any]) -> None:
    q = make()
    other = pickle.loads(pickle.dumps(q))
    q.put_many("ab")
    with q.lease() as first, q.lease() as second:
        q.close()
        second.release()
        assert first.item == "a"
    assert figures(other) == (1, 1, 0, 0)
    with pytest.raises(ValueError, match="closed"), q.lease():
        pass
    other.close()
