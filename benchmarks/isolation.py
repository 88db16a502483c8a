"""Measures in a process of their own, which ends with whatever they leave behind: broken pools, too."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

_CONTEXT = multiprocessing.get_context("fork")

# Seconds for the processes of a measure to end by themselves.
_GRACE = 1.0


class Failed(Exception):
    """A rival could not do what the scenario asks; the message says why."""


class Isolated:
    """A measure that runs in a session of its own."""

    def __init__(self, measure: Callable[[], float]) -> None:
        self._answer, writer = _CONTEXT.Pipe(duplex=False)
        self._process = _CONTEXT.Process(target=_run, args=(measure, writer))
        self._process.start()
        writer.close()

    def result(self, patience: float) -> float:
        """Wait `patience` seconds at most for the figure, and end the whole session. Raises Failed."""
        try:
            if not self._answer.poll(patience):
                raise Failed(f"has not ended within {patience:g} s")
            answer = self._answer.recv()
        except EOFError:
            raise Failed("ended its own process") from None
        finally:
            self._end()
        if isinstance(answer, str):
            raise Failed(answer)
        return float(answer)

    def _end(self) -> None:
        session = self._process.pid
        assert session is not None
        # The process first: then what watches its parent ends in order, and removes its files.
        self._process.kill()
        self._process.join()
        self._answer.close()
        deadline = time.monotonic() + _GRACE
        while left := processes(session):
            if time.monotonic() > deadline:
                for pid in left:
                    with suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
            time.sleep(0.005)


def _run(measure: Callable[[], float], writer: Any) -> None:
    os.setsid()
    _give_up_by(writer)
    answer: float | str
    try:
        answer = measure()
    except Failed as failure:
        answer = str(failure)
    except BaseException as error:
        answer = f"{type(error).__name__}: {str(error).partition('. ')[0]}"
    writer.send(answer)
    os._exit(0)  # a broken pool might never let it end


_limits: list[float] = []


def _give_up_by(writer: Any) -> None:
    def give_up(number: int, frame: object) -> None:
        writer.send(f"hangs: nothing within {_limits[-1]:g} s")
        os._exit(1)

    signal.signal(signal.SIGALRM, give_up)


@contextmanager
def within(seconds: float) -> Iterator[None]:
    """In a measure: if the block takes longer, the measure has failed, wherever it hangs."""
    _limits.append(seconds)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        _limits.pop()


def processes(session: int) -> list[int]:
    """The living processes of a session."""
    found = []
    for entry in os.listdir("/proc"):
        if entry.isdecimal():
            try:
                line = Path("/proc", entry, "stat").read_text()
            except OSError:  # it has just ended
                continue
            state, _, _, its_session = line.rpartition(") ")[2].split()[:4]
            if int(its_session) == session and state not in "ZX":
                found.append(int(entry))
    return found


def cpu_seconds(pids: list[int]) -> float:
    """CPU seconds of these processes, with all of their threads."""
    total = 0.0
    for pid in pids:
        with suppress(OSError):  # it has ended
            total += time.clock_gettime((~pid << 3) | 2)  # the clock's number by clock_getcpuclockid(3)
    return total
