"""Microseconds that an item of some size takes from one process to another, on both sides of each threshold.

Items come as a stream: while one process puts an item, the other gets the item before.
"""

from __future__ import annotations

import mmap
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np

import penstock

from .measured import Measured
from .payloads import Payload
from .rivals.interface import Rival
from .throughput import throughput


@dataclass(frozen=True)
class Kind:
    """A kind of object, made from its size in bytes."""

    make: Callable[[int], Any]
    touch: Callable[[Any], Any] | None = None
    """What a consumer computes from each object; None for nothing."""


def _array(size: int) -> Any:
    return np.zeros(size, dtype=np.uint8)


def _read(array: Any) -> Any:
    """The sum of one byte of each page."""
    return array[:: mmap.PAGESIZE].sum()


KINDS = {
    "bytes": Kind(bytes),
    "array of uint8": Kind(_array),
    "array of uint8, read": Kind(_array, touch=_read),
}

_POWERS = [1 << power for power in range(3, 21)]
_MESSAGES = (72, 2048, 1 << 16)
"""Bytes of the longest messages in the slot, copied under the lock, and copied while the GIL is held."""
_BUFFERS = (4096, 1 << 16, 1 << 18)
"""Bytes of the smallest buffers beside the pickle, copied with the GIL released, and mapped."""

_LEAST_ITEMS = 20
_MORE_ROUNDS = 3
"""A factor on the rounds, which are short: which process waits for the other changes from one to the next."""

Costs = dict[int, tuple[Measured, Measured]]
"""Microseconds of an item of each size: through Penstock, and through the other rival."""


@dataclass
class Check:
    """The greatest ratios between the costs of a kind of object, and where they are."""

    growth: float = 0.0
    """Of a size to a smaller one of at least half as many bytes."""
    growth_sizes: tuple[int, int] = (0, 0)
    cliff: float = 0.0
    """Of a size to a larger one of at most twice as many bytes."""
    cliff_sizes: tuple[int, int] = (0, 0)
    ratio: float = 0.0
    """Of Penstock to the other rival at one size."""
    ratio_size: int = 0


@dataclass
class Results:
    """The figures of all kinds of objects."""

    costs: dict[str, Costs] = field(default_factory=dict)
    checks: dict[str, Check] = field(default_factory=dict)


def _message(make: Callable[[int], Any], size: int) -> int:
    """Bytes of an object's message."""
    queue = penstock.Queue[Any]()
    queue.put(make(size))
    return queue.statistics().bytes


def _largest(make: Callable[[int], Any], limit: int) -> int:
    """Size of the largest object whose message is not longer than `limit`; -1 if there is none."""
    fits, too_large = -1, limit + 1
    while too_large - fits > 1:
        middle = (fits + too_large) // 2
        if _message(make, middle) <= limit:
            fits = middle
        else:
            too_large = middle
    return fits


def sizes(kind: str) -> list[int]:
    """Powers of two from 8 bytes to 1 MB, and both sides of each threshold of this kind."""
    make = KINDS[kind].make
    found = {*_POWERS}
    for limit in _MESSAGES:
        last = _largest(make, limit)
        found |= {last, last + 1}
    for limit in _BUFFERS:
        found |= {limit - 1, limit}
    return sorted(size for size in found if size >= _POWERS[0])


def steps(rounds: int) -> int:
    """The number of ticks of `measure`."""
    return sum(len(sizes(kind)) for kind in KINDS) * rounds * _MORE_ROUNDS


def measure(ours: Rival, other: Rival, rounds: int, seconds: float, tick: Callable[[], None]) -> Results:
    """Measure in each round every size of each kind through both rivals in turn."""
    results = Results()
    items: dict[tuple[str, str, int], int] = {}
    for kind in KINDS:
        results.costs[kind] = {size: (Measured(), Measured()) for size in sizes(kind)}
    for _ in range(rounds * _MORE_ROUNDS):
        for kind, costs in results.costs.items():
            for size, measured in costs.items():
                payload = Payload(
                    f"{kind} of {size}", partial(KINDS[kind].make, size), touch=KINDS[kind].touch
                )
                for rival, figure in zip((ours, other), measured, strict=True):
                    key = (rival.name, kind, size)
                    if key not in items:
                        rate = throughput(rival, payload, (1, 1), 10 * _LEAST_ITEMS)
                        items[key] = max(_LEAST_ITEMS, round(rate * seconds))
                    rate = throughput(rival, payload, (1, 1), items[key])
                    items[key] = max(_LEAST_ITEMS, round(rate * seconds))
                    figure.rounds.append(1e6 / rate)
                tick()
    results.checks = {kind: check(costs) for kind, costs in results.costs.items()}
    return results


def check(costs: Costs) -> Check:
    """Compare the medians of neighbouring sizes, and of the two rivals."""
    found = Check()
    for size, (ours, other) in costs.items():
        if (ratio := ours.median / other.median) > found.ratio:
            found.ratio, found.ratio_size = ratio, size
        for larger, (its, _) in costs.items():
            if not size < larger <= 2 * size:
                continue
            if (growth := its.median / ours.median) > found.growth:
                found.growth, found.growth_sizes = growth, (larger, size)
            if (cliff := ours.median / its.median) > found.cliff:
                found.cliff, found.cliff_sizes = cliff, (size, larger)
    return found
