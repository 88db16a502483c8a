"""How much time the workers have saved, or why they have not, in words."""

import os
import time
from dataclasses import dataclass
from types import TracebackType

# From this ratio of the times on, the text calls one faster than the other.
_SAME = 1.05


@dataclass(frozen=True)
class Times:
    """Seconds of the same work done with workers and without."""

    workers: int
    with_workers: float
    """Starting and ending the workers included."""
    starting: float
    """The part of it that starting and ending the workers took."""
    alone: float


class Stopwatch:
    """Sums up the seconds that pass in its `with` blocks."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self._begin = 0.0

    def __enter__(self) -> None:
        self._begin = time.monotonic()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.seconds += time.monotonic() - self._begin


@dataclass(frozen=True)
class Machine:
    """What may keep workers from being faster than this process alone."""

    processors: int
    load: float
    """Processes of the whole system that were running or about to run, on average over the last minute."""


def machine() -> Machine:
    """Return the facts of this machine."""
    return Machine(len(os.sched_getaffinity(0)), os.getloadavg()[0])


def compare(times: Times, of: Machine) -> list[str]:
    """Return a comparison of the times, in lines of text."""
    workers = "1 worker" if times.workers == 1 else f"{times.workers} workers"
    both = f"Time with {workers}: {_seconds(times.with_workers)}. Without: {_seconds(times.alone)}."
    ratio = times.alone / max(times.with_workers, 1e-9)
    if ratio >= _SAME:
        return [f"{both} Workers made it {ratio:.1f} times as fast."]
    processors = min(times.workers, of.processors)
    most_saved = times.alone - times.alone / processors
    if processors > 1 and times.starting >= most_saved:
        return [
            both,
            "Workers do not pay for so little work: starting and ending them took "
            f"{_seconds(times.starting)}, and {processors} at once can save {_seconds(most_saved)} at most.",
        ]
    is_same = ratio > 1 / _SAME
    outcome = "Workers made no difference." if is_same else f"Workers made it {1 / ratio:.1f} times as slow."
    return [f"{both} {outcome}", *_reasons(times, of)]


def _reasons(times: Times, of: Machine) -> list[str]:
    """Why the workers were not faster though there was enough work, as far as the figures tell."""
    if of.processors == 1:
        return ["This program may run on one processor only, so workers cannot be faster."]
    if times.workers == 1:
        return [
            "One worker does no more at a time than this process: the difference is what the queues cost."
        ]
    if of.load > of.processors:
        return [
            f"Other programs were at work: on average over the last minute, {of.load:.1f} processes wanted "
            f"to run on {of.processors} processors."
        ]
    return []


def _seconds(seconds: float) -> str:
    if seconds >= 0.1:
        return f"{seconds:.2f} s"
    return f"{seconds * 1000:.0f} ms" if seconds >= 0.01 else f"{seconds * 1000:.1f} ms"
