"""Crash-safe queues between processes, in shared memory, with the interface of `multiprocessing`.

    Queue, SimpleQueue, JoinableQueue   the queues
    Pipe                                two connected objects
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
    "Queue",
    "ShutDown",
    "SimpleQueue",
    "Statistics",
    "__version__",
    "errors",
    "get_context",
    "patch",
    "unpatch",
]

TYPE_CHECKING = False  # without `typing`, whose import takes as long as all of Penstock
if TYPE_CHECKING:
    from ._multiprocessing.patching import patch, unpatch
    from .connections import Pipe
    from .leases import Lease
    from .letters import DeadLetter, Death
    from .statistics import Statistics
else:

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
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
