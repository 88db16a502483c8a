"""The interpreter's own tests that use queues, in a module that children can import.

The start method is that of the process which imports the module. The tests take their queues from
`multiprocessing`, which the runner has patched. Their children are patched because a patched process starts
them, not by this module.
"""

import contextlib
import multiprocessing
import re
import signal
import unittest
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from test import _test_multiprocessing
from tests.multiprocessing.cpython.differences import AS_DOCUMENTED, DIFFERENCES, Difference

# These make no queue themselves, but pools, which make queues.
ALSO = {"_TestPool", "_TestPoolWorkerLifetime"}


def _definitions() -> dict[str, str]:
    """The text of each class and function of the interpreter's module. Fast, because every child calls it."""
    text = Path(_test_multiprocessing.__file__).read_text()
    starts = [(found.start(), found[2]) for found in re.finditer(r"^(class|def) (\w+)", text, re.MULTILINE)]
    ends = [start for start, _ in starts[1:]] + [len(text)]
    return {name: text[start:end] for (start, name), end in zip(starts, ends, strict=True)}


def _install() -> dict[str, Any]:
    texts = _definitions()
    makers = {name for name, text in texts.items() if re.search(r"\b((Simple|Joinable)?Queue|Pipe)\(", text)}
    names: dict[str, Any] = {"__name__": __name__}
    _test_multiprocessing.install_tests_in_module_dict(names, multiprocessing.get_start_method())
    chosen: dict[str, Any] = {}
    for name, tests in names.items():
        if not isinstance(tests, type):
            chosen[name] = tests  # setUpModule, tearDownModule
        elif not name.startswith(("WithManager", "WithThreads")):  # their queues are no process queues
            base = tests.__bases__[0].__name__
            words = set(re.findall(r"\w+", texts[base]))  # with its own name
            if base in ALSO or words & makers:
                chosen[name] = tests
                apply_differences(tests, base)
    return chosen


@contextlib.contextmanager
def _ended_by_an_alarm() -> Iterator[None]:
    def end(number: int, frame: Any) -> None:
        raise AssertionError("it waits for ever")

    former = signal.signal(signal.SIGALRM, end)
    signal.alarm(1)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, former)


def apply_differences(tests: Any, name: str, start_method: str | None = None) -> None:
    """Change the tests of that name that differ, and add those that take their place."""
    for difference in DIFFERENCES:
        owner, _, method = difference.test.partition(".")
        is_meant = start_method is None or start_method not in difference.passes_under
        if owner == name and is_meant and hasattr(tests, method):
            setattr(tests, method, _changed(getattr(tests, method), difference))
            setattr(tests, f"{method}_instead", difference.instead)


def _changed(original: Callable[[Any], None], difference: Difference) -> Callable[[Any], None]:
    def expected_to_fail(self: Any) -> None:
        with _ended_by_an_alarm() if difference.waits else contextlib.nullcontext():
            original(self)

    def may_fail(self: Any) -> None:
        assert difference.may_raise is not None
        try:
            original(self)
        except difference.may_raise:
            self.skipTest(AS_DOCUMENTED)

    return unittest.expectedFailure(expected_to_fail) if difference.may_raise is None else may_fail


globals().update(_install())
