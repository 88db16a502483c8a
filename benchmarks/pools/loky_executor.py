"""loky: an executor whose workers are new interpreters, as its own default is."""

from __future__ import annotations

from loky.process_executor import ProcessPoolExecutor  # type: ignore[import-untyped]

from .interface import ExecutorPool, Rival


def _open(workers: int) -> ExecutorPool:
    return ExecutorPool(ProcessPoolExecutor(workers))


RIVALS = [Rival("loky", _open)]
