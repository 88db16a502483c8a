"""The operations that a process can die in, their fault points, and what is in the queue afterwards."""

import os
import signal
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from queue import Empty
from typing import Any

from penstock import JoinableQueue, Queue, SimpleQueue, _native

from .children import Child
from .survivors import LARGE, Left, item
from .waiting import until

# Only a build with fault points has it.
arm_fault: Any = getattr(_native, "arm_fault", None)

MEDIUM = 1_000  # bytes: outside the slot, copied under the lock
MAPPED = 600_000  # bytes of a buffer: the getter gets a view
HUGE = 24 << 20  # bytes: when freed, the memory returns to the system

# -------------------------------------------------------------------------------------------- operations


def nothing(queue: Any) -> None:
    pass


def register(queue: Any) -> None:
    queue.statistics()


def put_x(queue: Any, size: int = 0) -> None:
    queue.put(item("X", size))


def pass_a_medium_one(queue: Any) -> None:
    """Put and get an item, whose extent stays cached. The two queued items are queued again afterwards."""
    put_x(queue, MEDIUM)
    first, second, _ = queue.get(), queue.get(), queue.get()
    queue.put(first)
    queue.put(second)


def put_y(queue: Any) -> None:
    queue.put(item("Y"))


def get(queue: Any) -> None:
    queue.get()


def finish(queue: Any) -> None:
    queue.task_done()


def get_all(queue: Any) -> None:
    while not queue.empty():
        queue.get()


def set_all_aside(queue: Any) -> None:
    get_all(queue)
    with suppress(Empty):
        queue.get(block=False)


def set_all_aside_and_fill(queue: Any) -> None:
    """Set all items aside, and put one. Then memory for another one comes only from a payload given up."""
    set_all_aside(queue)
    queue.put(item("W", LARGE))


def die(queue: Any) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def die_holding_an_item(queue: Any) -> None:
    queue.get()
    die(queue)


def die_holding_an_item_and_with_one_aside(queue: Any) -> None:
    queue.get()
    die_holding_an_item(queue)


def die_holding_an_item_and_the_lock(queue: Any) -> None:
    queue.get()
    arm_fault("put.linked")
    put_x(queue)


def get_one_when(waiting: str) -> Callable[[Any, Child], None]:
    def meanwhile(queue: Any, child: Child) -> None:
        until(lambda: child.has_ended() or getattr(queue.statistics(), waiting))
        queue.get()
        if isinstance(queue, JoinableQueue):
            queue.task_done()

    return meanwhile


def put_x_when_it_waits(queue: Any, child: Child) -> None:
    until(lambda: child.has_ended() or queue.statistics().waiting_getters)
    put_x(queue)


@dataclass(frozen=True)
class Operation:
    """An operation: the doomed process dies in `act`."""

    kind: Callable[..., Any]
    act: Callable[[Any], object]
    queued: str = "AB"
    """The items in the queue before it, a letter each."""
    more_before: int = 0
    """The number of items that were put before these, and taken."""
    size: int = 0
    """The bytes of each item."""
    in_buffers: bool = False
    """Whether the items' bytes travel beside the pickle."""
    maxsize: int = 0
    prepare: Callable[[Any], object] = register
    """What the doomed process does before `act`."""
    earlier: Callable[[Any], object] | None = None
    """What another process dies in before it."""
    meanwhile: Callable[[Any, Child], None] | None = None
    """What the parent does while the doomed process waits, which then wakes up any number of times."""

    def new_queue(self) -> Any:
        options: dict[str, Any] = {"maxsize": self.maxsize} if self.maxsize else {}
        # With a low limit the getter would copy buffers, not map them.
        if self.size >= LARGE and not self.in_buffers:
            # Too little for one more item than the operation needs, so that lost memory is noticed.
            options["max_bytes"] = int((len(self.queued) + 1.5) * self.size) + (64 << 10)
        queue = self.kind(**options)
        for _ in range(self.more_before):
            queue.put(None)
        for name in self.queued:
            payload = item(name, self.size)[1]
            queue.put((name, memoryview(bytearray(payload)) if self.in_buffers else payload))
        if self.more_before:
            assert len(queue.get_many(self.more_before)) == self.more_before
        return queue


OPERATIONS = {
    "put small": Operation(Queue, put_x),
    "put small, simple": Operation(SimpleQueue, put_x),
    "put small, joinable": Operation(JoinableQueue, put_x),
    "put small, first use": Operation(Queue, put_x, prepare=nothing),
    "put medium, first": Operation(Queue, lambda queue: put_x(queue, MEDIUM), queued="", size=MEDIUM),
    "put medium, again": Operation(
        Queue, lambda queue: put_x(queue, MEDIUM), size=MEDIUM, prepare=pass_a_medium_one
    ),
    "put large": Operation(Queue, lambda queue: put_x(queue, LARGE), size=LARGE),
    "put large, first": Operation(Queue, lambda queue: put_x(queue, LARGE), queued="", size=LARGE),
    "put huge, first": Operation(Queue, lambda queue: put_x(queue, HUGE), queued="", size=HUGE),
    "put large, joinable": Operation(JoinableQueue, lambda queue: put_x(queue, LARGE), size=LARGE),
    "put, waits": Operation(Queue, put_x, maxsize=2, meanwhile=get_one_when("waiting_putters")),
    "get small": Operation(Queue, get),
    "get small, simple": Operation(SimpleQueue, get),
    "get small, joinable": Operation(JoinableQueue, get),
    "get medium": Operation(Queue, get, size=MEDIUM),
    "get large": Operation(Queue, get, size=LARGE),
    "get large, joinable": Operation(JoinableQueue, get, size=LARGE),
    "get buffers": Operation(Queue, get, size=MAPPED, in_buffers=True),
    "get buffers, joinable": Operation(JoinableQueue, get, size=MAPPED, in_buffers=True),
    "get huge": Operation(Queue, get, queued="A", size=HUGE),
    "get the last of many": Operation(Queue, get, queued="A", more_before=40_000),
    "get, waits": Operation(Queue, get, queued="", meanwhile=put_x_when_it_waits),
    "get, waits, joinable": Operation(JoinableQueue, get, queued="", meanwhile=put_x_when_it_waits),
    "task_done small": Operation(JoinableQueue, finish, prepare=get),
    "task_done large": Operation(JoinableQueue, finish, prepare=get, size=LARGE),
    "task_done of a queued item": Operation(JoinableQueue, finish),
    "join, waits": Operation(
        JoinableQueue, lambda queue: queue.join(), queued="A", meanwhile=get_one_when("waiting_joiners")
    ),
    "set aside": Operation(JoinableQueue, get, prepare=get),
    "sweep what was set aside": Operation(
        JoinableQueue, register, prepare=nothing, earlier=die_holding_an_item_and_with_one_aside
    ),
    "first task_done": Operation(JoinableQueue, finish, earlier=die_holding_an_item_and_with_one_aside),
    "give up": Operation(
        JoinableQueue, lambda queue: put_x(queue, LARGE), size=LARGE, prepare=set_all_aside_and_fill
    ),
    "leave in order": Operation(JoinableQueue, lambda queue: _native._leave_all(False), prepare=get_all),
    "leave by an error": Operation(JoinableQueue, lambda queue: _native._leave_all(True), prepare=get_all),
    "sweep": Operation(JoinableQueue, register, prepare=nothing, earlier=die_holding_an_item),
    "take over": Operation(
        JoinableQueue, register, prepare=nothing, earlier=die_holding_an_item_and_the_lock
    ),
}


# ---------------------------------------------------------------------------------------------- outcomes

AB, ABX, B, BX, X, NOTHING = Left("AB"), Left("ABX"), Left("B"), Left("BX"), Left("X"), Left("")
BACK = Left("AB", redeliveries=1)  # A was leased, and is in its old place again
BOTH_BACK = Left("AB", redeliveries=2)
BACK_X = Left("ABX", redeliveries=1)
ONE_ASIDE = Left("AB", redeliveries=1, aside=1)  # A was set aside
BACK_ONE_ASIDE = Left("AB", redeliveries=2, aside=1)  # B was leased as well
FULL_OF_ASIDE = Left("ABW", redeliveries=2, aside=2)
GIVEN_UP = Left("BW", redeliveries=1, aside=1, given_up=1)
GIVEN_UP_X = Left("BWX", redeliveries=1, aside=1, given_up=1)
ONE_LEFT, BOTH_LEFT = Left("B", redeliveries=1, orphans=1), Left("", orphans=2)

PUT = {
    "lock.taken": [AB],
    "put.slot-popped": [AB],
    "put.filled": [AB],
    "put.numbered": [AB],
    "put.committed": [ABX],
    "put.ordered": [ABX],
    "put.linked": [ABX],
}
# The heap gets its first range.
RANGE = {"range.backed": [NOTHING], "range.noted": [NOTHING], "range.added": [NOTHING]}
PUT_LARGE = {
    "lock.taken": [AB],
    "put.pausing": [AB],
    "put.slot-popped": [AB],
    "claim.committed": [AB],
    "grow.backed": [AB],
    "claim.copying": [AB],
    "claim.copied": [AB],
    "put.numbered": [AB],
    "put.committed": [ABX],
    "put.ordered": [ABX],
    "put.linked": [ABX],
}
PUT_LARGE_FIRST = {
    "lock.taken": [NOTHING],
    "put.slot-popped": [NOTHING],
    **RANGE,
    "claim.committed": [NOTHING],
    "grow.backed": [NOTHING],
    "claim.copying": [NOTHING],
    "claim.copied": [NOTHING],
    "put.numbered": [NOTHING],
    "put.committed": [X],
    "put.ordered": [X],
    "put.linked": [X],
}
GET = {
    "lock.taken": [AB],
    "get.copied": [AB],
    "get.unlinked": [AB],
    "slot.freed": [B],
    "get.freed": [B],
}
TASK_DONE = {"aside.beginning": [BACK], "lock.taken": [BACK], "slot.freed": [B], "done.committed": [B]}

# For each operation and fault point, what is left after a death at the first pass, then what else is left
# after deaths at later passes. The operation passes no other points.
OUTCOMES: dict[str, dict[str, list[Left]]] = {
    "put small": PUT,
    "put small, simple": PUT,
    "put small, joinable": PUT,
    "put small, first use": {"register.life-held": [AB], "register.alive": [AB], **PUT},
    "put medium, first": {
        "lock.taken": [NOTHING],
        "put.slot-popped": [NOTHING],
        **RANGE,
        "grow.backed": [NOTHING],
        "put.filled": [NOTHING],
        "slot.freed": [NOTHING],
        "put.numbered": [NOTHING],
        "put.committed": [X],
        "put.ordered": [X],
        "put.linked": [X],
    },
    "put medium, again": {
        "lock.taken": [AB],
        "put.kept-popped": [AB],
        "put.filled": [AB],
        "put.numbered": [AB],
        "put.committed": [ABX],
        "put.ordered": [ABX],
        "put.linked": [ABX],
    },
    "put large": PUT_LARGE,
    "put large, first": PUT_LARGE_FIRST,
    "put huge, first": {"range.mapped": [NOTHING], **PUT_LARGE_FIRST},
    "put large, joinable": PUT_LARGE,
    "put, waits": {
        "lock.taken": [B],
        "wait.enlisted": [B],
        "wait.asleep": [B],
        "wait.back": [B],
        "put.slot-popped": [B],
        "put.filled": [B],
        "put.numbered": [B],
        "put.committed": [BX],
        "put.ordered": [BX],
        "put.linked": [BX],
    },
    "get small": GET,
    "get small, simple": GET,
    "get small, joinable": {"lock.taken": [AB], "get.copied": [AB], "get.leased": [BACK]},
    "get medium": GET,
    "get large": {
        "lock.taken": [AB, BACK],
        "get.leased": [BACK],
        "lent.reading": [BACK],
        "slot.freed": [B],
    },
    "get large, joinable": {"lock.taken": [AB, BACK], "get.leased": [BACK], "lent.reading": [BACK]},
    "get buffers": {
        "lock.taken": [AB, BACK, B],
        "get.leased": [BACK],
        "lent.kept": [B],
        "lent.reading": [B],
        "slot.freed": [B],
    },
    "get buffers, joinable": {"lock.taken": [AB, BACK], "get.leased": [BACK], "lent.reading": [BACK]},
    "get huge": {
        "lock.taken": [Left("A"), Left("A", redeliveries=1), NOTHING],
        "get.leased": [Left("A", redeliveries=1)],
        "lent.reading": [Left("A", redeliveries=1)],
        "trim.claimed": [NOTHING],
        "trim.punched": [NOTHING],
        "trim.noted": [NOTHING],
        "slot.freed": [NOTHING],
    },
    "get the last of many": {
        "lock.taken": [Left("A"), NOTHING],
        "get.copied": [Left("A")],
        "get.unlinked": [Left("A")],
        "slot.freed": [NOTHING],
        "get.freed": [NOTHING],
        "trim.parked": [NOTHING],
        "slot.unparked": [NOTHING],
        "trim.pages-absent": [NOTHING],
        "trim.pages-claimed": [NOTHING],
        "trim.pages-punched": [NOTHING],
        "trim.pages-noted": [NOTHING],
        "trim.lowered": [NOTHING],
    },
    "get, waits": {
        "lock.taken": [X],
        "wait.enlisted": [X],
        "wait.asleep": [X],
        "wait.back": [X],
        "get.copied": [X],
        "get.unlinked": [X],
        "slot.freed": [NOTHING],
        "get.freed": [NOTHING],
    },
    "get, waits, joinable": {
        "lock.taken": [X],
        "wait.enlisted": [X],
        "wait.asleep": [X],
        "wait.back": [X],
        "get.copied": [X],
        "get.leased": [Left("X", redeliveries=1)],
    },
    "task_done small": TASK_DONE,
    "task_done large": TASK_DONE,
    "task_done of a queued item": {
        "aside.beginning": [AB],
        "lock.taken": [AB],
        "done.committed": [Left("AB", finished=1)],
    },
    "join, waits": {
        "aside.beginning": [NOTHING],
        "lock.taken": [NOTHING],
        "wait.enlisted": [NOTHING],
        "wait.asleep": [NOTHING],
        "wait.back": [NOTHING],
    },
    "set aside": {
        "lock.taken": [BACK, ONE_ASIDE],
        "aside.committed": [ONE_ASIDE],
        "get.copied": [ONE_ASIDE],
        "get.leased": [BACK_ONE_ASIDE],
    },
    "sweep what was set aside": {
        "register.life-held": [BACK_ONE_ASIDE],
        "register.alive": [BACK_ONE_ASIDE],
        "lock.taken": [BACK_ONE_ASIDE],
        "sweep.started": [BACK_ONE_ASIDE],
        "note.committed": [BACK_ONE_ASIDE],
        "note.named": [BACK_ONE_ASIDE],
        "note.died": [BACK_ONE_ASIDE],
        "aside.disowned": [BACK_ONE_ASIDE],
        "sweep.slot-returned": [BACK_ONE_ASIDE],
        "sweep.cells-freed": [BACK_ONE_ASIDE],
        "sweep.released": [BACK_ONE_ASIDE],
    },
    "first task_done": {
        "lock.taken": [BACK_ONE_ASIDE, BOTH_BACK],
        "aside.beginning": [BOTH_BACK],
        "sweep.slot-returned": [BOTH_BACK],
        "done.committed": [Left("AB", redeliveries=2, finished=1)],
    },
    "give up": {
        "lock.taken": [FULL_OF_ASIDE, GIVEN_UP],
        "put.pausing": [FULL_OF_ASIDE],
        "aside.counting": [FULL_OF_ASIDE],
        "aside.noted": [GIVEN_UP],
        "aside.counted": [GIVEN_UP],
        "slot.freed": [GIVEN_UP],
        "put.slot-popped": [GIVEN_UP],
        "claim.committed": [GIVEN_UP],
        "claim.copying": [GIVEN_UP],
        "claim.copied": [GIVEN_UP],
        "put.numbered": [GIVEN_UP],
        "put.committed": [GIVEN_UP_X],
        "put.ordered": [GIVEN_UP_X],
        "put.linked": [GIVEN_UP_X],
    },
    "leave in order": {
        "lock.taken": [BACK_ONE_ASIDE],
        "aside.counting": [BACK_ONE_ASIDE, ONE_LEFT],
        "aside.noted": [ONE_LEFT, BOTH_LEFT],
        "aside.counted": [ONE_LEFT, BOTH_LEFT],
        "slot.freed": [ONE_LEFT, BOTH_LEFT],
        "leave.orphaned": [ONE_LEFT, BOTH_LEFT],
        "leave.released": [BOTH_LEFT],
    },
    "leave by an error": {
        "lock.taken": [BACK_ONE_ASIDE],
        "aside.disowned": [BACK_ONE_ASIDE],
        "sweep.slot-returned": [BACK_ONE_ASIDE],
        "leave.orphaned": [BACK_ONE_ASIDE],
        "leave.released": [BACK_ONE_ASIDE],
    },
    "sweep": {
        "register.life-held": [BACK],
        "register.alive": [BACK],
        "lock.taken": [BACK],
        "sweep.started": [BACK],
        "note.committed": [BACK],
        "note.named": [BACK],
        "note.died": [BACK],
        "sweep.slot-returned": [BACK],
        "sweep.cells-freed": [BACK],
        "sweep.released": [BACK],
    },
    "take over": {
        "register.life-held": [BACK_X],
        "register.alive": [BACK_X],
        "takeover.taken": [BACK_X],
        "rebuild.cleared": [BACK_X],
        "rebuild.scanned": [BACK_X],
        "rebuild.numbered": [BACK_X],
        "rebuild.done": [BACK_X],
        "sweep.started": [BACK_X],
        "note.committed": [BACK_X],
        "note.named": [BACK_X],
        "note.died": [BACK_X],
        "sweep.slot-returned": [BACK_X],
        "sweep.cells-freed": [BACK_X],
        "sweep.released": [BACK_X],
        "lock.taken": [BACK_X],
    },
}
# What is left after the operation and os._exit, which counts as a death.
DONE: dict[str, Left] = {
    "put small": ABX,
    "put small, simple": ABX,
    "put small, joinable": ABX,
    "put small, first use": ABX,
    "put medium, first": X,
    "put large": ABX,
    "put medium, again": ABX,
    "put large, first": X,
    "put huge, first": X,
    "put large, joinable": ABX,
    "get small": B,
    "get small, simple": B,
    "get small, joinable": BACK,
    "get medium": B,
    "get large": B,
    "get large, joinable": BACK,
    "get buffers": B,
    "get buffers, joinable": BACK,
    "get huge": NOTHING,
    "get the last of many": NOTHING,
    "task_done small": B,
    "task_done large": B,
    "task_done of a queued item": Left("AB", finished=1),
    "set aside": BACK_ONE_ASIDE,
    "sweep what was set aside": BACK_ONE_ASIDE,
    "first task_done": Left("AB", redeliveries=2, finished=1),
    "give up": GIVEN_UP_X,
    "leave in order": BOTH_LEFT,
    "leave by an error": BACK_ONE_ASIDE,
    "sweep": BACK,
    "take over": BACK_X,
}
