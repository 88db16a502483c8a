"""Run the interpreter's own tests of `asyncio.Queue` with a queue of Penstock in its place.

usage: python tests/asynchronous/cpython/run.py

Run it with any CPython from 3.11 up that has Penstock installed and the module test. The exit status is 0 if
at least one test ran and all passed. Those of LIFO and priority queues are left out.
"""

import asyncio
import platform
import queue
import sys
import unittest
from pathlib import Path
from typing import Any

ROOT = str(Path(__file__).resolve().parents[3])
if sys.path[0] != ROOT:
    sys.path[0] = ROOT  # instead of this script's folder

import penstock  # noqa: E402
from penstock._async import hubs, turns  # noqa: E402
from tests.asynchronous.cpython.differences import DIFFERENCES  # noqa: E402


class AsyncQueue(penstock.JoinableQueue[Any]):
    """The names of `asyncio.Queue` for the methods that tasks await, and its exceptions."""

    def __init__(self, maxsize: Any = 0) -> None:
        super().__init__(maxsize)
        self.maxsize = maxsize

    put = penstock.JoinableQueue.aput  # type: ignore[assignment]
    get = penstock.JoinableQueue.aget  # type: ignore[assignment]
    join = penstock.JoinableQueue.ajoin  # type: ignore[assignment]

    def put_nowait(self, obj: Any) -> None:
        try:
            penstock.JoinableQueue.put(self, obj, block=False)
        except queue.Full:
            raise asyncio.QueueFull from None
        self._tell()

    def get_nowait(self) -> Any:
        try:
            item = penstock.JoinableQueue.get(self, block=False)
        except queue.Empty:
            raise asyncio.QueueEmpty from None
        self._tell()
        return item

    def task_done(self) -> None:
        super().task_done()
        self._tell()

    def shutdown(self, immediate: bool = False) -> None:
        super().shutdown(immediate)
        self._tell()

    def _tell(self) -> None:
        # The tests count the steps of the loop: no task may wait for the queue's descriptor.
        for awaited in (turns.ITEM, turns.ROOM, turns.END):
            hubs.tell(self, awaited)

    def _waiting(self, awaited: int) -> list[Any]:
        hub = hubs.known_hub()
        waiting = hub and hub.turns.get((self._id, awaited))
        return list(waiting.waiters) if waiting else []

    @property
    def _getters(self) -> list[Any]:
        return self._waiting(turns.ITEM)

    @property
    def _putters(self) -> list[Any]:
        return self._waiting(turns.ROOM)


def main() -> int:
    """Run the tests. Returns the exit status."""
    asyncio.Queue = AsyncQueue  # type: ignore[assignment, misc]
    from test.test_asyncio import test_queues

    suite = unittest.TestSuite()
    for name in ("QueueBasicTests", "QueueGetTests", "QueuePutTests", "QueueJoinTests", "QueueShutdownTests"):
        tests: Any = getattr(test_queues, name, None)
        if tests is None:
            continue  # there is no shutdown before Python 3.13
        for difference in DIFFERENCES:
            owner, _, method = difference.test.partition(".")
            if owner == name and hasattr(tests, method):
                setattr(tests, method, unittest.expectedFailure(getattr(tests, method)))
                setattr(tests, f"{method}_instead", difference.instead)
        suite.addTests(unittest.defaultTestLoader.loadTestsFromTestCase(tests))
    result = unittest.TextTestRunner(stream=sys.stdout, verbosity=0).run(suite)
    differ = len(result.expectedFailures)
    passed = result.testsRun - differ - len(result.failures) - len(result.errors) - len(result.skipped)
    print(
        f"CPython {platform.python_version()}, asyncio.Queue: {passed} passed, {differ} differ as documented"
    )
    return 0 if result.wasSuccessful() and passed > 0 else 1


if __name__ == "__main__":
    sys.exit(main())
