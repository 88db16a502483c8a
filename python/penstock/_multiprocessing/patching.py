"""Penstock under code that imports `multiprocessing`, in this process and in all that it starts.

The code of functions of the standard library is replaced in place; no name is bound anew. So names that were
bound earlier are patched too, as by `from multiprocessing import Queue`, and `unpatch` restores them.

    start method  what patches the child
    fork          the child inherits the patched functions
    spawn         a call in what the child reads from its parent before it imports the main module
    forkserver    the same; and the command that starts the server patches it before it preloads modules
"""

import os
import sys
from collections.abc import Callable, Sequence
from itertools import pairwise
from multiprocessing import reduction
from multiprocessing.context import BaseContext
from multiprocessing.process import AuthenticationString  # type: ignore[attr-defined]
from types import FunctionType
from typing import Any, ClassVar

from ..queues import JoinableQueue, Queue, SimpleQueue
from . import fork_lock

# In the command by which `multiprocessing` starts a fork server.
_SERVE = "from multiprocessing.forkserver import main; main("
# Executed by its path: a child that has not got its `sys.path` yet may be unable to import Penstock.
_CALL_PATCHING = os.path.join(os.path.dirname(os.path.abspath(__file__)), "_bootstrap", "call_patching.py")


def patch() -> None:
    """Put Penstock's queues under `multiprocessing`, in this process and in those it starts with it.

    From now on `multiprocessing.Queue`, `SimpleQueue`, `JoinableQueue` and `Pipe`, and the same of the
    contexts that `multiprocessing.get_context` returns, make Penstock's queues and connections. So do the
    pools of `multiprocessing`, which call these. A `concurrent.futures.ProcessPoolExecutor` runs its calls in
    a `WorkerPool`. `multiprocessing.reduction.send_handle` and `recv_handle` accept Penstock's connections.
    All this holds in the processes started from here under fork, spawn and forkserver, and in theirs. Not
    changed are

    - queues and executors that exist already;
    - the classes in `multiprocessing.queues` and the functions in `multiprocessing.connection`, and what the
      standard library makes with them: the queues inside managers;
    - a context of the program's own that overrides these methods;
    - Python programs started through `subprocess`.

    A second call changes nothing. Nothing blocks.

    >>> import multiprocessing, penstock
    >>> penstock.patch()
    >>> type(multiprocessing.Queue())
    <class 'penstock.queues.Queue'>
    >>> penstock.unpatch()
    >>> type(multiprocessing.Queue())
    <class 'multiprocessing.queues.Queue'>
    """
    for function in [*_factories.values(), *_handles.values(), _reduce]:
        function.replace()
    _executors.patch()


def unpatch() -> None:
    """Undo `patch`, in this process and for those that it starts later.

    Processes that run already stay patched, and queues and executors of Penstock that exist go on working.
    Without an earlier `patch` nothing happens. Nothing blocks.

    >>> import penstock
    >>> penstock.unpatch()
    """
    for function in [*_factories.values(), *_handles.values(), _reduce, *_commands]:
        function.restore()
    _executors.unpatch()


def patch_fork_server() -> None:
    """Patch a fork server, for the modules that it preloads, but not the processes that it forks.

    Whether such a process is patched depends on the process that asked for it. Nothing blocks.
    """
    patch()
    serving = True

    def unpatch_the_served() -> None:
        nonlocal serving
        if serving:  # not in a process that a served process forks
            serving = False
            unpatch()

    os.register_at_fork(after_in_child=unpatch_the_served)


class _Function:
    """A function of the standard library whose code can be replaced, and a copy of the original.

    The replacement has the original's name in tracebacks. It runs with the original's global names, so it
    imports what it needs.
    """

    def __init__(self, target: Callable[..., Any], replacement: Callable[..., Any]) -> None:
        assert isinstance(target, FunctionType)
        assert isinstance(replacement, FunctionType)
        code = target.__code__
        self.original = FunctionType(code, target.__globals__, target.__name__, target.__defaults__)
        self.original.__kwdefaults__ = target.__kwdefaults__
        self._target = target
        self._replacement = replacement.__code__.replace(co_name=code.co_name, co_qualname=code.co_qualname)

    def replace(self) -> None:
        self._target.__code__ = self._replacement

    def restore(self) -> None:
        self._target.__code__ = self.original.__code__


# Making queues.


def _queue(self: BaseContext, maxsize: int = 0) -> Any:
    from penstock._multiprocessing import patching

    return patching.make("Queue", self, maxsize)


def _simple_queue(self: BaseContext) -> Any:
    from penstock._multiprocessing import patching

    return patching.make("SimpleQueue", self)


def _joinable_queue(self: BaseContext, maxsize: int = 0) -> Any:
    from penstock._multiprocessing import patching

    return patching.make("JoinableQueue", self, maxsize)


def _pipe(self: BaseContext, duplex: bool = True) -> Any:
    from penstock.connections import Pipe

    return Pipe(duplex)


_factories = {
    "Pipe": _Function(BaseContext.Pipe, _pipe),
    "Queue": _Function(BaseContext.Queue, _queue),
    "SimpleQueue": _Function(BaseContext.SimpleQueue, _simple_queue),
    "JoinableQueue": _Function(BaseContext.JoinableQueue, _joinable_queue),
}
_classes: dict[str, Callable[..., Any]] = {
    "Queue": Queue,
    "SimpleQueue": SimpleQueue,
    "JoinableQueue": JoinableQueue,
}


def make(name: str, asked: BaseContext, *arguments: int) -> Any:
    """Make the queue that the patched method `name` of the context `asked` returns."""
    return _classes[name](*arguments, ctx=asked.get_context())


# Sending descriptors. The standard functions write to the connection's socket, which is not Penstock's to
# send by.


def _send_handle(conn: Any, handle: int, destination_pid: int) -> Any:
    from penstock._multiprocessing import patching

    return patching.send_handle(conn, handle, destination_pid)


def _recv_handle(conn: Any) -> Any:
    from penstock._multiprocessing import patching

    return patching.recv_handle(conn)


_handles = {
    "send_handle": _Function(reduction.send_handle, _send_handle),
    "recv_handle": _Function(reduction.recv_handle, _recv_handle),
}


def send_handle(connection: Any, handle: int, destination_pid: int) -> None:
    """Send a descriptor: through a connection of Penstock as a part of a message."""
    from ..connections import Connection

    if isinstance(connection, Connection):
        connection.send(reduction.DupFd(handle))
    else:
        _handles["send_handle"].original(connection, handle, destination_pid)


def recv_handle(connection: Any) -> int:
    """Receive what `send_handle` has sent."""
    from ..connections import Connection

    if not isinstance(connection, Connection):
        received: int = _handles["recv_handle"].original(connection)
        return received
    from multiprocessing.resource_sharer import DupFd

    message = connection.recv()
    if not isinstance(message, DupFd):
        raise RuntimeError("Invalid data received")
    return message.detach()


# Executors. Their module is imported late by the program itself, because that registers a handler for the
# exit, and so does what it imports: a program may rely on the order of the handlers.


def _initialize(
    self: Any,
    max_workers: Any = None,
    mp_context: Any = None,
    initializer: Any = None,
    initargs: Any = (),
    *,
    max_tasks_per_child: Any = None,
) -> None:
    from penstock.workers import executor

    executor.initialize(self, max_workers, mp_context, initializer, initargs, max_tasks_per_child)


def _submit(self: Any, fn: Any, /, *args: Any, **kwargs: Any) -> Any:
    from penstock._multiprocessing import patching

    return patching.submit(self, fn, args, kwargs)


def _shutdown(self: Any, wait: bool = True, *, cancel_futures: bool = False) -> None:
    from penstock._multiprocessing import patching

    patching.shut_down(self, wait, cancel_futures)


def _terminate_workers(self: Any) -> None:
    from penstock._multiprocessing import patching

    patching.end_workers(self, "terminate_workers")


def _kill_workers(self: Any) -> None:
    from penstock._multiprocessing import patching

    patching.end_workers(self, "kill_workers")


def submit(made: Any, fn: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Submit a call to an executor: to its pool, unless it was made without Penstock."""
    from ..workers import executor

    if executor.is_ours(made):
        return executor.submit(made, fn, args, kwargs)
    return _executors.functions["submit"].original(made, fn, *args, **kwargs)


def shut_down(made: Any, wait: bool, cancel_futures: bool) -> None:
    """Shut an executor down."""
    from ..workers import executor

    if executor.is_ours(made):
        executor.shutdown(made, wait, cancel_futures)
    else:
        _executors.functions["shutdown"].original(made, wait, cancel_futures=cancel_futures)


def end_workers(made: Any, name: str) -> None:
    """End an executor by a signal to its workers, with the Pythons that have this."""
    from ..workers import executor

    if executor.is_ours(made):
        executor.end_by_a_signal(made, name)
    else:
        _executors.functions[name].original(made)


class _Executors:
    """Patches `ProcessPoolExecutor`, at the end of the first import of its module.

    Until then it is a finder in `sys.meta_path`, and the module's loader.
    """

    _NAME = "concurrent.futures.process"
    _METHODS: ClassVar[dict[str, Callable[..., Any]]] = {
        "submit": _submit,
        "shutdown": _shutdown,
        "terminate_workers": _terminate_workers,
        "kill_workers": _kill_workers,
    }

    def __init__(self) -> None:
        self.functions: dict[str, _Function] = {}
        self._loader: Any = None

    def patch(self) -> None:
        kind = getattr(sys.modules.get(self._NAME), "ProcessPoolExecutor", None)
        if kind is not None:
            self._replace(kind)
        elif self._NAME not in sys.modules and self not in sys.meta_path:
            sys.meta_path.insert(0, self)  # type: ignore[arg-type]

    def unpatch(self) -> None:
        if self in sys.meta_path:
            sys.meta_path.remove(self)  # type: ignore[arg-type]
        if self.functions:  # the others work with executors of both kinds
            self.functions["__init__"].restore()

    def _replace(self, kind: Any) -> None:
        if not self.functions:
            self.functions = {"__init__": _Function(kind.__init__, _initialize)} | {
                name: _Function(vars(kind)[name], replacement)
                for name, replacement in self._METHODS.items()
                if name in vars(kind)
            }
        for function in self.functions.values():
            function.replace()

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        if name != self._NAME:
            return None
        finders: list[Any] = list(sys.meta_path)
        for finder in finders:
            spec = None if finder is self else finder.find_spec(name, path, target)
            if spec is not None and spec.loader is not None:
                self._loader, spec.loader = spec.loader, self  # type: ignore[assignment]
                return spec
        return None

    def create_module(self, spec: Any) -> Any:
        return self._loader.create_module(spec)

    def exec_module(self, module: Any) -> None:
        module.__spec__.loader = module.__loader__ = self._loader
        self._loader.exec_module(module)
        if self in sys.meta_path:  # else it was unpatched meanwhile
            sys.meta_path.remove(self)  # type: ignore[arg-type]
            self._replace(module.ProcessPoolExecutor)


_executors = _Executors()


# Starting processes.


def _reduce_key(self: Any) -> Any:
    from penstock._multiprocessing import patching

    return patching.reduce_key(self)


_reduce = _Function(AuthenticationString.__reduce__, _reduce_key)


def reduce_key(key: Any) -> tuple[Any, ...]:
    """Pickle the key of this process for a child, and with it a call that patches the child.

    The key is in the first object that a child reads that does not inherit its parent's memory. A replaced
    function further up would appear in the tracebacks of errors at the start of a process.
    """
    if "multiprocessing.forkserver" in sys.modules:
        _patch_command()
    function, arguments = _reduce.original(key)
    return function, arguments, _Call("patch")


class _Call:
    """Unpickling this calls a function of this module. The unpickled object is None."""

    def __init__(self, function: str) -> None:
        if os.path.isfile(_CALL_PATCHING):
            self.command = f"import runpy; runpy.run_path({_CALL_PATCHING!r}, {{'function': {function!r}}})"
        else:  # a frozen program: its modules are in no files, and its children have the same modules
            self.command = f"import {__name__}; {__name__}.{function}()"

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return exec, (self.command, {})


_commands: list[_Function] = []


def _patch_command() -> None:
    # Late, because `multiprocessing.util` registers its handler for the exit when it is imported, and a
    # program may rely on the order of the handlers.
    from multiprocessing import util

    with fork_lock.lock:
        if not _commands:
            _commands.append(_Function(util.spawnv_passfds, _spawnv_passfds))
        _commands[0].replace()


def _spawnv_passfds(path: Any, args: Any, passfds: Any) -> Any:
    from penstock._multiprocessing import patching

    return patching.start_interpreter(path, args, passfds)


def start_interpreter(path: str | bytes, arguments: Sequence[str | bytes], descriptors: Sequence[int]) -> int:
    """Start a Python process as `multiprocessing` wants it, a fork server patched; return its pid."""
    # In newer interpreters the program's own arguments follow the command, in older ones nothing does.
    for place, (flag, command) in enumerate(pairwise(arguments)):
        if flag == "-c":
            if isinstance(command, str) and _SERVE in command:
                # The beginning stays, because a frozen program recognizes the command by it.
                imports = _SERVE.removesuffix("main(")
                command = command.replace(_SERVE, f"{imports}{_Call('patch_fork_server').command}; main(", 1)
                arguments = [*arguments[: place + 1], command, *arguments[place + 2 :]]
            break
    pid: int = _commands[0].original(path, arguments, descriptors)
    return pid
