"""Pools of worker processes: small calls, large arrays, a worker's death, idling and starting.

Every measure opens its pool in a process of its own, so that a pool that breaks or hangs disturbs no other.
"""

from __future__ import annotations

import functools
import multiprocessing
import os
import signal
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from .isolation import Failed, Isolated, cpu_seconds, processes, within
from .measured import Measured, Target, at_least, at_most
from .payloads import PAYLOADS
from .pools.interface import Pool, Rival

_CONTEXT = multiprocessing.get_context("fork")

OURS, EXECUTOR, POOL = "Penstock", "ProcessPoolExecutor", "multiprocessing.Pool"
PROCESS = "a bare process"
"""The name, among the pools, of what starting one process takes."""

SMALL = "small calls by map, two workers"
ONE_BY_ONE = "submit(...).result(), two workers"
ARGUMENTS = "1 MB arrays as arguments, two workers"
ARGUMENTS_READ = "1 MB arrays as arguments, read, two workers"
RESULTS = "1 MB arrays as results, two workers"
RESULTS_READ = "1 MB arrays as results, read, two workers"
IDLE_WORKER_DIES = "from the SIGKILL of an idle worker to the next call"
BUSY_WORKER_DIES = "from the SIGKILL of a worker in a call to the next call"
START = "from opening a pool of two to its first result"

UNITS = {
    SMALL: "calls a second",
    ONE_BY_ONE: "calls a second",
    ARGUMENTS: "calls a second",
    ARGUMENTS_READ: "calls a second",
    RESULTS: "calls a second",
    RESULTS_READ: "calls a second",
    IDLE_WORKER_DIES: "ms",
    BUSY_WORKER_DIES: "ms",
    START: "ms",
}
IDLE_UNIT = "% of a core"

NOTES = {
    ARGUMENTS: "The workers do not read the array.",
    ARGUMENTS_READ: "The workers read one number of each page.",
    RESULTS: "Each worker returns the same array each time. The program does not read it.",
    RESULTS_READ: "Each worker returns the same array each time. The program reads one number of each page.",
    START: "The first pool of its process, so what a package imports late counts.",
    IDLE_WORKER_DIES: "The pool has one worker. The next call is put right after the kill.",
    BUSY_WORKER_DIES: "The pool has one worker. The next call is put right after the kill.",
}

_RATIOS = {
    SMALL: {EXECUTOR: 20.0, POOL: 4.0},
    ONE_BY_ONE: {EXECUTOR: 5.0},
    ARGUMENTS: {EXECUTOR: 15.0, POOL: 15.0},
    RESULTS: {EXECUTOR: 15.0, POOL: 15.0},
}
"""How many times as many calls a second as others Penstock should make, at least."""
_MOST_AFTER_A_DEATH = 100.0  # ms beyond what starting a process takes
_MOST_IDLE = 0.3  # % of a core

_IDLE_WORKERS = (2, 16)
_WORKERS = 2
_PATIENCE = 120.0  # seconds for a measure with its start and end
_HANGS = 3.0  # seconds without a result after a worker's death
_SETTLED = 0.2  # of the idle time: waited before it begins
_WARM_UP = 20  # calls


@dataclass
class Outcome:
    """Rounds of one pool in one scenario."""

    measured: Measured = field(default_factory=Measured)
    failures: list[str] = field(default_factory=list)
    """Why the other rounds have no figure."""


Results = dict[str, dict[str, Outcome]]
"""Outcomes by scenario and by pool."""


# --------------------------------------------------------------------------------- what the workers are given


def _increment(number: int) -> int:
    return number + 1


def _length(array: Any) -> int:
    return len(array)


def _length_when_read(array: Any) -> int:
    _read(array)
    return len(array)


_array = functools.cache(PAYLOADS["1 MB array"].make)


def _make(number: int) -> Any:
    return _array()


def _read(array: Any) -> None:
    touch = PAYLOADS["1 MB array, read"].touch
    assert touch is not None
    touch(array)


def _hold(path: str) -> None:
    """Write into a new file that the call has begun, and never end it."""
    Path(path).touch()
    time.sleep(3600)


def _begun() -> tuple[int, float]:
    """The worker, and the time of the call's begin, by a clock that all processes share."""
    return os.getpid(), time.monotonic()


# --------------------------------------------------------------------------------------------------- measures


def _count(results: Iterable[Any]) -> int:
    return sum(1 for _ in results)


def _count_and_read(results: Iterable[Any]) -> int:
    count = 0
    for array in results:
        _read(array)
        count += 1
    return count


@dataclass(frozen=True)
class _Mapped:
    """A scenario of `map`: what is called with which items, and what becomes of the results."""

    function: Callable[[Any], Any]
    items: Callable[[int], list[Any]]
    use: Callable[[Iterable[Any]], int] = _count
    """Takes all results, and returns how many there were."""

    def rate(self, rival: Rival, seconds: float) -> float:
        """Calls per second, in a map of about so many seconds."""

        def mapped(pool: Pool, count: int) -> float:
            items = self.items(count)
            begin = time.perf_counter()
            come = self.use(pool.map(self.function, items))
            taken = time.perf_counter() - begin
            if come != count:
                raise Failed(f"{come} of {count} results")
            return count / taken

        return _in_steps(rival, seconds, mapped)


def _numbers(count: int) -> list[Any]:
    return list(range(count))


def _arrays(count: int) -> list[Any]:
    return [_array()] * count


_MAPPED = {
    SMALL: _Mapped(_increment, _numbers),
    ARGUMENTS: _Mapped(_length, _arrays),
    ARGUMENTS_READ: _Mapped(_length_when_read, _arrays),
    RESULTS: _Mapped(_make, _numbers),
    RESULTS_READ: _Mapped(_make, _numbers, _count_and_read),
}


def _in_steps(rival: Rival, seconds: float, measure: Callable[[Pool, int], float]) -> float:
    """Measure twice to find how many calls take so many seconds, and then so many."""
    pool = rival.open(_WORKERS)
    rate = measure(pool, _WARM_UP)
    for share in (0.1, 1.0):
        rate = measure(pool, max(_WARM_UP, round(rate * seconds * share)))
    pool.close()
    return rate


def _one_by_one(rival: Rival, seconds: float) -> float:
    def called(pool: Pool, count: int) -> float:
        call = pool.call
        begin = time.perf_counter()
        for number in range(count):
            if call(_increment, number) != number + 1:
                raise Failed("a wrong result")
        return count / (time.perf_counter() - begin)

    return _in_steps(rival, seconds, called)


def _recovery(rival: Rival, *, is_busy: bool) -> float:
    """Milliseconds from the death of a pool's only worker to the begin of the next call in a new one."""
    pool = rival.open(1)
    worker = pool.call(os.getpid)
    with tempfile.TemporaryDirectory() as folder, within(_HANGS):
        if is_busy:
            path = Path(folder, "begun")
            pool.send(_hold, str(path))
            while not path.exists():
                time.sleep(0.001)
        time.sleep(0.05)  # seconds for an idle worker to wait, and for the pool's threads, too
        killed = time.monotonic()
        os.kill(worker, signal.SIGKILL)
        next_worker, begun = pool.call(_begun)
    if next_worker == worker:
        raise Failed("the killed worker has run the call")
    with within(_HANGS):
        pool.close()
    return float(begun - killed) * 1e3


def _bare_process() -> float:
    """Milliseconds from the start of a process to its first statement."""
    reader, writer = _CONTEXT.Pipe(duplex=False)
    started = time.monotonic()
    process = _CONTEXT.Process(target=_tell_the_time, args=(writer,))
    process.start()
    begun = reader.recv()
    process.join()
    return float(begun - started) * 1e3


def _tell_the_time(writer: Any) -> None:
    writer.send(time.monotonic())


def _start(rival: Rival) -> float:
    begin = time.perf_counter()
    pool = rival.open(_WORKERS)
    pool.call(_increment, 1)
    taken = time.perf_counter() - begin
    pool.close()
    return taken * 1e3


def _idle(rival: Rival, workers: int, seconds: float) -> float:
    """The share of a core, in percent, that an idle pool takes in all of its processes."""
    pool = rival.open(workers)
    pool.call(os.getpid)
    while len(processes(os.getpid())) <= workers:
        time.sleep(0.05)
    time.sleep(_SETTLED * seconds)
    # The search itself takes time of this process, so it comes before the first reading.
    its_processes = processes(os.getpid())
    used, begin = cpu_seconds(its_processes), time.monotonic()
    time.sleep(seconds)
    share = (cpu_seconds(its_processes) - used) / (time.monotonic() - begin)
    pool.close()
    return share * 100


# ---------------------------------------------------------------------------------------------------- the run


def idle_title(workers: int) -> str:
    """The scenario's name."""
    return f"CPU of an idle pool of {workers} workers"


def scenarios(seconds: float) -> dict[str, Callable[[Rival], float]]:
    """The measures that pools take in turn, by scenario. Each is called in a process of its own."""
    measures: dict[str, Callable[[Rival], float]] = {
        name: partial(mapped.rate, seconds=seconds) for name, mapped in _MAPPED.items()
    }
    measures[ONE_BY_ONE] = partial(_one_by_one, seconds=seconds)
    measures[START] = _start
    measures[IDLE_WORKER_DIES] = partial(_recovery, is_busy=False)
    measures[BUSY_WORKER_DIES] = partial(_recovery, is_busy=True)
    return {name: measures[name] for name in UNITS}


def _enter(outcome: Outcome, isolated: Isolated) -> None:
    try:
        outcome.measured.rounds.append(isolated.result(_PATIENCE))
    except Failed as failure:
        outcome.failures.append(str(failure))


def measure(
    pools: dict[str, Rival], rounds: int, seconds: float, idle_seconds: float, tick: Callable[[], None]
) -> Results:
    """Measure all scenarios. The pools take turns, but for idling, which all do at the same time."""
    results: Results = {}
    for scenario, of_pool in scenarios(seconds).items():
        measures: dict[str, Callable[[], float]] = {
            name: partial(of_pool, rival) for name, rival in pools.items()
        }
        if scenario in (IDLE_WORKER_DIES, BUSY_WORKER_DIES):
            measures[PROCESS] = _bare_process
        outcomes = results[scenario] = {name: Outcome() for name in measures}
        for _ in range(rounds):
            for name, one in measures.items():
                _enter(outcomes[name], Isolated(one))
            tick()
    for workers in _IDLE_WORKERS:
        outcomes = results[idle_title(workers)] = {name: Outcome() for name in pools}
        for _ in range(rounds):
            idle = {
                name: Isolated(partial(_idle, rival, workers, idle_seconds)) for name, rival in pools.items()
            }
            for name, isolated in idle.items():
                _enter(outcomes[name], isolated)
            tick()
    return results


def steps(rounds: int) -> int:
    """The number of ticks of `measure`."""
    return rounds * (len(UNITS) + len(_IDLE_WORKERS))


# ---------------------------------------------------------------------------------------------------- targets


def judge(results: Results) -> list[Target]:
    """Compare the figures with the targets."""
    return [target for scenario, outcomes in results.items() for target in _targets(scenario, outcomes)]


def _targets(scenario: str, outcomes: dict[str, Outcome]) -> Iterable[Target]:
    ours = outcomes[OURS]
    if not ours.measured.rounds or ours.failures:
        yield Target(scenario, ours.failures[0], "a figure in each round", is_met=False)
        return
    figure = ours.measured.median

    def others(name: str) -> float | None:
        measured = outcomes[name].measured if name in outcomes else Measured()
        return measured.median if measured.rounds else None

    for name, bound in _RATIOS.get(scenario, {}).items():
        if other := others(name):
            yield at_least(scenario, figure / other, bound, f"x {name}")
    if scenario == START and (other := others(EXECUTOR)):
        yield at_most(scenario, figure / other, 1, f"x {EXECUTOR}")
    if (other := others(PROCESS)) is not None:
        beyond = max(0.0, figure - other)
        yield at_most(scenario, beyond, _MOST_AFTER_A_DEATH, f"ms beyond {PROCESS}'s start")
    if scenario not in UNITS:
        yield at_most(scenario, figure, _MOST_IDLE, IDLE_UNIT)
