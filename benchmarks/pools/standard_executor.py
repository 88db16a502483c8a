"""concurrent.futures.ProcessPoolExecutor: what most programs use today."""

from __future__ import annotations

import multiprocessing
from concurrent.futures import ProcessPoolExecutor

from .interface import ExecutorPool, Rival


def _open(workers: int) -> ExecutorPool:
    return ExecutorPool(ProcessPoolExecutor(workers, multiprocessing.get_context("fork")))


RIVALS = [Rival("ProcessPoolExecutor", _open)]
