"""A `JoinableQueue` whose users never call `task_done()` or `join()` is served as a plain queue, until one of them does."""

import os
import queue
import threading
from typing import Any

import pytest

import penstock
from tests.support.children import fork

KB = 1000


def take_and_wait(q: Any, count: int, taken: Any, asks_again: bool) -> None:
    """Take items one by one, say so, and wait to be killed."""
    for _ in range(count):
        taken.put(q.get())
    if asks_again:
        q.get()


def worker_that_took(q: Any, count: int, *, asks_again: bool = False) -> Any:
    """A process that has taken so many items, and waits."""
    taken = penstock.Queue()
    child = fork(take_and_wait, q, count, taken, asks_again) if asks_again else fork(take, q, count, taken)
    for _ in range(count):
        taken.get()
    return child


def take(q: Any, count: int, taken: Any) -> None:
    for _ in range(count):
        taken.put(q.get())
    threading.Event().wait()
