"""The tables of a storm's results."""

from collections.abc import Iterable, Mapping, Sequence

from rich.console import Console
from rich.table import Table

from .faults import FAULTS
from .storm import Tally

_COLUMNS = ["rounds", "kills", "other faults", "items", "lost", "in dead hands", "doubled", "hung", "broken"]


def _row(tallies: Sequence[Tally]) -> list[str]:
    sums = [
        sum(len(tally.outcomes) for tally in tallies),
        sum(tally.kills for tally in tallies),
        sum(tally.other_faults for tally in tallies),
        sum(tally.items for tally in tallies),
        sum(tally.lost for tally in tallies),
        sum(tally.in_dead_hands for tally in tallies),
        sum(tally.doubled for tally in tallies),
        sum(tally.hung for tally in tallies),
        sum(tally.broken for tally in tallies),
    ]
    stall = max((tally.stall for tally in tallies), default=0.0)
    return [*(f"{count:,}" for count in sums), f"{stall * 1000:,.0f} ms"]


def _libraries(tallies: Iterable[Tally]) -> list[str]:
    return list(dict.fromkeys(tally.contestant.name.partition(".")[0] for tally in tallies))


def show(console: Console, tallies: Sequence[Tally], skipped: Mapping[str, str]) -> None:
    """Print the results by class and start method, and by fault, with the faults not made here."""
    table = Table(title="Storms")
    for heading in ("", "start", *_COLUMNS, "longest stall"):
        table.add_column(heading, justify="left" if heading in ("", "start") else "right")
    for library in _libraries(tallies):
        its = [tally for tally in tallies if tally.contestant.name.startswith(f"{library}.")]
        for tally in its:
            table.add_row(tally.contestant.name, tally.method, *_row([tally]))
        table.add_row(f"{library}, all", "", *_row(its), end_section=True, style="bold")
    console.print(table)
    console.print(_by_fault(tallies, skipped))
    for fault, reason in skipped.items():
        console.print(f"skipped: {fault}: {reason}", highlight=False)
    endings = sum(tally.endings for tally in tallies)
    console.print(f"In {endings:,} rounds the queue was shut down, and another one made.", highlight=False)
    console.print(
        "lost: put() had returned and no hand got it, beyond one for each hand that died while it took.\n"
        "doubled: got twice, though its first taker has not died.\n"
        "hung: a survivor did not get on until the watchdog ended the round; join() counts too.\n"
        "broken: a survivor got an exception, or garbage.\n"
        "Of a round that hung or broke, items, losses and doubles are not counted.\n"
        "stall: the longest time in which no survivor got on though there was something to do; in a hung\n"
        "round the watchdog's patience. A stopped process (for 50 ms at most) may hold the others up.",
        highlight=False,
    )


def _by_fault(tallies: Sequence[Tally], skipped: Mapping[str, str]) -> Table:
    libraries = _libraries(tallies)
    table = Table(
        title="By fault: rounds that it struck, of these failed (lost, doubled, hung, broken); longest stall"
    )
    table.add_column("")
    for library in libraries:
        table.add_column(library, justify="right")
    for fault in FAULTS:
        cells = []
        for library in libraries:
            its = [tally for tally in tallies if tally.contestant.name.startswith(f"{library}.")]
            outcomes = [
                outcome
                for tally in its
                for outcome in tally.outcomes
                if outcome.fault == fault.name and (outcome.has_struck or outcome.hung or outcome.broken)
            ]
            failed = sum(
                bool(outcome.hung or outcome.broken or outcome.books.lost or outcome.books.doubled)
                for outcome in outcomes
            )
            stall = max((outcome.stall for outcome in outcomes), default=0.0)
            if all(fault.name in tally.contestant.does_not_apply for tally in its):
                cells.append("n/a")
            elif fault.name in skipped:
                cells.append("skipped")
            else:
                cells.append(f"{len(outcomes):,}, {failed:,} failed; {stall * 1000:,.0f} ms")
        table.add_row(fault.name, *cells)
    return table
