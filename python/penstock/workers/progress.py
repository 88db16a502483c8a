"""How a `map` tells how far it is."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass

__all__ = ["Progress", "reporter"]

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TextIO

_INTERVAL = 0.1  # seconds between two reports, at least
_LINE_INTERVAL = 1.0


@dataclass(frozen=True)
class Progress:
    """How far a `map` is, as it is told to a callable.

    >>> Progress(done=3, failed=0, retried=0, total=4, elapsed=1.5).rate
    2.0
    """

    done: int
    """Calls of which the results were taken, those that failed included."""
    failed: int
    """Calls that raised."""
    retried: int
    """Calls of the pool that were run again since the map began, because a worker had died."""
    total: int | None
    """How many calls there will be. None if an iterable does not tell its length."""
    elapsed: float
    """Seconds since the map began."""
    is_last: bool = False
    """Whether no other state follows."""

    @property
    def rate(self) -> float:
        """Calls a second."""
        return self.done / self.elapsed if self.elapsed > 0 else 0.0


class Lines:
    """Tells a stream, a line a second at most."""

    def __init__(self, label: str, stream: TextIO) -> None:
        self._label = label
        self._stream = stream
        self._next = 0.0

    def __call__(self, state: Progress) -> None:
        """Write a line, unless the last one is younger than a second."""
        now = time.monotonic()
        if now < self._next and not state.is_last:
            return
        self._next = now + _LINE_INTERVAL
        of = "" if state.total is None else f" of {state.total}"
        print(
            f"{self._label}: {state.done}{of} done{_trouble(state)}, {state.rate:.0f}/s",
            file=self._stream,
            flush=True,
        )


class Bar:
    """Draws rich's bar on a terminal."""

    def __init__(self, label: str) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as Display

        self._display = Display(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[told]}"),
            TimeRemainingColumn(),
            console=Console(stderr=True),
        )
        self._task = self._display.add_task(label, total=None, told="")
        self._display.start()

    def __call__(self, state: Progress) -> None:
        """Draw the state; leave the bar as it is after the last one."""
        told = f"{state.rate:.0f}/s{_trouble(state)}"
        self._display.update(self._task, completed=state.done, total=state.total, told=told)
        if state.is_last:
            self._display.refresh()
            self._display.stop()


def _trouble(state: Progress) -> str:
    failed = f", {state.failed} failed" if state.failed else ""
    return failed + (f", {state.retried} run again" if state.retried else "")


def reporter(progress: bool | str | Callable[[Progress], object], name: str) -> Callable[[Progress], object]:
    """Return what is told of each state: the one place where a program's choice becomes a display."""
    if callable(progress):
        return progress
    label = progress if isinstance(progress, str) else name
    if sys.stderr.isatty():
        try:
            return Bar(label)
        except ImportError:
            pass  # without rich
    return Lines(label, sys.stderr)


class Meter:
    """Counts the calls of one map, and reports them ten times a second at most."""

    def __init__(
        self, report: Callable[[Progress], object], total: int | None, retried: Callable[[], int]
    ) -> None:
        self._report = report
        self._total = total
        self._retried = retried
        self._retried_before = retried()
        self._begun = time.monotonic()
        self._next = self._begun
        self._done = self._failed = 0

    def count(self, has_failed: bool) -> None:
        """Count a result that is about to be taken."""
        self._done += 1
        self._failed += has_failed
        if time.monotonic() >= self._next:
            self.report()

    def report(self, is_last: bool = False) -> None:
        """Tell the state of this moment."""
        now = time.monotonic()
        self._next = now + _INTERVAL
        self._report(
            Progress(
                self._done,
                self._failed,
                self._retried() - self._retried_before,
                self._total,
                now - self._begun,
                is_last,
            )
        )
