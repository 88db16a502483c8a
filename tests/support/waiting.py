"""Waiting for a fact. A fact that never comes is the watchdog's business."""

import time
from collections.abc import Callable


def until(fact: Callable[[], object]) -> None:
    """Return as soon as `fact()` is true. Looks every millisecond."""
    while not fact():
        time.sleep(0.001)
