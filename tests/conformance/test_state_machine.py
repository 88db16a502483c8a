"""Random steps of several processes, each compared with a plain model, for the three queues.

    PENSTOCK_MODEL_RUNS    number of runs, each with other steps; 1 if it is not set

A failure prints the steps, and the line that plays them again.
"""

import itertools
import os
import pickle
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Any, ClassVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from penstock import JoinableQueue, Queue, ShutDown, SimpleQueue
from tests.support import stacks
from tests.support.actors import ARRAY, Actor, Array, Stage, Theatre, Unloadable, Unpicklable, described
from tests.support.model import Model
from tests.support.waiting import until

pytestmark = pytest.mark.slow

RUNS = int(os.environ.get("PENSTOCK_MODEL_RUNS", "1"))
STEPS = 40  # of a program
PROCESSES = 4  # at most at once, with this one
PATIENCE = 10.0  # seconds: an actor without an answer by then hangs

# Bytes: in the slot, outside it, read in place, and copied outside the lock.
SIZES = [0, 20, 300, 1500, 5000, 100_000]
SIMPLE_QUEUE_WAITS = 1 << 20  # queued bytes from which a put waits
SOON, NEVER = 0.001, 3600.0  # seconds of a delay

US = 0  # this process; actors have numbers from 1 on
any_process = st.integers(0, 9)
any_handle = st.integers(0, 1)
any_thread = st.integers(0, 1)
any_size = st.sampled_from([*SIZES, ARRAY])  # ARRAY makes an array, the others bytes
# The arguments `block` and `timeout` of a call that waits for 2 ms at most.
briefly = st.sampled_from([(False,), (True, 0), (True, -1.0), (True, 0.002), (False, 5.0)])


def size_of(value: Any) -> int:
    """The bytes of its payload, about."""
    if isinstance(value, Array):
        return ARRAY
    return len(value[1]) if isinstance(value, tuple) else 0


class Machine(RuleBasedStateMachine):
    """The steps, each compared with the model. A class for each queue follows."""

    new_queue: ClassVar[Callable[[int, int], Any]]
    is_joinable: ClassVar[bool] = False
    is_simple: ClassVar[bool] = False
    programs: ClassVar[int] = 20
    """The programs of a run."""
    patience: ClassVar[float] = PATIENCE

    @initialize(maxsize=st.sampled_from([0, 0, 1, 2, 5]), max_deliveries=st.sampled_from([0, 1, 3]))
    def begin(self, maxsize: int, max_deliveries: int) -> None:
        self.theatre = Theatre()
        self.carrier = Queue[Any]()
        self.numbers = itertools.count(1)
        self.values = itertools.count()
        self.actors: dict[int, Actor] = {}
        self.handles: dict[int, list[int]] = {}
        """For each handle of each process: the process that closed it, or -1."""
        self.have_put: set[tuple[int, int]] = set()
        """Process and handle, if the process, or its parent before the fork, has put by that handle."""
        self.unusable: set[tuple[int, int]] = set()
        """Process and handle, if the handle was closed before the fork, by a process that had put by it."""
        # This process does not inherit the queue: `give_a_handle` gives it one.
        self.add(self.theatre.fork(Stage()), [])
        cls = type(self)
        self.stage = Stage(cls.new_queue(maxsize, max_deliveries))
        self.stage.open_another()
        self.handles[US] = [-1, -1]
        self.model = Model(
            maxsize=0 if self.is_simple else maxsize,
            is_joinable=self.is_joinable,
            max_deliveries=max_deliveries,
        )
        # Whether the model predicts the order of the dead letters.
        self.are_letters_in_order = True
        # For each waiting process: the verb, and the object if it puts.
        self.waiting: dict[int, tuple[str, Any]] = {}
        self.add(self.theatre.fork(self.stage), self.handles[US])

    @property
    def queue(self) -> Any:
        return self.stage.handles[0]

    def teardown(self) -> None:
        try:
            if sys.exception() is None and hasattr(self, "model"):
                self.drain()
        finally:
            self.end_all()

    def drain(self) -> None:
        """Take all that is left: every item comes in its order, also those that were set aside."""
        if self.is_joinable and self.model.whose_is_clear(US):
            assert self.do(US, 0, "task_done", 0) is self.model.task_done(US, 0)
            self.settle()
        while self.model.ready:
            assert self.do(US, 0, "get", 0) == self.model.get(US, 0)
            self.settle()
        self.is_as_the_model_says()

    def end_all(self) -> None:
        if hasattr(self, "stage"):
            self.stage.close()
        for actor in getattr(self, "actors", {}).values():
            with suppress(ProcessLookupError):
                actor.kill()
        if hasattr(self, "theatre"):
            self.theatre.close()

    # ---------------------------------------------------------------------------------------- processes

    def add(self, actor: Actor, handles: list[int], parent: int = US) -> None:
        number = next(self.numbers)
        self.actors[number] = actor
        self.handles[number] = list(handles)
        self.unusable |= {
            (number, which)
            for which, closer in enumerate(handles)
            if (parent, which) in self.unusable or (closer == parent and (parent, which) in self.have_put)
        }
        self.have_put |= {(number, which) for process, which in self.have_put if process == parent}

    def one_of(self, choice: int, *, killable: bool = False, with_handle: bool = True) -> int | None:
        """A process that does not wait; None if there is none."""
        found = [
            number
            for number in ([] if killable else [US]) + sorted(self.actors)
            if number not in self.waiting and (self.handles[number] or not with_handle)
        ]
        return found[choice % len(found)] if found else None

    def do(self, process: int, thread: int, verb: str, *arguments: Any) -> Any:
        """Have a process do something that does not wait. Returns its answer."""
        if process == US:
            return (self.stage.second_do if thread else self.stage.do)(verb, *arguments)
        self.actors[process].tell(*(["second"] if thread else []), verb, *arguments)
        return self.answer_of(process)

    def answer_of(self, process: int) -> Any:
        actor = self.actors[process]
        if not actor.has_answered(type(self).patience):
            stacks.report([actor.pid for actor in self.actors.values()])
            type(self).patience = 1.0  # hypothesis now shrinks the failure
            raise AssertionError(f"process {process} hangs in {self.waiting.get(process)}")
        return actor.answer()

    def handle_of(self, process: int, choice: int) -> tuple[int, type[Exception] | None]:
        """One of the process's handles, and what it raises if it is closed."""
        which = choice % len(self.handles[process])
        closer = self.handles[process][which]
        if closer == -1:
            return which, None
        if self.is_simple:
            return which, OSError
        if closer == process:
            return which, ValueError
        # Closed before the fork: a child can use what was closed before any put.
        return which, OSError if (process, which) in self.unusable else None

    # ---------------------------------------------------------------------------------- putting, taking

    def waits(self, how: tuple[Any, ...]) -> bool:
        """Whether a call with these arguments waits for an item."""
        return self.is_simple or (how[0] and how[1] > 0)

    def would_wait(self, size: int) -> bool:
        """Whether a put of that size into a SimpleQueue might wait: it has no time-out."""
        queued = sum(300 + size_of(item.value) for item in self.model.ready)
        return self.is_simple and queued + size + 1000 * len(self.model.ready) >= SIMPLE_QUEUE_WAITS

    def new_value(self, size: int) -> Any:
        number = next(self.values)
        if size == ARRAY:
            return Array(number)
        return number, bytes([number % 251]) * size

    @rule(
        choice=any_process,
        handle=any_handle,
        thread=any_thread,
        sizes=st.lists(any_size, min_size=1, max_size=4),
        how=briefly,
    )
    def put(self, choice: int, handle: int, thread: int, sizes: list[int], how: tuple[Any, ...]) -> None:
        process = self.one_of(choice)
        if process is not None:
            for size in sizes:
                self.put_value(process, handle, thread, self.new_value(size), how)

    @rule(choice=any_process, handle=any_handle, how=briefly)
    def put_what_cannot_be_rebuilt(self, choice: int, handle: int, how: tuple[Any, ...]) -> None:
        process = self.one_of(choice)
        if process is not None:
            self.put_value(process, handle, 0, Unloadable, how)

    def put_value(self, process: int, handle: int, thread: int, value: Any, how: tuple[Any, ...]) -> None:
        if self.would_wait(max(SIZES) * 2):
            return
        which, error_of_closed = self.handle_of(process, handle)
        came = self.do(process, thread, "put", which, value, *([] if self.is_simple else how))
        if error_of_closed:
            assert came is error_of_closed
        else:
            assert came is self.model.put(LookupError if value is Unloadable else value)
            if came is None:
                self.have_put.add((process, which))
        self.settle()

    @precondition(lambda self: not self.is_simple)
    @rule(choice=any_process, handle=any_handle, thread=any_thread, size=any_size, is_due=st.booleans())
    def put_later(self, choice: int, handle: int, thread: int, size: int, is_due: bool) -> None:
        process = self.one_of(choice)
        if process is None or self.would_wait(max(SIZES) * 2):
            return
        which, error_of_closed = self.handle_of(process, handle)
        value = self.new_value(size)
        came = self.do(process, thread, "put_later", which, value, SOON if is_due else NEVER)
        if error_of_closed:
            assert came is error_of_closed
            return
        assert came is self.model.put_later(value, is_due)
        if came is None:
            self.have_put.add((process, which))
        until(lambda: self.queue.statistics().delayed == len(self.model.delayed))
        self.settle()

    @rule(choice=any_process, handle=any_handle)
    def put_what_cannot_be_pickled(self, choice: int, handle: int) -> None:
        process = self.one_of(choice)
        # A put that does not wait raises Full before it pickles.
        if process is None or self.model.is_full or self.would_wait(0):
            return
        which, error_of_closed = self.handle_of(process, handle)
        came = self.do(process, 0, "put", which, Unpicklable)
        assert came is (error_of_closed or TypeError)

    @rule(choice=any_process, size=st.sampled_from([0, 1500, 100_000]), count=st.integers(5, 40))
    def put_often(self, choice: int, size: int, count: int) -> None:
        """Put more than the initial memory of a queue holds."""
        process = self.one_of(choice)
        if process is not None:
            for _ in range(count):
                if not self.model.is_full:
                    self.put_value(process, 0, 0, self.new_value(size), ())

    @rule(choice=any_process, handle=any_handle, thread=any_thread, how=briefly, count=st.integers(1, 2))
    def get(self, choice: int, handle: int, thread: int, how: tuple[Any, ...], count: int) -> None:
        process = self.one_of(choice)
        if process is None:
            return
        which, error_of_closed = self.handle_of(process, handle)
        for _ in range(count):
            if self.is_simple and not self.model.ready and not self.model.is_shutdown:
                return
            came = self.do(process, thread, "get", which, *([] if self.is_simple else how))
            if error_of_closed:
                assert came is error_of_closed
            else:
                assert came == self.model.get(process, thread, self.waits(how))
            self.settle()

    @rule(
        choice=any_process,
        handle=any_handle,
        thread=any_thread,
        sizes=st.lists(any_size, max_size=12),
        odd=st.sampled_from([None, None, Unloadable, Unpicklable]),
        place=st.integers(0, 12),
        how=briefly,
    )
    def put_many(
        self,
        choice: int,
        handle: int,
        thread: int,
        sizes: list[int],
        odd: type | None,
        place: int,
        how: tuple[Any, ...],
    ) -> None:
        process = self.one_of(choice)
        # A waiting getter may take an item during the batch, which makes room for more.
        if process is None or self.is_waited_in("get"):
            return
        room = max(0, self.model.maxsize - len(self.model.ready))
        if odd is Unpicklable and self.model.maxsize and min(place, len(sizes)) == room:
            return  # Full may come before the pickling, as in put_what_cannot_be_pickled
        values = [self.new_value(size) for size in sizes]
        if odd is not None:
            values.insert(place, odd)
        if self.would_wait(sum(map(size_of, values)) + 1300 * len(values)):
            return
        which, error_of_closed = self.handle_of(process, handle)
        came = self.do(process, thread, "put_many", which, values, *([] if self.is_simple else how))
        if error_of_closed:
            assert came is error_of_closed
        else:
            assert came == self.model_put_many(values)
            self.have_put.add((process, which))
        self.settle()

    def model_put_many(self, values: list[Any]) -> tuple[type, int] | None:
        for count, value in enumerate(values):
            if value is Unpicklable:
                return TypeError, count
            failed = self.model.put(LookupError if value is Unloadable else value)
            if failed is not None:
                return failed, count
        return None

    @rule(
        choice=any_process,
        handle=any_handle,
        thread=any_thread,
        # At most what one batch of the core takes at any size: the call ends after a batch with an error.
        most=st.none() | st.integers(1, 16),
        how=briefly,
    )
    def get_many(self, choice: int, handle: int, thread: int, most: int | None, how: tuple[Any, ...]) -> None:
        process = self.one_of(choice)
        queued = len(self.model.ready)
        if process is None or (self.is_simple and not queued and not self.model.is_shutdown):
            return
        if most is None and queued > 16:
            most = 16
        if self.is_waited_in("put"):
            # Not more: the item of the waiting putter may be taken, too.
            most = min(most or queued, queued)
        which, error_of_closed = self.handle_of(process, handle)
        came = self.do(process, thread, "get_many", which, most, *([] if self.is_simple else how))
        if error_of_closed:
            assert came is error_of_closed
        elif not queued:
            self.model.ask(process, thread)
            assert came is self.model.no_item(process, self.waits(how))
        else:
            items = self.model.get_many(process, thread, most or queued)
            assert came == (items, LookupError if LookupError in items else None)
        self.settle()

    @rule(choice=any_process, which=st.integers(0, 3))
    def drop_held(self, choice: int, which: int) -> None:
        process = self.one_of(choice, with_handle=False)
        if process is not None:
            assert self.do(process, 0, "drop_held", which) is None

    def get_often(self, process: int, count: int) -> None:
        if self.handle_of(process, 0)[1]:
            return
        for _ in range(min(count, len(self.model.ready))):
            assert self.do(process, 0, "get", 0) == self.model.get(process, 0)
            self.settle()

    # ------------------------------------------------------------------------------------------ waiting

    def begin_to_wait(self, process: int, verb: str, figure: str, value: Any = None) -> None:
        which = next((i for i in range(2) if not self.handle_of(process, i)[1]), None)
        if which is None:
            return
        before = getattr(self.queue.statistics(), figure)
        self.actors[process].tell(verb, which, *([] if value is None else [value]))
        self.waiting[process] = verb, value
        until(
            lambda: (
                self.actors[process].has_answered(0) or getattr(self.queue.statistics(), figure) == before + 1
            )
        )
        assert not self.actors[process].has_answered(0), "it should wait"

    def is_waited_in(self, verb: str) -> bool:
        return any(waits_in == verb for waits_in, _ in self.waiting.values())

    @rule(choice=any_process)
    def wait_in_get(self, choice: int) -> None:
        process = self.one_of(choice, killable=True)
        # One at most: which of several getters gets an item is not promised.
        if process is None or self.model.ready or self.is_waited_in("get"):
            return
        if self.model.is_shutdown:
            if self.handle_of(process, 0)[1]:
                return
            self.model.ask(process, 0)
            if self.model.no_item(process, waits=True) is ShutDown:
                assert self.do(process, 0, "get", 0) is ShutDown
                return
        self.begin_to_wait(process, "get", "waiting_getters")
        if process in self.waiting:
            self.model.ask(process, 0)

    @rule(choice=any_process, size=any_size)
    def wait_in_put(self, choice: int, size: int) -> None:
        process = self.one_of(choice, killable=True)
        if process is None or self.is_waited_in("put"):
            return
        if self.model.is_full and not self.model.is_shutdown:
            self.begin_to_wait(process, "put", "waiting_putters", self.new_value(size))

    @precondition(lambda self: self.is_joinable)
    @rule(choice=any_process, handle=any_handle)
    def join(self, choice: int, handle: int) -> None:
        process = self.one_of(choice, killable=True)
        if process is None:
            return
        which, error_of_closed = self.handle_of(process, handle)
        if error_of_closed and self.model.unfinished:
            return
        # Items set aside come back now. If they become dead letters, there may be nothing to wait for.
        self.model.acknowledge()
        if self.model.unfinished:
            self.begin_to_wait(process, "join", "waiting_joiners")
        else:
            assert self.do(process, 0, "join", which) is None
        self.settle()

    def settle(self) -> None:
        """Read the answer of each waiter that can proceed now, and compare it."""
        while True:
            for process, (verb, value) in sorted(self.waiting.items()):
                if verb == "get" and self.model.ready:
                    assert self.answer_of(process) == self.model.get(process, 0)
                elif verb == "get" and self.model.no_item(process, waits=True) is ShutDown:
                    assert self.answer_of(process) is ShutDown
                elif verb == "put" and (self.model.is_shutdown or not self.model.is_full):
                    assert self.answer_of(process) is self.model.put(value)
                elif verb == "join" and not self.model.unfinished:
                    assert self.answer_of(process) is None
                else:
                    continue
                del self.waiting[process]
                break
            else:
                return

    # ------------------------------------------------------------------------------------------- ending

    @rule(
        choice=any_process,
        handle=any_handle,
        thread=any_thread,
        immediate=st.booleans(),
        # Seldom, because little happens afterwards.
        chance=st.integers(0, 7),
    )
    def shut_down(self, choice: int, handle: int, thread: int, immediate: bool, chance: int) -> None:
        process = self.one_of(choice)
        if process is None or chance != 7:
            return
        which, error_of_closed = self.handle_of(process, handle)
        came = self.do(process, thread, "shutdown", which, immediate)
        assert came is error_of_closed
        if not error_of_closed:
            self.model.shut_down(immediate)
        self.settle()

    @rule(
        choice=any_process,
        handle=any_handle,
        expect=st.integers(0, 3),
        ends=st.booleans(),
        # Seldom, because little happens after the end of the last producer.
        chance=st.integers(0, 3),
    )
    def produce(self, choice: int, handle: int, expect: int, ends: bool, chance: int) -> None:
        """Begin a block as a producer, or end one."""
        process = self.one_of(choice)
        if process is None or chance != 3:
            return
        if not ends:
            which, error_of_closed = self.handle_of(process, handle)
            came = self.do(process, 0, "produce", which, expect)
            assert came is (error_of_closed or self.model.produce(process, expect))
        elif self.model.blocks.get(process):
            assert self.do(process, 0, "end_producing") is None
            self.model.end_producing(process)
        self.settle()

    # -------------------------------------------------------------------------------------------- loops

    @rule(choice=any_process, thread=any_thread, count=st.integers(1, 3))
    def take_in_a_loop(self, choice: int, thread: int, count: int) -> None:
        """Take the next items of the thread's loop."""
        process = self.one_of(choice)
        if process is None or self.handle_of(process, 0)[1]:
            return
        for _ in range(count):
            if self.model.next_waits(process, thread):
                return
            came = self.do(process, thread, "next", 0)
            assert came == self.model.next(process, thread)
            self.settle()

    @rule(choice=any_process, thread=any_thread)
    def leave_a_loop(self, choice: int, thread: int) -> None:
        process = self.one_of(choice)
        if process is not None:
            assert self.do(process, thread, "leave_loop") is None
            self.model.leave_loop(process, thread)

    # --------------------------------------------------------------------------------------------- done

    @precondition(lambda self: self.is_joinable)
    @rule(choice=any_process, handle=any_handle, thread=any_thread, count=st.integers(1, 3))
    def task_done(self, choice: int, handle: int, thread: int, count: int) -> None:
        process = self.one_of(choice)
        for _ in range(count):
            if process is None or not self.model.whose_is_clear(process):
                return
            which, _ = self.handle_of(process, handle)
            came = self.do(process, thread, "task_done", which)
            assert came is self.model.task_done(process, thread)
            self.settle()

    @precondition(lambda self: self.is_joinable)
    @rule(choice=any_process, handle=any_handle, thread=any_thread, timeout=st.sampled_from([0, 0.001]))
    def hold(self, choice: int, handle: int, thread: int, timeout: float) -> None:
        """Take an item by name."""
        process = self.one_of(choice)
        if process is None:
            return
        which, error_of_closed = self.handle_of(process, handle)
        came = self.do(process, thread, "hold", which, timeout)
        if error_of_closed:
            assert came is error_of_closed
        else:
            assert came == self.model.hold(process, thread, timeout > 0)
        self.settle()

    @precondition(lambda self: self.is_joinable)
    @rule(
        choice=any_process,
        thread=any_thread,
        place=st.integers(0, 5),
        verb=st.sampled_from(["ack", "nack", "release", "reject"]),
        is_later=st.booleans(),
    )
    def settle_by_name(self, choice: int, thread: int, place: int, verb: str, is_later: bool) -> None:
        process = self.one_of(choice)
        if process is None or not self.model.named.get(process):
            return
        place %= len(self.model.named[process])
        delay = [NEVER] if is_later and verb in ("nack", "release") else []
        came = self.do(process, thread, "settle", place, verb, *delay)
        assert came is self.model.settle(process, place, verb, bool(delay))
        self.settle()

    @rule(
        choice=any_process,
        handle=any_handle,
        thread=any_thread,
        verb=st.sampled_from(["requeue", "purge"]),
        count=st.none() | st.integers(1, 3),
    )
    def decide_on_letters(self, choice: int, handle: int, thread: int, verb: str, count: int | None) -> None:
        process = self.one_of(choice)
        if process is None or not (self.are_letters_in_order or count is None):
            return
        which, error_of_closed = self.handle_of(process, handle)
        if error_of_closed or self.would_wait(max(SIZES) * 2):
            return
        came = self.do(process, thread, "decide", which, verb, count)
        expected = self.model.decide(verb, count)
        assert came is expected or came == expected
        self.settle()

    # --------------------------------------------------------------------------------- coming and going

    @rule(choice=any_process)
    def fork_another(self, choice: int) -> None:
        """Fork from any process. The child must not have the leases and arrays that the process holds."""
        process = self.one_of(choice)
        if process is None or len(self.actors) + 1 >= PROCESSES:
            return
        if process == US:
            self.add(self.theatre.fork(self.stage), self.handles[US])
        else:
            assert self.do(process, 0, "fork") is None
            self.add(self.theatre.accept(), self.handles[process], process)

    @rule(
        choice=any_process, finder=any_process, takes=st.integers(0, 3), size=st.sampled_from([20, 20, ARRAY])
    )
    def kill(self, choice: int, finder: int, takes: int, size: int) -> None:
        """Kill a process that may hold items or wait. A waiting getter sweeps it, or another process does."""
        doomed = sorted(self.actors)
        if not doomed:
            return
        process = doomed[choice % len(doomed)]
        if process not in self.waiting and self.handles[process]:
            for _ in range(takes):
                if not self.model.is_full:
                    self.put_value(US, 0, 0, self.new_value(size), ())
            self.get_often(process, takes)
        self.actors.pop(process).kill()
        self.forget(process)
        self.model.die(process)
        if not self.is_waited_in("get"):
            by = self.one_of(finder)
            assert by is not None
            self.do(by, 0, "statistics", 0)
        self.settle()

    @rule(choice=any_process, by_an_error=st.booleans())
    def end(self, choice: int, by_an_error: bool) -> None:
        process = self.one_of(choice, killable=True)
        if process is None:
            return
        actor = self.actors.pop(process)
        actor.tell("end", by_an_error)
        actor.wait()
        self.forget(process)
        if by_an_error:
            # An array that the process still holds is redelivered later than the rest, by the sweep.
            held = self.model.leases.get(process, [])
            self.are_letters_in_order &= not any(isinstance(lease.item.value, Array) for lease in held)
            self.model.die(process)
        else:
            self.model.leave(process, ends=True)
        self.queue.statistics()  # finds what is left of it
        self.settle()

    def forget(self, process: int) -> None:
        self.waiting.pop(process, None)
        del self.handles[process]
        if len(self.actors) < 2:
            self.add(self.theatre.fork(self.stage), self.handles[US])

    @rule(choice=any_process)
    def drop_all_handles(self, choice: int) -> None:
        process = self.one_of(choice, killable=True)
        if process is not None:
            assert self.do(process, 0, "drop") is None
            self.handles[process] = []
            self.have_put = {(putter, which) for putter, which in self.have_put if putter != process}
            self.model.leave(process, ends=False)
            self.queue.statistics()  # finds what is left of it
            self.settle()

    @rule(choice=any_process, in_message=st.booleans())
    def give_a_handle(self, choice: int, in_message: bool) -> None:
        """Give a process its first or its second handle."""
        process = self.one_of(choice, killable=True, with_handle=False)
        # A closed handle of a SimpleQueue cannot be pickled.
        if process is None or len(self.handles[process]) > 1 or self.handle_of(US, 0)[1]:
            return
        if in_message:
            self.carrier.put(self.queue)
            assert self.do(process, 0, "open_received", self.carrier) is None
        else:
            assert self.do(process, 0, "open_pickled", pickle.dumps(self.queue)) is None
        self.handles[process].append(-1)

    @rule(choice=any_process)
    def close_second_handle(self, choice: int) -> None:
        process = self.one_of(choice)
        if process is not None and len(self.handles[process]) > 1:
            assert self.do(process, 0, "close_handle", 1) is None
            self.handles[process][1] = process

    # ---------------------------------------------------------------------------------------- invariant

    def count_waiters(self) -> tuple[int, int, int]:
        found = self.queue.statistics()
        return found.waiting_getters, found.waiting_putters, found.waiting_joiners

    def expected_waiters(self) -> tuple[int, int, int]:
        verbs = [verb for verb, _ in self.waiting.values()]
        return verbs.count("get"), verbs.count("put"), verbs.count("join")

    @invariant()
    def is_as_the_model_says(self) -> None:
        if not hasattr(self, "model"):
            return
        model = self.model
        found = self.queue.statistics()
        queued, dead = len(model.ready), len(model.dead_letters)
        left = queued + dead + model.discarded + len(model.delayed)
        assert (found.puts, found.gets, found.queued) == (model.puts, model.puts - left, queued)
        assert found.discarded == model.discarded
        assert found.unfinished == model.unfinished
        assert (found.taken, found.delayed) == (model.taken, len(model.delayed))
        assert (found.redeliveries, found.dead_letters) == (model.redeliveries, dead)
        assert found.high_water == model.high_water
        if model.delayed:
            # A waiter that was woken to keep their time is listed again in a moment.
            until(lambda: self.count_waiters() == self.expected_waiters())
        assert self.count_waiters() == self.expected_waiters()
        assert 1 <= found.participants <= 1 + len(self.actors)
        assert found.producers == model.producers
        letters = [
            (letter.id, letter.deliveries, described(rebuilt(letter))) for letter in self.queue.dead_letters()
        ]
        expected_letters = [
            (letter.number, letter.redeliveries + 1, letter.value) for letter in model.dead_letters
        ]
        if self.are_letters_in_order:
            assert letters == expected_letters
        else:
            assert sorted(letters, key=repr) == sorted(expected_letters, key=repr)
        for process in [US, *self.actors]:
            if process not in self.waiting and self.handles[process] and not self.handle_of(process, 0)[1]:
                expected = (None, not queued, None) if self.is_simple else (queued, not queued, model.is_full)
                assert self.do(process, 0, "sizes", 0) == expected


def rebuilt(letter: Any) -> Any:
    """The object of a dead letter, or the type of the exception that rebuilding it raises."""
    try:
        return letter.item
    except LookupError as error:
        return type(error)


class QueueMachine(Machine):
    new_queue = staticmethod(lambda maxsize, max_deliveries: Queue(maxsize))


class SimpleQueueMachine(Machine):
    new_queue = staticmethod(lambda maxsize, max_deliveries: SimpleQueue())
    is_simple = True


class JoinableQueueMachine(Machine):
    new_queue = staticmethod(
        lambda maxsize, max_deliveries: JoinableQueue(maxsize, max_deliveries=max_deliveries)
    )
    is_joinable = True
    programs = 60


@pytest.mark.limit(400)
@pytest.mark.parametrize("run", range(RUNS))
@pytest.mark.parametrize("machine", [QueueMachine, SimpleQueueMachine, JoinableQueueMachine])
def test_queue_behaves_like_its_model(machine: type[Machine], run: int) -> None:
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=machine.programs,
            stateful_step_count=STEPS,
            deadline=None,
            database=None,
            print_blob=True,
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
        ),
    )
