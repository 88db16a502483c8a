"""The interpreter's own tests of process pool executors, if it comes with them, on the pool of workers.

Children can import their modules: a package from Python 3.12 on, one file before.
"""

import importlib
import os
import signal
import unittest
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from types import ModuleType, SimpleNamespace
from typing import Any

from tests.multiprocessing.cpython.suite import apply_differences
from tests.support.waiting import until

_PACKAGE = "test.test_concurrent_futures"
_MODULES = ("init", "process_pool", "shutdown", "deadlock", "wait", "as_completed")
# The names of the classes, without the start method, and the tests in them.
CLASSES = {
    "InitializerTest": "InitializerMixin",
    "FailingInitializerTest": "FailingInitializerMixin",
    "ProcessPoolExecutorTest": "ProcessPoolExecutorTest",
    "ProcessPoolShutdownTest": "ProcessPoolShutdownTest",
    "ExecutorDeadlockTest": "ExecutorDeadlockTest",
    "WaitTest": "WaitTests",
    "AsCompletedTest": "AsCompletedTests",
}
SAMPLE = ("ProcessPoolExecutorTest", "ExecutorDeadlockTest")
_OF_RESOURCES = "FailingInitializerResourcesTest"  # its tests have the names of start methods


class _Process:
    """A worker, with the methods of a process that the tests call."""

    def __init__(self, crew: Any, member: Any) -> None:
        self._crew = crew
        self._member = member

    def join(self) -> None:
        until(lambda: self._member not in self._crew.members.values())

    def terminate(self) -> None:
        until(lambda: self._member.pid)
        os.kill(self._member.pid, signal.SIGTERM)


def _engine(executor: Any) -> Any:
    return executor._penstock_pool._engine


def _processes(executor: Any) -> dict[int, _Process]:
    crew = _engine(executor).crew
    return {slot: _Process(crew, member) for slot, member in list(crew.members.items())}


def _manager(executor: Any) -> Any:
    return SimpleNamespace(join=_engine(executor).warden.join)


def _call_queue(executor: Any) -> Any:
    return SimpleNamespace(join_thread=lambda: None)


# Private attributes of the standard executor by which the tests look at its behaviour, and what is there.
# `_max_workers` and `_mp_context` are the executor's own.
LOOKED_AT: dict[str, tuple[Callable[[Any], Any], str]] = {
    "_processes": (_processes, "how many workers there are, that they end, and to kill one"),
    "_broken": (lambda executor: _engine(executor).is_broken, "that it breaks when an initializer fails"),
    "_executor_manager_thread": (_manager, "that its thread ends"),
    "_call_queue": (_call_queue, "that the feeder thread ends: there is none"),
}


def _modules() -> list[ModuleType]:
    names = [f"{_PACKAGE}.test_{name}" for name in _MODULES]
    try:
        package = importlib.import_module(_PACKAGE)
    except ModuleNotFoundError as error:
        if error.name != _PACKAGE:
            raise
        return []
    return [importlib.import_module(name) for name in names] if hasattr(package, "__path__") else [package]


def _patched(run: Callable[..., Any]) -> Callable[..., Any]:
    """The same for a program on the command line, which then runs on Penstock."""

    def run_patched(option: str, program: str, *arguments: Any, **options: Any) -> Any:
        assert option == "-c"
        return run(option, f"import penstock; penstock.patch()\n{program}", *arguments, **options)

    return run_patched


def class_names(method: str, sample: bool) -> list[str]:
    """The names of the classes of tests that are run."""
    return [f"ProcessPool{method.capitalize()}{name}" for name in (SAMPLE if sample else CLASSES)]


def load(method: str, sample: bool) -> unittest.TestSuite | None:
    """The tests of the executors whose workers are started by `method`, or a sample, or None."""
    modules = _modules()
    if not modules:
        return None
    for name, (look, _) in LOOKED_AT.items():
        setattr(ProcessPoolExecutor, name, property(look))
    suite = unittest.TestSuite()
    loader = unittest.defaultTestLoader
    module: Any
    for module in modules:
        if hasattr(module, "assert_python_ok"):
            module.assert_python_ok = _patched(module.assert_python_ok)
        for name, base in zip(class_names(method, False), CLASSES.values(), strict=True):
            tests: Any = getattr(module, name, None)
            if tests is not None and name in class_names(method, sample):
                apply_differences(tests, base, method)
                suite.addTest(loader.loadTestsFromTestCase(tests))
        of_resources: Any = getattr(module, _OF_RESOURCES, None)
        if not sample and hasattr(of_resources, f"test_{method}"):
            suite.addTest(of_resources(f"test_{method}"))
    return suite
