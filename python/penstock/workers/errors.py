"""What a call's future raises when its worker failed, and not the call."""

from __future__ import annotations

from concurrent.futures.process import BrokenProcessPool

from ..errors import PenstockError

__all__ = ["RemoteError", "TaskTimeoutError", "WorkerDied"]

TYPE_CHECKING = False  # without `typing`, as in the rest of the package
if TYPE_CHECKING:
    from typing import Any

    from ..letters import Death


class WorkerDied(PenstockError, BrokenProcessPool):
    """The worker of this call died, and the call may not be tried again. The pool goes on.

    `deaths` has a `penstock.Death` for each worker that died in the call, the latest at the end.

    >>> issubclass(WorkerDied, BrokenProcessPool)
    True
    """

    def __init__(self, message: str, deaths: tuple[Death, ...] = ()) -> None:
        super().__init__(message, deaths)
        self.deaths = deaths

    def __str__(self) -> str:
        return str(self.args[0])


class TaskTimeoutError(PenstockError, TimeoutError):
    """The call took longer than its `timeout`, and its worker was killed. The pool goes on.

    `limit` is that time in seconds. `stack` is where the worker was: the text of `faulthandler`, or None if
    the worker could not tell, for example because it was stopped. `deaths` are those of the workers.

    >>> issubclass(TaskTimeoutError, TimeoutError)
    True
    """

    def __init__(
        self, message: str, limit: float, stack: str | None = None, deaths: tuple[Death, ...] = ()
    ) -> None:
        super().__init__(message, limit, stack, deaths)
        self.limit = limit
        self.stack = stack
        self.deaths = deaths

    def __str__(self) -> str:
        return str(self.args[0])


class RemoteError(PenstockError, RuntimeError):
    """A call raised an exception, or returned an object, that cannot be pickled or rebuilt.

    `type` is the exception's name, `text` is what it said, and `traceback` is the worker's.

    >>> error = RemoteError("Broken", "no such page", "Traceback ...")
    >>> print(error)
    Broken: no such page
    """

    def __init__(self, type: str, text: str, traceback: str) -> None:
        super().__init__(type, text, traceback)
        self.type = type
        self.text = text
        self.traceback = traceback

    def __str__(self) -> str:
        return f"{self.type}: {self.text}" if self.text else self.type

    def __reduce__(self) -> tuple[Any, ...]:
        return RemoteError, (self.type, self.text, self.traceback)
