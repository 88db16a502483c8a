"""The faults: which member is hit, how, and when."""

import os
import signal
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from . import checks
from .ledger import State


class Role(Enum):
    """The role of a member of the crew."""

    CALLER = "caller"
    """Calls the roll, waits in join(), and reports the statistics. Hit in join() only, then replaced."""
    PRODUCER = "producer"
    CONSUMER = "consumer"


EITHER = (Role.PRODUCER, Role.CONSUMER)


class Blow(Enum):
    """What the storm does to the victim, at a random moment."""

    NONE = 0
    KILL = 1
    STOP = 2
    """Stop it, and let it go on within 50 ms."""
    STOP_AND_KILL = 3


@dataclass(frozen=True)
class Fault:
    """A fault and its circumstances."""

    name: str
    victims: tuple[Role, ...]
    """One of these roles is hit."""
    weight: int = 1
    blow: Blow = Blow.NONE
    is_idle: bool = False
    """The blow comes while the victim sleeps: in an empty queue, or in a full one before any hand takes."""
    needs_bound: bool = False
    """Only in a queue with a bound on its items."""
    hits_both: bool = False
    """One producer and one consumer are hit."""
    mishap: str = ""
    """What the victim does to itself: in the middle of its work, or before it if `at_start`."""
    at_start: bool = False
    is_deadly: bool = False
    """The victim is no participant after the mishap."""
    hands: int = 1
    """Threads of the victim that put or take."""
    needs_new_process: bool = False
    """The victim has never used the queue before."""
    has_own_pids: bool = False
    """The victim is in a pid namespace of its own."""
    fills_memory: bool = False
    """The consumers begin when a producer was refused memory, or is dead."""
    large: int = 0
    """Bytes of each item; 0 for sizes at random."""
    max_bytes: bool | None = None
    """Only in a queue with a low `max_bytes` (True), or without one (False)."""

    @property
    def comes_before_takers(self) -> bool:
        """Whether no hand takes until the blow has come."""
        return self.is_idle and self.victims != (Role.CONSUMER,)

    def phase(self, role: Role) -> State:
        """The state of the victim when the blow comes."""
        phases = {Role.PRODUCER: State.PUTTING, Role.CONSUMER: State.TAKING, Role.CALLER: State.JOINING}
        return phases[role]


FAULTS = [
    Fault("kill idle in get", (Role.CONSUMER,), 3, Blow.KILL, is_idle=True),
    Fault("kill idle in put", (Role.PRODUCER,), 3, Blow.KILL, is_idle=True, needs_bound=True),
    Fault("kill idle in join", (Role.CALLER,), 3, Blow.KILL, is_idle=True),
    Fault("kill in put", (Role.PRODUCER,), 3, Blow.KILL),
    Fault("kill in get", (Role.CONSUMER,), 3, Blow.KILL),
    Fault("kill in put and in get", EITHER, 2, Blow.KILL, hits_both=True),
    Fault("kill at work on an item", (Role.CONSUMER,), 3, mishap="die", is_deadly=True),
    Fault("stop, continue", EITHER, 2, Blow.STOP),
    Fault("stop, kill", EITHER, 2, Blow.STOP_AND_KILL),
    Fault("fork beside threads", EITHER, 2, mishap="fork", hands=2),
    Fault("exec beside threads", EITHER, 2, mishap="execute", hands=2, is_deadly=True),
    Fault("start a program", EITHER, mishap="start program"),
    Fault("close descriptors", EITHER, 2, mishap="close descriptors"),
    Fault(
        "no descriptor left, kill",
        EITHER,
        1,
        Blow.KILL,
        mishap="use descriptors up",
        at_start=True,
        needs_new_process=True,
    ),
    Fault("kill in a pid namespace", EITHER, 1, Blow.KILL, needs_new_process=True, has_own_pids=True),
    Fault("max_bytes reached", (Role.PRODUCER,), fills_memory=True, large=20_000, max_bytes=True),
    Fault(
        "control group full",
        (Role.PRODUCER,),
        mishap="enter control group",
        at_start=True,
        fills_memory=True,
        large=1 << 20,
        max_bytes=False,
    ),
    Fault("address space full", (Role.PRODUCER,), mishap="use address space up", large=100_000),
]

TIGHT = 768 << 10  # bytes: less than the items of a round that has to reach max_bytes
_GROUP_BYTES = 12 << 20


def forbidden() -> dict[str, str]:
    """Faults that this machine does not permit, and the reasons."""
    found = {}
    if reason := checks.may_enter_pid_namespace():
        found["kill in a pid namespace"] = f"no pid namespace can be made: {reason}"
    try:
        with ControlGroup():
            pass
    except OSError as error:
        found["control group full"] = f"no control group can be made: {error}"
    return found


class ControlGroup:
    """A control group with a limit of memory. A process that needs more is refused or killed."""

    def __init__(self) -> None:
        version_2 = Path("/sys/fs/cgroup/cgroup.controllers").exists()
        parent = Path("/sys/fs/cgroup" if version_2 else "/sys/fs/cgroup/memory")
        self.path = parent / f"penstock-storm-{os.getpid()}"
        self.path.mkdir()
        try:
            limit = "memory.max" if version_2 else "memory.limit_in_bytes"
            (self.path / limit).write_text(str(_GROUP_BYTES))
        except OSError:
            self.path.rmdir()
            raise

    def __enter__(self) -> "ControlGroup":
        return self

    def __exit__(self, *exception: object) -> None:
        # A group with processes cannot be removed: they move to the parent group.
        for pid in (self.path / "cgroup.procs").read_text().split():
            with suppress(OSError):
                (self.path.parent / "cgroup.procs").write_text(pid)
        self.path.rmdir()


def send(pid: int, number: signal.Signals) -> None:
    """Send a signal to a process that may have ended, or has not begun (pid 0)."""
    if pid == 0:
        return
    with suppress(ProcessLookupError):
        os.kill(pid, number)
