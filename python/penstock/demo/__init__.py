"""The demo: worker processes hash a folder's files and count their lines, and the totals are checked."""

from collections.abc import Iterator
from contextlib import ExitStack

import penstock

from .crew import Job, Work
from .interrupts import FirstInterrupt
from .screen import Progress, Screen, open_screen, size_text
from .times import Stopwatch, Times, compare, machine
from .tree import Count, Findings, Task, Unreadable, examine, read, survey

_SUFFIXES_SHOWN = 10
_UNREADABLE_SHOWN = 20

# At most so many turns, each with at least so many tasks for a worker: at the end of a turn some workers wait
# for the last one.
_TURNS = 10
_TASKS_OF_A_WORKER = 32

# Files that need more than this share of the available memory are not read in advance.
_SHARE_OF_MEMORY = 0.5


def run(folder: str, workers: int, kill: bool, start_method: str | None) -> int:
    """Run the demo on `folder`, with its output on standard output; see `penstock demo --help`.

    `workers` is the number of worker processes; with `kill`, they are killed at random; `start_method` is how
    they are started: "fork", "spawn", "forkserver", or None for the default. Returns the exit status: 0, or 1
    if the totals with workers and without do not agree. Blocks until all is done. Raises KeyboardInterrupt on
    Ctrl-C and PenstockError if the workers keep dying by themselves. In any case it leaves no process behind.
    """
    context = penstock.get_context(start_method)
    screen = open_screen()
    # The first queue imports the rest of Penstock, which evaluates the text of a named tuple. If Ctrl-C came
    # in that moment, CPython would end the program by the signal later, although the exception was caught.
    penstock.SimpleQueue[object]().close()
    with FirstInterrupt() as interrupt:
        screen.line(f"Listing the files of {folder}")
        tasks, unreadable = survey(folder)
        size = sum(task.size for task in tasks)
        files = sum(len(task.names) for task in tasks)
        screen.line(
            f"{files:,} files, {size_text(size)}, in {len(tasks):,} tasks for {workers} workers "
            f"started by {context.get_start_method()}"
        )
        _read_before(screen, tasks, size, interrupt)
        with screen.progress("Hashing", 2 * size) as progress:
            job = Job(tasks, workers, kill, context, interrupt)
            work, expected, times = _do_in_turn(tasks, job, workers, progress, interrupt)

    screen.line()
    _show_counts(screen, work.findings)
    _show_unreadable(screen, [*unreadable, *sorted(work.findings.unreadable)])
    _show_work(screen, work, kill)
    for line in compare(times, machine()):
        screen.line(line)
    return _show_verdict(screen, work, expected)


def _read_before(screen: Screen, tasks: list[Task], size: int, interrupt: FirstInterrupt) -> None:
    """Read all files once, if they stay in memory, so that the disk is in neither of the compared times."""
    if size > _available_memory() * _SHARE_OF_MEMORY:
        screen.line("Not read before, because they would not stay in memory: the times are also the disk's.")
        return
    with screen.progress("Reading", size) as progress:
        for task in tasks:
            read(task)
            progress.advance(task.size)
            progress.refresh()
            interrupt.check()


def _available_memory() -> int:
    """Return how many bytes the system could use to cache files; 0 if it is unknown."""
    try:
        with open("/proc/meminfo", encoding="ascii") as lines:
            fields = dict(line.split(":", 1) for line in lines)
        return int(fields["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError, IndexError):
        return 0


def _do_in_turn(
    tasks: list[Task], job: Job, workers: int, progress: Progress, interrupt: FirstInterrupt
) -> tuple[Work, Findings, Times]:
    """Do all tasks twice, with workers and in this process, in turns; return both findings and the times.

    Turns, so that other programs of the machine disturb both. The order changes with each turn, so that
    neither finds more of the files in the system's memory.
    """
    expected = Findings()
    with_workers, alone = Stopwatch(), Stopwatch()

    def do_alone(some: list[Task]) -> None:
        with alone:
            for task in some:
                expected.add(examine(task))
                progress.advance(task.size)
                progress.refresh()
                interrupt.check()

    def do_with_workers(some: list[Task]) -> None:
        with with_workers:
            job.do(some, progress)

    with ExitStack() as running:
        with with_workers:
            running.enter_context(job)
        for number, some in enumerate(_portions(tasks, workers)):
            ways = [do_with_workers, do_alone]
            for do in ways if number % 2 == 0 else reversed(ways):
                do(some)
        with with_workers:
            work = job.finish()
    return work, expected, Times(workers, with_workers.seconds, work.seconds_starting, alone.seconds)


def _portions(tasks: list[Task], workers: int) -> Iterator[list[Task]]:
    """Split the tasks into turns that are long enough to keep all workers busy."""
    turns = max(1, min(_TURNS, len(tasks) // (workers * _TASKS_OF_A_WORKER)))
    for turn in range(turns):
        yield tasks[len(tasks) * turn // turns : len(tasks) * (turn + 1) // turns]


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
