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

import sys
from typing import TYPE_CHECKING, Any

if sys.platform != "linux":
    raise ImportError(f"Penstock works on Linux only, so far; this is {sys.platform}")

from . import errors
from ._native import __version__
from .context import get_context
from .patching import patch, unpatch
from .queues import JoinableQueue, Queue, SimpleQueue
from .statistics import Statistics

if TYPE_CHECKING:
    from .connections import Pipe

__all__ = [
    "JoinableQueue",
    "Pipe",
    "Queue",
    "SimpleQueue",
    "Statistics",
    "__version__",
    "errors",
    "get_context",
    "patch",
    "unpatch",
]


def __getattr__(name: str) -> Any:
    if name == "Pipe":  # late, as `connections` says
        from .connections import Pipe

        return Pipe
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
