"""The interpreter's own tests of `queue.Queue`, with `JoinableQueue` in its place, if it comes with them.

From Python 3.13 on most of them are about `shutdown()`. They run twice: over threads, as they are written;
and over processes, where each thread of a test has a process of its own that makes its calls.
"""

import importlib
import multiprocessing
import queue
import threading
import unittest
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from tests.multiprocessing.cpython.suite import apply_differences

from penstock import JoinableQueue

OVER_THREADS, OVER_PROCESSES = "QueueTest", "QueueTestOverProcesses"


class _OfThreads:
    """A `JoinableQueue` with the attributes of a `queue.Queue` that the tests read."""

    def __init__(self, maxsize: int = 0) -> None:
        self.maxsize = maxsize
        self._queue = JoinableQueue[Any](maxsize)

    def _call(self, name: str, *arguments: Any, **options: Any) -> Any:
        return getattr(self._queue, name)(*arguments, **options)

    def __getattr__(self, name: str) -> Callable[..., Any]:
        return lambda *arguments, **options: self._call(name, *arguments, **options)

    @property
    def is_shutdown(self) -> bool:
        return self._queue.is_shutdown

    @property
    def unfinished_tasks(self) -> int:
        return self._queue.statistics().unfinished

    def end(self) -> None:
        self._queue.close()


class _OfProcesses(_OfThreads):
    """The same. Each thread's calls are made in a process of its own."""

    def __init__(self, maxsize: int = 0) -> None:
        super().__init__(maxsize)
        self._callers: dict[int, _Caller] = {}
        self._has_ended = False
        self._lock = threading.Lock()

    def _call(self, name: str, *arguments: Any, **options: Any) -> Any:
        with self._lock:
            if self._has_ended:  # a thread that the test has left behind
                raise ValueError("the test has ended")
            caller = self._callers.get(threading.get_ident())
            if caller is None:
                caller = self._callers[threading.get_ident()] = _Caller(self._queue)
        return caller.call(name, *arguments, **options)

    def end(self) -> None:
        with self._lock:
            self._has_ended = True
        for caller in self._callers.values():
            caller.end()
        super().end()


class _Caller:
    """A process that makes the calls of one thread."""

    def __init__(self, queue: Any) -> None:
        self._ours, theirs = multiprocessing.Pipe()
        self._process = multiprocessing.get_context("fork").Process(target=_make_calls, args=(queue, theirs))
        self._process.start()
        theirs.close()

    def call(self, name: str, *arguments: Any, **options: Any) -> Any:
        self._ours.send((name, arguments, options))
        error, result = self._ours.recv()
        if error is not None:
            raise error
        return result

    def end(self) -> None:
        """Kill it: a test that has failed may have left it in a call."""
        self._process.kill()
        self._process.join()
        self._process.close()
        self._ours.close()


def _make_calls(queue: Any, orders: Any) -> None:
    while True:
        name, arguments, options = orders.recv()
        try:
            orders.send((None, getattr(queue, name)(*arguments, **options)))
        except Exception as error:
            orders.send((error, None))


# The tests tell by the name of the class in which order items come.
_OfThreads.__name__ = _OfProcesses.__name__ = "Queue"


def _with(kind: type[_OfThreads], name: str, tests: Any) -> Any:
    """The interpreter's tests with that class for `queue.Queue`."""

    def set_up(self: Any) -> None:
        def make(maxsize: int = 0) -> _OfThreads:
            made = kind(maxsize)
            self.addCleanup(made.end)
            return made

        self.queue = SimpleNamespace(**{**vars(queue), "Queue": make})
        tests.setUp(self)

    return type(name, (tests, unittest.TestCase), {"setUp": set_up})


def load() -> unittest.TestSuite | None:
    """The tests over threads and over processes, or None."""
    try:
        tests = importlib.import_module("test.test_queue").QueueTest
    except ModuleNotFoundError as error:
        if error.name != "test.test_queue":
            raise
        return None
    over_threads = _with(_OfThreads, OVER_THREADS, tests)
    over_processes = _with(_OfProcesses, OVER_PROCESSES, tests)
    apply_differences(over_threads, OVER_THREADS)
    for name in (OVER_THREADS, OVER_PROCESSES):
        apply_differences(over_processes, name)
    loader = unittest.defaultTestLoader
    return unittest.TestSuite(map(loader.loadTestsFromTestCase, (over_threads, over_processes)))
