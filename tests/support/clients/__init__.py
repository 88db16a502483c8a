"""Programs that people run with `multiprocessing`, each as a function of a context.

A module here is one client of the queues. Its `PROGRAMS` are called with a context of Penstock's, and the
module is run as a whole, with that of `multiprocessing` or of Penstock:

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
    """Run the programs with what the command line says, a start method and a context; print those done."""
    method, whose = sys.argv[1:]
    multiprocessing.set_start_method(method)
    context = {"multiprocessing": multiprocessing, "penstock": penstock}[whose].get_context()
    for name, program in programs.items():
        if not why_skipped(program):
            program(context)
            print(name, flush=True)


def is_the_default(context: Any) -> bool:
    """Tell whether a program gets this context that does not ask for any."""
    return context is multiprocessing.get_context()


def since(version: tuple[int, ...], reason: str) -> Callable[[Program], Program]:
    """Mark a program that older interpreters cannot run, for that reason."""

    def mark(program: Program) -> Program:
        vars(program)["why_skipped"] = "" if sys.version_info >= version else reason
        return program

    return mark


def why_skipped(program: Program) -> str:
    """Why this interpreter cannot run the program; empty if it can."""
    reason: str = getattr(program, "why_skipped", "")
    return reason


def raised_by(function: Callable[..., Any], *arguments: Any) -> BaseException:
    """What the function raises."""
    try:
        result = function(*arguments)
    except BaseException as error:
        return error
    raise AssertionError(f"{function} returned {result!r}")


def wait_for_ever(*_: object) -> None:
    """Until this process is killed."""
    threading.Event().wait()


def kill_oneself(*_: object) -> None:
    """End this process as the kernel's memory killer does."""
    os.kill(os.getpid(), signal.SIGKILL)


def finish(*workers: Any) -> None:
    """Wait for processes that end in order."""
    for worker in workers:
        worker.join()
        assert worker.exitcode == 0, worker
        worker.close()
