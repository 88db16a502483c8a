"""Items per second through one queue between event loops, and microseconds of a round trip of two loops.

Two processes, each with an asyncio loop. Beside them: the same without loops, `asyncio.Queue` and janus
in one process, and aioprocessing, whose waits are threads.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import signal
import socket
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import penstock

from .measured import Measured, interleave

_CONTEXT = multiprocessing.get_context("fork")
_ITEM = (12345, "task", 1.5)
_WARM_UP = 200

Results = dict[str, dict[str, Measured]]
"""Items per second, and microseconds, by rival."""

RATE, ROUND_TRIP = "items per second between event loops, 1x1", "round trips of two event loops, us"
OURS, SYNCHRONOUS, LIMIT = "Penstock, aput and aget", "Penstock, put and get", "limit, loop.sock_recv"
MANY = "Penstock, aput_many and aget_many"


def _start(function: Callable[..., Any], *arguments: Any) -> Any:
    process = _CONTEXT.Process(target=function, args=arguments, daemon=True)
    process.start()
    return process


def _timed(put_all: Callable[[], None], get_all: Callable[[], None], count: int) -> float:
    """Items per second from one process to another."""
    gate = _CONTEXT.Barrier(3)

    def begin(function: Callable[[], None]) -> None:
        gate.wait()
        function()

    processes = [_start(begin, put_all), _start(begin, get_all)]
    gate.wait()
    started = time.perf_counter()
    for process in processes:
        process.join()
    return count / (time.perf_counter() - started)


def _asynchronous(count: int) -> float:
    queue = penstock.Queue()

    async def put() -> None:
        for _ in range(count):
            await queue.aput(_ITEM)

    async def get() -> None:
        for _ in range(count):
            await queue.aget()

    return _timed(lambda: asyncio.run(put()), lambda: asyncio.run(get()), count)


def _batched(count: int) -> float:
    queue = penstock.Queue()

    async def put() -> None:
        for _ in range(count // 50):
            await queue.aput_many([_ITEM] * 50)

    async def get() -> None:
        left = count // 50 * 50
        while left:
            left -= len(await queue.aget_many(left))

    return _timed(lambda: asyncio.run(put()), lambda: asyncio.run(get()), count)


def _synchronous(count: int) -> float:
    queue = penstock.Queue()

    def put() -> None:
        for _ in range(count):
            queue.put(_ITEM)

    def get() -> None:
        for _ in range(count):
            queue.get()

    return _timed(put, get, count)


def _aioprocessing(count: int) -> float:
    import aioprocessing  # type: ignore[import-not-found]

    queue = aioprocessing.AioQueue()

    async def put() -> None:
        for _ in range(count):
            await queue.coro_put(_ITEM)

    async def get() -> None:
        for _ in range(count):
            await queue.coro_get()

    return _timed(lambda: asyncio.run(put()), lambda: asyncio.run(get()), count)


def _in_one_loop(count: int) -> float:
    async def main() -> float:
        queue: asyncio.Queue[Any] = asyncio.Queue(1000)

        async def get() -> None:
            for _ in range(count):
                await queue.get()

        getting = asyncio.create_task(get())
        started = time.perf_counter()
        for _ in range(count):
            await queue.put(_ITEM)
        await getting
        return count / (time.perf_counter() - started)

    return asyncio.run(main())


def _janus(count: int) -> float:
    import janus  # type: ignore[import-not-found]

    async def main() -> float:
        queue = janus.Queue()

        def put() -> None:
            for _ in range(count):
                queue.sync_q.put(_ITEM)

        started = time.perf_counter()
        thread = threading.Thread(target=put)
        thread.start()
        for _ in range(count):
            await queue.async_q.get()
        taken = time.perf_counter() - started
        thread.join()
        await queue.aclose()
        return count / taken

    return asyncio.run(main())


async def _ask(send: Callable[[], Any], receive: Callable[[], Any], count: int) -> float:
    """Microseconds of a round trip, the median."""
    for _ in range(_WARM_UP):
        await send()
        await receive()
    taken = []
    for _ in range(count):
        started = time.perf_counter()
        await send()
        await receive()
        taken.append(time.perf_counter() - started)
    return sorted(taken)[count // 2] * 1e6


def _answering(answer: Callable[[], Any]) -> Any:
    async def answer_all() -> None:
        while True:
            await answer()

    return _start(lambda: asyncio.run(answer_all()))


def _asked(
    answer: Callable[[], Any], send: Callable[[], Any], receive: Callable[[], Any], count: int
) -> float:
    process = _answering(answer)
    try:
        return asyncio.run(_ask(send, receive, count))
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.join()


def _queue_round_trip(count: int) -> float:
    requests, replies = penstock.Queue(), penstock.Queue()

    async def answer() -> None:
        await replies.aput(await requests.aget())

    return _asked(answer, lambda: requests.aput(1), replies.aget, count)


def _socket_round_trip(count: int) -> float:
    ours, theirs = socket.socketpair()
    for side in (ours, theirs):
        side.setblocking(False)

    async def answer_all() -> None:
        loop = asyncio.get_running_loop()
        receive, send = loop.sock_recv, loop.sock_sendall
        while True:
            await send(theirs, await receive(theirs, 1))

    async def ask_all() -> float:
        loop = asyncio.get_running_loop()
        return await _ask(partial(loop.sock_sendall, ours, b"0"), partial(loop.sock_recv, ours, 1), count)

    with ours, theirs:
        process = _start(lambda: asyncio.run(answer_all()))
        try:
            return asyncio.run(ask_all())
        finally:
            os.kill(process.pid, signal.SIGKILL)
            process.join()


def _round_trip_in_one_loop(count: int) -> float:
    async def main() -> float:
        requests: asyncio.Queue[int] = asyncio.Queue()
        replies: asyncio.Queue[int] = asyncio.Queue()

        async def answer_all() -> None:
            while True:
                await replies.put(await requests.get())

        answering = asyncio.create_task(answer_all())
        try:
            return await _ask(partial(requests.put, 1), replies.get, count)
        finally:
            answering.cancel()

    return asyncio.run(main())


def _janus_round_trip(count: int) -> float:
    import janus

    async def main() -> float:
        requests, replies = janus.Queue(), janus.Queue()

        def answer_all() -> None:
            for _ in range(_WARM_UP + count):
                replies.sync_q.put(requests.sync_q.get())

        thread = threading.Thread(target=answer_all)
        thread.start()
        taken = await _ask(partial(requests.async_q.put, 1), replies.async_q.get, count)
        thread.join()
        for queue in (requests, replies):
            await queue.aclose()
        return taken

    return asyncio.run(main())


def _aioprocessing_round_trip(count: int) -> float:
    import aioprocessing

    requests, replies = aioprocessing.AioQueue(), aioprocessing.AioQueue()

    async def answer() -> None:
        await replies.coro_put(await requests.coro_get())

    return _asked(answer, lambda: requests.coro_put(1), replies.coro_get, count)


_RATES: dict[str, tuple[Callable[[int], float], int]] = {
    OURS: (_asynchronous, 100_000),
    MANY: (_batched, 200_000),
    SYNCHRONOUS: (_synchronous, 200_000),
    "asyncio.Queue, in one loop": (_in_one_loop, 100_000),
    "janus, in one process": (_janus, 30_000),
    "aioprocessing": (_aioprocessing, 3_000),
}
_ROUND_TRIPS: dict[str, tuple[Callable[[int], float], int]] = {
    OURS: (_queue_round_trip, 2_000),
    LIMIT: (_socket_round_trip, 2_000),
    "asyncio.Queue, in one loop": (_round_trip_in_one_loop, 10_000),
    "janus, in one process": (_janus_round_trip, 2_000),
    "aioprocessing": (_aioprocessing_round_trip, 300),
}


def _available(measures: dict[str, tuple[Callable[[int], float], int]]) -> dict[str, Callable[[], float]]:
    def is_there(name: str) -> bool:
        package = name.partition(",")[0]
        if package not in ("janus", "aioprocessing"):
            return True
        try:
            __import__(package)
        except ImportError:
            return False
        return True

    return {name: partial(*measure) for name, measure in measures.items() if is_there(name)}


def measure(rounds: int, tick: Callable[[], None]) -> Results:
    """Measure what is installed."""
    return {
        RATE: interleave(rounds, _available(_RATES), tick),
        ROUND_TRIP: interleave(rounds, _available(_ROUND_TRIPS), tick),
    }


def steps(rounds: int) -> int:
    """The number of ticks of `measure`."""
    return (len(_available(_RATES)) + len(_available(_ROUND_TRIPS))) * rounds


if __name__ == "__main__":
    for what, figures in measure(5, lambda: None).items():
        print(what)
        for name, measured in figures.items():
            low, high = measured.spread
            print(f"  {name:36} {measured.median:12,.1f}  ({low:,.1f} to {high:,.1f})")
