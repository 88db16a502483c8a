"""Measures Penstock beside its rivals, and writes tables and charts.

Why not to trust it: these are small loops on one machine with few cores, which other work disturbs. The
rounds of the rivals are interleaved, so that a disturbance meets all of them. Medians are shown with their
spread. Only ratios within one run mean anything.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

import penstock

from . import (
    delays,
    event_loops,
    growth,
    pools,
    recovery,
    report,
    resources,
    rivals,
    round_trips,
    sizes,
    threads,
    throughput,
    workers,
)
from .measured import Measured, Target, at_least, at_most, interleave, missed
from .payloads import PAYLOADS, Payload
from .results import Results
from .rivals.interface import Rival, Shape
from .throughput import HANDED, IN_TURN, LIMIT

OURS, STANDARD, PIPE, FIFO = "Penstock", "multiprocessing.Queue", "multiprocessing.Pipe", "faster-fifo"
BATCHED, OUR_PIPE = "Penstock, batched", "Penstock Pipe"
DUPLEX, OUR_DUPLEX = "multiprocessing.Pipe, duplex", "Penstock Pipe, duplex"
SHAPES: list[Shape] = [(1, 1), (1, 4), (4, 1), (2, 2), (4, 4)]
MIB = 1 << 20
WORKERS = "workers"
"""The stage with a report of its own, in a folder of this name."""


class Bench:
    """One run: it measures the stages in turn."""

    def __init__(self, options: argparse.Namespace, progress: Progress) -> None:
        self.options = options
        self.progress = progress
        self.task = progress.add_task("measuring", total=None)
        self.rivals, self.missing = rivals.available()
        self.results = Results(missing=self.missing)
        self.targets: list[Target] = self.results.targets
        self.pools, missing_pools = pools.available()
        self.of_workers = Results(missing=missing_pools)

    def stage(self, text: str, steps: int) -> None:
        """Print what is measured now."""
        self.progress.reset(self.task, total=steps, description=text)
        if self.progress.disable:
            print(text, flush=True)

    def tick(self) -> None:
        """Count one step of the stage."""
        self.progress.advance(self.task)

    # ------------------------------------------------------------------------------------------ throughput

    def cells(self) -> list[tuple[Payload, Shape]]:
        """The payloads and shapes to measure."""
        wanted = [PAYLOADS[name] for name in self.options.payloads]
        return [
            (payload, shape)
            for payload in wanted
            for shape in SHAPES
            if self.options.all or shape == (1, 1) or payload.name == "tuple"
        ]

    def throughputs(self) -> None:
        """Items per second of every rival that suits the shape."""
        cells = self.cells()
        for payload, shape in cells:
            able = [rival for rival in self.rivals.values() if rival.suits(shape)]
            if payload.array_bytes:  # a batch of arrays fits in no rival's ring
                able = [rival for rival in able if not rival.batch]
            payload.make()  # imports its package now, so that no forked process imports it while timed
            name = f"{payload.name}, {shape[0]}x{shape[1]}"
            limits = 3 if payload.array_bytes else 1
            rounds = self.options.rounds
            self.stage(f"items per second: {name}", len(able) * (rounds + 1) + rounds * limits)
            measures: dict[str, Callable[[], float]] = {}
            for rival in able:
                measures[rival.name] = self._throughput(rival, payload, shape)
                self.tick()
            seconds = self.options.seconds / 2
            measures[LIMIT] = partial(throughput.limit, payload, shape, seconds)
            if payload.array_bytes:
                measures[IN_TURN] = partial(throughput.limit, payload, shape, seconds, targets=2)
                measures[HANDED] = partial(throughput.handed, payload, seconds)
            self.results.throughput[name] = interleave(self.options.rounds, measures, self.tick)

    def _throughput(self, rival: Rival, payload: Payload, shape: Shape) -> Callable[[], float]:
        """A measure whose rounds take about `seconds` of the options, or a second for the slowest."""
        least = 20 if payload.array_bytes else 2000
        rate = throughput.throughput(rival, payload, shape, least)
        if rate < least:
            least = max(shape[0], round(rate))
        rate = throughput.throughput(rival, payload, shape, max(least, round(rate * 0.1)))
        items = max(least, round(rate * self.options.seconds))
        return lambda: throughput.throughput(rival, payload, shape, items)

    # ----------------------------------------------------------------------------------------- round trips

    def round_trips(self) -> None:
        """Microseconds of an int to another process and back."""
        able = [*(rival for rival in self.rivals.values() if not rival.batch), round_trips.LIMIT]
        for one_core in (False, True):
            name = "one core" if one_core else "two cores"
            self.stage(f"round trips, {name}", len(able) * self.options.rounds)
            rounds: dict[str, list[round_trips.RoundTrips]] = {rival.name: [] for rival in able}
            for _ in range(self.options.rounds):
                for rival in able:
                    rounds[rival.name].append(round_trips.round_trips(rival, 2000, one_core=one_core))
                    self.tick()
            self.results.round_trips[name] = {
                rival: {key: Measured([asdict(each)[key] for each in done]) for key in ("p50", "p99", "p999")}
                for rival, done in rounds.items()
            }

    # ----------------------------------------------------------------------------------------------- sizes

    def sizes(self) -> None:
        """Microseconds of an item, by its size."""
        self.stage("items from 8 bytes to 1 MB", sizes.steps(self.options.rounds))
        ours, standard = self.rivals[OURS], self.rivals[STANDARD]
        seconds = self.options.seconds / 8
        self.results.sizes = sizes.measure(ours, standard, self.options.rounds, seconds, self.tick)

    # ------------------------------------------------------------------------------------------- resources

    def resources(self) -> None:
        """The cost of creation, and the use of CPU and memory."""
        rounds, seconds = self.options.rounds, self.options.idle_seconds
        able = {name: rival for name, rival in self.rivals.items() if rival.suits((1, 1)) and not rival.batch}
        cheap = {name: rival for name, rival in able.items() if name != "Manager().Queue"}
        self.stage("creating and attaching", rounds * (len(cheap) + len(able)))
        self.results.resources["creating, us"] = interleave(
            rounds,
            {name: partial(resources.creation, rival, 200) for name, rival in cheap.items()},
            self.tick,
        )
        self.results.resources["first get in a new process, us"] = interleave(
            rounds,
            {name: partial(resources.attaching, rival) for name, rival in able.items()},
            self.tick,
        )
        self.stage("importing", rounds * len(resources.IMPORTED))
        self.results.resources["importing, ms"] = interleave(
            rounds,
            {name: partial(resources.importing, name) for name in resources.IMPORTED},
            self.tick,
        )

        def milliseconds(measure: Callable[[], float]) -> float:
            return measure() * 1e3

        self.stage(f"CPU of a get() that waits {seconds:g} s", len(able) + 1)
        self.results.resources[f"CPU of a get() that waits {seconds:g} s, ms"] = interleave(
            1,
            {
                **{
                    name: partial(milliseconds, partial(resources.idle_cpu, rival, seconds))
                    for name, rival in able.items()
                },
                "ten bare sleeps a second": partial(milliseconds, partial(resources.bare_wake_ups, seconds)),
            },
            self.tick,
        )
        self.stage("CPU at 10,000 messages a second", rounds * (len(able) + 1))
        self.results.resources["CPU seconds per million messages at 10,000 a second"] = interleave(
            rounds,
            {
                **{name: partial(resources.steady_cpu, rival, 5_000, 10_000) for name, rival in able.items()},
                "the pacing alone": partial(resources.steady_cpu, None, 5_000, 10_000),
            },
            self.tick,
        )
        self.stage("memory of floods", 4)
        empty = resources.memory_of_an_empty_queue(penstock.Queue())
        self.results.memory["an empty queue"] = (empty, empty)
        self.tick()
        for size in (MIB, 1000):
            most, after = resources.memory_after_a_flood(penstock.Queue(), 1 << 30, size)
            self.results.memory[f"1 GiB in items of {size:,} bytes"] = (most, after)
            self.tick()
        in_use = resources.memory_beside_an_item(penstock.Queue(), 1_000_000)
        self.results.memory["a million ints, one left, 2 s later in use"] = in_use
        self.tick()

    def threads(self) -> None:
        """Items per second between threads of one process."""
        self.stage("threads of one process", threads.steps(self.options.rounds))
        self.results.threads = threads.measure(self.options.rounds, self.tick)

    def event_loops(self) -> None:
        """Items per second and round trips between event loops."""
        self.stage("event loops", event_loops.steps(self.options.rounds))
        self.results.event_loops = event_loops.measure(self.options.rounds, self.tick)

    def delays(self) -> None:
        """The cost of items that are delayed."""
        self.stage("delayed items", self.options.rounds)
        self.results.delays = delays.measure(self.options.rounds, self.tick)

    def growth(self) -> None:
        """The cost of an item with large backlogs and many processes."""
        sizes = [1_000, 100_000, 1_000_000, self.options.backlog]
        self.stage(f"backlogs of up to {self.options.backlog:,} items", len(sizes))
        self.results.backlog = growth.backlog(sizes, self.tick)
        counts = [1, 10, 30, 100]
        self.stage("up to 100 processes", len(counts))
        self.results.participants = growth.participants(counts, self.tick)

    # -------------------------------------------------------------------------------------------- recovery

    def recovery(self) -> None:
        """What deaths, many leases and many processes cost the other processes."""
        self.stage("recovery", recovery.steps(self.options.rounds))
        self.results.recovery = recovery.measure(self.options.rounds, self.tick)

    # --------------------------------------------------------------------------------------------- workers

    def workers(self) -> None:
        """Pools of worker processes."""
        options = self.options
        self.stage("pools of workers", workers.steps(options.rounds))
        self.of_workers.workers = workers.measure(
            self.pools, options.rounds, options.seconds, options.idle_seconds, self.tick
        )

    # --------------------------------------------------------------------------------------------- targets

    def judge(self) -> None:
        """Compare the figures with the targets."""

        def ratio(scenario: str, bound: float, ours: str = OURS, other: str = STANDARD) -> None:
            figures = self.results.throughput.get(scenario, {})
            if ours in figures and other in figures:
                value = figures[ours].median / figures[other].median
                kind = f" ({ours})" if ours != OURS else ""
                self.targets.append(at_least(f"{scenario}{kind}", value, bound, f"x {other}"))

        def share(scenario: str, bound: float, ours: str = OURS) -> None:
            figures = self.results.throughput.get(scenario)
            if figures is not None:
                value = 100 * figures[ours].median / figures[LIMIT].median
                kind = f" ({ours})" if ours != OURS else ""
                self.targets.append(at_least(f"{scenario}{kind}", value, bound, "% of the limit"))

        ratio("tuple, 1x1", 14)
        share("tuple, 1x1", 90)
        ratio("tuple, 1x1", 20, BATCHED)
        share("tuple, 1x1", 120, BATCHED)
        ratio("int, 1x1", 15)
        for shape, bound in (("2x2", 10), ("4x4", 8), ("1x4", 8), ("4x1", 8)):
            ratio(f"tuple, {shape}", bound)
        for payload in ("dict", "1 KB bytes"):
            ratio(f"{payload}, 1x1", 8)
            ratio(f"{payload}, 1x1", 4, other="pyzmq")
        ratio("64 KB array, 1x1", 12)
        ratio("64 KB array, 1x1", 5, other=FIFO)
        for payload in ("1 MB array", "8 MB array"):
            ratio(f"{payload}, 1x1", 15)
            ratio(f"{payload}, 1x1", 5, other=FIFO)
            share(f"{payload}, 1x1", 70)
        self._judge_round_trips()
        self._judge_resources()
        self._judge_sizes()
        self._judge_recovery()
        self._judge_event_loops()
        self.of_workers.targets += workers.judge(self.of_workers.workers)

    def _judge_event_loops(self) -> None:
        rates = self.results.event_loops.get(event_loops.RATE)
        if rates:
            value = rates[event_loops.OURS].median / rates[event_loops.SYNCHRONOUS].median
            self.targets.append(at_least("event loops, 1x1", value, 0.5, f"x {event_loops.SYNCHRONOUS}"))
        trips = self.results.event_loops.get(event_loops.ROUND_TRIP)
        if trips:
            value = trips[event_loops.OURS].median / trips[event_loops.LIMIT].median
            self.targets.append(at_most("round trip of two loops", value, 1.5, f"x {event_loops.LIMIT}"))

    def _judge_round_trips(self) -> None:
        for cores, bounds in (("two cores", {"p50": 1 / 25, "p99": 1 / 5}), ("one core", {"p50": 1.0})):
            figures = self.results.round_trips.get(cores, {})
            for key, bound in bounds.items():
                if OURS in figures and PIPE in figures:
                    value = figures[OURS][key].median / figures[PIPE][key].median
                    self.targets.append(at_most(f"round trip, {cores}, {key}", value, bound, f"x {PIPE}"))
        figures = self.results.round_trips.get("two cores", {})
        if OUR_DUPLEX in figures and DUPLEX in figures:
            value = figures[DUPLEX]["p50"].median / figures[OUR_DUPLEX]["p50"].median
            self.targets.append(at_least(f"round trips a second, {OUR_DUPLEX}", value, 10, f"x {DUPLEX}"))

    def _judge_resources(self) -> None:
        for what, figures in self.results.resources.items():
            if what.startswith("importing"):
                value = figures[resources.IMPORTED[0]].median / figures[resources.IMPORTED[1]].median
                self.targets.append(at_most(what, value, 0.5, f"x {resources.IMPORTED[1]}"))
            elif what.startswith(("creating", "CPU seconds")):
                value = figures[OURS].median / figures[STANDARD].median
                self.targets.append(at_most(what, value, 1, f"x {STANDARD}"))
            elif what.startswith("CPU of"):
                share = figures[OURS].median / 10 / self.options.idle_seconds
                self.targets.append(at_most(what, share, 0.1, "% of a core"))
        for what, (_, after) in self.results.memory.items():
            bound, unit, size = (256, "KiB", 1024) if what == "an empty queue" else (16, "MiB left", MIB)
            self.targets.append(at_most(f"memory: {what}", after / size, bound, unit))
        if self.results.backlog:
            costs = self.results.backlog
            most = max(costs)
            value = costs[most][0].median / costs[0][0].median
            self.targets.append(at_most(f"put beside {most:,} items", value, 1.5, "x an empty queue's"))

    def _judge_sizes(self) -> None:
        for kind, found in self.results.sizes.checks.items():
            larger, size = found.growth_sizes
            what = f"{kind} of {larger:,} bytes, the worst against one up to twice as small ({size:,})"
            self.targets.append(at_most(what, found.growth, 2, "x as long"))
            size, larger = found.cliff_sizes
            what = f"{kind} of {size:,} bytes, the worst against one up to twice as large ({larger:,})"
            self.targets.append(at_most(what, found.cliff, 2, "x as long"))
            what = f"{kind} of {found.ratio_size:,} bytes, the worst against {STANDARD}"
            self.targets.append(at_most(what, found.ratio, 1, f"x {STANDARD}"))

    def _judge_recovery(self) -> None:
        figures = self.results.recovery
        for what, (bound, unit) in recovery.BOUNDS.items():
            if what in figures:
                self.targets.append(at_most(what, figures[what].median, bound, unit))
        for what, (few, many, bound) in recovery.GROWTH.items():
            if many in figures:
                ratio = figures[many].median / figures[few].median
                self.targets.append(at_most(what, ratio, bound, "x as much"))


def main() -> int:
    """Measure what the command line chooses."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--rounds", type=int, default=5, help="rounds of each measure (default: 5)")
    parser.add_argument(
        "--seconds", type=float, default=0.4, help="how long a round of items takes (default: 0.4)"
    )
    parser.add_argument(
        "--idle-seconds", type=float, default=10, help="how long an idle get() waits (default: 10)"
    )
    parser.add_argument(
        "--backlog", type=int, default=10_000_000, help="items of the largest backlog (default: 10000000)"
    )
    stages = (
        "throughputs",
        "round_trips",
        "sizes",
        "resources",
        "threads",
        "event_loops",
        "delays",
        "growth",
        "recovery",
        WORKERS,
    )
    parser.add_argument("--only", choices=stages, nargs="+", default=stages, help="measure only these")
    parser.add_argument(
        "--rivals",
        nargs="+",
        metavar="NAME",
        help="compare only these (Penstock, the standard queue and the standard pools always)",
    )
    parser.add_argument(
        "--payloads",
        nargs="+",
        choices=PAYLOADS,
        default=list(PAYLOADS),
        metavar="NAME",
        help=f"pass only these: {', '.join(PAYLOADS)}",
    )
    parser.add_argument(
        "--all",
        action="store_true",
        help="every payload between every number of processes (takes an hour; some ten minutes with "
        "--rounds 3 --seconds 0.2)",
    )
    parser.add_argument(
        "--output",
        type=Path,
        metavar="FOLDER",
        help="write table, figures and charts there (default: nowhere)",
    )
    options = parser.parse_args()
    console = Console()
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        bench = Bench(options, progress)
        if options.rivals:
            wanted = {OURS, BATCHED, OUR_PIPE, OUR_DUPLEX, STANDARD, PIPE, DUPLEX, *options.rivals}
            wanted_pools = {workers.OURS, workers.EXECUTOR, workers.POOL, *options.rivals}
            if unknown := wanted - set(bench.rivals) - set(bench.pools):
                parser.error(f"not available here: {', '.join(sorted(unknown))}")
            bench.rivals = {name: rival for name, rival in bench.rivals.items() if name in wanted}
            bench.pools = {name: rival for name, rival in bench.pools.items() if name in wanted_pools}
        for stage in options.only:
            getattr(bench, stage)()
    bench.judge()
    reports = []
    if set(options.only) != {WORKERS}:
        reports.append((bench.results, report.QUEUES, ""))
    if WORKERS in options.only:
        reports.append((bench.of_workers, report.WORKERS, WORKERS))
    for results, subject, folder in reports:
        report.show(results, subject, console if console.is_terminal else Console(width=150))
        if options.output:
            report.write(results, subject, options.output / folder)
    return 1 if any(missed(results.targets) for results, _, _ in reports) else 0


if __name__ == "__main__":
    sys.exit(main())
