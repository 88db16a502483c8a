"""Around every test: a watchdog that ends a hang, and a check that nothing is left behind.

    @pytest.mark.limit(seconds)    the watchdog ends the test after so long, not after 60 seconds

Queues belong to one test: a fixture of a wider scope that holds one is reported as a leak.
"""

import gc
import os
import signal
from collections.abc import Generator
from pathlib import Path

import pytest

from tests.support import leaks, processes, stacks
from tests.support.watchdog import Watchdog

LIMIT = 60.0  # seconds that a test may take

_watchdog = pytest.StashKey[Watchdog]()
_stacks_file = pytest.StashKey[Path]()
_before = pytest.StashKey[leaks.Snapshot]()
_failed = pytest.StashKey[bool]()


def pytest_configure(config: pytest.Config) -> None:
    """Start the watchdog while standard error is not captured."""
    # A shell starts background jobs with SIGINT ignored, and tests send SIGINT.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    config.addinivalue_line("markers", "limit(seconds): the watchdog's patience with the test")
    config.stash[_stacks_file] = stacks.new_file()
    stacks.can_be_asked_for()
    leaks.adopt_orphans()
    config.stash[_watchdog] = Watchdog(config.stash[_stacks_file])


def pytest_unconfigure(config: pytest.Config) -> None:
    """Stop the watchdog."""
    config.stash[_watchdog].stop()
    config.stash[_stacks_file].unlink(missing_ok=True)


def pytest_collection_finish() -> None:
    """Freeze the objects that stay, so that the collection after each test is fast."""
    gc.collect()
    gc.freeze()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Watch a test with its fixtures."""
    marker = item.get_closest_marker("limit")
    watchdog = item.config.stash[_watchdog]
    watchdog.begin(item.nodeid, float(marker.args[0]) if marker else LIMIT)
    try:
        return (yield)
    finally:
        watchdog.end()


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> Generator[None, object, object]:
    """Take a snapshot before any fixture of the test."""
    item.stash[_failed] = True
    gc.collect()
    item.stash[_before] = leaks.Snapshot.take()
    return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, object, object]:
    """Note whether the test passed: a failed test's traceback keeps its objects alive."""
    result = yield
    item.stash[_failed] = False
    return result


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_teardown(item: pytest.Item) -> Generator[None, object, object]:
    """Fail the test if it left something behind after the end of all its fixtures."""
    result = yield
    if isinstance(item, pytest.Function):
        item.funcargs.clear()
    left = leaks.left_processes(exempt={item.config.stash[_watchdog].pid})
    report = [processes.describe(pid) for pid in left]
    leaks.kill(left)
    if not item.stash[_failed]:
        report += item.stash[_before].new_since_then()
    # What is still there stays, as modules do that a test was the first to import.
    gc.freeze()
    if report:
        pytest.fail("left behind by the test:\n  " + "\n  ".join(report), pytrace=False)
    return result


def pytest_report_header() -> str:
    """Name the process that runs the tests, and the limit of a test."""
    return f"watchdog: {LIMIT:.0f} s a test; process {os.getpid()}"
