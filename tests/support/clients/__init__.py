"""Programs as they are written for `multiprocessing`, each as a function of a context.

Each module here is one client of the queues. The tests call its `PROGRAMS` with a context of Penstock's, and
run the module as a whole with the context of `multiprocessing` or of Penstock:

    penstock run -m tests.support.clients.pools spawn multiprocessing
    python -m tests.support.clients.pools spawn penstock
"""

import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import penstock

Program: TypeAlias = Callable[[Any], None]


def main(programs: Mapping[str, Program]) -> None:
    """Run the programs with the command line's start method and context. Print the names of those done."""
    method, whose = sys.argv[1:]
    multiprocessing.set_start_method(method)
    context = {"multiprocessing": multiprocessing, "penstock": penstock}[whose].get_context()
    for name, program in programs.items():
        if not why_skipped(program):
            program(context)
            print(name, flush=True)


def is_the_default(context: Any) -> bool:
    """Whether it is the context of programs that ask for none."""
    return context is multiprocessing.get_context()


def since(version: tuple[int, ...], reason: str) -> Callable[[Program], Program]:
    """Mark a program that older interpreters cannot run, with the reason."""

    def mark(program: Program) -> Program:
        vars(program)["why_skipped"] = "" if sys.version_info >= version else reason
        return program

    return mark


def why_skipped(program: Program) -> str:
    """Why this interpreter cannot run the program; empty if it can."""
    reason: str = getattr(program, "why_skipped", "")
    return reason


def raised_by(function: Callable[..., Any], *arguments: Any) -> BaseException:
    """The exception that the function raises."""
    try:
        result = function(*arguments)
    except BaseException as error:
        return error
    raise AssertionError(f"{function} returned {result!r}")


def wait_for_ever(*_: object) -> None:
    """Wait until this process is killed."""
    threading.Event().wait()


def kill_oneself(*_: object) -> None:
    """End this process as the kernel's memory killer does."""
    os.kill(os.getpid(), signal.SIGKILL)


def finish(*workers: Any) -> None:
    """Wait for the end of processes, which have to end in order."""
    for worker in workers:
        worker.join()
        assert worker.exitcode == 0, worker
        worker.close()
