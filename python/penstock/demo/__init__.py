"""The demo: a folder's files, hashed and counted by worker processes over Penstock's queues, and checked."""

import time

import penstock

from .crew import Work, do
from .interrupts import FirstInterrupt
from .screen import Progress, Screen, open_screen, size_text
from .tree import Count, Findings, Task, Unreadable, examine, survey

_SUFFIXES_SHOWN = 10
_UNREADABLE_SHOWN = 20


def run(folder: str, workers: int, kill: bool, start_method: str | None) -> int:
    """Run the demo on `folder` and show it on standard output; `penstock demo --help` says what it does.

    `workers` is how many processes work at a time; with `kill`, they are killed at random; `start_method`
    is how they are started: "fork", "spawn", "forkserver", or None for the default. Returns the exit
    status: 0, or 1 if the totals with workers and without do not agree. Blocks until all is done. Raises
    KeyboardInterrupt on Ctrl-C and PenstockError if the workers keep dying by themselves, and in any case
    leaves no process behind.
    """
    context = penstock.get_context(start_method)
    screen = open_screen()
    with FirstInterrupt() as interrupt:
        screen.line(f"Looking through {folder}")
        tasks, unreadable = survey(folder)
        size = sum(task.size for task in tasks)
        files = sum(len(task.names) for task in tasks)
        screen.line(
            f"{files:,} files, {size_text(size)}, in {len(tasks):,} tasks for {workers} workers "
            f"started by {context.get_start_method()}"
        )

        begin = time.monotonic()
        with screen.progress("With workers", size) as progress:
            work = do(tasks, workers, kill, context, progress, interrupt)
        seconds_with_workers = time.monotonic() - begin

        begin = time.monotonic()
        with screen.progress("Without", size) as progress:
            expected = _do_alone(tasks, progress, interrupt)
        seconds_alone = time.monotonic() - begin

    screen.line()
    _show_counts(screen, work.findings)
    _show_unreadable(screen, [*unreadable, *sorted(work.findings.unreadable)])
    _show_work(screen, work, kill)
    screen.line(f"Time with {workers} workers: {seconds_with_workers:.2f} s.")
    screen.line(f"Time without: {seconds_alone:.2f} s. The system had read all files before, then.")
    return _show_verdict(screen, work, expected)


def _do_alone(tasks: list[Task], progress: Progress, interrupt: FirstInterrupt) -> Findings:
    """Do the tasks in this process, without queues."""
    findings = Findings()
    for task in tasks:
        findings.add(examine(task))
        progress.advance(task.size)
        progress.refresh()
        interrupt.check()
    return findings


def _show_counts(screen: Screen, findings: Findings) -> None:
    counts = sorted(findings.counts.items(), key=lambda item: item[1].bytes, reverse=True)
    rest = Count(0, 0, 0)
    for _, count in counts[_SUFFIXES_SHOWN:]:
        rest = rest.plus(count)
    shown = counts[:_SUFFIXES_SHOWN]
    if rest.files:
        shown.append((f"{len(counts) - _SUFFIXES_SHOWN} others", rest))
    shown.append(("total", findings.total()))
    screen.table(
        ["suffix", "files", "bytes", "lines"],
        [[suffix, f"{count.files:,}", f"{count.bytes:,}", f"{count.lines:,}"] for suffix, count in shown],
    )
    screen.line(f"digest of all names and contents: {findings.digest:064x}")
    screen.line()


def _show_unreadable(screen: Screen, unreadable: list[Unreadable]) -> None:
    if not unreadable:
        return
    screen.line(f"Not read: {len(unreadable):,}")
    for name, reason in unreadable[:_UNREADABLE_SHOWN]:
        screen.line(f"  {name}: {reason}")
    if len(unreadable) > _UNREADABLE_SHOWN:
        screen.line(f"  and {len(unreadable) - _UNREADABLE_SHOWN:,} more")
    screen.line()


def _show_work(screen: Screen, work: Work, kill: bool) -> None:
    if kill or work.lost:
        died = f", and {work.lost} died by themselves" if work.lost else ""
        screen.line(
            f"Workers killed: {work.killed}{died}. Tasks delivered again: {work.statistics.redeliveries}. "
            f"Results that came twice, and were dropped: {work.duplicates}."
        )
    if kill and not work.killed:
        screen.line("There was no time to kill a worker: the folder is too small.")


def _show_verdict(screen: Screen, work: Work, expected: Findings) -> int:
    if work.unfinished:
        screen.line(
            f"FAILED: {len(work.unfinished)} tasks were not done. "
            f"Dead letters: {work.statistics.dead_letters}."
        )
        return 1
    if work.findings != expected:
        screen.line("FAILED: the totals with workers and without differ. Without workers they are:")
        _show_counts(screen, expected)
        screen.line("If a file was changed meanwhile, run the demo again.")
        return 1
    screen.line("The totals with workers and without agree.")
    return 0
