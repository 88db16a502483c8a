"""What a task has taken is its own: `task_done` finishes its oldest item, and iteration the last one."""

import asyncio
import gc
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

import penstock
from tests.asynchronous.test_waiting import until_waiting
from tests.support import programs
from tests.support.children import fork
from tests.support.waiting import until

anyio = pytest.importorskip("anyio")

Run = Callable[[Callable[[], Any]], Any]


def left_by(work: Callable[[], Any], queue: Any) -> list[Any]:
    """What comes back from a worker that is killed after that work: the items that were not done."""
    told = penstock.Queue()

    def work_and_wait() -> None:
        work()
        told.put("done")
        penstock.Queue().get()

    with fork(work_and_wait) as worker:
        told.get()
        worker.kill()
        worker.wait()
    until(lambda: queue.statistics().taken == 0)
    back = []
    while queue.qsize():
        back.append(queue.get())
        queue.task_done()
    queue.join()
    assert queue.check() == []
    return back


@pytest.mark.parametrize("takes", ["aget", "get", "aget_many"])
def test_each_task_finishes_its_own(run: Run, takes: str) -> None:
    """A hundred tasks take an item each. Those with an odd one say done, the youngest first."""
    queue = penstock.JoinableQueue()
    queue.put_many(range(100))

    async def take_and_finish(event: Any) -> None:
        if takes == "aget_many":
            (item,) = await queue.aget_many(1)
        else:
            item = queue.get() if takes == "get" else await queue.aget()
        await event.wait()
        if item % 2:
            queue.task_done()

    async def main() -> None:
        with anyio.move_on_after(0):
            await penstock.Queue().aget()  # from now on the process knows of tasks
        events = [anyio.Event() for _ in range(100)]
        async with anyio.create_task_group() as tasks:
            for number, event in enumerate(events, start=1):
                tasks.start_soon(take_and_finish, event)
                while queue.qsize() > 100 - number:
                    await anyio.sleep(0)
            for event in reversed(events):
                event.set()
                await anyio.sleep(0)

    assert left_by(lambda: run(main), queue) == [*range(0, 100, 2)]


def test_the_oldest_of_the_task_is_done_first(run: Run) -> None:
    queue = penstock.JoinableQueue()
    queue.put_many("abcd")

    async def take_two_and_finish_one() -> None:
        await queue.aget()
        await anyio.sleep(0.01)
        await queue.aget()
        queue.task_done()

    async def main() -> None:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(take_two_and_finish_one)
            tasks.start_soon(take_two_and_finish_one)

    assert left_by(lambda: run(main), queue) == ["c", "d"]


def test_a_task_without_items_finishes_another_s(run: Run) -> None:
    queue = penstock.JoinableQueue()
    queue.put_many("ab")

    async def main() -> None:
        await queue.aget_many()
        async with anyio.create_task_group() as tasks:

            async def finish() -> None:
                await anyio.sleep(0)
                queue.task_done()

            tasks.start_soon(finish)

    assert left_by(lambda: run(main), queue) == ["b"]


def test_iteration_finishes_the_item_before(run: Run) -> None:
    queue = penstock.JoinableQueue()
    queue.put_many(range(5))
    queue.shutdown()

    async def main() -> list[Any]:
        return [(item, queue.statistics().unfinished) async for item in queue]

    assert run(main) == [(0, 5), (1, 4), (2, 3), (3, 2), (4, 1)]
    queue.join()


@pytest.mark.parametrize("verb", ["ack", "nack"])
@pytest.mark.parametrize("by", ["lease", "loop"])
def test_tasks_wait_for_each_other_after_a_shutdown(run: Run, by: str, verb: str) -> None:
    """What one task has in hand is another one's if it comes back."""
    queue = penstock.JoinableQueue()
    queue.put("a")
    taken = []

    async def work() -> None:
        if by == "loop":
            async for item in queue:
                taken.append(item)
            return
        with suppress(penstock.ShutDown):
            while True:
                async with queue.lease() as lease:
                    taken.append(lease.item)

    async def main() -> None:
        async with anyio.create_task_group() as tasks, queue.lease() as lease:
            queue.shutdown()
            tasks.start_soon(work)
            tasks.start_soon(work)
            await until_waiting(2)
            await anyio.sleep(0.05)
            getattr(lease, verb)()

    run(main)
    assert taken == ["a"] * (verb == "nack")
    queue.join()
    assert queue.check() == []


def test_no_task_waits_for_itself_after_a_shutdown(run: Run) -> None:
    """Also not behind the turn of a task that waits for its item."""
    queue = penstock.JoinableQueue()
    queue.put("a")
    seen = []

    async def work() -> None:
        async for item in queue:
            seen.append(item)

    async def main() -> None:
        async with anyio.create_task_group() as tasks:
            async for item in queue:
                queue.shutdown()
                tasks.start_soon(work)
                await until_waiting(1)
                assert [inner async for inner in queue] == []
                with pytest.raises(penstock.ShutDown):
                    await queue.aget()
                with pytest.raises(penstock.ShutDown):
                    async with queue.lease():
                        pass
                seen.append(item)

    run(main)
    assert seen == ["a"]
    queue.join()


async def taking(queue: Any, takes: str) -> None:
    match takes:
        case "aget":
            await queue.aget()
        case "aget_many":
            await queue.aget_many()
        case "lease":
            async with queue.lease():
                pass
        case _:
            async for _ in queue:
                pass
            raise penstock.ShutDown


@pytest.mark.parametrize("takes", ["aget", "aget_many", "lease", "loop"])
@pytest.mark.parametrize("comes", ["before the shutdown", "after it"])
def test_a_task_with_the_last_item_learns_of_the_end_behind_others(run: Run, takes: str, comes: str) -> None:
    """The first one waits for the item that the second one has in hand."""
    queue = penstock.JoinableQueue()
    queue.put("a")

    async def wait() -> None:
        assert [item async for item in queue] == []

    async def shut_down() -> None:
        await until_waiting(2)
        await anyio.sleep(0.01)  # both sleep
        queue.shutdown()

    async def main() -> None:
        assert await queue.aget() == "a"
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(wait)
            await until_waiting(1)
            if comes == "after it":
                queue.shutdown()
                await anyio.sleep(0.01)
            else:
                tasks.start_soon(shut_down)
            with pytest.raises(penstock.ShutDown):
                await taking(queue, takes)
            queue.task_done()

    run(main)
    queue.join()
    assert queue.check() == []


@pytest.mark.parametrize("takes", ["aget", "aget_many", "anext"])
@pytest.mark.parametrize("comes", ["before the shutdown", "after it"])
def test_a_call_that_another_task_awaits_learns_of_the_end(run: Run, takes: str, comes: str) -> None:
    """What counts is what the caller has in hand, as with `asyncio.wait_for`."""
    queue = penstock.JoinableQueue()
    queue.put("a")
    ended = []

    async def wait() -> None:
        assert [item async for item in queue] == []

    async def run_call(call: Any) -> None:
        try:
            await call
        except (penstock.ShutDown, StopAsyncIteration):
            ended.append(takes)

    async def main() -> None:
        assert await queue.aget() == "a"
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(wait)
            await until_waiting(1)
            if comes == "after it":
                queue.shutdown()
            tasks.start_soon(run_call, anext(aiter(queue)) if takes == "anext" else getattr(queue, takes)())
            if comes != "after it":
                await until_waiting(2)
                await anyio.sleep(0.01)
                queue.shutdown()
            while not ended:
                await anyio.sleep(0.01)
            queue.task_done()

    run(main)
    queue.join()


def test_one_iterator_does_not_serve_two_tasks(run: Run) -> None:
    """The second call would finish the item of the first one."""
    queue = penstock.JoinableQueue()

    async def main() -> None:
        items, got = aiter(queue), []

        async def take() -> None:
            got.append(await anext(items))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(take)
            await until_waiting(1)
            with pytest.raises(ValueError, match="each task needs its own"):
                await anext(items)
            queue.put("a")
        with anyio.move_on_after(0.01):
            await anext(items)  # finishes "a", and is cancelled
        assert queue.statistics().unfinished == 0
        queue.put("b")
        got.append(await anext(items))
        assert got == ["a", "b"]

    run(main)


@pytest.mark.parametrize("raises", [False, True])
def test_iteration_that_ends_early_keeps_its_item(run: Run, raises: bool) -> None:
    queue = penstock.JoinableQueue()
    queue.put_many("abc")

    async def main() -> None:
        try:
            async for item in queue:
                if item == "b":
                    if raises:
                        raise LookupError
                    break
        except LookupError:
            assert raises

    assert left_by(lambda: run(main), queue) == ["b", "c"]


def test_an_item_that_the_body_finishes_is_not_finished_twice(run: Run) -> None:
    queue = penstock.JoinableQueue()
    queue.put_many("abc")

    async def main() -> None:
        older = await queue.aget()
        assert older == "a"
        async for item in queue:
            # The oldest of the task, then the one of the iteration.
            queue.task_done()
            queue.task_done()
            assert queue.statistics().unfinished == 1
            assert item == "b"
            assert await queue.aget() == "c"
            break
        else:
            raise AssertionError
        queue.put("d")
        async for item in queue:
            assert (item, queue.statistics().unfinished) == ("d", 2)
            queue.task_done()  # "c"
            queue.task_done()  # "d"
            queue.put("e")
            async for inner in queue:
                assert (inner, queue.statistics().unfinished) == ("e", 1)
                break
            queue.task_done()
            queue.shutdown()
        assert queue.statistics().unfinished == 0

    run(main)
    queue.join()
    assert queue.check() == []


def test_an_iteration_after_a_thread_s_items(run: Run) -> None:
    """What the thread took before the loop ran is another holder's."""
    queue = penstock.JoinableQueue()
    queue.put_many("abc")
    queue.shutdown()

    def work() -> None:
        assert queue.get() == "a"

        async def main() -> None:
            try:
                async for _ in queue:
                    pass
            except penstock.ShutDown:
                raise AssertionError from None

        run(main)

    assert left_by(work, queue) == ["a"]


def test_a_lease_ends_with_its_block(run: Run) -> None:
    """It is done, failed, or released, if the task is cancelled in the block."""
    queue = penstock.JoinableQueue()

    async def main() -> list[Any]:
        seen = []

        async def work(outcome: str) -> None:
            async with queue.lease() as lease:
                seen.append((lease.item, lease.deliveries))
                if outcome == "fails":
                    raise LookupError
                if outcome == "is cancelled":
                    await anyio.sleep_forever()

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(work, "is cancelled")
            await until_waiting(1)
            queue.put("item")
            while not seen:
                await anyio.sleep(0)
            tasks.cancel_scope.cancel()
        with pytest.raises(LookupError):
            await work("fails")
        await work("is done")
        await queue.ajoin()
        return seen

    assert run(main) == [("item", 1), ("item", 1), ("item", 2)]
    assert queue.check() == []


def test_a_task_that_is_cancelled_before_has_leased_nothing(run: Run) -> None:
    queue = penstock.JoinableQueue()

    async def main() -> None:
        async with anyio.create_task_group() as tasks:

            async def lease() -> None:
                async with queue.lease():
                    raise AssertionError

            tasks.start_soon(lease)
            await until_waiting(1)
            queue.put("item")
            tasks.cancel_scope.cancel()

    run(main)
    assert queue.get(block=False) == "item"
    queue.task_done()
    queue.join()


def test_leases_of_several_items(run: Run) -> None:
    queue = penstock.JoinableQueue()

    async def main() -> list[Any]:
        got = []
        async with anyio.create_task_group() as tasks:

            async def lease() -> None:
                async with queue.leases(2) as batch:
                    for lease in batch:
                        got.append(lease.item)
                        if lease.item == "a":
                            break

            tasks.start_soon(lease)
            await until_waiting(1)
            queue.put_many("abc")
        async with queue.leases(5) as batch:
            got += [lease.item for lease in batch]
        await queue.ajoin()
        return got

    assert run(main) == ["a", "b", "c"]


@pytest.mark.parametrize("outcome", ["fails", "is cancelled"])
@pytest.mark.parametrize("begun", [0, 1, 3])
def test_a_batch_whose_block_does_not_end_in_order(run: Run, outcome: str, begun: int) -> None:
    """The one that has begun fails, or is released; the others are released, in their order."""
    queue = penstock.JoinableQueue()
    queue.put_many(range(10))

    async def work(has: Any) -> None:
        async with queue.leases(10) as batch:
            for _ in range(begun):
                next(batch)
            has.set()
            if outcome == "fails":
                raise LookupError
            await anyio.sleep_forever()

    async def main() -> None:
        has = anyio.Event()
        if outcome == "fails":
            with pytest.raises(LookupError):
                await work(has)
        else:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(work, has)
                await has.wait()
                tasks.cancel_scope.cancel()
        async with queue.leases(20) as batch:
            left = [(lease.item, lease.deliveries) for lease in batch]
        first = max(begun - 1, 0)
        expected = [(number, 1) for number in range(first, 10)]
        if begun and outcome == "fails":
            expected[0] = (first, 2)
        assert left == expected

    run(main)
    queue.join()
    assert queue.check() == []


def test_one_settlement_of_a_batch_fails(run: Run) -> None:
    """The others are made all the same."""
    queue = penstock.JoinableQueue()
    queue.put_many(range(5))

    class Failing:
        def __init__(self, hold: Any) -> None:
            self.hold = hold

        def release_now(self) -> bool:
            raise LookupError

        def __getattr__(self, name: str) -> Any:
            return getattr(self.hold, name)

    async def main() -> None:
        async with queue.leases(5) as batch:
            next(batch)
            lease = batch._waiting[-1]
            lease._hold = Failing(lease._hold)

    def run_and_collect() -> None:
        with pytest.raises(LookupError):
            run(main)
        gc.collect()

    with pytest.warns(ResourceWarning):
        run_and_collect()
    assert queue.statistics().taken == 1
    queue.task_done()
    assert queue.get_many() == [2, 3, 4]


def test_a_failure_of_a_task_that_cannot_be_told(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    queue = penstock.JoinableQueue(max_deliveries=0)
    queue.put("a")

    def no_memory(_: BaseException) -> list[str]:
        raise MemoryError

    monkeypatch.setattr("penstock.leases.format_exception", no_memory)

    async def main() -> None:
        with pytest.raises(LookupError):
            async with queue.lease():
                raise LookupError

    run(main)
    assert [(letter.item, letter.traceback) for letter in queue.dead_letters()] == [("a", "")]
    queue.join()


@pytest.mark.parametrize("where", ["_async.hubs.tell", "leases.Lease"])
@pytest.mark.parametrize("many", [False, True])
def test_what_is_taken_for_a_block_that_does_not_begin(
    run: Run, monkeypatch: pytest.MonkeyPatch, where: str, many: bool
) -> None:
    """An exception may come right after the items were taken: Ctrl-C, or too little memory."""
    queue = penstock.JoinableQueue()
    queue.put_many("abc")

    def no_memory(*_: Any) -> None:
        raise MemoryError

    async def main() -> None:
        with monkeypatch.context() as patched:
            patched.setattr(f"penstock.{where}", no_memory)
            with pytest.raises(MemoryError):
                async with queue.leases(3) if many else queue.lease():
                    raise AssertionError

    run(main)
    assert queue.statistics().taken == 0
    assert queue.get_many() == ["a", "b", "c"]


def test_an_interrupted_acknowledgement_of_a_task_s_batch(run: Run) -> None:
    queue = penstock.JoinableQueue()
    queue.put_many("abc")

    class Interrupted(Exception):
        pass

    async def main() -> None:
        async with queue.leases(3) as batch:
            first = next(batch)
            finish = first._hold

            class Hold:
                def finish(self) -> bool:
                    raise Interrupted

                def __getattr__(self, name: str) -> Any:
                    return getattr(finish, name)

            first._hold = Hold()
            next(batch)

    with pytest.raises(Interrupted):
        run(main)
    assert queue.get_many() == ["b", "c"]
    assert queue.statistics().unfinished == 2


def test_what_a_task_acknowledges_gives_its_memory_back(run: Run) -> None:
    queue = penstock.JoinableQueue()
    queue.put(bytes(64 << 20))

    async def main() -> None:
        async with queue.lease():
            assert queue.statistics().memory_bytes > 64 << 20

    run(main)
    assert queue.statistics().memory_bytes < 32 << 20


@pytest.mark.parametrize("where", ["around", "inside"])
def test_a_time_out_around_a_block_and_inside_it(run: Run, where: str) -> None:
    """Around it cancels the task, which releases the item; inside, the work fails."""
    queue = penstock.JoinableQueue()
    queue.put("slow")

    async def main() -> list[int]:
        with suppress(TimeoutError):
            if where == "around":
                with anyio.fail_after(0.01):
                    async with queue.lease():
                        await anyio.sleep_forever()
            async with queue.lease() as lease:
                if where == "inside":
                    with anyio.fail_after(0.01):
                        await anyio.sleep_forever()
        async with queue.lease() as lease:
            return [lease.deliveries]

    assert run(main) == ([1] if where == "around" else [2])


def test_a_lease_in_a_task_takes_no_time_out(run: Run) -> None:
    queue = penstock.JoinableQueue()

    async def main() -> None:
        for leasing in (queue.lease(timeout=1), queue.leases(2, timeout=1)):
            with pytest.raises(ValueError, match="timeout"):
                async with leasing:
                    raise AssertionError

    run(main)


# ----------------------------------------------------------------------------- the loop's own item comes last


@pytest.mark.parametrize("done", [1, 2])
def test_the_body_takes_and_finishes_others(run: Run, done: int) -> None:
    """As in a `for` loop: the first `task_done` is for what the body has taken, the second for the loop's."""
    queue = penstock.JoinableQueue()
    queue.put_many("abc")

    async def main() -> None:
        async for item in queue:
            assert (item, await queue.aget()) == ("a", "b")
            for _ in range(done):
                queue.task_done()
            break

    assert left_by(lambda: run(main), queue) == (["a", "c"] if done == 1 else ["c"])


@pytest.mark.parametrize("others", [0, 1, 3, 100])
@pytest.mark.parametrize("done", [0, 1, 3, 100])
def test_each_is_counted_once(run: Run, others: int, done: int) -> None:
    queue = penstock.JoinableQueue()
    done = min(done, others + 1)
    queue.put_many(range(2 + others))

    async def main() -> None:
        number = 0
        async for item in queue:
            if number == 1:
                assert item == 1 + others
                break
            number += 1
            for _ in range(others):
                await queue.aget()
            for _ in range(done):
                queue.task_done()

    run(main)
    assert queue.statistics().unfinished == 2 + others - (min(done, others) + 1)


def test_loops_inside_each_other(run: Run) -> None:
    queue = penstock.JoinableQueue()
    queue.put_many(range(6))
    queue.shutdown()

    async def main() -> list[Any]:
        seen = []
        async for outer in queue:
            async for inner in queue:
                seen.append((outer, inner))
                if inner % 2:
                    queue.task_done()
                    break
        return seen

    assert run(main) == [(0, 1), (2, 3), (4, 5)]
    queue.join()


def test_loops_of_tasks_beside_each_other(run: Run) -> None:
    """What one task finishes in its loop's body is never the item of another task's loop."""
    queue = penstock.JoinableQueue()
    queue.put_many(range(300))
    queue.shutdown()
    wrong = []

    async def work() -> None:
        async for _ in queue:
            await anyio.sleep(0)
            extra = queue.get(block=False) if queue.qsize() else None
            await anyio.sleep(0)
            before = queue.statistics().unfinished
            if extra is not None:
                queue.task_done()
                if queue.statistics().unfinished != before - 1:
                    wrong.append(extra)

    async def main() -> None:
        async with anyio.create_task_group() as tasks:
            for _ in range(5):
                tasks.start_soon(work)

    run(main)
    assert wrong == []
    queue.join()
    assert queue.check() == []


class Unbuildable:
    """Its object cannot be rebuilt."""

    def __reduce__(self) -> Any:
        return (fail, ())


def fail() -> None:
    raise LookupError("this object cannot be rebuilt")


def test_what_cannot_be_rebuilt_is_finished_by_the_next(run: Run) -> None:
    queue = penstock.JoinableQueue()
    queue.put(Unbuildable())
    queue.put("next")

    async def main() -> None:
        items = aiter(queue)
        with pytest.raises(LookupError):
            await anext(items)
        assert queue.statistics().unfinished == 2
        assert await anext(items) == "next"
        assert queue.statistics().unfinished == 1

    run(main)


def test_a_loop_begins_to_acknowledge(run: Run) -> None:
    """From its first item on nothing is set aside: all that a killed worker has in hand comes back."""
    queue = penstock.JoinableQueue()
    queue.put_many("abc")

    async def main() -> None:
        async for _ in queue:
            await queue.aget()
            await queue.aget()
            break

    assert left_by(lambda: run(main), queue) == ["a", "b", "c"]


# ------------------------------------------------------------------------ a task that lets another one await


@pytest.mark.parametrize("how", ["wait_for", "create_task", "gather", "wait"])
@pytest.mark.parametrize("takes", ["aget", "aget_many", "anext"])
def test_an_item_is_the_task_s_that_calls(how: str, takes: str) -> None:
    """Two workers take an item each, in tasks of their own. The second one says done."""
    queue = penstock.JoinableQueue()

    async def work(events: list[asyncio.Event], finishes: bool) -> None:
        match takes:
            case "aget":
                call = queue.aget()
            case "aget_many":
                call = queue.aget_many(1)
            case _:
                call = anext(aiter(queue))
        match how:
            case "wait_for":
                await asyncio.wait_for(call, 30)
            case "create_task":
                await asyncio.create_task(call)
            case "gather":
                await asyncio.gather(call)
            case _:
                await asyncio.wait([asyncio.ensure_future(call)])
        events[0].set()
        await events[1].wait()
        if finishes:
            queue.task_done()

    async def main() -> None:
        queue.put_many("ab")
        events = [[asyncio.Event(), asyncio.Event()] for _ in range(2)]
        workers = []
        for number in range(2):
            workers.append(asyncio.create_task(work(events[number], number == 1)))
            await events[number][0].wait()
        for event in reversed(events):
            event[1].set()
            await asyncio.sleep(0)
        await asyncio.gather(*workers)

    assert left_by(lambda: asyncio.run(main()), queue) == ["a"]


def test_tasks_that_await_nothing_finish_their_own(tmp_path: Path) -> None:
    """A queue that was opened while the loop ran. (In a process of its own, which has awaited nothing.)"""
    program = """
import asyncio, os, pickle, signal, penstock

async def work(queue, event, finishes):
    queue.get(block=False)
    await event.wait()
    if finishes:
        queue.task_done()

async def main():
    queue = pickle.loads(pickle.dumps(outer))
    events = [asyncio.Event(), asyncio.Event()]
    workers = [asyncio.create_task(work(queue, event, n == 1)) for n, event in enumerate(events)]
    await asyncio.sleep(0)
    for event in reversed(events):
        event.set()
        await asyncio.sleep(0)
    os.kill(os.getpid(), signal.SIGKILL)

outer = penstock.JoinableQueue()
outer.put_many("ab")
if not os.fork():
    asyncio.run(main())
os.wait()
while outer.statistics().taken:
    pass
print(outer.get_many())
"""
    programs.write(tmp_path, {"program.py": program})
    ended = programs.run(programs.PLAIN, ["program.py"], folder=tmp_path)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, b"['a']\n", b"")
