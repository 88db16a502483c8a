"""What is asyncio's alone: its loops that end early, its callbacks, its forks."""

import asyncio
import contextlib
import gc
import multiprocessing
import pickle
import subprocess
import sys
import threading
import warnings
from types import ModuleType
from typing import Any

import pytest

import penstock
from tests.support.children import fork


class Mine(penstock.Queue[Any]):
    pass


def test_a_loop_that_is_closed_with_waiters() -> None:
    queue = penstock.Queue()
    loop = asyncio.new_event_loop()
    waiting = [loop.create_task(queue.aget()) for _ in range(3)]
    loop.run_until_complete(asyncio.sleep(0.01))
    loop.close()
    queue.put("item")
    assert asyncio.run(queue.aget()) == "item"
    for task in waiting:
        task._log_destroy_pending = False  # type: ignore[attr-defined]
    assert queue.check() == []


def test_waiters_of_a_closed_loop_are_collected_quietly(monkeypatch: pytest.MonkeyPatch) -> None:
    queue, noise = penstock.Queue(), []
    monkeypatch.setattr(sys, "unraisablehook", noise.append)
    loop = asyncio.new_event_loop()
    waiting = [loop.create_task(queue.aget()) for _ in range(3)]
    loop.run_until_complete(asyncio.sleep(0.01))
    loop.close()
    for task in waiting:
        task._log_destroy_pending = False  # type: ignore[attr-defined]
    queue.put("item")  # so that one that leaves wakes the next one
    task = None  # type: ignore[assignment]
    while waiting:
        del waiting[0]
        gc.collect()
    assert [str(each.exc_value) for each in noise] == []  # type: ignore[attr-defined]


def test_what_was_taken_is_not_lost_if_the_next_one_cannot_be_woken() -> None:
    class Failing(penstock.Queue[Any]):
        def _is_ready(self, awaited: int) -> bool:
            raise MemoryError

    queue = Failing()

    async def main() -> None:
        tasks = [asyncio.create_task(queue.aget()) for _ in range(2)]
        await asyncio.sleep(0.01)
        queue.put("first")
        assert await tasks[0] == "first"
        queue.put("second")
        assert await tasks[1] == "second"

    asyncio.run(main())


def test_the_next_loop_waits_too() -> None:
    queue = penstock.Queue()

    async def main(number: int) -> Any:
        task = asyncio.create_task(queue.aget())
        await asyncio.sleep(0)
        queue.put(number)
        return await task

    assert [asyncio.run(main(number)) for number in range(3)] == [0, 1, 2]


def test_a_wait_beside_a_reader_of_the_same_queue() -> None:
    """The program's own use of the descriptor is not in the way, nor is that of the hub in its."""
    queue = penstock.Queue()

    async def main() -> None:
        loop = asyncio.get_running_loop()
        seen = asyncio.Event()
        loop.add_reader(queue.fileno(), seen.set)
        task = asyncio.create_task(queue.aget())
        await asyncio.sleep(0)
        queue.put("item")
        assert await task == "item"
        queue.put("item")
        await seen.wait()
        assert loop.remove_reader(queue.fileno())
        assert await queue.aget() == "item"

    asyncio.run(main())


def test_wait_for_and_gather() -> None:
    queue = penstock.JoinableQueue()

    async def main() -> None:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(queue.aget(), 0.01)
        getting = asyncio.gather(*(queue.aget() for _ in range(5)))
        await asyncio.sleep(0)
        await queue.aput_many(range(5))
        assert await getting == [0, 1, 2, 3, 4]
        for _ in range(5):
            queue.task_done()
        await asyncio.wait_for(queue.ajoin(), 50)

    asyncio.run(main())


def work_in_a_loop(jobs: Any, results: Any) -> None:
    """The work of a process: leases, a batch and a loop, of which each takes one item."""

    async def main() -> None:
        async with jobs.lease() as lease:
            await results.aput(lease.item)
        async with jobs.leases(1) as batch:
            for lease in batch:
                await results.aput(lease.item)
        async for item in jobs:
            await results.aput(item)

    asyncio.run(main())


def join_in_a_loop(jobs: Any, results: Any) -> None:
    async def main() -> None:
        await jobs.aput_many("abc")
        await jobs.ajoin()
        results.put("joined")

    asyncio.run(main())


@pytest.mark.slow
@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_loops_of_processes_that_are_started_by_each_method(method: str) -> None:
    context = multiprocessing.get_context(method)
    jobs, results = penstock.JoinableQueue(), penstock.Queue()

    async def main() -> None:
        waiting = asyncio.create_task(results.aget())
        await asyncio.sleep(0.01)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            processes: Any = [
                context.Process(target=work, args=(jobs, results))
                for work in (work_in_a_loop, join_in_a_loop)
            ]
            for process in processes:
                process.start()
        got = [await waiting, *[await results.aget() for _ in range(2)]]
        while len(got) < 4:  # "c" is done when the next one is asked for
            got.append(await results.aget())
        assert got == ["a", "b", "c", "joined"]
        jobs.shutdown()
        for process in processes:
            process.join()
            assert process.exitcode == 0

    asyncio.run(main())
    assert jobs.check() == results.check() == []


def test_a_module_that_another_thread_is_importing(monkeypatch: pytest.MonkeyPatch) -> None:
    """It lacks what tells of tasks. So no task runs."""
    queue = penstock.JoinableQueue()

    async def main() -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(queue.aget(), 0.01)  # from now on the process knows of tasks

    asyncio.run(main())
    for names in (["asyncio"], ["trio"], ["gevent", "gevent.monkey"]):
        with monkeypatch.context() as patched:
            for name in names:
                patched.setitem(sys.modules, name, ModuleType(name))
            queue.put("item")
            with queue.lease() as lease:
                assert lease.item == "item"
            queue.put("item")
            assert queue.get() == "item"
            queue.task_done()
            pickle.loads(pickle.dumps(queue)).put("item")
            with pytest.raises(StopIteration) as done:
                queue.aget().send(None)
            assert done.value.value == "item"
            queue.task_done()
            with pytest.raises(RuntimeError, match="no event loop"):
                queue.aget().send(None)


def test_outside_of_a_loop() -> None:
    queue = penstock.Queue()
    with pytest.raises(RuntimeError, match="no event loop"):
        queue.aget().send(None)
    queue.put("item")
    with pytest.raises(StopIteration) as done:
        queue.aget().send(None)  # nothing to wait for, so no loop is needed
    assert done.value.value == "item"


def test_fork_with_a_running_loop() -> None:
    """The child's loop waits with descriptors of its own, and leaves those of the parent's as they are."""
    queue, back = penstock.Queue(), penstock.Queue()

    def in_child() -> None:
        async def echo() -> None:
            for _ in range(10):
                await back.aput(await queue.aget())
            queue.close()

        asyncio.run(echo())

    async def main() -> None:
        waiting = asyncio.create_task(back.aget())
        await asyncio.sleep(0.01)
        with fork(in_child) as child:
            for number in range(10):
                queue.put(number)
                assert await waiting == number
                waiting = asyncio.create_task(back.aget())
            await asyncio.to_thread(child.result)
        back.put("end")
        assert await waiting == "end"

    asyncio.run(main())


def test_a_thread_closes_the_handle() -> None:
    queue = penstock.Queue()

    async def main() -> None:
        task = asyncio.create_task(queue.aget())
        await asyncio.sleep(0)
        thread = threading.Thread(target=queue.close)
        thread.start()
        with pytest.raises(ValueError, match="closed"):
            await task
        thread.join()

    asyncio.run(main())


def test_asyncio_is_not_imported_by_a_program_without_it() -> None:
    program = """
import sys, penstock
queue = penstock.Queue()
queue.put(1)
queue.get()
try:
    queue.aget().send(None)
except RuntimeError as error:
    assert "no event loop" in str(error)
assert not {"asyncio", "anyio", "trio", "sniffio"} & set(sys.modules), sys.modules
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=50)
    assert (done.returncode, done.stderr) == (0, "")


def test_trio_without_anyio() -> None:
    pytest.importorskip("trio")
    program = """
import sys, trio, penstock
sys.modules["anyio"] = None
queue = penstock.Queue()
try:
    trio.run(queue.aget)
except ModuleNotFoundError as error:
    assert "pip install" in str(error)
else:
    raise AssertionError
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=50)
    assert (done.returncode, done.stderr) == (0, "")


def test_subclasses_and_copies_of_a_handle() -> None:
    """Two handles of one queue take turns together."""
    queue = Mine()
    copies = penstock.Queue()
    copies.put(queue)
    other = copies.get()

    async def main() -> list[Any]:
        getting = [asyncio.create_task(each.aget()) for each in (queue, other, queue, other)]
        await asyncio.sleep(0)
        queue.put_many("abcd")
        return list(await asyncio.gather(*getting))

    assert asyncio.run(main()) == [*"abcd"]
