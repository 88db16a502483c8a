"""Programs and libraries for `multiprocessing`, on Penstock's queues.

Each runs with a context of Penstock's and, unchanged, under `penstock run`.
"""

from collections.abc import Sequence
from types import ModuleType

import pytest

import penstock
from tests.support.clients import (
    Program,
    executors,
    joblib_pools,
    logs,
    loguru_sinks,
    pools,
    readiness,
    shared_memory,
    subclasses,
    why_skipped,
)
from tests.support.programs import METHODS, PENSTOCK, PLAIN, ROOT, run

pytestmark = pytest.mark.slow

CLIENTS = (pools, executors, logs, loguru_sinks, subclasses, readiness, shared_memory)
# Clients whose helper processes run until the program ends.
ALONE = (joblib_pools,)

every_method = pytest.mark.parametrize("method", METHODS)


def short(module: ModuleType) -> str:
    return module.__name__.rpartition(".")[2]


EVERY_PROGRAM = [
    pytest.param(
        program,
        id=f"{short(client)}-{name}",
        marks=pytest.mark.skipif(bool(why_skipped(program)), reason=why_skipped(program)),
    )
    for client in CLIENTS
    for name, program in client.PROGRAMS.items()
]


# Pools and executors have threads, and start workers while they run.
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
@pytest.mark.parametrize("program", EVERY_PROGRAM)
@every_method
def test_on_a_context(program: Program, method: str) -> None:
    program(penstock.get_context(method))


def run_all(way: Sequence[str], client: ModuleType, method: str, whose: str) -> None:
    done = run(way, ["-m", client.__name__, method, whose], folder=ROOT)
    assert done.stderr.decode() == ""
    assert done.stdout.decode().splitlines() == [
        name for name, program in client.PROGRAMS.items() if not why_skipped(program)
    ]
    assert done.returncode == 0


@pytest.mark.parametrize("client", ALONE, ids=short)
@every_method
def test_on_a_context_in_a_process_of_its_own(client: ModuleType, method: str) -> None:
    run_all(PLAIN, client, method, "penstock")


@pytest.mark.parametrize("client", [*CLIENTS, *ALONE], ids=short)
@every_method
def test_under_penstock_run(client: ModuleType, method: str) -> None:
    run_all(PENSTOCK, client, method, "multiprocessing")


@pytest.mark.limit(600)  # each process that is spawned imports torch
@pytest.mark.parametrize("way", [PLAIN, PENSTOCK], ids=["context", "penstock run"])
@every_method
def test_torch(way: Sequence[str], method: str) -> None:
    pytest.importorskip("torch")
    from tests.support.clients import torch_tensors

    run_all(way, torch_tensors, method, "penstock" if way is PLAIN else "multiprocessing")
