"""python -m tests.crash.storms: see the package."""

import argparse
import os
import platform
import sys
import time

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

import penstock
from tests.support import leaks, stacks

from . import table
from .contestants import Contestant, all_contestants
from .faults import forbidden
from .storm import PATIENCE, Storm

METHODS = ("fork", "spawn")


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="make test-storm", description="Storms of faults; see tests/crash/storms."
    )
    parser.add_argument("--rounds", type=int, default=840, help="of each class and start method of Penstock")
    parser.add_argument(
        "--rival-rounds", type=int, default=30, help="of each class and start method of a rival"
    )
    parser.add_argument("--seed", type=int, help="as an earlier run has printed it")
    parser.add_argument("--only", default="", help="storms whose name has this in it, as penstock.Queue/fork")
    parser.add_argument("--round", type=int, help="one round alone, as a failure names it")
    parser.add_argument("--rival-watchdog", type=float, default=2.0, help="seconds; Penstock's has 10")
    return parser.parse_args()


def main() -> int:
    chosen = options()
    seed = chosen.seed if chosen.seed is not None else int.from_bytes(os.urandom(4), "big")
    console = Console(width=None if sys.stdout.isatty() else 170)
    console.print(f"seed {seed}", highlight=False)
    leaks.adopt_orphans()
    stacks_file = stacks.new_file()
    not_here = forbidden()
    for fault, reason in not_here.items():
        console.print(f"SKIPPED: {fault}: {reason}", highlight=False)
    plans: list[tuple[Contestant, str, range]] = []
    for contestant in all_contestants():
        for method in METHODS:
            count = chosen.rounds if contestant.is_penstock else chosen.rival_rounds
            numbers = range(count) if chosen.round is None else range(chosen.round, chosen.round + 1)
            if numbers and chosen.only in f"{contestant.name}/{method}":
                plans.append((contestant, method, numbers))
    begun = time.monotonic()
    tallies = []
    try:
        with Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        ) as progress:
            for contestant, method, numbers in plans:
                bar = progress.add_task(f"{contestant.name}/{method}", total=len(numbers))

                with Storm(
                    contestant,
                    method,
                    seed,
                    forbidden=not_here,
                    watchdog=PATIENCE if contestant.is_penstock else chosen.rival_watchdog,
                    on_hang=stacks.report if contestant.is_penstock else lambda pids: None,
                ) as storm:
                    for count, number in enumerate(numbers, start=1):
                        storm.play(number)
                        progress.advance(bar)
                        if not console.is_terminal and (count % 100 == 0 or count == len(numbers)):
                            elapsed = time.monotonic() - begun
                            console.print(
                                f"{elapsed:6.0f} s  {storm.name}: {count} of {len(numbers)} rounds",
                                highlight=False,
                            )
                tallies.append(storm.tally)
    finally:
        stacks_file.unlink(missing_ok=True)
    table.show(console, tallies, not_here)
    console.print(
        f"Python {platform.python_version()}, penstock {penstock.__version__}, Linux {platform.release()}, "
        f"{len(os.sched_getaffinity(0))} cores, {time.monotonic() - begun:.0f} s, seed {seed}. "
        f"Watchdog: Penstock {PATIENCE:g} s, rivals {chosen.rival_watchdog:g} s.",
        highlight=False,
    )
    failures = [
        f"{tally.contestant.name}/{tally.method}: {what}"
        for tally in tallies
        if tally.contestant.is_penstock
        for what in tally.failures_of_rounds() + tally.failures
    ]
    for failure in failures:
        console.print(f"FAILED: {failure}", style="red", highlight=False, markup=False)
    if failures:
        console.print(
            f"Again: make test-storm ARGS='--seed {seed} --only NAME --round NUMBER'", highlight=False
        )
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
