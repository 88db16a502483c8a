"""Contexts: `multiprocessing` with Penstock's queues."""

from __future__ import annotations

import multiprocessing
import multiprocessing.context as standard

from . import queues

__all__ = ["Context", "ForkContext", "ForkServerContext", "SpawnContext", "get_context"]

TYPE_CHECKING = False  # without `typing`, whose import takes as long as all of Penstock
if TYPE_CHECKING:
    from multiprocessing.process import BaseProcess
    from typing import Any, ClassVar, Literal, Self, SupportsIndex, overload

    from .backoff import Backoff
    from .connections import Connection


class Context(standard.BaseContext):
    """A `multiprocessing` context whose queues and pipes are Penstock's, whatever its start method.

    >>> isinstance(get_context(), Context)
    True
    """

    Process: ClassVar[type[BaseProcess]]

    def Queue(
        self,
        maxsize: SupportsIndex = 0,
        *,
        max_bytes: SupportsIndex | None = None,
        protocol: SupportsIndex | None = None,
    ) -> queues.Queue[Any]:
        """Make a `penstock.Queue`, with the same arguments.

        >>> get_context().Queue(maxsize=3).empty()
        True
        """
        return queues.Queue(maxsize, max_bytes=max_bytes, protocol=protocol, ctx=self)

    def JoinableQueue(
        self,
        maxsize: SupportsIndex = 0,
        *,
        max_bytes: SupportsIndex | None = None,
        protocol: SupportsIndex | None = None,
        max_deliveries: SupportsIndex = 3,
        retry_delay: float | Backoff = 0.0,
    ) -> queues.JoinableQueue[Any]:
        """Make a `penstock.JoinableQueue`, with the same arguments.

        >>> get_context().JoinableQueue().join()
        """
        return queues.JoinableQueue(
            maxsize,
            max_bytes=max_bytes,
            protocol=protocol,
            max_deliveries=max_deliveries,
            retry_delay=retry_delay,
            ctx=self,
        )

    def SimpleQueue(
        self, *, max_bytes: SupportsIndex | None = None, protocol: SupportsIndex | None = None
    ) -> queues.SimpleQueue[Any]:
        """Make a `penstock.SimpleQueue`, with the same arguments.

        >>> get_context().SimpleQueue().empty()
        True
        """
        return queues.SimpleQueue(max_bytes=max_bytes, protocol=protocol, ctx=self)

    def Pipe(self, duplex: bool = True) -> tuple[Connection, Connection]:
        """Make two connections, as `penstock.Pipe` does.

        >>> a, b = get_context().Pipe()
        >>> a.send(1)
        >>> b.recv()
        1
        """
        from .connections import Pipe

        return Pipe(duplex)

    if TYPE_CHECKING:

        @overload  # type: ignore[override]  # the stubs return the default context
        def get_context(self, method: None = None) -> Self: ...
        @overload
        def get_context(self, method: Literal["fork"]) -> ForkContext: ...
        @overload
        def get_context(self, method: Literal["spawn"]) -> SpawnContext: ...
        @overload
        def get_context(self, method: Literal["forkserver"]) -> ForkServerContext: ...
        @overload
        def get_context(self, method: str | None) -> Context: ...

    def get_context(self, method: str | None = None) -> Context:
        """Return this context, or the one of another start method; see `penstock.get_context`.

        >>> get_context("fork").get_context("spawn").get_start_method()
        'spawn'
        """
        return self if method is None else get_context(method)


class ForkContext(Context, standard.ForkContext):
    """The context of the start method `fork`.

    >>> isinstance(get_context("fork"), ForkContext)
    True
    """

    Process: ClassVar[type[standard.ForkProcess]]


class SpawnContext(Context, standard.SpawnContext):
    """The context of the start method `spawn`.

    >>> isinstance(get_context("spawn"), SpawnContext)
    True
    """

    Process: ClassVar[type[standard.SpawnProcess]]


class ForkServerContext(Context, standard.ForkServerContext):
    """The context of the start method `forkserver`.

    >>> isinstance(get_context("forkserver"), ForkServerContext)
    True
    """

    Process: ClassVar[type[standard.ForkServerProcess]]


_contexts: dict[str, Context] = {
    "fork": ForkContext(),
    "spawn": SpawnContext(),
    "forkserver": ForkServerContext(),
}


if TYPE_CHECKING:

    @overload
    def get_context(method: Literal["fork"]) -> ForkContext: ...
    @overload
    def get_context(method: Literal["spawn"]) -> SpawnContext: ...
    @overload
    def get_context(method: Literal["forkserver"]) -> ForkServerContext: ...
    @overload
    def get_context(method: str | None = None) -> Context: ...


def get_context(method: str | None = None) -> Context:
    """Return a `multiprocessing` context whose queues are Penstock's; the rest is the standard library's.

    `method` is the start method: "fork", "spawn", "forkserver", or None for the one that `multiprocessing`
    uses; None fixes that one, as `multiprocessing.get_context()` does. The context's factories have the
    keyword arguments of the queue classes too. Pools made with it have Penstock's queues inside. Nothing
    blocks. Raises ValueError for an unknown method.

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
