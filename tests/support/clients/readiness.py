"""Waiting for several things at once: queues, connections, sockets and processes, with every tool for it."""

import asyncio
import select
import selectors
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from multiprocessing import connection
from queue import Empty
from typing import Any

from penstock.connections import Connection
from tests.support.clients import finish, main, raised_by
from tests.support.waiting import until

QUEUES = ("Queue", "SimpleQueue", "JoinableQueue")
WORKERS = 3
ITEMS = 100


def give(way: str, sign: Any) -> None:
    if isinstance(sign, socket.socket):
        sign.sendall(way.encode())
    elif isinstance(sign, connection.Connection):
        sign.send(way)
    else:
        sign.put(way)


def take(sign: Any) -> str:
    if isinstance(sign, socket.socket):
        return sign.recv(100).decode()
    found: str = sign.recv() if isinstance(sign, connection.Connection) else sign.get()
    return found


def obey(orders: Any, signs: dict[str, Any]) -> None:
    for way in iter(orders.get, None):
        give(way, signs[way])


class Signs:
    """Ways to give a sign, and a process that gives one on command."""

    def __init__(self, context: Any, closing: ExitStack) -> None:
        queues = {name: getattr(context, name)() for name in QUEUES}
        pairs = {
            "one way": context.Pipe(duplex=False),
            "both ways": context.Pipe(),
            "standard": connection.Pipe(),
            "socket": socket.socketpair(),
        }
        assert isinstance(pairs["both ways"][0], Connection)
        assert not isinstance(pairs["standard"][0], Connection)
        self.ways: dict[str, Any] = {**queues, **{name: here for name, (here, _) in pairs.items()}}
        self._orders = context.SimpleQueue()
        there = {**queues, **{name: there for name, (_, there) in pairs.items()}}
        self.process = context.Process(target=obey, args=(self._orders, there))
        self.process.start()
        for near, far in pairs.values():
            far.close()
            closing.enter_context(near)

    def order(self, way: str | None) -> None:
        self._orders.put(way)


@contextmanager
def opened(context: Any) -> Iterator[Signs]:
    with ExitStack() as closing:
        signs = Signs(context, closing)
        yield signs
        if signs.process.is_alive():
            signs.order(None)
        finish(signs.process)


def with_connection_wait(context: Any) -> None:
    with opened(context) as signs:
        ways, sentinel = signs.ways, signs.process.sentinel
        everything = [*ways.values(), sentinel]
        for way in [*ways, *ways]:
            signs.order(way)
            assert connection.wait(everything) == [ways[way]]
            assert take(ways[way]) == way
            assert connection.wait(everything, 0) == []
        for way in ways:
            signs.order(way)
        until(lambda: len(connection.wait(everything, 0)) == len(ways))
        for number, (way, sign) in enumerate(ways.items(), 1):
            assert take(sign) == way
            assert connection.wait(everything, 0) == list(ways.values())[number:]
        # The end of the process shows on the ways that it alone could write to.
        signs.order(None)
        until(lambda: len(connection.wait(everything, 0)) == 5)
        assert connection.wait(everything) == [*everything[len(QUEUES) :]]
        assert isinstance(raised_by(take, ways["one way"]), EOFError)
        assert isinstance(raised_by(take, ways["both ways"]), EOFError)


def with_selectors(context: Any) -> None:
    with opened(context) as signs:
        for make in (selectors.SelectSelector, selectors.PollSelector, selectors.EpollSelector):
            with make() as selector:
                for way, sign in signs.ways.items():
                    selector.register(sign, selectors.EVENT_READ, way)
                for way, sign in signs.ways.items():
                    signs.order(way)
                    assert [(key.data, key.fileobj) for key, _ in selector.select()] == [(way, sign)]
                    assert take(sign) == way
                    assert selector.select(0) == []


def with_poll(context: Any) -> None:
    with opened(context) as signs:
        poll = select.poll()
        for sign in signs.ways.values():
            poll.register(sign.fileno(), select.POLLIN)
        for way, sign in signs.ways.items():
            signs.order(way)
            assert poll.poll() == [(sign.fileno(), select.POLLIN)]
            assert poll.poll() == [(sign.fileno(), select.POLLIN)]
            assert take(sign) == way
            assert poll.poll(0) == []


async def receive_all(signs: Signs) -> dict[str, list[str]]:
    received: dict[str, list[str]] = {way: [] for way in signs.ways}
    done = asyncio.Event()

    def drain(way: str, sign: Any) -> None:
        while connection.wait([sign], 0):
            received[way].append(take(sign))
        if sum(map(len, received.values())) == len(signs.ways) * ITEMS:
            done.set()

    loop = asyncio.get_running_loop()
    for way, sign in signs.ways.items():
        loop.add_reader(sign.fileno(), drain, way, sign)
    await done.wait()
    for sign in signs.ways.values():
        assert loop.remove_reader(sign.fileno())
    return received


def with_asyncio(context: Any) -> None:
    with opened(context) as signs:
        del signs.ways["socket"]  # a stream has no messages
        for _ in range(ITEMS):
            for way in signs.ways:
                signs.order(way)
        received = asyncio.run(receive_all(signs))
        assert received == {way: [way] * ITEMS for way in signs.ways}


def serve(tasks: Any, results: Any, stop: Any) -> None:
    """A worker with an event loop, as in programs that wait for tasks and other events."""
    while True:
        ready = connection.wait([tasks, stop])
        if tasks not in ready:
            return
        try:
            task = tasks.get_nowait()
        except Empty:  # another worker was faster
            continue
        results.put(task * task)


def several_that_wait_for_one_queue(context: Any) -> None:
    makers: tuple[Callable[[], Any], ...] = (context.Queue, context.JoinableQueue)
    for make in makers:
        tasks, results = make(), context.SimpleQueue()
        stop, stopping = context.Pipe(duplex=False)
        workers = [context.Process(target=serve, args=(tasks, results, stop)) for _ in range(WORKERS)]
        for worker in workers:
            worker.start()
        for number in range(ITEMS):
            tasks.put(number)
        assert sorted(results.get() for _ in range(ITEMS)) == [number * number for number in range(ITEMS)]
        with stop, stopping:
            stopping.send("stop")
            finish(*workers)


PROGRAMS = {
    program.__name__: program
    for program in (
        with_connection_wait,
        with_selectors,
        with_poll,
        with_asyncio,
        several_that_wait_for_one_queue,
    )
}

if __name__ == "__main__":
    main(PROGRAMS)
