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


def test_books_of_leases() -> None:
    """What no queue may do is found in the journals."""
    step = leasing.Step

    def failures(steps: list[tuple[int, leasing.Step]], letters: tuple[int, ...] = (), dead: int = 0) -> str:
        """Of an item; the processes have numbers, of which `dead` died at the time 10."""
        found = [leasing.Entry(at, 1, what, 0, process) for at, (process, what) in enumerate(steps, start=1)]
        books = leasing.Books()
        leasing.close(books, found, {dead: 10} if dead else {}, set(letters), 3)
        return ", ".join(books.failures())[:8]

    put = [(1, step.PUTTING), (1, step.PUT), (2, step.TAKEN)]
    done = [(2, step.FINISHING), (2, step.FINISHED)]
    assert failures([*put, *done]) == ""
    assert (
        failures([*put, (2, step.GIVING_BACK), (3, step.TAKEN), (3, step.FINISHING), (3, step.FINISHED)])
        == ""
    )
    assert failures([*put, (2, step.REJECTING)], letters=(1,)) == ""
    assert failures([*put, (2, step.FINISHING)], dead=2) == ""
    assert failures([*put, (2, step.FINISHING)]) == "1 lost"
    assert failures(put[:2]) == "1 lost"
    assert failures(put[:1]) == ""
    assert failures([*put, *done], letters=(1,)) == "1 double"
    assert failures([*put, *done, (3, step.TAKEN), (3, step.FINISHING), (3, step.FINISHED)]) == "1 double"
    assert failures([*put, (3, step.TAKEN), (3, step.FINISHING), (3, step.FINISHED)]) == "1 shared"
