"""What a worker is given when it is started, by every start method."""

from __future__ import annotations

from multiprocessing import context, reduction

from ..queues import JoinableQueue, Queue
from .board import Board
from .messages import Pickler
from .store import Store

__all__ = ["Kit"]

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any

_DESCRIPTORS = ("lifeline", "doorbell", "activation")


class Kit:
    """The pool's queues, board and store, the reading ends of its pipes, and what workers run at their ends.

    A forked worker inherits it as it is. Otherwise it is pickled while the worker is started, and the
    descriptors travel as `multiprocessing` sends them.
    """

    def __init__(
        self,
        *,
        pickler: Pickler,
        lifeline: int,
        doorbell: int,
        activation: int,
        initializer: Callable[..., object] | None,
        initargs: tuple[Any, ...],
        finalizer: Callable[[], object] | None,
        shared: Mapping[str, Any] | None,
        max_tasks: int | None,
        max_memory: int | None,
        idle_timeout: float | None,
    ) -> None:
        self.calls: JoinableQueue[Any] = JoinableQueue(max_deliveries=255)
        self.results: Queue[Any] = Queue()
        self.board = Board()
        self.store = Store()
        self.pickler = pickler
        self.lifeline = lifeline
        self.doorbell = doorbell
        self.activation = activation
        self.ends = (initializer, initargs, finalizer)
        self.shared = shared
        self.shared_place: int | None = None
        self.max_tasks = max_tasks
        self.max_memory = max_memory
        self.idle_timeout = idle_timeout

    def __getstate__(self) -> dict[str, Any]:
        if context.get_spawning_popen() is None:
            raise RuntimeError("a WorkerPool cannot be pickled: submit to it in the process that made it")
        state = dict(self.__dict__)
        for name in _DESCRIPTORS:
            state[name] = reduction.DupFd(state[name])
        state["board"] = reduction.DupFd(self.board.descriptor)
        state["store"] = reduction.DupFd(self.store.descriptor)
        if self.shared is not None and self.shared_place is None:
            self.shared_place = self.store.add(self.pickler.dumps(dict(self.shared)))
        state["shared"], state["shared_place"] = None, self.shared_place
        if self.pickler.serializer == "cloudpickle":
            state["ends"] = self.pickler.dumps_by_value(self.ends)
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        for name in _DESCRIPTORS:
            state[name] = state[name].detach()
        state["board"] = Board(state["board"].detach())
        state["store"] = Store(state["store"].detach())
        self.__dict__.update(state)
