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


@needs(Promise.BOUNDED, Promise.ACKNOWLEDGED)
def test_ctrl_c_ends_a_wait(waiting: tuple[Any, str]) -> None:
    q, what = waiting

    def wait() -> str:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        try:
            WAITS[what](q)
        except KeyboardInterrupt:
            return "interrupted"
        return "not interrupted"

    with fork(wait) as child:
        until(in_a_wait(q, what))
        child.kill(signal.SIGINT)
        assert child.result() == "interrupted"
    assert getattr(q.statistics(), what) == 0


class Raised(Exception):
    pass


@needs(Promise.BOUNDED, Promise.ACKNOWLEDGED)
def test_what_a_signal_handler_raises_ends_a_wait(waiting: tuple[Any, str]) -> None:
    q, what = waiting

    def handler(*_: object) -> None:
        raise Raised

    def wait() -> str:
        signal.signal(signal.SIGUSR1, handler)
        try:
            WAITS[what](q)
        except Raised:
            return "raised"
        return "not raised"

    with fork(wait) as child:
        until(in_a_wait(q, what))
        child.kill(signal.SIGUSR1)
        assert child.result() == "raised"


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
