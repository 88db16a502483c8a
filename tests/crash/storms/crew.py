"""The processes of a storm: started as programs start them, and replaced when they are dead."""

import os
import signal
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from tests.support import processes

from . import worker
from .contestants import Contestant
from .faults import Role, send
from .ledger import CHILD, Hand, Ledger, State

PLACES = [Role.CALLER, *[Role.PRODUCER] * 2, *[Role.CONSUMER] * 3]
END_PATIENCE = 30.0  # seconds for a process that was told to end, which a spare one may learn while it starts


@dataclass
class Member:
    """A process of the crew."""

    process: BaseProcess
    control: Connection
    ledger: Ledger
    number: int
    role: Role = Role.CALLER
    hand_count: int = 0
    """The number of hands that work in this round."""
    is_dead: bool = False
    """It is no participant any more: it was killed, or is another program."""
    leaves: bool = False
    """It ends by itself after this round."""
    may_be_killed: bool = False
    """The system may kill it for its memory, which is no fault of the queue."""
    fate: str = field(default="", init=False)

    @property
    def hand(self) -> Hand:
        """Its first hand."""
        return self.ledger.hand(self.number)

    def hands(self) -> list[Hand]:
        """The hands that work in this round, with that of a forked child."""
        hands = [self.ledger.hand(self.number, which) for which in range(self.hand_count)]
        child = self.ledger.hand(self.number, CHILD)
        return hands if child.state is State.AWAY else [*hands, child]

    def begin(self) -> None:
        """Begin a round."""
        self.ledger.hand(self.number, CHILD).state = State.AWAY
        self.hand_count = 0
        for which in range(CHILD):
            self.ledger.hand(self.number, which).clear()

    def order(self, order: worker.Order) -> None:
        """Send an order, which it reads when it is ready. The wait for its work notices if it has ended."""
        with suppress(BrokenPipeError):
            self.control.send(order)

    def send(self, number: signal.Signals) -> None:
        """Send it a signal."""
        if self.process.is_alive():
            send(self.hand.pid, number)

    def is_asleep(self) -> bool:
        """Whether it sleeps in the kernel."""
        return processes.state(self.hand.pid) == "S"

    def end(self) -> int | None:
        """Wait until it has ended, and close its descriptors. Returns the exit code, None if it hung."""
        self.process.join(END_PATIENCE)
        code = self.process.exitcode
        if code is None:
            self.send(signal.SIGKILL)
            self.process.kill()
            self.process.join()
        self.control.close()
        self.process.close()
        return code


class Crew:
    """All members, and spare processes that are started in advance."""

    def __init__(self, contestant: Contestant, context: Any, queue: Any, folder: Path, workers: int) -> None:
        self._contestant = contestant
        self._context = context
        self._queue = queue
        self.log = folder / "log"
        self.log.touch()
        descriptor, self._ledger_path = tempfile.mkstemp(dir=folder)
        os.close(descriptor)
        self.ledger = Ledger.create(self._ledger_path, workers)
        self._started = 0
        self._has_spares = context.get_start_method() != "fork"
        self._spares: list[Member] = []
        self._members: list[Member | None] = [None] * len(PLACES)
        self.fill()

    def fill(self) -> None:
        """Fill the empty places, without waiting until the processes are ready."""
        for place, member in enumerate(self._members):
            if member is None:
                self._put_in(place, self._spares.pop(0) if self._spares else self._start())
        while self._has_spares and len(self._spares) < 2:
            self._spares.append(self._start())

    def replace(self, member: Member, has_own_pids: bool) -> Member:
        """Replace a member by a process that has not used the queue yet."""
        place = self._members.index(member)
        self.remove(member)
        return self._put_in(place, self._start(has_own_pids))

    def remove(self, member: Member) -> str:
        """End a member that has no order. Returns what went wrong."""
        self._members[self._members.index(member)] = None
        if member.is_dead:
            member.process.kill()
        elif not member.leaves:
            member.order(None)
        expected = (-signal.SIGKILL, 1) if member.is_dead else (0,)
        code = member.end()
        if code is None:
            return "a process did not end"
        return "" if code in expected else f"a process ended with {code}"

    def _put_in(self, place: int, member: Member) -> Member:
        self._members[place] = member
        member.role = PLACES[place]
        return member

    def _start(self, has_own_pids: bool = False) -> Member:
        ours, theirs = self._context.Pipe()
        number = self._started
        self._started += 1
        arguments = (
            self._contestant.name,
            self._queue,
            self._ledger_path,
            theirs,
            number,
            str(self.log),
            has_own_pids,
        )
        process = self._context.Process(target=worker.main, args=arguments)
        process.start()
        theirs.close()
        return Member(process, ours, self.ledger, number)

    def members(self) -> list[Member]:
        """All members."""
        return [member for member in self._members if member is not None]

    def those(self, role: Role) -> list[Member]:
        """The members with this role."""
        return [member for member in self.members() if member.role is role]

    @property
    def caller(self) -> Member:
        """The member that calls the roll. Faults in `join()` only hit it."""
        return self.those(Role.CALLER)[0]

    def end(self) -> list[str]:
        """End all members in order. Returns what went wrong."""
        for member in [*self._spares, *self.members()]:
            if not member.is_dead and not member.leaves:
                member.order(None)
                member.leaves = True
        spares = [code for spare in self._spares if (code := spare.end()) != 0]
        self._spares.clear()
        wrong = [self.remove(member) for member in self.members()]
        return [what for what in wrong if what] + [f"a spare process ended with {code}" for code in spares]

    def kill(self) -> None:
        """Kill all members at once."""
        members = [*self._spares, *self.members()]
        doomed = set(self._pids(members)) & set(processes.descendants(os.getpid()))
        for pid in doomed:
            send(pid, signal.SIGKILL)
        for member in members:
            member.process.kill()
            member.end()
        self._spares.clear()
        self._members = [None] * len(PLACES)
        # Orphans become children of this process, see `leaks.adopt_orphans`.
        deadline = time.monotonic() + END_PATIENCE
        while (left := doomed & set(processes.descendants(os.getpid()))) and time.monotonic() < deadline:
            for pid in left:
                with suppress(ChildProcessError):
                    os.waitpid(pid, os.WNOHANG)
            time.sleep(0.001)

    def _pids(self, members: list[Member]) -> Iterator[int]:
        for member in members:
            if member.process.pid is not None:
                yield member.process.pid
            for which in (0, CHILD):
                if pid := self.ledger.hand(member.number, which).pid:
                    yield pid
