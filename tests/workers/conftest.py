"""Pools for the tests: under each start method, and ended after the test."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest

import penstock
from tests.support.programs import METHODS


@pytest.fixture(
    params=["fork", *(pytest.param(method, marks=pytest.mark.slow) for method in METHODS[1:])],
)
def method(request: pytest.FixtureRequest) -> str:
    """A start method."""
    return str(request.param)


@pytest.fixture
def make_pool() -> Iterator[Callable[..., penstock.WorkerPool]]:
    """Makes pools, two forked workers each by default, and shuts them down after the test."""
    pools = []

    def make(max_workers: int = 2, *, mp_context: str = "fork", **options: Any) -> penstock.WorkerPool:
        pools.append(penstock.WorkerPool(max_workers, mp_context=mp_context, **options))
        return pools[-1]

    yield make
    for pool in pools:
        pool.shutdown()
