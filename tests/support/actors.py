"""Actors: processes that use a queue on command, one step at a time, and answer after each."""

import gc
import os
import pickle
import queue as standard
import select
import signal
import threading
import warnings
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from itertools import count
from multiprocessing import util
from multiprocessing.connection import Client, Connection, Listener
from typing import Any

import numpy as np

from . import stacks

_addresses = count()


ARRAY = 1 << 20  # bytes: its buffer is mapped, not copied
HELD = 4  # arrays at most


@dataclass(frozen=True)
class Array:
    """Stands for an array in commands and answers. (An array is large, and `==` compares its items.)"""

    number: int

    def made(self) -> Any:
        """The array that it stands for."""
        array = np.full(ARRAY, self.number % 251, dtype=np.uint8)
        array[:8] = list(self.number.to_bytes(8, "little"))
        return array


def described(received: Any) -> Any:
    """The object, or the `Array` that stands for it."""
    if not isinstance(received, np.ndarray):
        return received
    array = Array(int.from_bytes(received[:8].tobytes(), "little"))
    assert np.array_equal(received, array.made()), "an array is not as it was put"
    return array


class Unpicklable:
    """An object that cannot be pickled."""

    def __reduce__(self) -> Any:
        raise TypeError("cannot be pickled")


class Unloadable:
    """An object that cannot be rebuilt."""

    def __reduce__(self) -> Any:
        return _refuse, ()


def _refuse() -> None:
    raise LookupError("cannot be rebuilt")


class Theatre:
    """Where actors report. Every process forked since can fork another actor."""

    def __init__(self) -> None:
        self._listener = Listener(f"\0penstock-test-{os.getpid()}-{next(_addresses)}", "AF_UNIX")

    def close(self) -> None:
        """Accept no more actors."""
        self._listener.close()

    def fork(self, stage: "Stage") -> "Actor":
        """Fork an actor from this process. It inherits the stage."""
        pid = os.fork()
        if pid == 0:
            _act(self._listener.address, stage)
        return self.accept()

    def accept(self) -> "Actor":
        """Accept an actor that this process or another one has forked."""
        return Actor(self._listener.accept())


class Actor:
    """The director's end of an actor."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self.pid: int = connection.recv()
        self._pidfd = os.pidfd_open(self.pid)

    def tell(self, verb: str, *arguments: Any) -> None:
        """Send it a command."""
        self._connection.send((verb, *arguments))

    def has_answered(self, seconds: float) -> bool:
        """Whether it answers within so many seconds."""
        return self._connection.poll(seconds)

    def answer(self) -> Any:
        """The outcome of the command: a value, or the type of the exception."""
        return self._connection.recv()

    def kill(self) -> None:
        """Kill it, and wait until it is dead."""
        signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)
        self.wait()

    def wait(self) -> None:
        """Wait until it has ended, and close its descriptors."""
        select.select([self._pidfd], [], [])
        os.close(self._pidfd)
        self._connection.close()
        with suppress(ChildProcessError):  # the child of another actor
            os.waitpid(self.pid, 0)


class Stage:
    """A queue's handles in one process, and two threads that use them."""

    def __init__(self, *handles: Any) -> None:
        self.handles: list[Any] = list(handles)
        self.held: list[tuple[int, Any]] = []
        """The arrays that were received, and the number that was written to each."""
        self.blocks: list[Any] = []
        """The blocks of `producing()` that were entered."""
        self.loops: dict[int, Any] = {}
        """The iterator of each thread's loop."""
        self.leases: list[Any] = []
        """Items taken by name and not settled, the oldest first."""
        self._written = 0
        self._errands: standard.SimpleQueue[Callable[[], None] | None] = standard.SimpleQueue()
        self._second: threading.Thread | None = None

    def do(self, verb: str, *arguments: Any) -> Any:
        """Carry out a command. Returns a value, or the type of the exception."""
        try:
            return getattr(self, verb)(*arguments)
        except Exception as error:
            return type(error)

    def second_do(self, verb: str, *arguments: Any) -> Any:
        """Carry out a command in the second thread."""
        if self._second is None:
            self._second = threading.Thread(target=self._run_errands)
            self._second.start()
        answers: standard.SimpleQueue[Any] = standard.SimpleQueue()
        self._errands.put(lambda: answers.put(self.do(verb, *arguments)))
        return answers.get()

    def close(self) -> None:
        """End the second thread."""
        if self._second is not None:
            self._errands.put(None)
            self._second.join()
            self._second = None

    def _run_errands(self) -> None:
        while (errand := self._errands.get()) is not None:
            errand()

    # The commands. `which` is the handle.

    def put(self, which: int, item: Any, *how: Any) -> None:
        """Put the item; for a class a new object of it, for an `Array` the array."""
        self.handles[which].put(_made(item), *how)

    def put_many(self, which: int, items: list[Any], *how: Any) -> Any:
        """Put items so. If it fails, returns the exception's type and how many were put."""
        try:
            self.handles[which].put_many(map(_made, items), *how)
        except Exception as error:
            if hasattr(error, "items_put"):
                return type(error), error.items_put
            raise

    def get(self, which: int, *how: Any) -> Any:
        return self._received(self.handles[which].get(*how))

    def get_many(self, which: int, most: int | None, *how: Any) -> Any:
        """Returns the objects, and the exception's type if one of them failed."""
        failed = None
        try:
            items = self.handles[which].get_many(most, *how)
        except Exception as error:
            if not hasattr(error, "items"):
                raise
            failed, items = type(error), error.items
        return [type(item) if isinstance(item, Exception) else self._received(item) for item in items], failed

    def _received(self, item: Any) -> Any:
        """Write to an array, and hold it. Returns what stands for the item."""
        told = described(item)
        if told is not item:
            self._written += 1
            item[:] = 255 - self._written % 200
            self.held.append((255 - self._written % 200, item))
            if len(self.held) > HELD:
                self.drop_held(0)
        return told

    def drop_held(self, which: int) -> None:
        """Drop an array, if one is held, after a check that it is as it was written."""
        if self.held:
            written, array = self.held.pop(which % len(self.held))
            assert (array == written).all(), "an array that is held has changed"

    def hold(self, which: int, timeout: float) -> tuple[Any, int, int]:
        """Take an item by name. Returns what stands for it, its number, and how often it was delivered."""
        lease = self.handles[which].lease(timeout).__enter__()
        self.leases.append(lease)
        return described(lease.item), lease.id, lease.deliveries

    def settle(self, place: int, verb: str, *delay: float) -> None:
        """Settle one of the items taken by name."""
        getattr(self.leases.pop(place), verb)(*delay)

    def put_later(self, which: int, item: Any, delay: float) -> None:
        self.handles[which].put(_made(item), delay=delay)

    def decide(self, which: int, verb: str, count: int | None) -> int:
        """Requeue or purge the first dead letters, or all of them. Returns how many there were."""
        queue = self.handles[which]
        letters = None if count is None else queue.dead_letters()[:count]
        decided: int = getattr(queue, verb)(letters)
        return decided

    def shutdown(self, which: int, immediate: bool) -> None:
        self.handles[which].shutdown(immediate)

    def produce(self, which: int, expect: int) -> None:
        """Enter a block of `producing()`."""
        block = self.handles[which].producing(expect or None)
        block.__enter__()
        self.blocks.append(block)

    def end_producing(self) -> None:
        """Leave the block that was entered first."""
        self.blocks.pop(0).__exit__(None, None, None)

    def next(self, which: int) -> Any:
        """Take the next item of the thread's loop."""
        thread = threading.get_ident()
        if thread not in self.loops:
            self.loops[thread] = iter(self.handles[which])
        try:
            return self._received(next(self.loops[thread]))
        except StopIteration:
            del self.loops[thread]
            raise

    def leave_loop(self) -> None:
        """Leave the thread's loop."""
        self.loops.pop(threading.get_ident(), None)

    def task_done(self, which: int) -> None:
        self.handles[which].task_done()

    def join(self, which: int) -> None:
        self.handles[which].join()

    def statistics(self, which: int) -> Any:
        return self.handles[which].statistics()

    def sizes(self, which: int) -> tuple[int | None, bool, bool | None]:
        """The answers of qsize, empty and full; a SimpleQueue has empty only."""
        handle = self.handles[which]
        if not hasattr(handle, "qsize"):
            return None, handle.empty(), None
        return handle.qsize(), handle.empty(), handle.full()

    def close_handle(self, which: int) -> None:
        self.handles[which].close()

    def open_another(self) -> None:
        """Open a second handle."""
        self.handles.append(pickle.loads(pickle.dumps(self.handles[0])))

    def drop(self) -> None:
        """Drop all handles, and the arrays and leases, because each keeps the process a participant.

        Also those that only a cycle keeps: an error that `get_many()` has raised leads to the frame that
        caught it, and that to the error's items.
        """
        self.held.clear()
        self.blocks.clear()
        self.loops.clear()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)
            self.leases.clear()
        self.handles.clear()
        gc.collect()

    def open_pickled(self, pickled: bytes) -> None:
        """Open a pickled queue."""
        self.handles.append(pickle.loads(pickled))

    def open_received(self, carrier: Any) -> None:
        """Open a queue that another queue carries."""
        self.handles.append(carrier.get())


def _made(item: Any) -> Any:
    if isinstance(item, Array):
        return item.made()
    return item() if isinstance(item, type) else item


def _act(address: Any, stage: Stage) -> None:
    """Be an actor until the command to end."""
    status = 1
    try:
        stacks.can_be_asked_for()
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # an actor does not reap the actors that it forks
        # The child has copies of its parent's arrays, but not its second thread. The parent refers to them by
        # the stage alone, so the child drops them all with the inherited stage.
        inherited, stage = stage, Stage(*stage.handles)
        stage.held, inherited.held = inherited.held, []
        inherited.handles = []
        inherited.blocks = []
        inherited.loops = {}
        inherited.leases = []
        with Client(address) as director:
            director.send(os.getpid())
            while True:
                verb, *arguments = director.recv()
                if verb == "fork":
                    director.send(None)
                    if os.fork() == 0:
                        _act(address, stage)
                elif verb == "end":
                    _end(*arguments)
                    status = 0
                    return
                elif verb == "second":
                    director.send(stage.second_do(*arguments))
                else:
                    director.send(stage.do(verb, *arguments))
    finally:
        os._exit(status)


def _end(by_an_error: bool) -> None:
    """Do what an interpreter does at its end: in order, or by an uncaught exception."""
    if not by_an_error:
        util._run_finalizers(0)  # type: ignore[attr-defined]
        return
    try:
        raise RuntimeError
    except RuntimeError:
        util._run_finalizers(0)  # type: ignore[attr-defined]
