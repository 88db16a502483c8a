"""Charts of the figures."""

from __future__ import annotations

from pathlib import Path

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from . import round_trips, workers
from .results import Results
from .throughput import HANDED, IN_TURN, LIMIT

# The same figures make the same SVG, byte for byte.
mpl.rcParams["svg.hashsalt"] = "penstock"
_METADATA = {"Date": None}
_OURS, _OTHERS = "#1f6f8b", "#b8b8b8"


def _colour(name: str) -> str:
    return _OURS if name.startswith("Penstock") else _OTHERS


def _bars(axes: Axes, figures: dict[str, tuple[float, float, float]], title: str) -> None:
    names = sorted(figures, key=lambda name: figures[name][0])
    middles = [figures[name][0] for name in names]
    errors = [[figures[n][0] - figures[n][1] for n in names], [figures[n][2] - figures[n][0] for n in names]]
    axes.barh(names, middles, xerr=errors, color=[_colour(name) for name in names], ecolor="#555555")
    axes.set_title(title, fontsize=10, loc="left")
    axes.tick_params(labelsize=8)
    axes.spines[["top", "right"]].set_visible(False)


def _save(figure: Figure, folder: Path, name: str) -> str:
    figure.savefig(folder / name, metadata=_METADATA)
    return name


def _by_size(results: Results) -> Figure:
    figure = Figure(figsize=(12, 4.4), layout="constrained")
    drawn = zip(
        figure.subplots(1, len(results.sizes.costs), sharey=True).flat,
        results.sizes.costs.items(),
        strict=True,
    )
    for axes, (kind, costs) in drawn:
        sizes = list(costs)
        for which, (name, colour) in enumerate((("multiprocessing.Queue", _OTHERS), ("Penstock", _OURS))):
            measured = [costs[size][1 - which] for size in sizes]
            low, high = zip(*(each.spread for each in measured), strict=True)
            axes.fill_between(sizes, low, high, color=colour, alpha=0.25, linewidth=0)
            axes.plot(sizes, [each.median for each in measured], ".-", color=colour, label=name)
        axes.set_xscale("log", base=2)
        axes.set_yscale("log")
        ticks = sizes[0], 64, 512, 4096, 32768, 262_144, sizes[-1]
        axes.set_xticks(ticks, ["8", "64", "512", "4 Ki", "32 Ki", "256 Ki", "1 Mi"])
        axes.set_xlabel("bytes")
        axes.set_title(f"{kind}: microseconds an item", fontsize=10, loc="left")
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False)
    return figure


def _of_pools(results: Results) -> Figure:
    scenarios = results.workers
    rows = (len(scenarios) + 1) // 2
    figure = Figure(figsize=(12, 2 * rows), layout="constrained")
    grid = list(figure.subplots(rows, 2, squeeze=False).flat)
    for axes in grid[len(scenarios) :]:
        axes.set_visible(False)
    for axes, (scenario, outcomes) in zip(grid, scenarios.items(), strict=False):
        values = {
            name: (outcome.measured.median, *outcome.measured.spread)
            for name, outcome in outcomes.items()
            if outcome.measured.rounds
        }
        _bars(axes, values, f"{scenario}: {workers.UNITS.get(scenario, workers.IDLE_UNIT)}")
    return figure


def draw(results: Results, folder: Path) -> dict[str, str]:
    """Draw what was measured. Returns the files by their titles."""
    drawn: dict[str, str] = {}
    shapes: dict[str, list[str]] = {}
    for scenario in results.throughput:
        shapes.setdefault(scenario.rpartition(", ")[2], []).append(scenario)
    for shape, scenarios in shapes.items():
        rows = (len(scenarios) + 1) // 2
        figure = Figure(figsize=(12, 2.6 * rows), layout="constrained")
        grid = list(figure.subplots(rows, 2, squeeze=False).flat)
        for axes in grid[len(scenarios) :]:
            axes.set_visible(False)
        for axes, scenario in zip(grid, scenarios, strict=False):
            figures = results.throughput[scenario]
            limits = (LIMIT, IN_TURN, HANDED)
            values = {name: (m.median, *m.spread) for name, m in figures.items() if name not in limits}
            _bars(axes, values, f"{scenario}: items a second")
            axes.axvline(figures[LIMIT].median, color="#c0392b", linestyle="--", linewidth=1)
        producers, consumers = shape.split("x")
        title = (
            f"Producers: {producers}, consumers: {consumers}. Items a second; the dashed line is what "
            "pickling or one memory copy alone would allow"
        )
        drawn[title] = _save(figure, folder, f"throughput-{shape}.svg")
    if results.round_trips:
        figure = Figure(figsize=(12, 3.2), layout="constrained")
        for axes, (cores, trips) in zip(
            figure.subplots(1, 2).flat, results.round_trips.items(), strict=False
        ):
            values = {name: (p["p50"].median, *p["p50"].spread) for name, p in trips.items()}
            bare = values.pop(round_trips.LIMIT.name)[0]
            _bars(axes, values, f"{cores}: microseconds, p50")
            axes.axvline(bare, color="#c0392b", linestyle="--", linewidth=1)
            axes.set_xscale("log")
        drawn["Round trip of an int; the dashed line is a byte through two pipes"] = _save(
            figure, folder, "round_trip.svg"
        )
    if results.sizes.costs:
        drawn[
            "Microseconds of an item by its size; the dots are medians, the bands from the least to the most"
        ] = _save(_by_size(results), folder, "sizes.svg")
    if results.backlog:
        figure = Figure(figsize=(12, 3), layout="constrained")
        growing = (("items queued", results.backlog), ("other processes", results.participants))
        for axes, (what, costs) in zip(figure.subplots(1, 2).flat, growing, strict=True):
            sizes = list(costs)
            axes.plot(sizes, [costs[size][0].median for size in sizes], "o-", color=_OURS, label="put")
            axes.plot(sizes, [costs[size][1].median for size in sizes], "o-", color="#e08e45", label="get")
            axes.set_xscale("symlog")
            axes.set_ylim(bottom=0)
            axes.set_xlabel(what)
            axes.set_ylabel("nanoseconds")
            axes.legend(frameon=False)
        drawn["Cost of an item as the queue and its company grow"] = _save(figure, folder, "growth.svg")
    if results.workers:
        title = "Pools of workers beside each other; a pool without a bar breaks or hangs, as its table says"
        drawn[title] = _save(_of_pools(results), folder, "workers.svg")
    return drawn
