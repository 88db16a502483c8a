"""Processes die while tasks of others wait: nothing is lost, and no task sleeps on."""

import asyncio
import os
import signal
from typing import Any

import pytest

import penstock
from tests.support.children import fork
from tests.support.waiting import until


def test_the_item_of_a_killed_worker_comes_back() -> None:
    queue, told = penstock.JoinableQueue(), penstock.Queue()

    def work() -> None:
        async def main() -> None:
            told.put(await queue.aget())
            await asyncio.Event().wait()

        asyncio.run(main())

    async def main() -> None:
        joining = asyncio.create_task(queue.ajoin())
        queue.put("item")
        with fork(work) as worker:
            assert await told.aget() == "item"
            waiting = asyncio.create_task(queue.aget())
            await asyncio.sleep(0)
            worker.kill()
            worker.wait()
            assert await waiting == "item"
        queue.task_done()
        await joining

    asyncio.run(main())
    assert queue.check() == []


@pytest.mark.parametrize("kill", [False, True])
def test_waiting_processes_die(kill: bool) -> None:
    queue = penstock.Queue(maxsize=1)
    queue.put("full")

    def wait(call: Any, *arguments: Any) -> None:
        asyncio.run(call(*arguments))

    async def main() -> None:
        for call in ([queue.aput, "lost"], [queue.aput, "x"]):
            with fork(wait, *call) as child:
                until(lambda: queue.check() == [] and _is_asleep(child.pid))
                if kill:
                    child.kill()
                    child.wait()
                else:
                    child.kill(signal.SIGSTOP)
                assert queue.get() == "full"
                await queue.aput("full")
                if not kill:
                    child.kill()
                    child.wait()
        assert await queue.aget() == "full"

    asyncio.run(main())
    queue.statistics()
    assert queue.check() == []


def _is_asleep(pid: int) -> bool:
    with open(f"/proc/{pid}/wchan") as file:
        return "poll" in file.read()


POINTS = ["notifier.changed", "notifier.owed", "notifier.updated", "put.committed", "put.linked"]


@pytest.mark.parametrize("point", POINTS)
def test_a_putter_dies_beside_a_waiting_task(point: str) -> None:
    arm_fault = getattr(penstock._native, "arm_fault", None)
    if arm_fault is None:
        pytest.skip("only a build with fault points can die there")
    queue = penstock.Queue()

    def put() -> None:
        arm_fault(point)
        queue.put("item")

    async def main() -> None:
        waiting = asyncio.create_task(queue.aget())
        await asyncio.sleep(0.01)
        with fork(put) as putter:
            assert putter.wait() == -signal.SIGKILL
        assert await waiting == "item"

    asyncio.run(main())
    assert queue.check() == []


@pytest.mark.parametrize("point", ["notifier.changed", "notifier.filling", "get.freed", "get.unlinked"])
def test_a_getter_dies_beside_a_task_that_waits_for_room(point: str) -> None:
    arm_fault = getattr(penstock._native, "arm_fault", None)
    if arm_fault is None:
        pytest.skip("only a build with fault points can die there")
    queue = penstock.Queue(maxsize=1)
    queue.put("first")

    def get() -> None:
        arm_fault(point)
        queue.get()
        queue.put("filled")  # at the point of filling
        os._exit(0)

    async def main() -> None:
        waiting = asyncio.create_task(queue.aput("second"))
        await asyncio.sleep(0.01)
        with fork(get) as getter:
            getter.wait()
        left = [await queue.aget()]
        await waiting
        left += queue.get_many() if queue.qsize() else []
        assert left in (["first", "second"], ["second"], ["filled", "second"]), left

    asyncio.run(main())
    assert queue.check() == []
