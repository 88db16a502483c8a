"""The benchmark of pools: that each pool runs in each scenario, and what becomes of the figures."""

import json
import multiprocessing
import os
import subprocess
import threading
from collections.abc import Callable

import pytest
from benchmarks import isolation, pools, report, workers
from benchmarks.isolation import Failed, Isolated, cpu_seconds, processes, within
from benchmarks.loading import load
from benchmarks.measured import Measured
from benchmarks.results import Results

from tests.support.processes import state

_NAMES = {
    "ours": workers.OURS,
    "executor": workers.EXECUTOR,
    "pool": workers.POOL,
    "bare": workers.PROCESS,
}


def _isolated(measure: Callable[[], float]) -> float:
    return Isolated(measure).result(60)


def test_a_measure_has_a_process_of_its_own() -> None:
    assert _isolated(os.getpid) != os.getpid()


def _leave_a_process() -> float:
    return subprocess.Popen(["sleep", "1000"]).pid


def test_a_measure_leaves_no_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(isolation, "_GRACE", 0.01)
    assert state(int(_isolated(_leave_a_process))) in ("Z", "")


def _hang() -> float:
    with within(0.01):
        held = threading.Lock()
        held.acquire()
        held.acquire()
    return 0


def _raise() -> float:
    raise ValueError("no such pool. It is long.")


def _exit() -> float:
    os._exit(1)


@pytest.mark.parametrize(
    ("measure", "reason"),
    [
        (_hang, "hangs: nothing within 0.01 s"),
        (_raise, "ValueError: no such pool"),
        (_exit, "ended its own process"),
    ],
)
def test_a_measure_that_fails_says_why(measure: Callable[[], float], reason: str) -> None:
    with pytest.raises(Failed, match=reason):
        _isolated(measure)


def _use_the_processor() -> float:
    child = multiprocessing.get_context("fork").Process(target=_work)
    child.start()
    both = processes(os.getpid())
    assert sorted(both) == sorted([os.getpid(), child.pid])
    before = cpu_seconds(both)
    while cpu_seconds([child.pid]) < 0.02:
        pass
    used = cpu_seconds(both) - before
    child.kill()
    child.join()
    return used


def _work() -> None:
    while True:
        pass


def test_the_processor_time_of_all_processes_is_counted() -> None:
    assert _isolated(_use_the_processor) > 0


@pytest.mark.slow
@pytest.mark.limit(300)  # loky starts new interpreters, for each scenario
@pytest.mark.parametrize("file", pools._FILES)
def test_pools_are_measured(file: str, monkeypatch: pytest.MonkeyPatch) -> None:
    able, missing = load(pools.__name__, (file,))
    if missing:
        pytest.skip(missing[file])
    [rival] = able.values()
    monkeypatch.setattr(workers, "_IDLE_WORKERS", (2,))
    monkeypatch.setattr(workers, "_WARM_UP", 3)
    monkeypatch.setattr(workers, "_HANGS", 50.0 if rival.is_ours else 0.5)
    results = workers.measure(able, 1, 0.01, 0.05, lambda: None)
    for scenario, outcomes in results.items():
        outcome = outcomes[rival.name]
        assert len(outcome.measured.rounds) + len(outcome.failures) == 1
        if rival.is_ours or scenario not in (workers.IDLE_WORKER_DIES, workers.BUSY_WORKER_DIES):
            assert outcome.failures == []
            assert outcome.measured.median >= 0


def outcomes(**medians: float) -> dict[str, workers.Outcome]:
    return {_NAMES[which]: workers.Outcome(Measured([median])) for which, median in medians.items()}


def test_targets_of_pools() -> None:
    idle = workers.idle_title(2)
    results = {
        workers.SMALL: outcomes(ours=80.0, executor=4.0, pool=21.0),
        workers.START: outcomes(ours=30.0, executor=31.0),
        workers.IDLE_WORKER_DIES: outcomes(ours=120.0, executor=1.0, bare=15.0),
        idle: outcomes(ours=0.1, executor=0.2),
    }
    results[workers.IDLE_WORKER_DIES][workers.EXECUTOR] = workers.Outcome(Measured(), ["it is broken"])
    judged = [(t.scenario, t.measured, t.target, t.is_met) for t in workers.judge(results)]
    assert judged == [
        (workers.SMALL, "20 x ProcessPoolExecutor", ">= 20 x ProcessPoolExecutor", True),
        (workers.SMALL, "3.81 x multiprocessing.Pool", ">= 4 x multiprocessing.Pool", False),
        (workers.START, "0.968 x ProcessPoolExecutor", "<= 1 x ProcessPoolExecutor", True),
        (
            workers.IDLE_WORKER_DIES,
            "105 ms beyond a bare process's start",
            "<= 100 ms beyond a bare process's start",
            False,
        ),
        (idle, "0.1 % of a core", "<= 0.3 % of a core", True),
    ]
    results = {workers.SMALL: {workers.OURS: workers.Outcome(Measured([1.0]), ["it hangs"])}}
    [target] = workers.judge(results)
    assert (target.measured, target.is_met) == ("it hangs", False)


def test_report_of_pools() -> None:
    broken = workers.Outcome(Measured(), ["it hangs", "it hangs"])
    results = Results(missing={})
    results.workers = {
        workers.SMALL: outcomes(pool=400.0, executor=200.0, ours=8000.0) | {"mpire": broken},
        workers.START: outcomes(executor=20.0, ours=10.0),
    }
    _, small, start = report._sections(results)
    assert small.heads == ["", "calls a second", "spread", "x ProcessPoolExecutor", "failed"]
    assert small.rows == [
        ["Penstock", "8,000", "8,000 to 8,000", "40.00", ""],
        ["multiprocessing.Pool", "400", "400 to 400", "2.00", ""],
        ["ProcessPoolExecutor", "200", "200 to 200", "1.00", ""],
        ["mpire", "", "", "", "2 of 2 rounds: it hangs"],
    ]
    assert start.heads == ["", "ms", "spread", "x ProcessPoolExecutor"]
    assert [row[0] for row in start.rows] == ["Penstock", "ProcessPoolExecutor"]
    written = json.loads(json.dumps(vars(results), default=report._plain))
    assert written["workers"][workers.SMALL]["mpire"]["failures"] == ["it hangs", "it hangs"]
