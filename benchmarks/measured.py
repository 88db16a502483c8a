"""Figures of several rounds, and their table."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field


@dataclass
class Measured:
    """Rounds of one figure."""

    rounds: list[float] = field(default_factory=list)

    @property
    def median(self) -> float:
        """The median round."""
        return statistics.median(self.rounds)

    @property
    def spread(self) -> tuple[float, float]:
        """The least and the greatest round."""
        return min(self.rounds), max(self.rounds)


def interleave(
    rounds: int, measures: dict[str, Callable[[], float]], tick: Callable[[], None]
) -> dict[str, Measured]:
    """Run the measures in turn, so that a disturbance meets all of them."""
    measured = {name: Measured() for name in measures}
    for _ in range(rounds):
        for name, measure in measures.items():
            measured[name].rounds.append(measure())
            tick()
    return measured


@dataclass
class Target:
    """A target, and what was measured for it."""

    scenario: str
    measured: str
    target: str
    is_met: bool


def three_digits(value: float) -> str:
    """A number to three significant digits, without an exponent from 1,000 on."""
    return f"{float(f'{value:.3g}'):,.0f}" if value >= 999.5 else f"{value:.3g}"


def at_least(scenario: str, value: float, bound: float, unit: str) -> Target:
    """A target that is met at or above a bound."""
    return Target(scenario, f"{three_digits(value)} {unit}", f">= {bound:g} {unit}", value >= bound)


def at_most(scenario: str, value: float, bound: float, unit: str) -> Target:
    """A target that is met at or below a bound."""
    return Target(scenario, f"{three_digits(value)} {unit}", f"<= {bound:.3g} {unit}", value <= bound)


def missed(targets: Iterable[Target]) -> list[Target]:
    """The targets that were not met."""
    return [target for target in targets if not target.is_met]
