"""Backoff: the times that an item waits which has failed."""

from __future__ import annotations

from collections import namedtuple
from math import inf, isfinite

__all__ = ["Backoff", "backoff_of"]

TYPE_CHECKING = False  # without `typing`, whose import takes as long as all of Penstock
if TYPE_CHECKING:
    from typing import Self

_LONGEST = 1e10  # seconds: three centuries


class Backoff(namedtuple("Backoff", ["first", "factor", "most", "jitter"])):
    """How long an item that has failed waits until it is delivered again, longer after each failure.

    It waits for `first` seconds after its first failure, and after each further one `factor` times as long,
    up to `most` seconds. Up to the part `jitter` of that time (0 to 1) is left out at random, so that items
    that failed together do not come back together.

    Raises ValueError for numbers out of range: `first` and `most` are from 0 to 1e10 seconds, `factor` is
    from 1 to 1e10, and `jitter` from 0 to 1. Raises TypeError for what is no number.

    >>> import penstock
    >>> q = penstock.JoinableQueue(max_deliveries=10, retry_delay=penstock.Backoff(0.5, 2, 60, 0.1))
    >>> q.retry_delay
    Backoff(first=0.5, factor=2.0, most=60.0, jitter=0.1)
    """

    __slots__ = ()

    first: float
    factor: float
    most: float
    jitter: float

    def __new__(cls, first: float, factor: float = 2.0, most: float = 600.0, jitter: float = 0.1) -> Self:
        """Make it, of numbers in range."""
        numbers = []
        for name, value, least, greatest in (
            ("first", first, 0.0, _LONGEST),
            ("factor", factor, 1.0, _LONGEST),
            ("most", most, 0.0, _LONGEST),
            ("jitter", jitter, 0.0, 1.0),
        ):
            number = _number(name, value)
            if not (isfinite(number) and least <= number <= greatest):
                raise ValueError(f"{name} must be from {least:g} to {greatest:g}, not {number}")
            numbers.append(number)
        return super().__new__(cls, *numbers)


def backoff_of(retry_delay: float | Backoff) -> Backoff:
    """Return the backoff that `retry_delay` means."""
    if isinstance(retry_delay, Backoff):
        return retry_delay
    seconds = _number("retry_delay", retry_delay)
    if not 0 <= seconds <= _LONGEST:
        raise ValueError(f"retry_delay must be from 0 to {_LONGEST:g} seconds, not {seconds}")
    return Backoff(seconds, 1.0, seconds, 0.0)


def _number(name: str, value: float) -> float:
    if isinstance(value, (int, float)) or hasattr(value, "__float__"):
        try:
            return float(value)
        except OverflowError:  # an int that no float can hold is out of range, too
            return inf if value > 0 else -inf
    raise TypeError(f"{name} must be a number, not {type(value).__name__}")
