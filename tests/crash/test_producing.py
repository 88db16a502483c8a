"""Producers and consumers under every start method, killed at random moments: every loop ends.

PENSTOCK_PRODUCER_ROUNDS    rounds of the storm; 10 if it is not set
"""

import multiprocessing
import os
import random
import signal
import subprocess
import sys
import textwrap
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from penstock import JoinableQueue, Queue, SimpleQueue
from tests.support.children import Child, fork
from tests.support.programs import METHODS
from tests.support.waiting import until

ROUNDS = int(os.environ.get("PENSTOCK_PRODUCER_ROUNDS", "10"))
every_class = pytest.mark.parametrize("make", [Queue, SimpleQueue, JoinableQueue])


def produce(queue: Any, first: int, count: int) -> None:
    """Put numbers in a block of `producing()`."""
    with queue.producing():
        for number in range(first, first + count):
            queue.put(number)


def produce_and_stay(queue: Any, number: int) -> None:
    """The same, and end by a kill alone."""
    with queue.producing():
        queue.put(number)
        signal.pause()


def consume(queue: Any, results: Any) -> None:
    """Take all, and tell it."""
    results.put(list(queue))


@every_class
@pytest.mark.parametrize("method", METHODS)
def test_every_start_method(make: Callable[[], Any], method: str) -> None:
    context = multiprocessing.get_context(method)
    queue, results = make(), Queue[list[int]]()
    with queue.producing():
        consumer = context.Process(target=consume, args=(queue, results))
        ends = context.Process(target=produce, args=(queue, 0, 3))
        is_killed = context.Process(target=produce_and_stay, args=(queue, 3))
        processes = [consumer, ends, is_killed]
        for process in processes:
            process.start()
        until(lambda: queue.statistics().puts == 4)
        is_killed.kill()
        for process in processes[1:]:
            process.join()
        assert not queue.is_shutdown
    assert sorted(results.get()) == [0, 1, 2, 3]
    consumer.join()
    assert [process.exitcode for process in processes] == [0, 0, -signal.SIGKILL]


@every_class
def test_a_producer_that_nobody_reaps(make: Callable[[], Any]) -> None:
    """A zombie produces no more, whether its parent waits for the queue or another process does."""
    queue, told = make(), Queue[int]()

    def start_and_stay() -> None:
        for number in range(2):
            producer = os.fork()
            if producer == 0:
                produce_and_stay(queue, number)
            told.put(producer)
        signal.pause()

    with fork(start_and_stay) as parent, fork(list, queue) as consumer:
        producers = told.get(), told.get()
        until(lambda: queue.statistics().puts == 2)
        for producer in producers:
            os.kill(producer, signal.SIGKILL)
        assert sorted(consumer.result()) == [0, 1]
        assert list(queue) == []
        for producer in producers:
            assert " Z " in Path(f"/proc/{producer}/stat").read_text()
        assert not parent.has_ended()


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_a_producer_that_is_killed_at_import(tmp_path: Path, method: str) -> None:
    """It dies before it can say that it produces. The starter is a producer until all have ended."""
    program = tmp_path / "program.py"
    program.write_text(
        textwrap.dedent(f"""
        import multiprocessing, os, signal, sys
        import penstock

        if __name__ == "__mp_main__" and os.environ.get("DIES") == "1":
            os.kill(os.getpid(), signal.SIGKILL)

        def produce(queue):
            with queue.producing():
                queue.put("made")

        def consume(queue):
            for item in queue:
                print(item, flush=True)

        if __name__ == "__main__":
            context = multiprocessing.get_context({method!r})
            queue = penstock.Queue()
            os.environ["DIES"] = "0"
            multiprocessing.set_start_method({method!r})
            consumer = context.Process(target=consume, args=(queue,))
            consumer.start()
            with queue.producing():
                producers = [context.Process(target=produce, args=(queue,)) for _ in range(2)]
                producers[0].start()
                # That of the second one; a fork server has its environment from its start.
                os.environ["DIES"] = "1"
                if {method!r} == "forkserver":
                    producers[1] = multiprocessing.get_context("spawn").Process(target=produce, args=(queue,))
                producers[1].start()
                for producer in producers:
                    producer.join()
            consumer.join()
            print([producer.exitcode for producer in producers], consumer.exitcode)
        """)
    )
    ran = subprocess.run(
        [sys.executable, str(program)], capture_output=True, text=True, timeout=120, check=False
    )
    assert ran.stdout == f"made\n[0, {-signal.SIGKILL}] 0\n", ran.stderr


def test_a_process_that_ends_beside_its_daemon_thread() -> None:
    """A thread produces while its process ends in order. The process waits for its child, which consumes."""
    program = textwrap.dedent("""
        import multiprocessing, threading
        import penstock

        def consume(queue):
            print(sum(1 for _ in queue) > 0)

        def produce(queue, begun):
            with queue.producing():
                queue.put(1)
                begun.set()
                threading.Event().wait()

        if __name__ == "__main__":
            queue, begun = penstock.Queue(), threading.Event()
            multiprocessing.get_context("fork").Process(target=consume, args=(queue,)).start()
            threading.Thread(target=produce, args=(queue, begun), daemon=True).start()
            begun.wait()
    """)
    ran = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (ran.returncode, ran.stdout) == (0, "True\n"), ran.stderr


def test_a_producer_that_becomes_another_program() -> None:
    queue = Queue[int]()

    def work() -> None:
        with queue.producing():
            queue.put(1)
            os.execv(sys.executable, [sys.executable, "-c", "import signal; signal.pause()"])

    with fork(work) as child:
        assert list(queue) == [1]
        assert not child.has_ended()


# ---------------------------------------------------------------------------------------------- the storm


def storm(make: Callable[[], Any], seed: int) -> None:
    """Kill producers and consumers at random moments. Each survivor's loop ends, and the books balance."""
    rng = random.Random(seed)
    queue: Any = make()
    is_joinable = make is JoinableQueue

    def producing(first: int) -> int:
        with queue.producing():
            for number in range(1000):
                queue.put(first + number)
        return 1000

    def consuming() -> list[int]:
        return list(queue)

    def kill_some(children: list[Child], most: int) -> None:
        for child in rng.sample(children, rng.randint(0, most)):
            goal = rng.randrange(1500)
            while not child.has_ended() and queue.statistics().puts < goal:
                pass
            child.kill()

    with queue.producing():
        consumers = [fork(consuming) for _ in range(3)]
        producers = [fork(producing, number << 20) for number in range(3)]
        kill_some(producers, 3)
        # One of them at least goes on.
        kill_some(consumers[1:], 2)
        put_whole = [child for child in producers if child.wait() == 0]
    taken: Counter[int] = Counter()
    lost = 0
    for child in consumers:
        if child.wait() == 0:
            taken.update(child.result())
        else:
            lost += 1
    figures = queue.statistics()
    assert (figures.queued, figures.producers, figures.waiting_getters) == (0, 0, 0)
    assert queue.check() == []
    assert queue.is_shutdown
    if is_joinable:
        queue.join()
    # What a killed consumer had in its list is known to have been taken, by the figures alone.
    assert all(count == 1 for count in taken.values()), seed
    assert len(taken) <= figures.gets
    assert lost or len(taken) == figures.puts, seed
    for child in put_whole:
        child.result()
    for child in producers + consumers:
        child.close()


@pytest.mark.slow
@pytest.mark.limit(400)
@every_class
def test_a_storm(make: Callable[[], Any]) -> None:
    for _ in range(ROUNDS):
        storm(make, random.randrange(1 << 32))
