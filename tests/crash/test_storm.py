"""A sample of the storms. `make test-storm` plays more rounds, and the rivals beside them."""

import os
import time

import pytest

from tests.crash.storms import leasing
from tests.crash.storms.contestants import Contestant
from tests.crash.storms.contestants.penstock_queues import CONTESTANTS
from tests.crash.storms.faults import forbidden
from tests.crash.storms.storm import Storm
from tests.support import stacks

pytestmark = pytest.mark.slow

SECONDS = 5.0
ROUNDS_AT_LEAST = 5


@pytest.mark.limit(240)
@pytest.mark.parametrize("method", ["fork", "spawn"])
@pytest.mark.parametrize("contestant", CONTESTANTS, ids=lambda contestant: contestant.name)
def test_storm(contestant: Contestant, method: str) -> None:
    seed = int.from_bytes(os.urandom(4), "big")
    print(f"Again: make test-storm ARGS='--seed {seed} --only {contestant.name}/{method} --round NUMBER'")
    end = time.monotonic() + SECONDS
    number = 0
    with Storm(contestant, method, seed, forbidden=forbidden(), on_hang=stacks.report) as storm:
        while number < ROUNDS_AT_LEAST or time.monotonic() < end:
            storm.play(number)
            number += 1
    tally = storm.tally
    print(
        f"{number} rounds, {tally.kills} kills, {tally.other_faults} other faults, "
        f"{tally.endings} shutdowns, {tally.items} items"
    )
    assert tally.failures_of_rounds() + tally.failures == []
    assert tally.items > 0
    assert tally.kills + tally.other_faults > 0


@pytest.mark.limit(240)
def test_storm_of_leases() -> None:
    seed = int.from_bytes(os.urandom(4), "big")
    print(f"Again: python -m tests.crash.storms.leasing --seed {seed} --round NUMBER")
    end = time.monotonic() + SECONDS
    books = leasing.Books()
    while not books.failures() and (books.rounds < ROUNDS_AT_LEAST or time.monotonic() < end):
        books.add(leasing.play(seed, books.rounds))
    print(books)
    assert books.failures() == []
    assert books.items > 0
    assert books.kills > 0
