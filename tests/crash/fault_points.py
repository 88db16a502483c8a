"""A process dies by SIGKILL at each fault point of each operation; the others go on.

Not collected by pytest, because it needs a build with fault points: test_death.py runs it with that build.
"""

import itertools
import os
import select
import signal
from collections.abc import Callable
from typing import Any

import pytest

from penstock import JoinableQueue, Pipe, Queue, ShutDown, SimpleQueue
from penstock._native import fault_points, passed_points  # type: ignore[attr-defined]
from tests.support.children import fork
from tests.support.operations import (
    BACK_X,
    DONE,
    NOTHING,
    OPERATIONS,
    OUTCOMES,
    Operation,
    arm_fault,
    finish,
    get,
    nothing,
    put_x,
    put_y,
    register,
)
from tests.support.survivors import LARGE, Item, Left, get_name, item, leftovers, name_of
from tests.support.waiting import until

CASES = [(operation, point) for operation, points in OUTCOMES.items() for point in points]


Act = Callable[[Any], object]


def armed(queue: Any, prepare: Act, act: Act, point: str, hit: int = 1) -> None:
    """Do `act`, and die at that pass of the point. Runs in a forked process."""
    prepare(queue)
    arm_fault(point, hit)
    act(queue)


def die_earlier(queue: Any, operation: Operation) -> None:
    """Kill the process whose death the operation presumes, if there is one."""
    if operation.earlier is not None:
        with fork(operation.earlier, queue) as first:
            assert first.wait() == -signal.SIGKILL


def run(queue: Any, name: str, point: str, hit: int) -> bool:
    """Do the operation in a process that dies at that pass of the point. False if it survived."""
    operation = OPERATIONS[name]
    die_earlier(queue, operation)
    with fork(armed, queue, operation.prepare, operation.act, point, hit) as doomed:
        if operation.meanwhile is not None:
            operation.meanwhile(queue, doomed)
        if doomed.wait() == -signal.SIGKILL:
            return True
        assert doomed.result() is None
        return False


@pytest.mark.parametrize(("name", "point"), CASES)
def test_death(name: str, point: str) -> None:
    operation = OPERATIONS[name]
    # A waiter may wake up any number of times, so only its first pass is certain.
    passes = [1] if operation.meanwhile else itertools.count(1)
    seen: list[Left] = []
    for hit in passes:
        queue = operation.new_queue()
        has_died = run(queue, name, point, hit)
        left = leftovers(queue, operation.size)
        if not has_died:
            assert left == DONE[name]
            break
        if seen[-1:] != [left]:
            seen.append(left)
    assert seen == OUTCOMES[name][point]


def pass_points(queue: Any, prepare: Act, act: Act) -> set[str]:
    """Do the operation. Returns the points that it passed."""
    prepare(queue)
    passed_points()
    act(queue)
    return set(passed_points())


@pytest.mark.parametrize("name", DONE)
def test_no_point_elsewhere(name: str) -> None:
    operation = OPERATIONS[name]
    queue = operation.new_queue()
    die_earlier(queue, operation)
    with fork(pass_points, queue, operation.prepare, operation.act) as process:
        assert process.result() == set(OUTCOMES[name])
    assert leftovers(queue, operation.size) == DONE[name]


# Passed by a process that begins to watch a queue with an item in it.
NOTIFIER = ("notifier.made", "notifier.counted", "notifier.changed", "notifier.owed", "notifier.updated")


def is_readable(queue: Any) -> bool:
    return select.select([queue], [], [], 0)[0] == [queue]


@pytest.mark.parametrize("point", NOTIFIER)
def test_death_at_the_notifier(point: str) -> None:
    queue = Queue[str]()
    queue.put("x")
    with fork(armed, queue, nothing, lambda queue: queue.fileno(), point) as doomed:
        assert doomed.wait() == -signal.SIGKILL
    assert queue.statistics().participants == 1
    assert is_readable(queue)
    assert queue.get() == "x"
    assert not is_readable(queue)
    queue.put("y")
    assert is_readable(queue)
    assert queue.check() == []


def test_death_of_a_child_that_inherits_a_descriptor() -> None:
    queue = Queue[str]()

    def watch_and_fork() -> int:
        queue.fileno()
        arm_fault("notifier.inherited")
        pid = os.fork()
        if pid == 0:
            os._exit(0)
        return os.waitpid(pid, 0)[1]

    with fork(watch_and_fork) as parent:
        assert parent.result() == signal.SIGKILL
    assert queue.statistics().participants == 1
    queue.put("x")
    assert is_readable(queue)
    assert queue.get() == "x"
    assert not is_readable(queue)
    assert queue.check() == []


both_kinds = pytest.mark.parametrize("duplex", [False, True])


@both_kinds
def test_death_of_a_receiver_that_is_about_to_sleep(duplex: bool) -> None:
    receiver, sender = Pipe(duplex)
    with sender, receiver:
        with fork(armed, receiver, nothing, lambda receiver: receiver.recv(), "line.watching") as doomed:
            assert doomed.wait() == -signal.SIGKILL
        sender.send("x")
        assert receiver.poll(10)
        assert receiver.recv() == "x"


FULL = bytes(1 << 20)  # bytes: all that a connection buffers


@both_kinds
def test_death_of_a_sender_that_fills_the_line(duplex: bool) -> None:
    receiver, sender = Pipe(duplex)
    with sender, receiver:
        sender.send_bytes(FULL)
        with fork(armed, sender, nothing, lambda end: end.send_bytes(b"x"), "line.filled") as doomed:
            assert doomed.wait() == -signal.SIGKILL
        assert receiver.recv_bytes() == FULL
        assert not receiver.poll()
        sender.send_bytes(b"y")
        assert receiver.recv_bytes() == b"y"


@both_kinds
def test_death_of_a_receiver_that_makes_room_for_a_sender(duplex: bool) -> None:
    receiver, sender = Pipe(duplex)
    with sender, receiver:
        sender.send_bytes(FULL)
        with fork(lambda sender: sender.send_bytes(b"x"), sender) as waiting:
            until(lambda: select.select([], [sender.fileno()], [], 0)[1] == [])
            with fork(armed, receiver, nothing, lambda end: end.recv_bytes(), "line.writable") as doomed:
                assert doomed.wait() == -signal.SIGKILL
            # The dead receiver had not taken the message out of the shared memory yet.
            assert receiver.recv_bytes() == FULL
            assert waiting.result() is None
        assert receiver.recv_bytes() == b"x"


SIGNALLING = ["line.promised", "line.owed", "line.claimed", "line.signalled"]


@both_kinds
@pytest.mark.parametrize("point", [*SIGNALLING, "line.drained", "line.counted"])
def test_death_at_the_line(duplex: bool, point: str) -> None:
    receiver, sender = Pipe(duplex)
    with sender, receiver:
        assert not is_readable(receiver)
        acts: dict[str, Act] = {
            **dict.fromkeys(SIGNALLING, lambda _: sender.send("x")),
            "line.drained": lambda _: receiver.recv(),
            "line.counted": lambda _: sender.fileno(),
        }
        if point == "line.drained":
            sender.send("x")
        with fork(armed, receiver, nothing, acts[point], point) as doomed:
            assert doomed.wait() == -signal.SIGKILL
        # A sender and a receiver live: what the dead left undone is done by their next calls.
        receiver_side: Any = receiver
        receiver_side._incoming._statistics()
        assert sender.fileno() >= 0
        assert is_readable(receiver) == (point in SIGNALLING)
        sender.send("y")
        assert is_readable(receiver)
        assert receiver.recv() == ("x" if point in SIGNALLING else "y")
        assert is_readable(receiver) == (point in SIGNALLING)


# Passed only while another process is stopped inside the critical section: stopped.rs of the core's tests.
PUT_OFF = ("wait.left", "leave.marked", "upkeep.slot-marked", "upkeep.slot-finished", "depart.marked")


# Passed when a process leaves whose items were given up: death.rs of the core's tests.
GIVEN_UP = ("aside.settling",)


# Passed beside memory that was given back, and in the first trim of a queue: death.rs of the core's tests.
GIVEN_BACK = ("trim.tracked", "grow.pages-remnant", "grow.page-present")

# Passed only by waits of 100 ms and by what serves these: fairness.rs of the core's tests.
AGED = (
    "wait.aged",
    "put.named",
    "hand.marked",
    "hand.committed",
    "hand.published",
    "hand.numbered",
    "hand.returned",
    "hand.late",
)


# Passed beside a process that waits for room with a descriptor: death.rs of the core's tests, and
# tests/asynchronous/test_deaths.py.
FILLING = ("notifier.filling",)


def test_every_fault_point_is_reached() -> None:
    in_table = {point for points in OUTCOMES.values() for point in points}
    assert in_table | {
        "unlock.before-wake",
        "notifier.inherited",
        "line.counted",
        "line.watching",
        *SIGNALLING,
        "line.drained",
        "line.filled",
        "line.writable",
        *NOTIFIER,
        *FILLING,
        *LEAVING,
        *CLOSING,
        *PUT_OFF,
        *GIVEN_UP,
        *GIVEN_BACK,
        *AGED,
        *SHUTDOWN,
        *PRODUCING,
        *LEASES,
        *DELAYS,
        *LETTERS,
    } == set(fault_points())


# ------------------------------------------------------------------------------------------------ shutdown

# Passed by a process that shuts a queue down at once, with items in it.
SHUTDOWN = ("shutdown.committed", "discard.unlinked", "discard.freed")


def shut_down(queue: Any) -> None:
    queue.shutdown(immediate=True)


@pytest.mark.parametrize("kind", [Queue, SimpleQueue, JoinableQueue])
@pytest.mark.parametrize("point", [*SHUTDOWN, "aside.counting", "aside.noted", "aside.counted", "slot.freed"])
def test_death_in_a_shutdown(kind: Callable[[], Any], point: str) -> None:
    queue = kind()
    queue.put_many(item(name, 1000) for name in "ABC")
    with fork(armed, queue, register, shut_down, point) as doomed:
        assert doomed.wait() == -signal.SIGKILL
    assert queue.is_shutdown
    assert queue.empty()
    for call in (queue.get, lambda: queue.put("late")):
        with pytest.raises(ShutDown):
            call()
    if kind is JoinableQueue:
        queue.join()
    figures = queue.statistics()
    assert (figures.gets, figures.queued, figures.discarded) == (0, 0, 3)
    assert queue.check() == []


@pytest.mark.parametrize("point", ["shutdown.committed", "unlock.before-wake"])
def test_death_in_a_shutdown_while_others_sleep(point: str) -> None:
    queue = JoinableQueue[Item](maxsize=1)
    queue.put(item("A"))

    def is_told(call: Callable[..., Any], *arguments: Any) -> bool:
        with pytest.raises(ShutDown):
            call(*arguments)
        return True

    with fork(is_told, queue.put, item("B")) as putter, fork(queue.join) as joiner:
        until(lambda: queue.statistics().waiting_putters == queue.statistics().waiting_joiners == 1)
        with fork(armed, queue, register, shut_down, point) as doomed:
            assert doomed.wait() == -signal.SIGKILL
        assert putter.result()
        joiner.result()
    queue = JoinableQueue[Item]()
    with fork(is_told, queue.get) as getter:
        until(lambda: queue.statistics().waiting_getters == 1)
        with fork(armed, queue, register, shut_down, point) as doomed:
            assert doomed.wait() == -signal.SIGKILL
        assert getter.result()


# ----------------------------------------------------------------------------------------------- producing

# Passed by a process that begins to produce, and ends as the last producer.
PRODUCING = ("produce.expected", "produce.begun", "produce.counted", "produce.left", "produce.ended")


def produce(queue: Any) -> None:
    with queue.producing(1):
        queue.put(item("A"))


@pytest.mark.parametrize("kind", [Queue, SimpleQueue, JoinableQueue])
@pytest.mark.parametrize("point", PRODUCING)
def test_death_of_a_producer(kind: Callable[[], Any], point: str) -> None:
    """Once it has begun, its death ends the queue, for a consumer that waits."""
    queue = kind()

    def consume() -> list[str]:
        return [name_of(each) for each in queue]

    with fork(consume) as consumer:
        until(lambda: queue.statistics().waiting_getters == 1)
        with fork(armed, queue, register, produce, point) as doomed:
            assert doomed.wait() == -signal.SIGKILL
        if point == "produce.expected":
            queue.statistics()
            assert not queue.is_shutdown
            with queue.producing():
                pass
        has_put = point in ("produce.left", "produce.ended")
        assert consumer.result() == (["A"] if has_put else [])
    assert queue.is_shutdown
    assert queue.statistics().producers == 0
    assert queue.check() == []


# The points that a loop passes between two of its items.
@pytest.mark.parametrize(
    ("point", "hit", "left"),
    [
        ("lock.taken", 1, "AB"),
        ("done.committed", 1, "B"),
        ("lock.taken", 2, "B"),
        ("get.leased", 1, "B"),
        ("lease.named", 1, "B"),
        ("unlock.before-wake", 0, "B"),
    ],
)
def test_death_of_a_loop(point: str, hit: int, left: str) -> None:
    queue = JoinableQueue[Item]()
    queue.put_many(item(name) for name in "AB")
    iterators = []

    def prepare(queue: Any) -> None:
        iterators.append(iter(queue))
        next(iterators[0])

    def act(queue: Any) -> None:
        if hit == 0:
            next(iterators[0])
            os.kill(os.getpid(), signal.SIGKILL)
        next(iterators[0])

    with fork(armed, queue, prepare, act, point, hit or 99) as doomed:
        assert doomed.wait() == -signal.SIGKILL
    queue.statistics()
    queue.shutdown()
    assert [name_of(each) for each in queue] == list(left)
    queue.join()


def test_death_at_the_end_of_a_loop() -> None:
    """The loop is left, and its item in hand: it comes back."""
    queue = JoinableQueue[Item]()
    queue.put_many(item(name) for name in "AB")
    iterators = []

    def prepare(queue: Any) -> None:
        iterators.append(iter(queue))
        next(iterators[0])

    with fork(armed, queue, prepare, lambda _: iterators.clear(), "lease.unnamed") as doomed:
        assert doomed.wait() == -signal.SIGKILL
    queue.statistics()
    assert queue.check() == []
    queue.shutdown()
    assert [name_of(each) for each in queue] == list("AB")
    queue.join()


# ------------------------------------------------------------------------------------------------- leases

# Passed by a process that settles an item by name.
LEASES = (
    "held.timed",
    "lease.named",
    "lease.unnamed",
    "held.unlinked",
    "held.released",
    "held.buried",
    "held.settled",
    "note.committed",
    "note.named",
)


def settle(verb: str) -> Act:
    def act(queue: Any) -> None:
        with queue.lease() as lease:
            if verb == "explain":
                lease.reject("no use")
            else:
                getattr(lease, verb)()

    return act


@pytest.mark.parametrize(
    ("verb", "point", "left"),
    [
        ("ack", "held.timed", (3, 0, 0)),
        ("ack", "slot.freed", (2, 0, 0)),
        ("ack", "held.settled", (2, 0, 0)),
        ("release", "held.released", (3, 0, 0)),
        ("release", "held.settled", (3, 0, 0)),
        ("nack", "sweep.slot-returned", (3, 1, 0)),
        ("nack", "held.settled", (3, 1, 0)),
        ("reject", "held.buried", (2, 0, 1)),
        ("reject", "held.settled", (2, 0, 1)),
        # Before its commit, which is that of the item: it comes back as after any death.
        ("explain", "note.committed", (3, 1, 0)),
        ("explain", "note.named", (3, 1, 0)),
        ("explain", "held.settled", (2, 0, 1)),
        # Before its commit: the item comes back as after any death.
        ("release", "held.unlinked", (3, 1, 0)),
        ("nack", "held.unlinked", (3, 1, 0)),
        ("reject", "held.unlinked", (3, 1, 0)),
        ("release", "get.leased", (3, 1, 0)),
        ("release", "lease.named", (3, 1, 0)),
    ],
)
@pytest.mark.parametrize("size", [0, LARGE])
def test_death_in_a_lease(size: int, verb: str, point: str, left: tuple[int, int, int]) -> None:
    queue = JoinableQueue[Item]()
    for name in "ABC":
        queue.put(item(name, size))
    with fork(armed, queue, register, settle(verb), point) as doomed:
        assert doomed.wait() == -signal.SIGKILL
    figures = queue.statistics()
    assert (figures.queued, figures.redeliveries, figures.dead_letters) == left
    assert figures.unfinished == figures.queued
    assert queue.check() == []
    with queue.leases(3) as batch:
        assert [lease.item[0] for lease in batch] == list("ABC")[3 - left[0] :]
    queue.join()


# Passed by a process that puts an item with a delay, waits for one that is due, and takes it.
DELAYS = ("delay.timed", "delay.committed", "delay.kept", "delay.ended")


@pytest.mark.parametrize(
    ("point", "left"), [("put.filled", 1), ("delay.timed", 1), ("delay.committed", 2), ("lock.taken", 1)]
)
def test_death_in_a_delayed_put(point: str, left: int) -> None:
    queue = JoinableQueue[Item]()
    queue.put(item("A"), delay=3600)
    with fork(armed, queue, register, lambda queue: queue.put(item("B"), delay=1800), point) as doomed:
        assert doomed.wait() == -signal.SIGKILL
    figures = queue.statistics()
    assert (figures.delayed, figures.queued, figures.unfinished) == (left, 0, left)
    assert queue.check() == []


@pytest.mark.parametrize("point", ["delay.kept", "delay.ended", "wait.asleep", "wait.back", "get.leased"])
def test_death_of_a_getter_of_a_delayed_item(point: str) -> None:
    queue = JoinableQueue[Item]()

    def put_and_wait(queue: Any) -> None:
        queue.put(item("A"), delay=0.5)  # by the process that waits: it comes in time
        get(queue)

    with fork(armed, queue, register, put_and_wait, point) as doomed:
        assert doomed.wait() == -signal.SIGKILL
    assert get_name(queue) == "A"
    queue.task_done()
    queue.join()
    assert queue.check() == []


# Passed by a process that decides on dead letters.
LETTERS = ("letter.requeued", "letter.unlinked")


@pytest.mark.parametrize(
    ("verb", "point", "gone"),
    [
        ("requeue", "letter.unlinked", 0),
        ("requeue", "letter.requeued", 1),
        ("purge", "letter.unlinked", 0),
        ("purge", "slot.freed", 1),
    ],
)
def test_death_beside_dead_letters(verb: str, point: str, gone: int) -> None:
    for hit in (1, 2):
        queue = JoinableQueue[Item]()
        for name in "ABC":
            queue.put(item(name))
        with queue.leases(3) as batch:
            for lease in batch:
                lease.reject()
        decide: Act = lambda queue: getattr(queue, verb)()  # noqa: E731
        with fork(armed, queue, register, decide, point, hit) as doomed:
            assert doomed.wait() == -signal.SIGKILL
        figures = queue.statistics()
        gone_by_now = hit - 1 + gone
        assert figures.dead_letters == 3 - gone_by_now
        assert figures.queued == figures.unfinished == (gone_by_now if verb == "requeue" else 0)
        assert queue.check() == []


# ------------------------------------------------------------------------------------ with others asleep


@pytest.mark.parametrize("kind", [Queue, SimpleQueue, JoinableQueue])
@pytest.mark.parametrize(
    ("point", "is_put"), [("put.filled", False), ("put.linked", True), ("unlock.before-wake", True)]
)
def test_putter_dies_while_a_getter_sleeps(kind: Callable[[], Any], point: str, is_put: bool) -> None:
    queue = kind()
    with fork(get_name, queue) as sleeper:
        until(lambda: queue.statistics().waiting_getters == 1)
        with fork(armed, queue, register, put_x, point) as doomed:
            assert doomed.wait() == -signal.SIGKILL
        if is_put:
            # The getter finds the item although no process has woken it.
            assert sleeper.result() == "X"
        else:
            put_y(queue)
            assert sleeper.result() == "Y"
    # The getter of a JoinableQueue ended without task_done(), which counts as its death.
    back = Left("X" if is_put else "Y", redeliveries=1)
    assert leftovers(queue) == (back if kind is JoinableQueue else NOTHING)


@pytest.mark.parametrize(
    ("point", "is_taken"), [("get.unlinked", False), ("get.freed", True), ("unlock.before-wake", True)]
)
def test_getter_dies_while_a_putter_sleeps(point: str, is_taken: bool) -> None:
    queue = Queue[Item](maxsize=1)
    queue.put(item("A"))
    with fork(put_y, queue) as sleeper:
        until(lambda: queue.statistics().waiting_putters == 1)
        with fork(armed, queue, register, get, point) as doomed:
            assert doomed.wait() == -signal.SIGKILL
        if not is_taken:
            assert get_name(queue) == "A"
        sleeper.result()
    assert leftovers(queue) == Left("Y")


@pytest.mark.parametrize(
    ("point", "is_done"), [("lock.taken", False), ("done.committed", True), ("unlock.before-wake", True)]
)
def test_worker_dies_in_task_done_while_a_joiner_sleeps(point: str, is_done: bool) -> None:
    queue = JoinableQueue[Item]()
    queue.put(item("A"))
    with fork(queue.join) as sleeper:
        until(lambda: queue.statistics().waiting_joiners == 1)
        with fork(armed, queue, get, finish, point) as doomed:
            assert doomed.wait() == -signal.SIGKILL
        if not is_done:
            assert get_name(queue) == "A"
            queue.task_done()
        sleeper.result()
    assert leftovers(queue) == Left("", redeliveries=int(not is_done))


def test_getter_dies_when_it_was_woken() -> None:
    queue = Queue[Item]()
    with fork(get_name, queue) as first:
        until(lambda: queue.statistics().waiting_getters == 1)
        # The last waiter is woken first.
        with fork(armed, queue, register, get, "wait.back") as doomed:
            until(lambda: queue.statistics().waiting_getters == 2 or doomed.has_ended())
            put_x(queue)
            assert doomed.wait() == -signal.SIGKILL
        assert first.result() == "X"
    assert leftovers(queue) == NOTHING


# ------------------------------------------------------------------------------- deaths inside recovery

RECOVERY = [point for point in OUTCOMES["take over"] if not point.startswith(("register", "lock"))]


@pytest.mark.parametrize("second", RECOVERY)
@pytest.mark.parametrize("first", RECOVERY)
def test_death_in_a_recovery_from_a_death_in_a_recovery(first: str, second: str) -> None:
    queue = OPERATIONS["take over"].new_queue()
    assert run(queue, "take over", first, 1)
    with fork(armed, queue, nothing, register, second) as doomed:
        # The recovery may have no work left at this point; then the process completes it.
        assert doomed.wait() in (-signal.SIGKILL, 0)
    assert leftovers(queue) == BACK_X


def test_everybody_dies_with_the_lock() -> None:
    queue = JoinableQueue[Item](max_deliveries=200)
    queue.put(item("A"))
    for deaths in range(1, 21):
        with fork(armed, queue, get, put_x, "put.slot-popped") as doomed:
            assert doomed.wait() == -signal.SIGKILL
        assert queue.statistics().redeliveries == deaths
    assert leftovers(queue) == Left("A", redeliveries=20)


# ------------------------------------------------------------------------------------- the last handle

LEAVING = ["unregister.checked", "unregister.freed"]


@pytest.mark.parametrize("point", LEAVING)
def test_death_when_the_last_handle_goes(point: str) -> None:
    carrier = Queue[Any]()

    def open_and_close() -> None:
        queue = carrier.get()
        register(queue)
        queue.put(item("A"))
        arm_fault(point)
        del queue

    # Forked before the queue exists: an inherited queue would be another handle.
    with fork(open_and_close) as doomed:
        queue = Queue[Item]()
        carrier.put(queue)
        assert doomed.wait() == -signal.SIGKILL
    assert leftovers(queue) == Left("A")


CLOSING = ["close.unwatched", "close.marked", "close.unlocked", "close.descriptors-closed"]


@pytest.mark.parametrize("point", CLOSING)
def test_death_when_the_last_handle_is_closed(point: str) -> None:
    queue = JoinableQueue[Item]()
    queue.put(item("A"))

    def watch_and_get(queue: Any) -> None:
        queue.fileno()
        queue.get()

    with fork(armed, queue, watch_and_get, lambda queue: queue.close(), point) as doomed:
        assert doomed.wait() == -signal.SIGKILL
    assert leftovers(queue) == Left("A", redeliveries=1)


@pytest.mark.parametrize("point", LEAVING)
def test_death_when_a_closed_queue_finishes_its_last_item(point: str) -> None:
    queue = JoinableQueue[Item]()
    queue.put(item("A"))
    queue.put(item("B"))

    def get_and_close(queue: Any) -> None:
        queue.get()
        queue.close()

    with fork(armed, queue, get_and_close, finish, point) as doomed:
        assert doomed.wait() == -signal.SIGKILL
    assert leftovers(queue) == Left("B")


# ------------------------------------------------------------------------------------------------ in a batch

FIVE = [0, 1, 2, 3, 4]


def what_is_left(queue: Any) -> list[Any]:
    queue.statistics()  # sweeps the dead
    left: list[Any] = []
    while not queue.empty():
        left += queue.get_many()
    return left


@pytest.mark.parametrize("kind", [Queue, SimpleQueue, JoinableQueue])
@pytest.mark.parametrize(
    ("point", "put"),
    [
        ("put.slot-popped", 0),
        ("put.filled", 0),
        ("put.numbered", 0),
        ("put.committed", 1),
        ("put.linked", 1),
    ],
)
def test_putter_dies_in_a_batch(kind: Callable[[], Any], point: str, put: int) -> None:
    """`put`: whether the item of that pass is in the queue."""
    for hit in range(1, 6):
        queue = kind()
        with fork(armed, queue, nothing, lambda queue: queue.put_many(FIVE), point, hit) as doomed:
            assert doomed.wait() == -signal.SIGKILL
        assert what_is_left(queue) == FIVE[: hit - 1 + put]
        queue.put("next")
        assert queue.get() == "next"


@pytest.mark.parametrize(
    ("kind", "point", "taken"),
    [
        (Queue, "get.copied", 0),
        (Queue, "get.unlinked", 0),
        (Queue, "slot.freed", 1),
        (Queue, "get.freed", 1),
        (SimpleQueue, "get.freed", 1),
        (JoinableQueue, "get.copied", None),
        (JoinableQueue, "get.leased", None),
    ],
)
def test_getter_dies_in_a_batch(kind: Callable[[], Any], point: str, taken: int | None) -> None:
    """`taken`: whether the item of that pass is gone; None if every item comes back."""
    for hit in range(1, 6):
        queue = kind()
        queue.put_many(FIVE)
        with fork(armed, queue, nothing, lambda queue: queue.get_many(), point, hit) as doomed:
            assert doomed.wait() == -signal.SIGKILL
        assert what_is_left(queue) == (FIVE if taken is None else FIVE[hit - 1 + taken :])
        queue.put("next")
        assert queue.get() == "next"
