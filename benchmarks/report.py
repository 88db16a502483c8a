"""The report: tables, figures for programs, charts."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import subprocess
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

import penstock

from . import delays, recovery, round_trips, sizes, threads, workers
from .measured import Measured, three_digits
from .results import Results
from .throughput import LIMIT


@dataclass(frozen=True)
class Subject:
    """What a report is about."""

    preface: str
    packages: tuple[str, ...]
    """Those whose versions it names."""


_DISTRUST = """\
# Benchmarks{of}

**Why not to trust them.** These are small loops on one virtual machine with two cores, which other
work disturbs. Rounds of the rivals are interleaved, so that a disturbance meets all of them; the figures
are medians, with the least and the most beside them; and only ratios within one run mean anything. Your
machine, your objects and your number of processes are others: run `make bench` yourself.

"""

_QUEUES = """\
**What is not read.** Consumers count what they get and drop it. A large array that Penstock passes is mapped
by the receiver and not copied. So a consumer that does not read it pays no page faults, whereas the rivals
have copied all of it by then. "1 MB array, read" is the same array of which the consumer reads one number of
each page, which brings all of its pages in: compare it with "1 MB array" to see what reading costs. In all
other scenarios with arrays, a DataFrame or a tensor the consumers read nothing, so a program that does sees
smaller ratios.

"""

_WORKERS = """\
**What is compared.** Each pool does the same in each scenario, and forks its workers, but for loky, which
starts new interpreters, as it does by default. `map` passes one call at a time; of multiprocessing.Pool it is
`imap`, and `apply` is its `submit(...).result()`. In each round each pool is opened, tried with some calls,
and then measured, in a process of its own. All pools idle at the same time.

**What is not read.** A large array that Penstock passes is mapped by the receiver and not copied, so a
receiver that does not read it pays no page faults. Compare such a table with the one beside it whose arrays
are read.

**Deaths.** A pool that breaks or hangs has no figure; the table says why. "A bare process" is what starting
a process takes, until its first statement: no pool can be faster by much, and only what is beyond that counts
for the target.

"""

QUEUES = Subject(_DISTRUST.format(of="") + _QUEUES, ("faster-fifo", "pyzmq", "numpy", "pandas", "torch"))
WORKERS = Subject(
    _DISTRUST.format(of=" of pools of workers") + _WORKERS, ("loky", "mpire", "pebble", "numpy")
)

_BARE = (
    "The limit is what one process needs to wake another one and be woken by it. A rival that watches for "
    "a while before it sleeps may need less, if each process has a core."
)
_USED_BEFORE = (
    "The round that takes new memory is left out. A put that is the first to touch its memory costs about "
    "1 microsecond instead of 0.3: the system zeroes a page for every 32 of them."
)


@dataclass
class Section:
    """One table."""

    title: str
    heads: list[str]
    rows: list[list[str]]
    note: str = ""


def _spread(measured: Measured) -> str:
    low, high = measured.spread
    return f"{three_digits(low)} to {three_digits(high)}"


def _overview(results: Results) -> Section:
    """Penstock's rate divided by the standard queue's, for all payloads and shapes."""
    ratios: dict[str, dict[str, str]] = {}
    for scenario, figures in results.throughput.items():
        payload, _, shape = scenario.rpartition(", ")
        ratio = figures["Penstock"].median / figures["multiprocessing.Queue"].median
        ratios.setdefault(payload, {})[shape] = f"{ratio:.1f}"
    shapes = list(dict.fromkeys(shape for row in ratios.values() for shape in row))
    rows = [[payload, *(row.get(shape, "") for shape in shapes)] for payload, row in ratios.items()]
    return Section("Times as fast as multiprocessing.Queue, producers x consumers", ["", *shapes], rows)


def _sections(results: Results) -> list[Section]:
    sections = [
        Section(
            "Targets",
            ["scenario", "measured", "target", ""],
            [[t.scenario, t.measured, t.target, "met" if t.is_met else "MISSED"] for t in results.targets],
        )
    ]
    if len(results.throughput) > 1:
        sections.append(_overview(results))
    for scenario, figures in results.throughput.items():
        limit = figures[LIMIT].median
        standard = figures["multiprocessing.Queue"].median
        rows = [
            [
                name,
                three_digits(measured.median),
                _spread(measured),
                f"{measured.median / standard:.2f}",
                f"{measured.median / limit:.0%}",
            ]
            for name, measured in sorted(figures.items(), key=lambda item: -item[1].median)
        ]
        heads = ["", "items a second", "spread", "x multiprocessing.Queue", "of the limit"]
        sections.append(Section(f"Items per second: {scenario}", heads, rows))
    for cores, trips in results.round_trips.items():
        bare = trips[round_trips.LIMIT.name]["p50"].median
        rows = [
            [
                name,
                f"{percentiles['p50'].median:.1f}",
                _spread(percentiles["p50"]),
                f"{percentiles['p50'].median / bare:.2f}",
                *(f"{percentiles[key].median:.1f}" for key in ("p99", "p999")),
            ]
            for name, percentiles in sorted(trips.items(), key=lambda item: item[1]["p50"].median)
        ]
        heads = ["", "p50", "spread of p50", "x the limit", "p99", "p99.9"]
        sections.append(Section(f"Round trip of an int, microseconds, {cores}", heads, rows, _BARE))
    for kind, by_size in results.sizes.costs.items():
        sections.append(_by_size(kind, by_size, results.sizes.checks[kind]))
    for what, figures in results.resources.items():
        rows = [
            [name, three_digits(measured.median), _spread(measured)]
            for name, measured in sorted(figures.items(), key=lambda item: item[1].median)
        ]
        sections.append(Section(what[0].upper() + what[1:], ["", "median", "spread"], rows))
    kind = threads.kind_of_interpreter()
    for scenario, figures in results.threads.items():
        processes = figures[threads.OURS_BY_PROCESSES].median
        rows = [
            [name, three_digits(measured.median), _spread(measured), f"{measured.median / processes:.2f}"]
            for name, measured in sorted(figures.items(), key=lambda item: -item[1].median)
        ]
        heads = ["", "items a second", "spread", f"x {threads.OURS_BY_PROCESSES}"]
        sections.append(Section(f"Items per second within one process, {kind}: {scenario}", heads, rows))
    for what, figures in results.event_loops.items():
        rows = [
            [name, three_digits(measured.median), _spread(measured)]
            for name, measured in sorted(figures.items(), key=lambda item: item[1].median)
        ]
        sections.append(Section(what[0].upper() + what[1:], ["", "median", "spread"], rows))
    if results.delays:
        rows = [
            [step, three_digits(measured.median), _spread(measured)]
            for step, measured in results.delays.items()
        ]
        title = f"Delayed items, {delays.COUNT:,} in one process, us"
        sections.append(Section(title, ["", "median", "spread"], rows))
    if results.memory:
        rows = [[what, f"{most:,}", f"{after:,}"] for what, (most, after) in results.memory.items()]
        sections.append(Section("Memory of Penstock, bytes", ["", "at most", "when drained"], rows))
    for what, costs in (("Items queued", results.backlog), ("Other processes", results.participants)):
        if costs:
            rows = [
                [f"{size:,}", f"{put.median:.0f}", _spread(put), f"{get.median:.0f}", _spread(get)]
                for size, (put, get) in costs.items()
            ]
            heads = [what, "put", "spread", "get", "spread"]
            title = "Nanoseconds of a put and a get of Penstock, in memory used before"
            sections.append(Section(title, heads, rows, _USED_BEFORE))
    if results.recovery:
        rows = [
            [what, f"{three_digits(measured.median)} {recovery.UNITS[what]}", _spread(measured)]
            for what, measured in results.recovery.items()
        ]
        heads = ["", "median", "spread"]
        sections.append(Section("What deaths, leases and processes cost", heads, rows, recovery.NOTE))
    sections += [_of_pools(scenario, outcomes) for scenario, outcomes in results.workers.items()]
    return sections


def _of_pools(scenario: str, outcomes: dict[str, workers.Outcome]) -> Section:
    """The pools in a scenario, the best first; those without a figure come last."""
    unit = workers.UNITS.get(scenario, workers.IDLE_UNIT)
    is_rate = unit == "calls a second"
    standard = outcomes[workers.EXECUTOR].measured.rounds and outcomes[workers.EXECUTOR].measured.median

    def place(outcome: workers.Outcome) -> tuple[bool, float]:
        rounds = outcome.measured.rounds
        return not rounds, outcome.measured.median * (-1 if is_rate else 1) if rounds else 0

    rows = []
    for name, outcome in sorted(outcomes.items(), key=lambda item: place(item[1])):
        measured, failed = outcome.measured, len(outcome.failures)
        cells = ["", "", ""]
        if measured.rounds:
            ratio = f"{measured.median / standard:.2f}" if standard else ""
            cells = [three_digits(measured.median), _spread(measured), ratio]
        reasons = "; ".join(dict.fromkeys(outcome.failures))
        trouble = f"{failed} of {failed + len(measured.rounds)} rounds: {reasons}" if failed else ""
        rows.append([name, *cells, trouble])
    heads = ["", unit, "spread", f"x {workers.EXECUTOR}", "failed"]
    if not any(row[-1] for row in rows):
        heads, rows = heads[:-1], [row[:-1] for row in rows]
    return Section(scenario[0].upper() + scenario[1:], heads, rows, workers.NOTES.get(scenario, ""))


def _by_size(kind: str, costs: sizes.Costs, check: sizes.Check) -> Section:
    """The costs of a kind of object, with their check in the note."""
    rows = [
        [
            f"{size:,}",
            three_digits(ours.median),
            _spread(ours),
            three_digits(standard.median),
            _spread(standard),
            f"{ours.median / standard.median:.2f}",
        ]
        for size, (ours, standard) in costs.items()
    ]
    larger, smaller = check.growth_sizes
    size, next_size = check.cliff_sizes
    note = (
        f"None takes more than {check.growth:.2f} x as long as one up to twice as small "
        f"({larger:,} bytes against {smaller:,}), none more than {check.cliff:.2f} x as long as one up to "
        f"twice as large ({size:,} against {next_size:,}), and none more than {check.ratio:.2f} x as long as "
        f"through multiprocessing.Queue ({check.ratio_size:,})."
    )
    heads = ["bytes", "Penstock", "spread", "multiprocessing.Queue", "spread", "ratio"]
    return Section(f"Microseconds of an item from one process to another: {kind}", heads, rows, note)


def _git(*arguments: str) -> str:
    done = subprocess.run(
        ["git", *arguments], cwd=Path(__file__).parent, capture_output=True, text=True, check=False
    )
    return done.stdout.strip()


def _commit() -> str:
    commit = _git("rev-parse", "--short", "HEAD")
    # Each run of the benchmark changes the documents.
    changed = _git("status", "--porcelain", "--untracked-files=no", "--", ":(top)", ":(top,exclude)docs")
    return f"commit {commit or 'unknown'}{', changed' if changed else ''}"


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        name, _, value = line.partition(":")
        if name.strip() == "model name":
            return " ".join(value.split())
    return "unknown processor"


def _versions(subject: Subject) -> str:
    packages = []
    for package in subject.packages:
        try:
            packages.append(f"{package} {importlib.metadata.version(package)}")
        except importlib.metadata.PackageNotFoundError:
            continue
    return (
        f"{date.today()}, {_commit()}, penstock {penstock.__version__}, "
        f"CPython {platform.python_version()} {threads.kind_of_interpreter()}, "
        f"Linux {platform.release()}, {platform.machine()}, "
        f"{_processor()}, "
        f"{len(os.sched_getaffinity(0))} cores, load {os.getloadavg()[0]:.1f}; {', '.join(packages)}"
    )


def show(results: Results, subject: Subject, console: Console) -> None:
    """Print the tables, the targets last."""
    first, *others = _sections(results)
    for section in [*others, first]:
        table = Table(title=section.title, title_justify="left")
        for head in section.heads:
            table.add_column(head)
        for row in section.rows:
            table.add_row(*row)
        console.print(table)
        if section.note:
            console.print(section.note, highlight=False)
    for name, reason in results.missing.items():
        console.print(f"not compared: {name} ({reason})", highlight=False)
    console.print(_versions(subject), highlight=False)


def _markdown(section: Section) -> str:
    lines = [section.heads, ["---"] * len(section.heads), *section.rows]
    table = "\n".join("| " + " | ".join(cells) + " |" for cells in lines)
    note = f"{section.note}\n\n" if section.note else ""
    return f"## {section.title}\n\n{note}{table}\n"


def _plain(value: Any) -> Any:
    if isinstance(value, Measured):
        return value.rounds
    if isinstance(value, np.generic):
        return value.item()
    return vars(value)  # of a dataclass; its fields' values come here in turn


def write(results: Results, subject: Subject, folder: Path) -> None:
    """Write README.md, results.json and the charts."""
    from . import charts  # here, because only charts need the plotting library

    folder.mkdir(parents=True, exist_ok=True)
    versions = _versions(subject)
    drawn = charts.draw(results, folder)
    pictures = "\n".join(f"![{title}]({name})\n" for title, name in drawn.items())
    tables = "\n".join(map(_markdown, _sections(results)))
    not_compared = "".join(f"Not compared: {name} ({reason}).\n" for name, reason in results.missing.items())
    text = f"{subject.preface}{versions}\n\n{not_compared}\n{pictures}\n{tables}"
    (folder / "README.md").write_text(text)
    with open(folder / "results.json", "w") as file:
        json.dump({"versions": versions, **vars(results)}, file, default=_plain, indent=1)
        file.write("\n")
