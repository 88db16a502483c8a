"""A program's subclasses of the library's queues, with a state of their own."""

import multiprocessing
import multiprocessing.queues
from typing import Any

import penstock
from tests.support.clients import finish, main

WORKERS = 3
ITEMS = 20

# `multiprocessing` keeps the memory of shared values for ever. Made here, it is no leak of a test.
multiprocessing.get_context("fork").Value("i")


class Counting:
    """A queue that counts its items, as in programs that need `qsize` on every system."""

    def __init__(self, *arguments: Any, label: str, **options: Any) -> None:
        context = options.setdefault("ctx", multiprocessing.get_context())
        super().__init__(*arguments, **options)
        self.label = label
        self.balance = context.Value("i", 0)

    def __getstate__(self) -> Any:
        return {"parent": super().__getstate__(), "label": self.label, "balance": self.balance}

    def __setstate__(self, state: Any) -> None:
        super().__setstate__(state["parent"])  # type: ignore[misc]
        self.label = state["label"]
        self.balance = state["balance"]

    def put(self, obj: Any, *arguments: Any, **options: Any) -> None:
        super().put((self.label, obj), *arguments, **options)  # type: ignore[misc]
        with self.balance.get_lock():
            self.balance.value += 1

    def get(self, *arguments: Any, **options: Any) -> Any:
        label, obj = super().get(*arguments, **options)  # type: ignore[misc]
        assert label == self.label
        with self.balance.get_lock():
            self.balance.value -= 1
        return obj

    def qsize(self) -> int:
        return int(self.balance.value)


class CountingQueue(Counting, penstock.Queue[Any]):
    pass


class CountingJoinableQueue(Counting, penstock.JoinableQueue[Any]):
    pass


class CountingSimpleQueue(Counting, penstock.SimpleQueue[Any]):
    pass


class CountingStandardQueue(Counting, multiprocessing.queues.Queue):  # type: ignore[type-arg]
    """A subclass of the standard class, which works as before beside Penstock's queues."""


def work(tasks: Any, results: Any) -> None:
    for task in iter(tasks.get, None):
        results.put(task * task)
        if hasattr(tasks, "task_done"):
            tasks.task_done()
    if hasattr(tasks, "task_done"):
        tasks.task_done()


def have_squares_worked_out(context: Any, tasks: Any, results: Any) -> None:
    workers = [context.Process(target=work, args=(tasks, results)) for _ in range(WORKERS)]
    for worker in workers:
        worker.start()
    for number in range(ITEMS):
        tasks.put(number)
    assert sorted(results.get() for _ in range(ITEMS)) == [number * number for number in range(ITEMS)]
    for _ in workers:
        tasks.put(None)
    finish(*workers)
    assert tasks.qsize() == results.qsize() == 0


def queue(context: Any) -> None:
    tasks = CountingQueue(5, label="tasks", ctx=context)
    have_squares_worked_out(context, tasks, CountingQueue(label="results", ctx=context))
    # These call the subclass's `put` and `get`.
    tasks.put_nowait("a")
    assert tasks.qsize() == 1
    assert tasks.get_nowait() == "a"
    assert tasks.qsize() == 0


def joinable_queue(context: Any) -> None:
    tasks = CountingJoinableQueue(label="tasks", ctx=context)
    have_squares_worked_out(context, tasks, CountingJoinableQueue(label="results", ctx=context))
    tasks.join()


def simple_queue(context: Any) -> None:
    tasks = CountingSimpleQueue(label="tasks", ctx=context)
    have_squares_worked_out(context, tasks, CountingSimpleQueue(label="results", ctx=context))


def default_context(context: Any) -> None:
    tasks = CountingQueue(label="tasks")
    tasks.put("a")
    assert tasks.get(timeout=60) == "a"
    assert (tasks.label, tasks.qsize()) == ("tasks", 0)


def class_of_the_standard_library(context: Any) -> None:
    tasks = CountingStandardQueue(label="tasks", ctx=context)
    assert not isinstance(tasks, penstock.Queue)
    have_squares_worked_out(context, tasks, CountingStandardQueue(label="results", ctx=context))
    tasks.close()
    tasks.join_thread()


PROGRAMS = {
    program.__name__: program
    for program in (queue, joinable_queue, simple_queue, default_context, class_of_the_standard_library)
}

if __name__ == "__main__":
    main(PROGRAMS)
