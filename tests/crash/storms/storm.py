"""A storm: rounds of one queue class and one start method."""

import multiprocessing
import random
import tempfile
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .contestants import Contestant, Options
from .crew import PLACES, Crew
from .faults import FAULTS, TIGHT, Fault
from .round import Outcome, Round

ERA = 40  # rounds of one queue, unless one of them shuts it down
PATIENCE = 10.0  # seconds without progress after which the watchdog ends a round


@dataclass
class Tally:
    """The outcome of a storm so far."""

    contestant: Contestant
    method: str
    outcomes: list[Outcome] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    """One line for each process that did not end in order."""

    @property
    def kills(self) -> int:
        return sum(outcome.kills for outcome in self.outcomes)

    @property
    def other_faults(self) -> int:
        return sum(outcome.has_struck and not outcome.kills for outcome in self.outcomes)

    @property
    def items(self) -> int:
        return sum(outcome.books.items for outcome in self.outcomes)

    @property
    def endings(self) -> int:
        """Rounds that shut their queue down."""
        return sum(outcome.ends_queue for outcome in self.outcomes)

    @property
    def lost(self) -> int:
        return max(0, sum(outcome.books.lost - outcome.books.late for outcome in self.outcomes))

    @property
    def in_dead_hands(self) -> int:
        return sum(outcome.books.in_dead_hands for outcome in self.outcomes)

    @property
    def doubled(self) -> int:
        return sum(outcome.books.doubled for outcome in self.outcomes)

    @property
    def hung(self) -> int:
        return sum(bool(outcome.hung) for outcome in self.outcomes)

    @property
    def broken(self) -> int:
        return sum(bool(outcome.broken) for outcome in self.outcomes)

    @property
    def stall(self) -> float:
        return max((outcome.stall for outcome in self.outcomes), default=0.0)

    def failures_of_rounds(self) -> list[str]:
        """Broken promises of Penstock, one line each."""
        found = []
        for outcome in self.outcomes:
            books = outcome.books
            where = f"round {outcome.number} ({outcome.fault})"
            if books.lost or books.doubled or books.late:
                found.append(f"{where}: {books.lost} lost, {books.doubled} doubled, {books.late} late")
            found += [f"{where}: {what}" for what in (outcome.hung, outcome.broken, *outcome.wrong) if what]
        return found


@dataclass
class Era:
    """A queue with its crew, for `ERA` rounds at most."""

    number: int
    crew: Crew
    folder: tempfile.TemporaryDirectory[str]
    options: Options
    puts: int = 0
    unaccounted: set[int] = field(default_factory=set)


class Storm:
    """Plays rounds. As a context manager it ends all its processes."""

    def __init__(
        self,
        contestant: Contestant,
        method: str,
        seed: int,
        *,
        forbidden: dict[str, str],
        watchdog: float = PATIENCE,
        on_hang: Callable[[list[int]], None] = lambda pids: None,
    ) -> None:
        self.contestant = contestant
        self.tally = Tally(contestant, method)
        self._context: Any = multiprocessing.get_context(method)
        self._seed = f"{seed} {contestant.name} {method}"
        self._watchdog = watchdog
        self._on_hang = on_hang
        self._forbidden = {*forbidden, *contestant.does_not_apply}
        self._era: Era | None = None

    def __enter__(self) -> "Storm":
        return self

    def __exit__(self, kind: type[BaseException] | None, *exception: object) -> None:
        self._end_era(in_order=kind is None)

    @property
    def name(self) -> str:
        return f"{self.contestant.name}/{self.tally.method}"

    def play(self, number: int) -> Outcome:
        """Play the round of that number. Its seed decides everything but the timing."""
        era = self._era_of(number)
        rng = random.Random(f"{self._seed} round {number}")
        fault = self._choose(era, rng)
        round = Round(
            self.contestant, era.crew, number, fault, rng, self._watchdog, era.unaccounted, era.puts
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # about forks beside threads
            outcome = round.play()
        self.tally.outcomes.append(outcome)
        if outcome.hung or outcome.broken:
            pids = [hand.pid for member in era.crew.members() for hand in member.hands() if hand.pid]
            self._on_hang(pids)
            self._end_era(in_order=False)
            return outcome
        era.unaccounted |= outcome.books.unaccounted
        era.puts = round.puts_before
        for member in era.crew.members():
            is_used_up = fault.needs_new_process and member in round.victims
            if (member.is_dead or member.leaves or is_used_up) and (what := era.crew.remove(member)):
                outcome.wrong.append(what)
        if outcome.ends_queue:
            self._end_era(in_order=True)
        else:
            era.crew.fill()
        return outcome

    def _choose(self, era: Era, rng: random.Random) -> Fault:
        is_tight = era.options.max_bytes is not None
        possible = [
            fault
            for fault in FAULTS
            if fault.name not in self._forbidden
            and fault.max_bytes in (None, is_tight)
            # A bound on the items would stop the producer that has to fill the memory.
            and not (fault.fills_memory and era.options.maxsize)
            and not (fault.needs_bound and not era.options.maxsize)
        ]
        return rng.choices(possible, [fault.weight for fault in possible])[0]

    def _era_of(self, number: int) -> Era:
        if self._era is not None and self._era.number != number // ERA:
            self._end_era(in_order=True)
        if self._era is None:
            self._era = self._begin_era(number // ERA)
        return self._era

    def _begin_era(self, number: int) -> Era:
        rng = random.Random(f"{self._seed} era {number}")
        options = Options(rng.choice([0, 0, 5, 50]), rng.choice([None, TIGHT]))
        queue = self.contestant.new_queue(self._context, options)
        folder = tempfile.TemporaryDirectory(prefix="penstock-storm-")
        crew = Crew(self.contestant, self._context, queue, Path(folder.name), ERA * 4 + len(PLACES))
        return Era(number, crew, folder, options)

    def _end_era(self, *, in_order: bool) -> None:
        era, self._era = self._era, None
        if era is None:
            return
        if in_order:
            self.tally.failures += [f"in the end {what}" for what in era.crew.end()]
        else:
            era.crew.kill()
        if (
            self.tally.failures_of_rounds()
            and self.contestant.is_penstock
            and (text := era.crew.log.read_text())
        ):
            self.tally.failures.append(f"what the processes said:\n{text}")
        era.folder.cleanup()
