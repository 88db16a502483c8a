"""Delayed items: what 10,000 of them cost, beside 10,000 others. An extra, run by itself:

python -m benchmarks.delays
"""

import time
from collections.abc import Callable

import penstock

COUNT = 10_000
SOON = 0.001  # seconds: over before the last one is put
LATER = 3600.0


def _microseconds(work: Callable[[], object]) -> float:
    """The time of each item, in microseconds."""
    began = time.perf_counter()
    work()
    return (time.perf_counter() - began) / COUNT * 1e6


def _put(queue: "penstock.Queue[int]", delay: float | None) -> None:
    for number in range(COUNT):
        queue.put(number, delay=delay)


def _take(queue: "penstock.Queue[int]") -> None:
    for _ in range(COUNT):
        queue.get()


def main() -> None:
    """Print the microseconds of an item for each step."""
    plain, soon, later = (penstock.Queue[int]() for _ in range(3))
    rows = [
        ("put", _microseconds(lambda: _put(plain, None))),
        ("put with a delay", _microseconds(lambda: _put(soon, SOON))),
        ("get", _microseconds(lambda: _take(plain))),
        ("get of one that is due", _microseconds(lambda: _take(soon))),
    ]
    _put(later, LATER)
    rows += [
        (f"put beside {COUNT:,} that are delayed", _microseconds(lambda: _put(later, None))),
        (f"get beside {COUNT:,} that are delayed", _microseconds(lambda: _take(later))),
    ]
    for name, microseconds in rows:
        print(f"{name:<40} {microseconds:6.2f} µs")


if __name__ == "__main__":
    main()
