"""Worker processes that may die at any moment, and tasks that are done all the same."""

import multiprocessing
import queue
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing import resource_tracker
from multiprocessing.process import BaseProcess
from types import TracebackType
from typing import NamedTuple

import penstock
from penstock.context import Context
from penstock.errors import PenstockError

from .interrupts import FirstInterrupt, blocked
from .screen import Progress
from .tree import Findings, Task, examine

# How often a task may lose its worker before it is a dead letter: the largest possible number, because it is
# not the task that kills the worker.
_MAX_DELIVERIES = 255

_SECONDS_BETWEEN_KILLS = 1.0
_KILLS_BY_PROGRESS = 10

# The parent waits so long for a result before it replaces dead workers and redraws the progress ...
_SECONDS_FOR_RESULT = 0.1
_SECONDS_FOR_END = 0.001  # ... and so long if all results are there, and only a `task_done()` is missing.
# A worker waits so long for a task before it checks that its parent is alive.
_SECONDS_FOR_TASK = 1.0


class _Result(NamedTuple):
    task: int
    findings: Findings


_Tasks = penstock.JoinableQueue[Task | None]
"""None tells a worker to end."""

_Results = penstock.Queue[_Result]


@dataclass
class Work:
    """What the workers have done, and what happened to them."""

    findings: Findings
    killed: int
    lost: int
    duplicates: int
    statistics: penstock.Statistics
    unfinished: list[Task]
    seconds_starting: float
    """What starting the first workers and ending the last ones took."""


class Job:
    """Tasks that worker processes do.

    With `kill`, a worker is killed every second and at every tenth of the tasks. The queue gives a task whose
    worker died to another one. If the dead worker had sent its result already, the result comes twice, and
    the second is dropped. The workers run while the `with` lasts; its end kills those that are left. `do`
    raises PenstockError if workers keep dying by themselves.
    """

    def __init__(
        self,
        tasks: Sequence[Task],
        workers: int,
        kill: bool,
        context: Context,
        interrupt: FirstInterrupt,
    ) -> None:
        self._tasks = tasks
        self._interrupt = interrupt
        self._findings = Findings()
        self._done: set[int] = set()
        self._duplicates = 0
        self._to_do: _Tasks = penstock.JoinableQueue(max_deliveries=_MAX_DELIVERIES, ctx=context)
        self._results: _Results = penstock.Queue(ctx=context)
        self._kills = _Kills(len(tasks)) if kill else None
        self._crew = _Crew(workers, context, self._to_do, self._results)
        self._seconds_starting = 0.0

    def __enter__(self) -> "Job":
        begin = time.monotonic()
        self._crew.__enter__()
        self._seconds_starting = time.monotonic() - begin
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._crew.__exit__(kind, error, trace)

    def do(self, tasks: Sequence[Task], progress: Progress) -> None:
        """Give some of the tasks to the workers, and wait until they are done."""
        for task in tasks:
            self._to_do.put(task)
        end = len(self._done) + len(tasks)
        # A task can be unfinished though its result is there: its worker has died in between, or is about to
        # call `task_done()`.
        while self._to_do.statistics().unfinished > 0 or not self._results.empty():
            progress.refresh()
            self._interrupt.check()
            self._crew.replace_lost()
            if self._kills is not None and self._kills.is_due(len(self._done)):
                pid = self._crew.kill_one()
                progress.note(f"killed worker {pid} after {len(self._done)} of {len(self._tasks)} tasks")
            try:
                self._take_result(
                    progress, _SECONDS_FOR_RESULT if len(self._done) < end else _SECONDS_FOR_END
                )
            except queue.Empty:
                continue

    def finish(self) -> Work:
        """End the workers, and return what they did."""
        begin = time.monotonic()
        self._crew.send_home()
        self._seconds_starting += time.monotonic() - begin
        work = Work(
            self._findings,
            self._crew.killed,
            self._crew.lost,
            self._duplicates,
            self._to_do.statistics(),
            [task for task in self._tasks if task.number not in self._done],
            self._seconds_starting,
        )
        self._to_do.close()
        self._results.close()
        return work

    def _take_result(self, progress: Progress, timeout: float) -> None:
        result = self._results.get(timeout=timeout)
        if result.task in self._done:
            self._duplicates += 1
            return
        self._done.add(result.task)
        self._findings.add(result.findings)
        progress.advance(self._tasks[result.task].size)


class _Kills:
    """When to kill a worker: after the first result, then every second and at every tenth of the tasks."""

    def __init__(self, tasks: int) -> None:
        self._tasks = tasks
        self._at_time = time.monotonic() + _SECONDS_BETWEEN_KILLS
        self._at_count = 1

    def is_due(self, done: int) -> bool:
        if done == self._tasks or (done < self._at_count and time.monotonic() < self._at_time):
            return False
        self._at_time = time.monotonic() + _SECONDS_BETWEEN_KILLS
        self._at_count = done + max(1, self._tasks // _KILLS_BY_PROGRESS)
        return True


class _Crew:
    """A number of workers, each replaced when it dies. Leaving the `with` kills those that are left."""

    def __init__(self, size: int, context: Context, to_do: _Tasks, results: _Results) -> None:
        self.killed = 0
        self.lost = 0
        self._size = size
        self._context = context
        self._to_do = to_do
        self._results = results
        self._workers: list[BaseProcess] = []

    def __enter__(self) -> "_Crew":
        if self._context.get_start_method() != "fork":
            resource_tracker.ensure_running()  # else the first start of a worker does it, and unblocks Ctrl-C
        try:
            for _ in range(self._size):
                self._start()
        except BaseException:
            self._kill_all()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._kill_all()

    def kill_one(self) -> int:
        """Kill a worker chosen at random, replace it, and return its pid."""
        worker = random.choice(self._workers)
        pid = worker.pid
        assert pid is not None
        self._remove(worker)
        self.killed += 1
        self._start()
        return pid

    def replace_lost(self) -> None:
        """Replace the workers that died by themselves."""
        for worker in [worker for worker in self._workers if worker.exitcode is not None]:
            self.lost += 1
            if self.lost > 3 * self._size:
                raise PenstockError(f"workers keep dying; the last one's exit status is {worker.exitcode}")
            self._remove(worker)
            self._start()

    def send_home(self) -> None:
        """Tell all workers to end, and wait for them."""
        for _ in self._workers:
            self._to_do.put(None)
        for worker in self._workers:
            worker.join()
            self.lost += worker.exitcode != 0

    def _start(self) -> None:
        worker = self._context.Process(target=_work, args=(self._to_do, self._results), daemon=True)
        with blocked():  # inherited by the child, which must not print a traceback at Ctrl-C
            worker.start()
            self._workers.append(worker)

    def _remove(self, worker: BaseProcess) -> None:
        worker.kill()
        worker.join()
        self._workers.remove(worker)

    def _kill_all(self) -> None:
        for worker in list(self._workers):
            self._remove(worker)


def _work(to_do: _Tasks, results: _Results) -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    while parent.is_alive():
        try:
            task = to_do.get(timeout=_SECONDS_FOR_TASK)
        except queue.Empty:
            continue
        if task is not None:
            results.put(_Result(task.number, examine(task)))
        to_do.task_done()
        if task is None:
            return
