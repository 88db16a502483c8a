"""Signals: which ones end a wait, and which do not."""

import signal
from collections.abc import Callable
from typing import Any

import pytest

from tests.conformance.implementations import Promise, needs
from tests.support.children import fork
from tests.support.waiting import until

pytestmark = needs(Promise.STATISTICS)


def in_a_wait(q: Any, what: str) -> Callable[[], bool]:
    return lambda: getattr(q.statistics(), what) == 1


WAITS: dict[str, Callable[[Any], object]] = {
    "waiting_getters": lambda q: q.get(),
    "waiting_putters": lambda q: q.put("b"),
    "waiting_joiners": lambda q: q.join(),
}


@pytest.fixture(params=WAITS)
def waiting(make: Callable[..., Any], request: pytest.FixtureRequest) -> tuple[Any, str]:
    """A queue on which the named call waits, and the name."""
    q = make(1)
    if request.param != "waiting_getters":
        q.put("a")
    return q, request.param


def assert_that_it_ends(
    waiting: tuple[Any, str],
    number: signal.Signals,
    handler: Callable[..., object],
    raised: type[BaseException],
) -> None:
    """A signal comes during the call, which then raises what the signal's handler raises."""
    q, what = waiting

    def wait() -> str:
        signal.signal(number, handler)
        try:
            WAITS[what](q)
        except raised:
            return "raised"
        return "not raised"

    with fork(wait) as child:
        until(in_a_wait(q, what))
        child.kill(number)
        assert child.result() == "raised"
    assert getattr(q.statistics(), what) == 0


@needs(Promise.BOUNDED, Promise.ACKNOWLEDGED)
def test_ctrl_c_ends_a_wait(waiting: tuple[Any, str]) -> None:
    assert_that_it_ends(waiting, signal.SIGINT, signal.default_int_handler, KeyboardInterrupt)


class Raised(Exception):
    pass


@needs(Promise.BOUNDED, Promise.ACKNOWLEDGED)
def test_what_a_signal_handler_raises_ends_a_wait(waiting: tuple[Any, str]) -> None:
    def handler(*_: object) -> None:
        raise Raised

    assert_that_it_ends(waiting, signal.SIGUSR1, handler, Raised)


def test_a_signal_handler_that_returns_does_not_end_a_wait(make: Callable[..., Any]) -> None:
    q, handled = make(), make()

    def wait() -> str:
        signal.signal(signal.SIGUSR1, lambda number, _: handled.put(number))
        return q.get()

    with fork(wait) as child:
        until(in_a_wait(q, "waiting_getters"))
        for _ in range(3):
            child.kill(signal.SIGUSR1)
            assert handled.get() == signal.SIGUSR1
        q.put("a")
        assert child.result() == "a"


def test_a_signal_handler_may_use_the_queue_that_is_waited_for(make: Callable[..., Any]) -> None:
    q = make()

    def wait() -> str:
        signal.signal(signal.SIGUSR1, lambda *_: q.put("from the handler"))
        return q.get()

    with fork(wait) as child:
        until(in_a_wait(q, "waiting_getters"))
        child.kill(signal.SIGUSR1)
        assert child.result() == "from the handler"
