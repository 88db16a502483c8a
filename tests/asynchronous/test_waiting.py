"""Tasks wait for items, for room and for the end of all work, under each event loop."""

import gc
import os
import signal
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

import penstock
from penstock import errors
from penstock._async import hubs, turns
from tests.support.children import fork

anyio = pytest.importorskip("anyio")

Run = Callable[[Callable[[], Any]], Any]
CLASSES = [penstock.Queue, penstock.SimpleQueue, penstock.JoinableQueue]
BOUNDED = [penstock.Queue, penstock.JoinableQueue]


def in_process(function: Callable[..., Any], *arguments: Any) -> Any:
    """What the function returns in another process."""
    with fork(function, *arguments) as child:
        return child.result()


async def until_waiting(number: int) -> None:
    """Return once so many tasks of this loop wait, for all queues."""
    while (hub := hubs.known_hub()) is None or sum(len(each.waiters) for each in hub.turns.values()) < number:
        await anyio.sleep(0)


@pytest.mark.parametrize("new", CLASSES)
def test_nothing_to_wait_for(run: Run, new: Any) -> None:
    async def main() -> Any:
        async with new() as queue:
            await queue.aput("a")
            await queue.aput_many(["b", "c", "d"])
            await queue.aput_many(letter for letter in "ef")
            first = await queue.aget()
            return first, await queue.aget_many(2), await queue.aget_many()

    assert run(main) == ("a", ["b", "c"], ["d", "e", "f"])


@pytest.mark.parametrize("new", CLASSES)
def test_arguments_out_of_range_raise_at_once(new: Any) -> None:
    """And not when it is the task's turn, behind others that wait."""
    queue = new()
    for wrong in (0, -1, 1 << 70):
        with pytest.raises(ValueError, match="max_items"):
            queue.aget_many(wrong)
    with pytest.raises(TypeError):
        queue.aget_many("1")


@pytest.mark.parametrize("new", CLASSES)
def test_an_item_ends_the_wait(run: Run, new: Any) -> None:
    """It is put by another task, then by a thread, then by another process."""
    queue = new()

    async def main() -> list[Any]:
        got = []

        async def get() -> None:
            got.append(await queue.aget())

        for put in (
            queue.put,
            lambda item: threading.Thread(target=queue.put, args=(item,)).start(),
            lambda item: in_process(queue.put, item),
        ):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(get)
                await until_waiting(1)
                put(len(got))
        return got

    assert run(main) == [0, 1, 2]
    assert queue.check() == []


@pytest.mark.parametrize("new", BOUNDED)
def test_room_ends_the_wait(run: Run, new: Any) -> None:
    queue = new(maxsize=1)
    queue.put("first")

    def get_and_finish() -> Any:
        item = queue.get()
        if isinstance(queue, penstock.JoinableQueue):
            queue.task_done()
        return item

    async def main() -> None:
        for get in (get_and_finish, lambda: in_process(get_and_finish)):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(queue.aput, "next")
                await until_waiting(1)
                assert queue.full()
                assert get()

    run(main)
    assert queue.qsize() == 1
    assert queue.check() == []


def test_bytes_are_room_of_a_simple_queue(run: Run) -> None:
    queue = penstock.SimpleQueue()
    for _ in range(3):
        queue.put(bytes(500_000))

    async def main() -> None:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(queue.aput, "next")
            await until_waiting(1)
            for _ in range(3):
                queue.get()

    run(main)
    assert queue.get() == "next"


def test_the_last_item_done_ends_the_wait(run: Run) -> None:
    queue = penstock.JoinableQueue()
    queue.put_many("abc")

    def work() -> None:
        for _ in range(3):
            queue.get()
            queue.task_done()

    async def main() -> None:
        async with anyio.create_task_group() as tasks:
            for _ in range(3):
                tasks.start_soon(queue.ajoin)
            await until_waiting(3)
            in_process(work)
        await queue.ajoin()  # at once

    run(main)
    assert queue.check() == []


def test_many_are_put_as_there_is_room(run: Run) -> None:
    queue = penstock.Queue(maxsize=3)
    items = [*range(200), b"x" * 5000, [1], *range(200)]

    async def main() -> list[Any]:
        got: list[Any] = []
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(queue.aput_many, items)
            tasks.start_soon(queue.aput_many, (number for number in range(5)))
            while len(got) < len(items) + 5:
                got += await queue.aget_many()
        return got

    got = run(main)
    assert sorted(map(repr, got)) == sorted(map(repr, [*items, *range(5)]))


@pytest.mark.parametrize("new", BOUNDED)
def test_first_come_first_served(run: Run, new: Any) -> None:
    queue, got, put_ = new(maxsize=1), [], []

    async def get(number: int) -> None:
        got.append((number, await queue.aget()))

    async def put(number: int) -> None:
        await queue.aput(number)
        put_.append(number)

    async def main() -> None:
        async with anyio.create_task_group() as tasks:
            for number in range(10):
                tasks.start_soon(get, number)
                await until_waiting(number + 1)
            for number in range(10):
                await queue.aput(number)
        assert got == [(number, number) for number in range(10)]
        queue.put("full")
        async with anyio.create_task_group() as tasks:
            for number in range(10):
                tasks.start_soon(put, number)
                await until_waiting(number + 1)
            got[:] = [await queue.aget() for _ in range(11)]

    run(main)
    assert got == ["full", *range(10)]
    assert put_ == [*range(10)]


@pytest.mark.parametrize("immediate", [False, True])
def test_a_shutdown_ends_every_wait(run: Run, immediate: bool) -> None:
    empty, full, work = penstock.Queue(), penstock.Queue(maxsize=1), penstock.JoinableQueue()
    full.put("x")
    work.put("y")
    ended = []

    async def until_shut_down(call: Any, *arguments: Any) -> None:
        with pytest.raises(penstock.ShutDown):
            await call(*arguments)
        ended.append(call)

    async def main() -> None:
        async with anyio.create_task_group() as tasks:
            for _ in range(3):
                tasks.start_soon(until_shut_down, empty.aget)
                tasks.start_soon(until_shut_down, full.aput, "z")
            tasks.start_soon(until_shut_down, empty.aget_many)
            tasks.start_soon(until_shut_down, full.aput_many, "zzz")
            tasks.start_soon(work.ajoin)
            await until_waiting(9)
            for queue in (empty, full):
                in_process(queue.shutdown, immediate)
            if immediate:
                in_process(work.shutdown, True)
            else:
                work.get()
                work.task_done()

    run(main)
    assert len(ended) == 8
    for queue in (empty, full, work):
        assert queue.check() == []


def test_an_item_that_comes_back_after_a_shutdown(run: Run) -> None:
    """The queue's descriptor is readable meanwhile: the wait does not spin."""
    attempts = 0

    class Counting(penstock.JoinableQueue):
        def _get_now(self, nothing: Any, task: int) -> Any:
            nonlocal attempts
            attempts += 1
            return super()._get_now(nothing, task)

    queue, told = Counting(), penstock.Queue()
    queue.put("item")

    def hold() -> None:
        queue.get()
        told.put("taken")
        penstock.Queue().get()

    async def get() -> None:
        assert await queue.aget() == "item"
        queue.task_done()
        with pytest.raises(penstock.ShutDown):
            await queue.aget()

    async def main(holder: Any) -> None:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(get)
            await until_waiting(1)
            began = time.monotonic()
            await anyio.sleep(0.5)
            assert attempts <= 5 + (time.monotonic() - began) / 0.05
            holder.kill()

    with fork(hold) as holder:
        assert told.get() == "taken"
        queue.shutdown()
        run(lambda: main(holder))
    queue.join()


def test_what_is_delayed_ends_the_wait(run: Run) -> None:
    """Also after a shutdown, and also if no other process calls the queue."""

    async def main(is_shut_down: bool) -> None:
        queue = penstock.JoinableQueue()
        queue.put("later", delay=0.2)
        if is_shut_down:
            queue.shutdown()
        assert await queue.aget() == "later"
        queue.task_done()
        await queue.ajoin()
        assert queue.check() == []

    for is_shut_down in (False, True):
        run(lambda is_shut_down=is_shut_down: main(is_shut_down))


@pytest.fixture
def without_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    """No slice ends: what is delayed is found at its time."""
    monkeypatch.setattr(turns, "SLICE", 1000.0)


@pytest.mark.parametrize("is_shut_down", [False, True])
def test_what_is_delayed_is_taken_at_its_time(run: Run, without_slices: None, is_shut_down: bool) -> None:
    queue = penstock.Queue()

    async def main() -> list[Any]:
        for number in range(5):
            queue.put(number, delay=0.05 + 0.01 * number)
        if is_shut_down:
            queue.shutdown()
        return [await queue.aget() for _ in range(5)]

    assert run(main) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(
    "by", ["the loop", "a process", "a process, after another", "the loop, before others"]
)
def test_what_is_due_earlier_is_taken_at_its_time(run: Run, without_slices: None, by: str) -> None:
    """It is put while the task sleeps until a later time, by a process that has not used the queue before.

    What passes before the task runs does not hide it: further puts, and the begin of a child.
    """
    queue = penstock.Queue()

    def put() -> None:
        if by == "a process, after another":
            queue.put("late", delay=900)
        queue.put("soon", delay=0.1)
        if by == "the loop, before others":
            queue.put("late", delay=900)

    queue.put("later", delay=1000)

    async def main() -> list[Any]:
        got = []

        async def get() -> None:
            got.append(await queue.aget())

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(get)
            await until_waiting(1)
            await anyio.sleep(0.01)  # it sleeps
            with fork(lambda: "a process" in by and put()) as child:
                if "the loop" in by:
                    put()
                while not got:
                    await anyio.sleep(0.01)
                child.wait()
        return got

    assert run(main) == ["soon"]
    assert queue.check() == []


def test_a_joiner_does_not_miss_the_end_of_all_work(run: Run) -> None:
    """Others are put at once, before the loop runs again."""
    queue = penstock.JoinableQueue()
    queue.put("first")

    async def main() -> None:
        async with anyio.create_task_group() as tasks:
            for _ in range(3):
                tasks.start_soon(queue.ajoin)
            await until_waiting(3)
            assert queue.get() == "first"
            queue.task_done()
            queue.put("second")
        with anyio.move_on_after(0.3) as scope:
            await queue.ajoin()
        assert scope.cancelled_caught, "that one has come later"

    run(main)
    assert queue.check() == []


def test_a_joiner_learns_of_the_end_while_a_process_goes_on(run: Run) -> None:
    queue = penstock.JoinableQueue()
    queue.put(0)

    def work() -> None:
        number = 0
        while True:
            queue.get()
            queue.task_done()
            number += 1
            queue.put(number)

    async def main() -> None:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(queue.ajoin)
            await until_waiting(1)
            with fork(work):
                while sum(len(each.waiters) for each in hubs.hub().turns.values()):
                    await anyio.sleep(0.01)

    run(main)


class Counted:
    """Counts how often its objects are pickled."""

    pickled = 0

    def __reduce__(self) -> Any:
        Counted.pickled += 1
        return (int, (1,))


def test_what_finds_no_room_is_not_pickled(run: Run) -> None:
    queue = penstock.Queue(maxsize=1)

    async def main() -> None:
        Counted.pickled = 0
        queue.put("full")
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(queue.aput_many, [Counted() for _ in range(10)])
            await until_waiting(1)
            await anyio.sleep(0.3)  # the attempts of slices
            assert Counted.pickled == 0
            for _ in range(11):
                await queue.aget()

    run(main)
    assert Counted.pickled == 10


def test_the_death_of_the_last_producer_ends_the_wait(run: Run) -> None:
    queue = penstock.Queue()

    def produce() -> None:
        with queue.producing():
            queue.put("item")
            penstock.Queue().get()

    async def main(producer: Any) -> list[Any]:
        got = []
        async for item in queue:
            got.append(item)
            producer.kill()
        return got

    with fork(produce) as producer:
        assert run(lambda: main(producer)) == ["item"]


def test_iteration_ends_with_the_shutdown(run: Run) -> None:
    queue = penstock.Queue()

    async def main() -> list[Any]:
        got = []
        async with anyio.create_task_group() as tasks:

            async def put() -> None:
                for number in range(3):
                    await queue.aput(number)
                    await anyio.sleep(0)
                queue.shutdown()

            tasks.start_soon(put)
            async for item in queue:
                got.append(item)
        return got

    assert run(main) == [0, 1, 2]


def test_what_does_not_pickle_is_not_put(run: Run) -> None:
    queue = penstock.Queue(maxsize=2)
    queue.put_many(["full", "full"])

    async def put() -> None:
        with pytest.raises(Exception, match="pickle"):
            await queue.aput(lambda: None)

    async def main() -> None:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(put)
            await until_waiting(1)
            queue.get_many()
        await put()
        with pytest.raises(Exception, match="pickle") as caught:
            await queue.aput_many(["a", lambda: None])
        assert caught.value.items_put == 1  # type: ignore[attr-defined]

    run(main)
    assert queue.get_many() == ["a"]


def test_too_little_memory_raises_at_once(run: Run) -> None:
    queue = penstock.Queue(max_bytes=100_000)

    async def main() -> None:
        with pytest.raises(errors.QueueMemoryError):
            await queue.aput(bytes(200_000))

    run(main)


@pytest.mark.parametrize(("new", "error"), [(penstock.Queue, ValueError), (penstock.SimpleQueue, OSError)])
def test_a_handle_that_is_closed_while_tasks_wait(run: Run, new: Any, error: Any) -> None:
    queue = new()

    async def wait() -> None:
        with pytest.raises(error, match="closed"):
            await queue.aget()

    async def main() -> None:
        async with anyio.create_task_group() as tasks:
            for _ in range(3):
                tasks.start_soon(wait)
            await until_waiting(3)
            queue.close()
        with pytest.raises(error, match="closed"):
            await queue.aget()
        with pytest.raises(error, match="closed"):
            await queue.aput(1)

    run(main)


@pytest.mark.parametrize("comes", ["before the close", "after it"])
def test_joining_a_queue_that_this_process_has_closed(run: Run, comes: str) -> None:
    """As `join` does, also if what it would wait with is closed."""
    queue = penstock.JoinableQueue()
    queue.put("item")
    told = penstock.Queue()

    def work() -> None:
        told.get()
        queue.get()
        queue.task_done()

    async def main(worker: Any) -> None:
        ended = False

        async def join() -> None:
            nonlocal ended
            await queue.ajoin()
            ended = True

        async with anyio.create_task_group() as tasks:
            if comes == "after it":
                queue.close()
            tasks.start_soon(join)
            await until_waiting(1)
            queue.close()
            await anyio.sleep(0.3)
            assert not ended
            told.put("go")

    with fork(work) as worker:
        run(lambda: main(worker))
        worker.result()


@pytest.mark.parametrize("number", ["is closed", "is another file's"])
def test_a_descriptor_that_is_closed_before_the_loop_watches_it(
    run: Run, monkeypatch: pytest.MonkeyPatch, number: str
) -> None:
    """By another thread, that closes the queue."""
    reader, writer = os.pipe()
    os.write(writer, b"x")  # it is readable for ever
    others = [reader, writer]

    class Closing(penstock.Queue):
        def _descriptor(self, awaited: int) -> int | None:
            found = super()._descriptor(awaited)
            self.close()
            assert found is not None
            if number == "is another file's":
                others.append(os.dup2(reader, found))
            return found

    queue = Closing()

    async def main() -> None:
        for _ in range(2):
            with pytest.raises(ValueError, match="closed"):
                await queue.aget()

    run(main)
    for descriptor in others:
        os.close(descriptor)


def test_the_next_queue_after_one_was_closed(run: Run) -> None:
    """Its descriptors have the numbers of the former one's. A child has the former ones still."""

    async def main() -> None:
        for number in range(20):
            queue = penstock.Queue()
            async with anyio.create_task_group() as tasks:
                got: list[Any] = []

                async def get(queue: Any = queue, got: Any = got) -> None:
                    got.append(await queue.aget())

                tasks.start_soon(get)
                await until_waiting(1)
                with fork(signal.pause):
                    queue.put(number)
                    while not got:
                        await anyio.sleep(0)
                    queue.close()
            assert got == [number]

    run(main)


@pytest.mark.parametrize("same", [False, True])
def test_a_child_that_has_the_former_queue_wakes_nobody(
    run: Run, monkeypatch: pytest.MonkeyPatch, same: bool
) -> None:
    """What it has open is readable for good, and has the number of the next queue's descriptor."""
    events = 0
    see_events = turns.Hub.see_events

    def count(hub: turns.Hub) -> None:
        nonlocal events
        events += 1
        see_events(hub)

    monkeypatch.setattr(turns.Hub, "see_events", count)

    async def main() -> None:
        nonlocal events
        former = penstock.Queue(maxsize=1)
        if same:  # a task waits for the next one while the former one's number is known
            former.put("backlog")
        async with anyio.create_task_group() as tasks:
            got: list[Any] = []

            async def get(queue: Any, count: int) -> None:
                for _ in range(count):
                    got.append(await queue.aget())

            tasks.start_soon(get, former, 2 if same else 1)
            await until_waiting(1)
            with fork(signal.pause):
                former.put("last")
                while len(got) < (2 if same else 1):
                    await anyio.sleep(0)
                former.put("backlog")
                former.close()
                queue = penstock.Queue()
                tasks.start_soon(get, queue, 1)
                await until_waiting(1)
                await anyio.sleep(0.05)
                before = events
                await anyio.sleep(0.3)
                assert events - before < 30
                queue.put("next")
        assert got[-1] == "next"

    run(main)


def test_a_thousand_queues_on_one_loop(run: Run) -> None:
    queues = [penstock.Queue(maxsize=1) for _ in range(1000)]
    before = len(os.listdir("/proc/self/fd"))

    def put() -> None:
        for number, queue in enumerate(queues):
            queue.put(number)

    async def main() -> None:
        got = []

        async def get(queue: Any) -> None:
            got.append(await queue.aget())
            await queue.aput("x")
            await queue.aput("y")

        async with anyio.create_task_group() as tasks:
            for queue in queues:
                tasks.start_soon(get, queue)
            await until_waiting(1000)
            threads = threading.active_count()
            with fork(put):
                while len(got) < 1000:
                    await anyio.sleep(0.001)
            await until_waiting(1000)  # for room
            assert threading.active_count() == threads
            # At most two descriptors a queue, and one for the loop (which has a few of its own).
            assert len(os.listdir("/proc/self/fd")) - before < 2000 + 20
            for queue in queues:
                assert await queue.aget() == "x"
        assert sorted(got) == [*range(1000)]

    run(main)
    assert all(queue.get() == "y" for queue in queues)


def test_descriptors_go_with_the_loop(run: Run, request: pytest.FixtureRequest) -> None:
    """At once. What trio has of a run goes when the garbage collector runs, and so does this."""
    queue = penstock.Queue()

    async def main() -> None:
        with anyio.move_on_after(0.01):
            await queue.aget()

    run(main)
    gc.collect()
    before = len(os.listdir("/proc/self/fd"))
    gc.disable()
    try:
        for _ in range(5):
            run(main)
        if request.node.callspec.params["run"] == "trio":
            gc.collect()
        assert len(os.listdir("/proc/self/fd")) == before
    finally:
        gc.enable()


def test_loops_of_two_threads(run: Run) -> None:
    queue, back = penstock.Queue(maxsize=2), penstock.Queue(maxsize=2)
    failures: list[BaseException] = []

    async def answer() -> None:
        for _ in range(500):
            await back.aput(await queue.aget() + 1)

    async def ask() -> None:
        for number in range(500):
            await queue.aput(number)
            assert await back.aget() == number + 1

    def in_thread() -> None:
        try:
            run(answer)
        except BaseException as failure:
            failures.append(failure)
            raise

    thread = threading.Thread(target=in_thread)
    thread.start()
    run(ask)
    thread.join()
    assert failures == []
    assert queue.check() == back.check() == []


def test_many_processes_and_tasks(run: Run) -> None:
    """Nothing is lost or doubled between loops, threads and processes on a narrow queue."""
    queue, results = penstock.Queue(maxsize=4), penstock.Queue()

    def synchronous() -> None:
        for number in range(200):
            queue.put(number)

    def asynchronous() -> None:
        async def take() -> None:
            while (item := await queue.aget()) is not None:
                results.put(item)

        async def main() -> None:
            async with anyio.create_task_group() as tasks:
                for _ in range(4):
                    tasks.start_soon(take)

        run(main)

    async def put() -> None:
        async with anyio.create_task_group() as tasks:

            async def put_some(start: int) -> None:
                for number in range(start, start + 100):
                    await queue.aput(number)

            for start in range(200, 600, 100):
                tasks.start_soon(put_some, start)

    children = [fork(synchronous), fork(asynchronous), fork(asynchronous)]
    run(put)
    children[0].result()

    async def end() -> None:
        await queue.aput_many([None] * 8)

    run(end)
    for child in children[1:]:
        child.result()
    for child in children:
        child.close()
    got = results.get_many()
    assert sorted(got) == [*range(600)]
    assert queue.check() == []
