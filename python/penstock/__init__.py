"""Crash-safe queues between processes, in shared memory, with the interface of `multiprocessing`.

    Queue, SimpleQueue, JoinableQueue   the queues
    Pipe                                two connected objects
    WorkerPool                          a pool of worker processes
    get_context                         `multiprocessing` with these queues
    patch, unpatch                      these queues under programs that import `multiprocessing`
    errors                              what can be raised

>>> import penstock
>>> q = penstock.Queue()
>>> q.put({"any": "object that pickles"})
>>> q.get()
{'any': 'object that pickles'}
"""

from __future__ import annotations

import sys

if sys.platform != "linux":
    raise ImportError(f"Penstock works on Linux only, so far; this is {sys.platform}")

from . import (
    errors,
    interpreter,  # noqa: F401  # first: it raises where the binding must not be loaded
)
from ._native import __version__
from .backoff import Backoff
from .context import get_context
from .errors import ShutDown
from .queues import JoinableQueue, Queue, SimpleQueue

__all__ = [
    "Backoff",
    "DeadLetter",
    "Death",
    "JoinableQueue",
    "Lease",
    "Pipe",
    "PoolStatistics",
    "Progress",
    "Queue",
    "RemoteError",
    "ShutDown",
    "SimpleQueue",
    "Statistics",
    "TaskTimeoutError",
    "WorkerDied",
    "WorkerPool",
    "__version__",
    "errors",
    "get_context",
    "patch",
    "shared",
    "unpatch",
]

TYPE_CHECKING = False  # without `typing`, whose import takes as long as all of Penstock
if TYPE_CHECKING:
    from ._multiprocessing.patching import patch, unpatch
    from .connections import Pipe
    from .leases import Lease
    from .letters import DeadLetter, Death
    from .statistics import Statistics
    from .workers.errors import RemoteError, TaskTimeoutError, WorkerDied
    from .workers.pool import WorkerPool
    from .workers.progress import Progress
    from .workers.shared import shared
    from .workers.statistics import PoolStatistics
else:
    _OF_WORKERS = {  # late, because they import concurrent.futures
        "PoolStatistics": "statistics",
        "Progress": "progress",
        "RemoteError": "errors",
        "TaskTimeoutError": "errors",
        "WorkerDied": "errors",
        "WorkerPool": "pool",
        "shared": "shared",
    }

    def __getattr__(name: str) -> object:
        if name == "Pipe":  # late, as `connections` says
            from .connections import Pipe

            return Pipe
        if name in ("patch", "unpatch"):  # late, because few programs need them
            from ._multiprocessing import patching

            return getattr(patching, name)
        if name == "Lease":
            from .leases import Lease

            return Lease
        if name in ("DeadLetter", "Death"):
            from . import letters

            return getattr(letters, name)
        if name == "Statistics":
            from .statistics import Statistics

            return Statistics
        if name in _OF_WORKERS:
            from importlib import import_module

            return getattr(import_module(f".workers.{_OF_WORKERS[name]}", __name__), name)
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
