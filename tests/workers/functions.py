"""What the workers of the tests run; a worker that was not forked imports it."""

import dataclasses
import faulthandler
import multiprocessing
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any, NoReturn

import penstock


class Failed(Exception):
    """A failure that can be pickled."""


class CannotBeRebuilt(Exception):
    """Its `__init__` wants more than its `args` have."""

    def __init__(self, first: str, second: str) -> None:
        super().__init__(first)


class CannotBePickled(Exception):
    """It has an attribute that pickle refuses."""

    def __init__(self) -> None:
        super().__init__("no such page")
        self.function = lambda: None


def square(number: int) -> int:
    return number * number


def fail(*_: Any) -> NoReturn:
    raise Failed("as it should")


def fail_unpicklably(*_: Any) -> NoReturn:
    raise CannotBePickled


def fail_unrebuildably(*_: Any) -> NoReturn:
    raise CannotBeRebuilt("a", "b")


def pid(*_: Any) -> int:
    return os.getpid()


def exit_hard(*_: Any) -> NoReturn:
    os._exit(7)


def kill_oneself(*_: Any) -> NoReturn:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError


def violate_memory(*_: Any) -> NoReturn:
    faulthandler.disable()  # pytest's, in a forked worker
    os.kill(os.getpid(), signal.SIGSEGV)
    raise AssertionError


def stop_oneself(*_: Any) -> NoReturn:
    os.kill(os.getpid(), signal.SIGSTOP)
    raise AssertionError("nobody continues it")


def use_up_memory(*_: Any) -> NoReturn:
    """Take memory until this process is killed, slowly enough for the machine."""
    taken = []
    while True:
        taken.append(bytearray(b"1") * 10_000_000)
        time.sleep(0.01)


def wait_for_ever(*_: Any) -> NoReturn:
    while True:
        time.sleep(60)


def never_return_to_python(*_: Any) -> NoReturn:
    """Hold the GIL for ever, in one call."""
    sum(iter(int, 1))
    raise AssertionError


def note(folder: str, name: Any) -> None:
    """Leave a file that tells that this was run, and how often."""
    with open(Path(folder, str(name)), "a") as file:
        file.write(f"{os.getpid()}\n")


def note_and_square(folder: str, number: int) -> int:
    note(folder, number)
    return number * number


def die_once(folder: str, number: int) -> int:
    """Kill the worker at the first run of each number."""
    path = Path(folder, str(number))
    note(folder, number)
    if len(path.read_text().splitlines()) == 1:
        kill_oneself()
    return number * number


def wait_for(path: str) -> str:
    """Wait until a file exists."""
    while not os.path.exists(path):
        time.sleep(0.001)
    return path


def begin_and_wait(begun: str, path: str) -> str:
    Path(begun).touch()
    return wait_for(path)


def shared(name: str) -> Any:
    return penstock.shared[name]


def parent() -> tuple[int | None, str]:
    process = multiprocessing.parent_process()
    return (process.pid if process else None), multiprocessing.current_process().name


def squares_in_a_pool_of_its_own(count: int) -> tuple[list[int], int]:
    with penstock.WorkerPool() as pool:
        return list(pool.map(square, range(count))), pool._max_workers


class Method:
    """A bound method is a call, too."""

    def __init__(self, factor: int) -> None:
        self.factor = factor

    def times(self, number: int) -> int:
        return self.factor * number


class Doing:
    """An object whose pickling or rebuilding does something."""

    def __init__(self, on_pickling: Any = None, on_rebuilding: Any = None) -> None:
        self.on_pickling = on_pickling
        self.on_rebuilding = on_rebuilding

    def __reduce__(self) -> tuple[Any, ...]:
        if self.on_pickling is not None:
            self.on_pickling()
        return rebuild, (self.on_rebuilding,)


def rebuild(what: Any) -> "Doing":
    if what is not None:
        what()
    return Doing()


def return_what_does(what: Any) -> Doing:
    return Doing(on_pickling=what)


def array_sum(array: Any) -> float:
    return float(array.sum())


def ones(count: int) -> Any:
    import numpy as np

    return np.ones(count)


def begin_and_ignore(begun: str) -> None:
    """Begin, and go on after Ctrl-C."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    Path(begun).touch()
    wait_for_ever()


@dataclasses.dataclass(frozen=True)
class Frozen(Exception):
    """It refuses every attribute."""


def fail_frozen(*_: Any) -> NoReturn:
    raise Frozen


class ExitsWhenRebuilt(Exception):
    """Rebuilding it ends the program."""

    def __reduce__(self) -> tuple[Any, ...]:
        return sys.exit, (0,)


def fail_exiting(*_: Any) -> NoReturn:
    raise ExitsWhenRebuilt("never rebuilt")


class ExitsElsewhere(Exception):
    """Rebuilding it raises SystemExit in every process but the one that has raised it."""

    def __reduce__(self) -> tuple[Any, ...]:
        return exit_elsewhere, (os.getpid(),)


def exit_elsewhere(pid: int) -> ExitsElsewhere:
    if os.getpid() != pid:
        sys.exit(3)
    return ExitsElsewhere()


def fail_elsewhere(*_: Any) -> NoReturn:
    raise ExitsElsewhere
