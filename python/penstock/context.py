"""Contexts: `multiprocessing` with Penstock's queues."""

from __future__ import annotations

import multiprocessing
from multiprocessing import context

from .queues import JoinableQueue, Queue, SimpleQueue

__all__ = ["ForkContext", "ForkServerContext", "SpawnContext", "get_context"]

TYPE_CHECKING = False  # without `typing`, whose import takes as long as all of Penstock
if TYPE_CHECKING:
    from multiprocessing.context import BaseContext
    from typing import Any, SupportsIndex

    _Mixed = BaseContext
else:
    _Mixed = object


class _Factories(_Mixed):
    """The methods of a context that Penstock has its own of."""

    def Queue(
        self,
        maxsize: SupportsIndex = 0,
        *,
        max_bytes: SupportsIndex | None = None,
        protocol: SupportsIndex | None = None,
    ) -> Any:
        """Make a `penstock.Queue`, with the same arguments.

        >>> get_context().Queue(maxsize=3).empty()
        True
        """
        return Queue(maxsize, max_bytes=max_bytes, protocol=protocol, ctx=self)

    def JoinableQueue(
        self,
        maxsize: SupportsIndex = 0,
        *,
        max_bytes: SupportsIndex | None = None,
        protocol: SupportsIndex | None = None,
        max_deliveries: SupportsIndex = 3,
    ) -> Any:
        """Make a `penstock.JoinableQueue`, with the same arguments.

        >>> get_context().JoinableQueue().join()
        """
        return JoinableQueue(
            maxsize, max_bytes=max_bytes, protocol=protocol, max_deliveries=max_deliveries, ctx=self
        )

    def SimpleQueue(
        self, *, max_bytes: SupportsIndex | None = None, protocol: SupportsIndex | None = None
    ) -> Any:
        """Make a `penstock.SimpleQueue`, with the same arguments.

        >>> get_context().SimpleQueue().empty()
        True
        """
        return SimpleQueue(max_bytes=max_bytes, protocol=protocol, ctx=self)

    def Pipe(self, duplex: bool = True) -> Any:
        """Make two connections, as `penstock.Pipe` does.

        >>> a, b = get_context().Pipe()
        >>> a.send(1)
        >>> b.recv()
        1
        """
        from .connections import Pipe

        return Pipe(duplex)

    def get_context(self, method: str | None = None) -> Any:
        """Return this context, or Penstock's one of another start method; see `penstock.get_context`.

        >>> get_context("fork").get_context("spawn").get_start_method()
        'spawn'
        """
        return self if method is None else get_context(method)


class ForkContext(_Factories, context.ForkContext):
    """The context of the start method `fork`.

    >>> isinstance(get_context("fork"), ForkContext)
    True
    """


class SpawnContext(_Factories, context.SpawnContext):
    """The context of the start method `spawn`.

    >>> isinstance(get_context("spawn"), SpawnContext)
    True
    """


class ForkServerContext(_Factories, context.ForkServerContext):
    """The context of the start method `forkserver`.

    >>> isinstance(get_context("forkserver"), ForkServerContext)
    True
    """


_contexts = {"fork": ForkContext(), "spawn": SpawnContext(), "forkserver": ForkServerContext()}


def get_context(method: str | None = None) -> Any:
    """Return a `multiprocessing` context whose queues are Penstock's; the rest is the standard library's.

    `method` is the start method: "fork", "spawn", "forkserver", or None for the one that `multiprocessing`
    uses, which is settled by this call as by `multiprocessing.get_context()`. The answer is a
    `multiprocessing.context.BaseContext`; its factories have the keyword arguments of the queue classes too.
    Pools made with it have Penstock's queues inside. Nothing blocks. Raises
    ValueError for an unknown method.

    >>> import penstock
    >>> context = penstock.get_context("fork")
    >>> q = context.Queue(maxsize=2)
    >>> process = context.Process(target=q.put, args=("from a child",))
    >>> process.start()
    >>> q.get()
    'from a child'
    >>> process.join()
    """
    if method is None:
        method = multiprocessing.get_start_method()
    if method not in _contexts:
        raise ValueError(f"cannot find context for {method!r}")
    found = _contexts[method]
    found._check_available()
    return found
