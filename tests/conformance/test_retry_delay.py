"""`retry_delay`: an item that has failed waits before it is delivered again."""

import math
import multiprocessing
import os
import pickle
import time
from collections.abc import Callable
from typing import Any

import pytest

import penstock
from penstock import Backoff
from tests.conformance.implementations import Promise, needs
from tests.support.children import fork
from tests.support.waiting import until

pytestmark = needs(Promise.LEASES, Promise.DELAYS)

SHORT = 0.02  # seconds
HUGE = pytest.param(10**400, id="huge")  # no float holds it


class Failed(Exception):
    pass


def fail(q: Any) -> int:
    """Take an item and fail. Returns how often it was delivered."""
    with pytest.raises(Failed), q.lease(timeout=20) as lease:
        raise Failed
    return int(lease.deliveries)


def test_a_failure_waits(make: Callable[..., Any]) -> None:
    q = make(retry_delay=SHORT)
    q.put("a")
    for deliveries in (1, 2, 3):
        began = time.monotonic()
        assert fail(q) == deliveries
        with q.lease(timeout=20) as lease:
            assert time.monotonic() - began >= SHORT
            assert lease.deliveries == deliveries + 1
            lease.release()
    assert q.check() == []


def test_it_grows(make: Callable[..., Any]) -> None:
    q = make(retry_delay=Backoff(3600, 2, 36000, 0.5))
    q.put_many("ab")
    fail(q)
    assert q.statistics().delayed == 1
    assert q.retry_delay == Backoff(3600, 2, 36000, 0.5)


def test_a_delay_of_its_own_counts(make: Callable[..., Any]) -> None:
    q = make(retry_delay=3600)
    q.put_many("ab")
    with q.lease() as lease:
        lease.nack(delay=0)
    assert q.qsize() == 2
    with q.lease() as lease:
        lease.release()
    assert q.qsize() == 2, "a release is no failure"
    with q.lease() as lease:
        lease.nack()
    assert (q.qsize(), q.statistics().delayed) == (1, 1)


def test_what_cannot_be_rebuilt_waits(make: Callable[..., Any]) -> None:
    q = make(retry_delay=3600)
    q.put(Unloadable())
    with pytest.raises(LookupError), q.lease():
        pass
    assert (q.qsize(), q.statistics().delayed) == (0, 1)


class Unloadable:
    def __reduce__(self) -> Any:
        return refuse, ()


def refuse() -> None:
    raise LookupError


def test_a_death_is_no_failure(make: Callable[..., Any]) -> None:
    q = make(retry_delay=3600)
    q.put("a")

    def die() -> None:
        q.lease().__enter__()
        os._exit(1)

    with fork(die) as child:
        child.wait()
    until(lambda: q.qsize() == 1)


def test_it_is_the_queues_own(make: Callable[..., Any]) -> None:
    """Every process fails by the rule of the queue's maker."""
    q = make(retry_delay=Backoff(3600, 3, 7200, 0))
    q.put("a")
    other = pickle.loads(pickle.dumps(q))
    assert other.retry_delay == (3600.0, 3.0, 7200.0, 0.0)
    other.close()
    process = multiprocessing.get_context("spawn").Process(target=fail, args=(q,))
    process.start()
    process.join()
    assert process.exitcode == 0
    assert (q.qsize(), q.statistics().delayed) == (0, 1)


@pytest.mark.parametrize("wrong", [-1, math.inf, math.nan, 1e300, HUGE, pytest.param(-(10**400), id="-huge")])
def test_impossible_delays(make: Callable[..., Any], wrong: float) -> None:
    with pytest.raises(ValueError, match="retry_delay"):
        make(retry_delay=wrong)
    with pytest.raises(ValueError, match="first"):
        Backoff(wrong)
    with pytest.raises(ValueError, match="most"):
        Backoff(1, 2, wrong)


def test_impossible_backoffs() -> None:
    with pytest.raises(ValueError, match="factor"):
        Backoff(1, 0.5)
    with pytest.raises(ValueError, match="jitter"):
        Backoff(1, 2, 3, 1.5)
    with pytest.raises(TypeError, match="retry_delay"):
        penstock.JoinableQueue(retry_delay="1")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="first"):
        Backoff("1")  # type: ignore[arg-type]


def test_no_class_without_leases() -> None:
    for kind in (penstock.Queue, penstock.SimpleQueue):
        with pytest.raises(TypeError, match="retry_delay"):
            kind(retry_delay=1)  # type: ignore[call-arg]
