"""Run the interpreter's own multiprocessing tests with Penstock's queues and pipes in place of its own.

usage: python tests/multiprocessing/cpython/run.py [--sample] [--method fork|spawn|forkserver]

Run it with any CPython from 3.11 up that has Penstock installed and the module test. Without --method it runs
all start methods, two at a time. With --sample it runs only the tests of queues, connections and pools, and
of the tests of `ProcessPoolExecutor` those of calls and of crashes. The
tests of `queue.Queue` have no start method, and run beside those of fork. The exit status is 0 if at least
one test ran and all passed.
"""

import argparse
import contextlib
import gc
import multiprocessing
import os
import platform
import re
import subprocess
import sys
import tempfile
import time
import traceback
import unittest
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType
from typing import Any, TextIO

ROOT = str(Path(__file__).resolve().parents[3])
if sys.path[0] != ROOT:
    sys.path[0] = ROOT  # instead of this script's folder; children inherit the path

from tests.multiprocessing.cpython.differences import AS_DOCUMENTED  # noqa: E402
from tests.support import leaks, stacks  # noqa: E402
from tests.support.watchdog import Watchdog  # noqa: E402

import penstock  # noqa: E402
from penstock import connections, queues  # noqa: E402

METHODS = ("fork", "spawn", "forkserver")
LIMIT = 120  # seconds that one test may take
KINDS = ("passed", "differ as documented", "skipped", "failed")
# Tests are chosen by the words in their text. These have to be among them, which shows a change upstream.
OF_CONNECTIONS = (
    "WithProcessesTestConnection",
    "WithProcessesTestPoll",
    "WithProcessesTestPicklingConnections",
    "TestWait",
)
# The other tests use a queue or a connection to test barriers, processes, finalizers and so on.
SAMPLE = (
    *OF_CONNECTIONS,
    "WithProcessesTestQueue",
    "TestSimpleQueue",
    "WithProcessesTestPool",
    "WithProcessesTestPoolWorkerLifetime",
    "TestIgnoreEINTR",
    "TestStartMethod",
)
SUMMARY = re.compile(r"(\d+) passed, (\d+) differ as documented, (\d+) skipped, (\d+) failed")


class Result(unittest.TestResult):
    """Counts the outcomes of the tests of each class, under the watchdog."""

    def __init__(self, watchdog: Watchdog) -> None:
        super().__init__()
        self._watchdog = watchdog
        self.counts: dict[str, Counter[str]] = {}
        self.reports: list[str] = []
        self.skips: Counter[str] = Counter()

    def startTest(self, test: unittest.TestCase) -> None:
        """Begin to watch the test."""
        super().startTest(test)
        self._watchdog.begin(test.id(), LIMIT)

    def stopTest(self, test: unittest.TestCase) -> None:
        """Watch the time until the next test."""
        self._watchdog.begin(f"after {test.id()}", LIMIT)
        super().stopTest(test)

    def addSuccess(self, test: unittest.TestCase) -> None:
        """Count it as passed."""
        self._count(test, "passed")

    def addExpectedFailure(self, test: unittest.TestCase, error: Any) -> None:
        """Count it as a documented difference. What it has left open ends with the frames of the error."""
        traceback.clear_frames(error[2])
        gc.collect()
        self._count(test, "differ as documented")

    def addUnexpectedSuccess(self, test: unittest.TestCase) -> None:
        """Count it as failed."""
        super().addUnexpectedSuccess(test)
        self._fail(test, "It passes as it is, so it is no difference any more.")

    def addSkip(self, test: unittest.TestCase, reason: str) -> None:
        """Count it as skipped, with the reason."""
        if reason == AS_DOCUMENTED:
            self._count(test, "differ as documented")
            return
        self._count(test, "skipped")
        self.skips[reason] += 1

    def addFailure(self, test: unittest.TestCase, error: Any) -> None:
        """Count it as failed."""
        super().addFailure(test, error)
        self._fail(test, self.failures[-1][1])

    def addError(self, test: unittest.TestCase, error: Any) -> None:
        """Count it as failed."""
        super().addError(test, error)
        self._fail(test, self.errors[-1][1])

    def addSubTest(self, test: unittest.TestCase, subtest: unittest.TestCase, error: Any) -> None:
        """Count a failed subtest as failed."""
        super().addSubTest(test, subtest, error)
        if error is not None:
            self._fail(subtest, "".join(traceback.format_exception(*error)))

    def _fail(self, test: unittest.TestCase, report: str) -> None:
        self._count(test, "failed")
        self.reports.append(f"FAILED: {test.id()}\n{report}")

    def _count(self, test: unittest.TestCase, what: str) -> None:
        name = getattr(type(test), "__name__", "?")
        self.counts.setdefault(name, Counter())[what] += 1

    def total(self) -> Counter[str]:
        """The sum of all classes."""
        return sum(self.counts.values(), Counter())


def load(module: ModuleType, sample: bool) -> unittest.TestSuite:
    """The tests of the module, or its sample."""
    loader = unittest.defaultTestLoader
    if not sample:
        return loader.loadTestsFromModule(module)
    return unittest.TestSuite(loader.loadTestsFromTestCase(getattr(module, name)) for name in SAMPLE)


def run_method(method: str, sample: bool) -> int:
    """Run the tests under one start method in this process, and print the outcomes. The exit status."""
    started = time.monotonic()
    stacks_file = stacks.new_file()
    stacks.can_be_asked_for()
    leaks.adopt_orphans()
    watchdog = Watchdog(stacks_file)
    watchdog.begin("before the tests", LIMIT)
    multiprocessing.set_start_method(method)
    penstock.patch()
    made = count_made()
    result = Result(watchdog)
    with hidden_output() as output:
        from tests.multiprocessing.cpython import executors, suite, thread_queues

        executor_tests = executors.load(method, sample)
        queue_tests = thread_queues.load() if method == "fork" else None
        before = leaks.Snapshot.take()
        load(suite, sample).run(result)
        for further in (executor_tests, queue_tests):
            if further is not None:
                further.run(result)
        left = leaks.left_processes(exempt={watchdog.pid})
        memory = [line for line in before.new_since_then() if line.startswith("queue memory")]
    watchdog.stop()
    stacks_file.unlink()
    for name, counts in sorted(result.counts.items()):
        print(f"  {method:10}  {name:41}  {summary(counts)}")
    for reason, number in result.skips.items():
        print(f"  {method:10}  skipped by itself, {number} x: {reason}")
    if executor_tests is None:
        print(f"  {method:10}  not tested: executors, because there is no test.test_concurrent_futures")
    if queue_tests is None and method == "fork":
        print(f"  {method:10}  not tested: queue.Queue, because there is no test.test_queue")
    problems = result.reports
    problems += [f"FAILED: still running: {line}" for line in left]
    problems += [f"FAILED: left behind: {line}" for line in memory]
    total = result.total()
    if total["passed"] == 0 or set(made) != {"Queue", "SimpleQueue", "JoinableQueue", "Connection"}:
        problems.append(f"FAILED: not all classes were tested, but {dict(made)}")
    wanted: tuple[str, ...] = SAMPLE if sample else OF_CONNECTIONS
    if queue_tests is not None:
        wanted += (thread_queues.OVER_THREADS, thread_queues.OVER_PROCESSES)
    if executor_tests is not None:
        wanted += tuple(executors.class_names(method, sample))
    problems += [
        f"FAILED: none of the tests of {name} passed"
        for name in wanted
        if not result.counts.get(name, Counter())["passed"]
    ]
    if problems:
        print(f"Output of the tests under {method}:\n{output()}", *problems, sep="\n")
    seconds = time.monotonic() - started
    print(
        f"{method}: {total['passed']} passed, {total['differ as documented']} differ as documented, "
        f"{total['skipped']} skipped, {total['failed']} failed; "
        f"{made.total()} queues and connections of Penstock made by the test process; {seconds:.0f} s"
    )
    return 1 if problems else 0


def summary(counts: Counter[str]) -> str:
    """The counts in words."""
    return ", ".join(f"{counts[kind]} {kind}" for kind in KINDS if counts[kind])


def count_made() -> Counter[str]:
    """Count from now on the queues and connections of Penstock that this process makes, by their class."""
    made: Counter[str] = Counter()

    def count(owner: Any, method: str) -> None:
        original = getattr(owner, method)

        def counting(self: Any, *arguments: Any, **options: Any) -> None:
            made[type(self).__name__] += 1
            original(self, *arguments, **options)

        setattr(owner, method, counting)

    count(queues._Family, "_open")
    count(connections.Connection, "__init__")
    return made


@contextlib.contextmanager
def hidden_output() -> Iterator[Any]:
    """Write what this process and its children print to a file; the value is a function that reads it."""
    sys.stdout.flush()
    sys.stderr.flush()
    with tempfile.TemporaryFile("w+", errors="replace") as file:
        kept = os.dup(1), os.dup(2)
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
        text = ""
        try:
            yield lambda: text
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            for number, descriptor in enumerate(kept, start=1):
                os.dup2(descriptor, number)
                os.close(descriptor)
            text = _read_all(file)


def _read_all(file: TextIO) -> str:
    file.seek(0)
    return file.read()


def run_all(sample: bool) -> int:
    """Run each start method in a process of its own. Return the exit status."""

    def run(method: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, __file__, "--method", method, *(["--sample"] if sample else [])]
        return subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    total = [0, 0, 0, 0]
    failed = []
    with ThreadPoolExecutor(max_workers=2) as pool:
        for method, done in zip(METHODS, pool.map(run, METHODS), strict=True):
            print(done.stdout, end="", flush=True)
            summary = SUMMARY.search(done.stdout)
            if done.returncode != 0 or summary is None:
                failed.append(method)
            if summary is not None:
                total = [a + int(b) for a, b in zip(total, summary.groups(), strict=True)]
    print(
        f"CPython {platform.python_version()}, {', '.join(METHODS)}: {total[0]} passed, {total[1]} differ as "
        f"documented, {total[2]} skipped, {total[3]} failed"
        + (f"; FAILED: {', '.join(failed)}" if failed else "")
    )
    return 1 if failed else 0


def main() -> int:
    """Run the tests that the command line chooses. Returns the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--method", choices=METHODS)
    parser.add_argument("--sample", action="store_true")
    options = parser.parse_args()
    if options.method is None:
        return run_all(options.sample)
    return run_method(options.method, options.sample)


if __name__ == "__main__":
    sys.exit(main())
