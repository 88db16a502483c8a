"""Waiting for a fact. The watchdog ends a test whose fact never comes."""

import time
from collections.abc import Callable


def until(fact: Callable[[], object]) -> None:
    """Return as soon as `fact()` is true. Calls it every millisecond."""
    while not fact():
        time.sleep(0.001)
