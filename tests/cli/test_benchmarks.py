"""The benchmarks' computations, and that their scenarios run."""

import json
from dataclasses import asdict
from multiprocessing.sharedctypes import RawValue

import pytest
from benchmarks import delays, event_loops, recovery, report, resources, rivals, sizes
from benchmarks.measured import Measured
from benchmarks.payloads import Payload
from benchmarks.results import Results
from benchmarks.rivals.interface import Rival, Shape

import penstock

# The standard library keeps the first file of its shared memory as long as the process lives.
# It is made here, so that no test is said to have left it behind.
RawValue("d")


def costs(ours: dict[int, float], other: float = 100.0) -> sizes.Costs:
    return {size: (Measured([figure]), Measured([other])) for size, figure in ours.items()}


def test_the_worst_sizes_are_found() -> None:
    check = sizes.check(costs({8: 1.0, 16: 1.5, 17: 4.5, 32: 2.0, 128: 20.0, 200: 25.0}))
    assert (check.growth, check.growth_sizes) == (3.0, (17, 16))
    assert (check.cliff, check.cliff_sizes) == (2.25, (17, 32))
    assert (check.ratio, check.ratio_size) == (0.25, 200)


@pytest.mark.parametrize("kind", sizes.KINDS)
def test_sizes_lie_on_both_sides_of_each_threshold(kind: str) -> None:
    tried = sizes.sizes(kind)
    assert set(sizes._POWERS) <= set(tried)
    messages = {size: sizes._message(sizes.KINDS[kind].make, size) for size in tried}
    for limit in sizes._MESSAGES:
        # An array's message of any size is longer than a slot.
        last = max((size for size in tried if messages[size] <= limit), default=None)
        assert last is None or messages[last + 1] > limit
    for limit in sizes._BUFFERS:
        assert {limit - 1, limit} <= set(tried)


def test_costs_by_size(monkeypatch: pytest.MonkeyPatch) -> None:
    def throughput(rival: Rival, payload: Payload, shape: Shape, items: int) -> float:
        assert items >= sizes._LEAST_ITEMS
        microseconds = sizes._message(lambda _: payload.make(), 0)
        return 1e6 / (microseconds if rival.is_ours else 2 * microseconds)

    monkeypatch.setattr(sizes, "throughput", throughput)
    monkeypatch.setattr(sizes, "sizes", lambda kind: [8, 5000])
    able, _ = rivals.available()
    ticks: list[None] = []
    ours, other = able["Penstock"], able["multiprocessing.Queue"]
    found = sizes.measure(ours, other, 1, 0.001, lambda: ticks.append(None))
    assert len(ticks) == sizes.steps(1)
    for kind, by_size in found.costs.items():
        for size, (its, others) in by_size.items():
            message = sizes._message(sizes.KINDS[kind].make, size)
            assert its.rounds == [pytest.approx(message)] * sizes._MORE_ROUNDS
            assert others.rounds == [pytest.approx(2 * message)] * sizes._MORE_ROUNDS
        assert found.checks[kind].ratio == pytest.approx(0.5)
    assert json.dumps(asdict(found))


def test_a_take_over_is_met_and_leaves_the_items() -> None:
    queue = penstock.Queue[int]()
    queue.put_many(list(range(10_000)))
    assert recovery.take_over(queue) > recovery._TAKE_OVER
    assert queue.check() == []
    assert queue.qsize() >= 10_000


@pytest.mark.slow
def test_leases_come_back() -> None:
    first, last, during, before = recovery.redelivery(1_000)
    assert 0 < first <= last
    assert before > 0
    assert during >= 0


@pytest.mark.parametrize("are_taken", [True, False])
def test_task_done_is_timed(are_taken: bool) -> None:
    assert recovery.done(100, are_taken=are_taken) > 0


def test_joining_is_timed() -> None:
    assert recovery.joining_cpu(3) > 0


def test_report_of_sizes_and_recovery() -> None:
    results = Results(missing={})
    by_size = costs({8: 1.0, 16: 3.0, 20: 1.0})
    results.sizes = sizes.Results({"bytes": by_size}, {"bytes": sizes.check(by_size)})
    results.recovery = {name: Measured([1.0, 2.0, 3000.0]) for name in recovery.UNITS}
    tables = {section.title: section for section in report._sections(results)}
    table = tables["Microseconds of an item from one process to another: bytes"]
    assert table.rows[1] == ["16", "3", "3 to 3", "100", "100 to 100", "0.03"]
    assert "3.00 x as long as one up to twice as small (16 bytes against 8)" in table.note
    assert "3.00 x as long as one up to twice as large (16 against 20)" in table.note
    assert "0.03 x as long as through multiprocessing.Queue (16)" in table.note
    rows = tables["What deaths, leases and processes cost"].rows
    assert [recovery.REBUILD, "2 ms", "1 to 3,000"] in rows
    written = json.loads(json.dumps(vars(results), default=report._plain))
    assert written["sizes"]["costs"]["bytes"]["16"] == [[3.0], [100.0]]
    assert written["recovery"][recovery.REBUILD] == [1.0, 2.0, 3000.0]


def test_every_figure_has_a_unit() -> None:
    compared = {name for few, many, _ in recovery.GROWTH.values() for name in (few, many)}
    assert set(recovery.BOUNDS) | compared <= set(recovery.UNITS)


@pytest.mark.parametrize("measure", ["_asynchronous", "_batched", "_synchronous", "_in_one_loop"])
def test_event_loops_pass_items(measure: str) -> None:
    assert getattr(event_loops, measure)(200) > 0


def test_delayed_items_are_measured() -> None:
    measured = delays.measure(2, lambda: None)
    assert all(len(each.rounds) == 2 and min(each.rounds) > 0 for each in measured.values())
    assert tuple(measured) == delays.STEPS


@pytest.mark.parametrize("measure", ["_queue_round_trip", "_socket_round_trip", "_round_trip_in_one_loop"])
def test_event_loops_make_round_trips(measure: str) -> None:
    assert getattr(event_loops, measure)(20) > 0


@pytest.mark.parametrize("name", resources.IMPORTED)
def test_importing_is_timed(name: str) -> None:
    assert resources.importing(name) > 0
