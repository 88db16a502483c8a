"""Runs each test with the fixture `make` for every implementation that promises what the test needs.

@needs(Promise.BOUNDED)    a mark of the test, or of its whole file
"""

from collections.abc import Callable, Iterator
from functools import reduce
from operator import or_
from typing import Any

import pytest

from tests.conformance.implementations import IMPLEMENTATIONS, Implementation, Promise


def pytest_configure(config: pytest.Config) -> None:
    """Register the mark `needs`."""
    config.addinivalue_line("markers", "needs(promises): what an implementation must promise to be tested so")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Choose the implementations for the test."""
    if "make" in metafunc.fixturenames:
        marks = metafunc.definition.iter_markers("needs")
        needed = reduce(or_, (promise for mark in marks for promise in mark.args), Promise(0))
        chosen = [each for each in IMPLEMENTATIONS if needed in each.promises]
        metafunc.parametrize("make", chosen, indirect=True, ids=lambda each: each.name)


@pytest.fixture
def make(request: pytest.FixtureRequest) -> Iterator[Callable[..., Any]]:
    """A function that makes a queue of the implementation. The queues are closed after the test."""
    implementation: Implementation = request.param
    made: list[Any] = []

    def new(*arguments: Any, **options: Any) -> Any:
        made.append(implementation.new(*arguments, **options))
        return made[-1]

    yield new
    while made:
        queue = made.pop()
        queue.close()
        if implementation.promises & Promise.BOUNDED:
            queue.join_thread()
