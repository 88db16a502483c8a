"""Compares Penstock with `multiprocessing` in one run, and prints ratios beside the targets.

Why not to trust it: these are small loops on one machine with few cores, which other work disturbs. Rounds
of the rivals are interleaved so that a disturbance meets both, medians are shown with their spread, and only
ratios within one run mean anything.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import platform
import statistics
import sys
from collections.abc import Callable
from dataclasses import dataclass, field

import scenarios
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

import penstock

MIB = 1 << 20


@dataclass
class Measured:
    """Rounds of one figure."""

    rounds: list[float] = field(default_factory=list)

    def __str__(self) -> str:
        return f"{self.median:,.4g} ({min(self.rounds):,.4g} to {max(self.rounds):,.4g})"

    @property
    def median(self) -> float:
        return statistics.median(self.rounds)


@dataclass
class Row:
    what: str
    penstock: str
    rival: str
    ratio: str
    target: str
    met: bool


def interleave(
    rounds: int, measures: dict[str, Callable[[], float]], tick: Callable[[], None]
) -> dict[str, Measured]:
    """Runs the measures in turn, so that a disturbance meets all of them."""
    measured = {name: Measured() for name in measures}
    for _ in range(rounds):
        for name, measure in measures.items():
            measured[name].rounds.append(measure())
            tick()
    return measured


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=7, help="rounds of each measure (default: 7)")
    parser.add_argument(
        "--items", type=int, default=200_000, help="items of a throughput round (default: 200000)"
    )
    parser.add_argument(
        "--idle-seconds", type=float, default=10, help="how long the idle get() waits (default: 10)"
    )
    options = parser.parse_args()
    ours, standard = penstock.get_context("fork"), multiprocessing.get_context("fork")
    console = Console()
    rows: list[Row] = []
    rounds, items = options.rounds, options.items
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("measuring", total=rounds * 7 + 5)

        def tick() -> None:
            progress.advance(task)

        got = interleave(
            rounds,
            {
                "ours": lambda: scenarios.throughput(ours, items),
                "standard": lambda: scenarios.throughput(standard, items // 5),
                "limit": lambda: scenarios.pickle_limit(items),
            },
            tick,
        )
        ratio = got["ours"].median / got["standard"].median
        share = got["ours"].median / got["limit"].median
        rows.append(
            Row(
                "small tuple, 1 to 1, items/s",
                str(got["ours"]),
                f"Queue {got['standard']}",
                f"{ratio:.1f} x",
                ">= 8 x",
                ratio >= 8,
            )
        )
        rows.append(
            Row(
                "  beside pickle alone", "", f"pickle {got['limit']}", f"{share:.0%}", ">= 50 %", share >= 0.5
            )
        )

        got = interleave(
            rounds,
            {
                "ours": lambda: scenarios.round_trip(ours, items // 20),
                "standard": lambda: scenarios.round_trip(standard, items // 100),
            },
            tick,
        )
        ratio = got["ours"].median / got["standard"].median
        rows.append(
            Row(
                "round trip of an int, us",
                str(got["ours"]),
                f"Queue {got['standard']}",
                f"1/{1 / ratio:.1f}",
                "<= 1/10",
                ratio <= 0.1,
            )
        )

        got = interleave(
            rounds,
            {
                "ours": lambda: scenarios.creation(ours, 500),
                "standard": lambda: scenarios.creation(standard, 500),
            },
            tick,
        )
        ratio = got["ours"].median / got["standard"].median
        rows.append(
            Row(
                "creating a queue, us",
                str(got["ours"]),
                f"Queue {got['standard']}",
                f"{ratio:.2f}",
                "<= 1",
                ratio <= 1,
            )
        )

        empty = scenarios.memory_of_an_empty_queue(ours.Queue())
        tick()
        rows.append(
            Row(
                "memory of an empty queue",
                f"{empty / 1024:.0f} KiB",
                "",
                "",
                "<= 256 KiB",
                empty <= 256 << 10,
            )
        )

        idle = scenarios.idle_cpu(ours, options.idle_seconds)
        tick()
        idle_standard = scenarios.idle_cpu(standard, options.idle_seconds)
        tick()
        bare = scenarios.bare_wake_ups(options.idle_seconds)
        tick()
        share = idle / options.idle_seconds
        rows.append(
            Row(
                f"CPU of get() blocked {options.idle_seconds:g} s",
                f"{idle * 1000:.1f} ms",
                f"Queue {idle_standard * 1000:.1f} ms; ten bare sleeps a second {bare * 1000:.1f} ms",
                f"{share:.2%}",
                "< 0.1 %",
                share < 0.001,
            )
        )

        for item in (MIB, 1000):
            flooded = ours.Queue()
            before = scenarios.memory_of_an_empty_queue(flooded)
            most, after = scenarios.memory_after_a_flood(flooded, 1 << 30, item)
            left = after - before
            rows.append(
                Row(
                    f"1 GiB in items of {item:,} bytes, drained",
                    f"{left / MIB:.1f} MiB left",
                    f"of {most / MIB:,.0f} MiB",
                    "",
                    "<= 16 MiB",
                    left <= 16 * MIB,
                )
            )
        tick()

    table = Table(title="Penstock beside multiprocessing: medians of interleaved rounds, with their spread")
    for heading in ("measured", "Penstock", "beside", "ratio", "target", ""):
        table.add_column(heading)
    for row in rows:
        table.add_row(
            row.what, row.penstock, row.rival, row.ratio, row.target, "met" if row.met else "MISSED"
        )
    wide = console if console.is_terminal else Console(width=150)
    wide.print(table)
    wide.print(
        f"Python {platform.python_version()}, penstock {penstock.__version__}, Linux {platform.release()}, "
        f"{len(os.sched_getaffinity(0))} cores, load {os.getloadavg()[0]:.1f}, {rounds} rounds",
        highlight=False,
    )
    return 0 if all(row.met for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
