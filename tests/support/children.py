"""Worker processes for tests: a plain fork that runs one function, cheap enough for thousands."""

import os
import pickle
import select
import signal
import sys
import traceback
import warnings
from collections.abc import Callable
from typing import Any, Self

from . import processes


class ChildFailed(Exception):
    """The child's function raised; the message is its traceback. Or the child ended without a result."""


class Child:
    """A forked process that runs `function(*arguments)` and ends by os._exit.

    As a context manager it kills the process, if it still runs, and reaps it.
    """

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        reader, writer = os.pipe()
        with warnings.catch_warnings():
            # Some tests fork while threads run, to show that this is safe with queues.
            warnings.simplefilter("ignore", DeprecationWarning)
            self.pid = os.fork()
        if self.pid == 0:
            os.close(reader)
            _run(writer, function, arguments)
        os.close(writer)
        self._reader: int | None = reader
        self._status: int | None = None
        self.pidfd = os.pidfd_open(self.pid)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        if self._status is None:
            self.kill()
            self.wait()
        self.close()

    def close(self) -> None:
        """Close the descriptors; the process has to be reaped before."""
        assert self._status is not None
        if self._reader is not None:
            os.close(self._reader)
            os.close(self.pidfd)
            self._reader = None

    def kill(self, number: int = signal.SIGKILL) -> None:
        """Send it a signal."""
        signal.pidfd_send_signal(self.pidfd, number)

    def wait(self) -> int:
        """Wait until it has ended. Return its exit code, or minus the number of the signal that ended it."""
        if self._status is None:
            self._status = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        return self._status

    def has_ended(self) -> bool:
        """Whether it has ended. Never waits."""
        return self._status is not None or bool(select.select([self.pidfd], [], [], 0)[0])

    def is_stopped(self) -> bool:
        """Whether a signal has stopped it."""
        return processes.state(self.pid) == "T"

    def result(self) -> Any:
        """Wait until it has ended. Return what the function returned, or raise `ChildFailed`."""
        assert self._reader is not None
        with open(self._reader, "rb", closefd=False) as reader:
            data = reader.read()
        status = self.wait()
        if not data:
            raise ChildFailed(f"process {self.pid} ended with {status} and no result")
        returned, value = pickle.loads(data)
        if not returned:
            raise ChildFailed(value)
        return value


def fork(function: Callable[..., Any], *arguments: Any) -> Child:
    """Start a process that runs the function."""
    return Child(function, *arguments)


def _run(writer: int, function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    # In the child, which must never run code of pytest.
    status = 1
    try:
        try:
            answer = (True, function(*arguments))
            status = 0
        except BaseException:
            answer = (False, traceback.format_exc())
        with open(writer, "wb") as file:
            pickle.dump(answer, file)
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(status)
