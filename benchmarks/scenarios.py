"""What is measured. Each scenario takes a context, and knows nothing of who provides its queues."""

from __future__ import annotations

import multiprocessing
import pickle
import time
from typing import Any

SMALL_TUPLE = (12345, "task", 1.5)


def _drain(queue: Any, done: Any, count: int) -> None:
    for _ in range(count):
        queue.get()
    done.put(None)


def throughput(context: Any, count: int) -> float:
    """Small tuples per second from one producer to one consumer."""
    queue, done = context.Queue(), context.Queue()
    consumer = context.Process(target=_drain, args=(queue, done, count + 1))
    consumer.start()
    queue.put(SMALL_TUPLE)  # the consumer is up before the clock starts
    while not queue.empty():
        time.sleep(0.001)
    start = time.perf_counter()
    for _ in range(count):
        queue.put(SMALL_TUPLE)
    done.get()
    elapsed = time.perf_counter() - start
    consumer.join()
    return count / elapsed


def _echo(requests: Any, replies: Any, count: int) -> None:
    for _ in range(count):
        replies.put(requests.get())


def round_trip(context: Any, count: int) -> float:
    """Microseconds for an int to another process and back."""
    requests, replies = context.Queue(), context.Queue()
    echo = context.Process(target=_echo, args=(requests, replies, count + 100))
    echo.start()
    for i in range(100):
        requests.put(i)
        replies.get()
    start = time.perf_counter()
    for i in range(count):
        requests.put(i)
        replies.get()
    elapsed = time.perf_counter() - start
    echo.join()
    return elapsed / count * 1e6


def creation(context: Any, count: int) -> float:
    """Microseconds to create a queue and let go of it."""
    start = time.perf_counter()
    for _ in range(count):
        queue = context.Queue()
        queue.close()
        del queue
    return (time.perf_counter() - start) / count * 1e6


def _load(pickled: bytes, count: int, seconds: Any) -> None:
    start = time.perf_counter()
    for _ in range(count):
        pickle.loads(pickled)
    seconds.value = time.perf_counter() - start


def pickle_limit(count: int) -> float:
    """Small tuples per second if passing them cost nothing: one process pickles, another one unpickles."""
    seconds = multiprocessing.Value("d", 0.0)
    loader = multiprocessing.Process(target=_load, args=(pickle.dumps(SMALL_TUPLE, 5), count, seconds))
    loader.start()
    start = time.perf_counter()
    for _ in range(count):
        pickle.dumps(SMALL_TUPLE, 5)
    elapsed = time.perf_counter() - start
    loader.join()
    return count / max(elapsed, seconds.value)


def _wait_for_item(queue: Any, cpu_seconds: Any) -> None:
    queue.get()  # everything that a first call does is done
    before = time.process_time()
    queue.get()
    cpu_seconds.value = time.process_time() - before


def idle_cpu(context: Any, seconds: float) -> float:
    """CPU seconds that a `get()` blocked for so long uses."""
    queue = context.Queue()
    cpu_seconds = context.Value("d", 0.0)
    waiter = context.Process(target=_wait_for_item, args=(queue, cpu_seconds))
    waiter.start()
    queue.put(None)
    time.sleep(seconds)
    queue.put(None)
    waiter.join()
    return float(cpu_seconds.value)


def _sleep(seconds: float, cpu_seconds: Any) -> None:
    time.sleep(0.1)
    before = time.process_time()
    for _ in range(round(seconds * 10)):
        time.sleep(0.1)
    cpu_seconds.value = time.process_time() - before


def bare_wake_ups(seconds: float) -> float:
    """CPU seconds that ten wake-ups a second and nothing else use: the floor."""
    cpu_seconds = multiprocessing.Value("d", 0.0)
    sleeper = multiprocessing.Process(target=_sleep, args=(seconds, cpu_seconds))
    sleeper.start()
    sleeper.join()
    return float(cpu_seconds.value)


def memory_of_an_empty_queue(queue: Any) -> int:
    """Bytes of memory behind a queue that was just created."""
    return int(queue.statistics().memory_bytes)


def memory_after_a_flood(queue: Any, total: int, item: int) -> tuple[int, int]:
    """Bytes behind a queue while `total` bytes are queued without a consumer, and after they were drained."""
    payload = bytes(item)
    for _ in range(total // item):
        queue.put(payload)
    at_most = int(queue.statistics().memory_bytes)
    for _ in range(total // item):
        queue.get()
    return at_most, int(queue.statistics().memory_bytes)
