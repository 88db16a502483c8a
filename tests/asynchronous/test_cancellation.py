"""A task that is cancelled at whatever await has taken nothing, or its item is its result."""

from collections.abc import Callable
from typing import Any

import pytest

import penstock
from tests.asynchronous.test_waiting import until_waiting

anyio = pytest.importorskip("anyio")

Run = Callable[[Callable[[], Any]], Any]
STEPS = range(12)  # steps of the loop after which a task is cancelled: before, in and after its wake-up


async def cancelled_after(steps: int, call: Callable[[], Any], results: list[Any]) -> None:
    """Cancel the call after so many steps of the loop. Its result, if it has one, joins the results."""
    async with anyio.create_task_group() as tasks:
        with anyio.CancelScope() as scope:

            async def cancel() -> None:
                for _ in range(steps):
                    await anyio.sleep(0)
                scope.cancel()

            tasks.start_soon(cancel)
            results.append(await call())


@pytest.mark.parametrize("puts_after", range(6))
def test_an_aget_beside_a_put(run: Run, puts_after: int) -> None:
    queue = penstock.JoinableQueue()

    async def put() -> None:
        for _ in range(puts_after):
            await anyio.sleep(0)
        queue.put("item")

    async def main() -> None:
        for steps in STEPS:
            got: list[Any] = []
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(cancelled_after, steps, queue.aget, got)
                tasks.start_soon(put)
            got += queue.get_many(block=False) if queue.qsize() else []
            assert got == ["item"], steps
            queue.task_done()
        await queue.ajoin()

    run(main)
    assert queue.check() == []


@pytest.mark.parametrize("many", [False, True])
def test_an_item_of_a_cancelled_task_is_the_next_ones(run: Run, many: bool) -> None:
    queue = penstock.Queue()

    async def main() -> None:
        for steps in STEPS:
            first: list[Any] = []
            second: list[Any] = []
            call = queue.aget_many if many else queue.aget
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(cancelled_after, steps, call, first)
                await anyio.sleep(0)  # under trio it may be cancelled before it waits

                async def next_one(second: list[Any] = second) -> None:
                    second.append(await queue.aget())

                tasks.start_soon(next_one)
                await anyio.sleep(0)
                queue.put("item")
                if not first:
                    while not first and not second:
                        await anyio.sleep(0)
                if first:
                    queue.put("another")
            assert len(first) + len(second) == (2 if first else 1), steps
            assert queue.empty()

    run(main)


@pytest.mark.parametrize("gets_after", range(6))
def test_an_aput_beside_a_get(run: Run, gets_after: int) -> None:
    queue = penstock.Queue(maxsize=1)

    async def get() -> None:
        for _ in range(gets_after):
            await anyio.sleep(0)
        assert queue.get(block=False) == "full"

    async def put() -> bool:
        await queue.aput("item")
        return True

    async def main() -> None:
        for steps in STEPS:
            queue.put("full")
            done: list[Any] = []
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(cancelled_after, steps, put, done)
                tasks.start_soon(get)
            left = queue.get_many(block=False) if queue.qsize() else []
            assert left == ["item"] * len(done), steps

    run(main)
    assert queue.check() == []


def test_an_aput_many_says_how_many(run: Run) -> None:
    queue = penstock.Queue(maxsize=3)
    caught: list[BaseException] = []

    async def put(objs: Any) -> None:
        try:
            await queue.aput_many(objs)
        except BaseException as error:
            caught.append(error)
            raise

    async def main() -> None:
        for objs in (list(range(5)), iter(range(5))):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(put, objs)
                await until_waiting(1)
                tasks.cancel_scope.cancel()
            assert queue.get_many() == [0, 1, 2]

    run(main)
    assert [error.items_put for error in caught] == [3, 3]  # type: ignore[attr-defined]


def test_a_cancelled_ajoin_leaves_the_others(run: Run) -> None:
    queue = penstock.JoinableQueue()
    queue.put("item")

    async def main() -> None:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(cancelled_after, 5, queue.ajoin, [])
            tasks.start_soon(queue.ajoin)
            await until_waiting(2)
            await anyio.sleep(0.01)
            queue.get()
            queue.task_done()

    run(main)


def test_time_outs_of_the_loop(run: Run) -> None:
    queue = penstock.Queue(maxsize=1)

    async def main() -> None:
        with anyio.move_on_after(0.01) as scope:
            await queue.aget()
        assert scope.cancelled_caught
        await queue.aput("x")
        with pytest.raises(TimeoutError), anyio.fail_after(0.01):
            await queue.aput("y")

    run(main)
    assert queue.get_many() == ["x"]
