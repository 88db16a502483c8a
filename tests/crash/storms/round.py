"""One round: orders, a fault, the roll call, and the books.

Each consumer has to answer the roll: the caller puts an item for each live hand, and a hand that has taken
one takes no more. So at the end no hand has an item, and every survivor has shown progress.

Some rounds of Penstock end their queue instead: in the middle of the round the caller shuts it down, and each
hand has to learn that. Then all items that were put have been taken; or, if the shutdown was immediate, taken
or discarded.
"""

import random
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from tests.support import processes

from . import books as bookkeeping
from . import checks
from .contestants import Contestant
from .crew import Crew, Member
from .faults import EITHER, Blow, ControlGroup, Fault, Role
from .ledger import Hand, State
from .worker import CHILD_PUTS, CallRoll, Consume, Join, Mishap, Produce, Report, ShutDown

# Bytes: in the slot, outside it, read in place, and copied outside the lock.
SIZES = [0, 10, 60, 300, 1500, 5000, 70_000, 300_000]
SIZE_WEIGHTS = [12, 12, 6, 6, 6, 4, 2, 1]
COME_UP = 60.0  # seconds for new processes to be ready
LOOK_EVERY = 0.0005  # seconds between two polls of a fact
BE_FOUND = 0.3  # seconds within which a death has to be noticed
# Seconds without an item after which a rival's queue counts as empty: items may be in a feeder thread.
QUIET = 0.5
ENDINGS = 8  # of so many rounds one ends its queue


class Hung(Exception):
    """No hand has made progress for the time of the watchdog."""


class Broken(Exception):
    """A process failed that was not hit."""


@dataclass
class Outcome:
    """The outcome of a round."""

    number: int
    fault: str
    has_struck: bool = False
    """Whether the fault happened. Some do not, if the victim has too little to do."""
    kills: int = 0
    books: bookkeeping.Books = field(default_factory=bookkeeping.Books)
    hung: str = ""
    broken: str = ""
    wrong: list[str] = field(default_factory=list)
    """Contradictions in the queue's statistics, one line each."""
    ends_queue: bool = False
    """Whether the queue was shut down."""
    discarded: int = 0
    """Items that the shutdown has discarded."""
    stall: float = 0.0
    """The longest time in seconds without progress while there was work."""


def _no() -> bool:
    return False


class Round:
    """A round of a crew, which `play` plays once."""

    def __init__(
        self,
        contestant: Contestant,
        crew: Crew,
        number: int,
        fault: Fault,
        rng: random.Random,
        watchdog: float,
        unaccounted: set[int],
        puts_before: int,
    ) -> None:
        self.contestant = contestant
        self.crew = crew
        self.number = number
        self.fault = fault
        self.rng = rng
        self.watchdog = watchdog
        self.unaccounted = unaccounted
        self.puts_before = puts_before
        self.outcome = Outcome(number, fault.name)
        self.victims: list[Member] = []
        self.called = 0
        self.ends_queue = bool(contestant.ended) and rng.randrange(ENDINGS) == 0
        self.is_immediate = rng.random() < 0.5
        self.outcome.ends_queue = self.ends_queue
        self._moves = -1
        self._moved_at = 0.0

    def play(self) -> Outcome:
        """Play the round."""
        try:
            if self.fault.mishap == "enter control group":
                with ControlGroup() as group:
                    self._play(str(group.path))
            else:
                self._play("")
        except Hung as hung:
            self.outcome.hung = str(hung)
        except Broken as broken:
            self.outcome.broken = str(broken)
        return self.outcome

    def _play(self, group: str) -> None:
        self._choose_victims()
        for member in self.crew.members():
            member.begin()
        consumers, producers = self.crew.those(Role.CONSUMER), self.crew.those(Role.PRODUCER)
        self._moved()
        takes_late = self.fault.fills_memory or self.fault.comes_before_takers
        if not takes_late:
            self._order_to_take(consumers)
            if self.fault.is_idle:
                self._strike_sleepers()
        for producer in producers:
            self._order_to_put(producer, group)
        self._moved()
        if self.fault.fills_memory:
            self._wait_for_refusal(producers)
        elif self.fault.comes_before_takers:
            if self.fault.victims == (Role.CALLER,):
                # join() waits only if an item is unfinished.
                self._wait(self._sum_of_moves)
                self.crew.caller.order(Join())
            self._strike_sleepers()
        elif not self.fault.is_idle:
            self._strike()
        if takes_late:
            self._order_to_take(consumers)
        if self.ends_queue:
            self._end_the_queue()
        else:
            self._settle()
            self._moved()
            self._call_the_roll()
        self._moved()
        if self.contestant.is_joinable:
            self._ask(Join())
        if self.contestant.is_penstock:
            self._check_statistics()
        self._close_the_books()

    # ------------------------------------------------------------------------------------ beginning

    def _choose_victims(self) -> None:
        roles = EITHER if self.fault.hits_both else (self.rng.choice(self.fault.victims),)
        for role in roles:
            victim = self.rng.choice(self.crew.those(role))
            if self.fault.needs_new_process:
                victim = self.crew.replace(victim, self.fault.has_own_pids)
            self.victims.append(victim)
        self._wait_for_all()

    def _wait_for_all(self) -> None:
        """Wait until the new processes are ready."""
        deadline = time.monotonic() + COME_UP
        while any(member.hand.state is State.AWAY for member in self.crew.members()):
            for member in self.crew.members():
                if not member.process.is_alive():
                    raise Broken(f"a process ended with {member.process.exitcode} before the round")
            if time.monotonic() > deadline:
                raise Broken("a process did not come up")
            time.sleep(LOOK_EVERY)

    def _mishap(self, member: Member, group: str = "") -> Mishap | None:
        if not self.fault.mishap or member not in self.victims:
            return None
        at = 0 if self.fault.at_start else self.rng.randint(1, 4)
        return Mishap(self.fault.mishap, at, self.rng.random() < 0.5, group)

    def _hand_count(self, member: Member) -> int:
        return self.fault.hands if member in self.victims else 1

    def _order_to_take(self, consumers: list[Member]) -> None:
        for consumer in consumers:
            consumer.hand_count = self._hand_count(consumer)
            consumer.order(Consume(self.number, consumer.hand_count, self._mishap(consumer)))

    def _order_to_put(self, producer: Member, group: str) -> None:
        producer.hand_count = self._hand_count(producer)
        sizes = []
        for _ in range(producer.hand_count):
            count = self.rng.randint(20, 60)
            sizes.append(self.rng.choices(SIZES, SIZE_WEIGHTS, k=count))
        if self.fault.large and producer in self.victims:
            sizes = [[self.fault.large] * len(sizes[0])]
        if group and producer in self.victims:
            producer.may_be_killed = True
        producer.order(Produce(self.number, sizes, self._mishap(producer, group)))

    # ------------------------------------------------------------------------------------ the blow

    def _strike(self) -> None:
        """Deal the blow, if there is one, at a random moment."""
        if self.fault.blow is Blow.NONE:
            return
        goal = 0 if self.fault.is_idle else self.rng.randrange(40)
        self._wait(lambda: self._sum_of_moves() >= goal or self._has_put_all())
        for victim in self.victims:
            self._strike_one(victim)
        self.outcome.has_struck = True

    def _strike_sleepers(self) -> None:
        """Deal the blow when all members of the victim's role sleep in the queue.

        There is no blow if the victim is a producer that has put all its items.
        """
        role = self.victims[0].role
        members = self.crew.those(role)

        def sleeps(member: Member) -> bool:
            return member.hand.state is self.fault.phase(role) and member.is_asleep()

        self._wait(lambda: all(sleeps(each) or each.hand.state is State.DONE for each in members), _no)
        if sleeps(self.victims[0]):
            self._strike()
        if role is Role.CALLER:
            self.crew.replace(self.victims[0], has_own_pids=False)
            self._wait_for_all()
            self._moved()  # the start of a process is no stall of the queue

    def _strike_one(self, victim: Member) -> None:
        if self.fault.blow is Blow.KILL:
            if not self.fault.is_idle:
                # Most kills meet the victim inside the call, because it spends most of its time there.
                end = time.monotonic() + 0.002
                phase = self.fault.phase(victim.role)
                while victim.hand.state is not phase and time.monotonic() < end:
                    pass
            self._kill(victim)
            return
        victim.send(signal.SIGSTOP)
        time.sleep(self.rng.random() * 0.05)
        if self.fault.blow is Blow.STOP_AND_KILL:
            self._kill(victim)
        else:
            victim.send(signal.SIGCONT)

    def _kill(self, victim: Member) -> None:
        victim.send(signal.SIGKILL)
        victim.process.join()
        victim.is_dead = True
        self.outcome.kills += 1

    def _wait_for_refusal(self, producers: list[Member]) -> None:
        victim = self.victims[0]

        def is_refused() -> bool:
            return any(hand.refusals for producer in producers for hand in producer.hands())

        self._wait(lambda: is_refused() or victim.is_dead or self._has_put_all())
        self.outcome.has_struck = is_refused() or victim.is_dead

    # ------------------------------------------------------------------------------------ the end

    def _settle(self) -> None:
        """Wait until all items have been taken, but for those that dead hands may have had."""

        def is_settled() -> bool:
            if not self._has_put_all():
                return False
            missing = len(self._missing())
            # Read after the log: a hand whose mishap follows an item is armed before it logs the item.
            if any(hand.is_armed for hand in self._hands()):
                return False
            # Asked again: an armed hand may have forked. It announces its child before it is disarmed.
            if not self._has_put_all():
                return False
            if missing > self._may_be_missing():
                # Items are lost, or all hands hang: the roll call decides.
                return self._quiet_for() > (0.9 * self.watchdog if self.contestant.is_penstock else QUIET)
            if self.contestant.is_penstock:
                found = self._ask(Report())
                return found.queued == 0 and found.unfinished == 0
            return missing == 0 or self._quiet_for() > QUIET

        self._wait(
            is_settled,
            lambda: (
                self.contestant.redelivers
                or not self._has_put_all()
                or (len(self._missing()) > self._may_be_missing())
            ),
        )

    def _call_the_roll(self) -> None:
        living = self._hands(Role.CONSUMER)
        self.called = len(living)
        self.crew.caller.order(CallRoll(self.number, 0, self.called))
        self._wait(lambda: all(hand.state is State.PRESENT for hand in self._hands(Role.CONSUMER)))
        self._wait(self.crew.caller.control.poll)
        self.crew.caller.control.recv()
        self._wait_for_children()

    def _wait_for_children(self) -> None:
        children = [hand for hand in self._hands() if hand.is_child]
        self._wait(lambda: all(processes.state(child.pid) in ("", "Z") for child in children), _no)

    def _end_the_queue(self) -> None:
        """Shut the queue down at a random moment, and wait until each hand has learned it."""
        goal = self._sum_of_moves() + self.rng.randrange(80)
        self._wait(lambda: self._sum_of_moves() >= goal or self._has_put_all(), _no)
        self._moved()
        self._ask(ShutDown(self.is_immediate))
        self._wait(self._has_ended)
        # An armed hand may have forked, before it learned of the end. It announces its child before that.
        self._wait(self._has_ended)
        self._wait_for_children()

    def _has_ended(self) -> bool:
        """Whether no hand puts or takes any more."""
        putting = [
            hand
            for member in self.crew.those(Role.PRODUCER)
            if not member.is_dead
            for hand in member.hands()[: member.hand_count]
        ]
        return all(hand.state is State.DONE for hand in putting) and all(
            hand.state is State.PRESENT for hand in self._hands(Role.CONSUMER)
        )

    def _check_statistics(self) -> None:
        living = sum(not member.is_dead for member in self.crew.members())
        found = self._ask(Report())
        # The kernel closes the descriptors, and unlocks the life byte, a moment after an exec. The queue
        # promises to notice within about 100 ms.
        end = time.monotonic() + BE_FOUND
        while found.participants > living and time.monotonic() < end:
            found = self._ask(Report())
        hands = self._all_hands()
        wrong = self.outcome.wrong
        least = self.puts_before + self.called + sum(hand.put for hand in hands)
        most = self.puts_before + self.called + sum(hand.begun for hand in hands)
        if not least <= found.puts <= most:
            wrong.append(f"{found.puts} puts, not {least} to {most}")
        if found.puts != found.gets + found.queued + found.dead_letters + found.discarded:
            wrong.append("the statistics' books do not balance")
        if found.discarded and not (self.ends_queue and self.is_immediate):
            wrong.append(f"{found.discarded} items were discarded")
        self.outcome.discarded = found.discarded
        if (found.queued, found.unfinished, found.dead_letters) != (0, 0, 0):
            wrong.append("not empty after the roll call")
        if found.participants > living:
            wrong.append(f"{found.participants} participants, but {living} processes live")
        if wrong:
            wrong.append(str(found))
        self.puts_before = found.puts

    def _close_the_books(self) -> None:
        outcome = self.outcome
        self._look_for_the_dead()  # notes deaths since the last wait
        dead = [
            hand for member in self.crew.those(Role.CONSUMER) if member.is_dead for hand in member.hands()
        ]
        outcome.books = bookkeeping.close(
            self.number,
            self._all_hands(),
            dead,
            self.contestant.redelivers,
            self.unaccounted,
            outcome.discarded,
        )
        if self.fault.mishap and not outcome.has_struck:
            outcome.has_struck = any(victim.hand.has_fired for victim in self.victims)
        if self.contestant.is_penstock and outcome.books.disordered and not dead:
            outcome.wrong.append(f"{outcome.books.disordered} items out of order, and no hand has died")

    # ------------------------------------------------------------------------------------ what there is

    def _hands(self, *roles: Role) -> list[Hand]:
        """The live hands of the members with these roles, and of all forked children, which all take."""
        found = []
        for member in self.crew.members():
            for hand in [] if member.is_dead else member.hands():
                if not roles or member.role in roles or hand.is_child:
                    found.append(hand)
        return found

    def _all_hands(self) -> list[Hand]:
        return [hand for member in self.crew.members() for hand in member.hands()]

    def _has_put_all(self) -> bool:
        children_put = all(hand.put == len(CHILD_PUTS) for hand in self._hands() if hand.is_child)
        producers = [member for member in self.crew.those(Role.PRODUCER) if not member.is_dead]
        return children_put and all(
            hand.state is State.DONE for member in producers for hand in member.hands()[: member.hand_count]
        )

    def _missing(self) -> set[int]:
        logged = {item for hand in self._all_hands() for item in hand.logged()}
        return bookkeeping.returned(self.number, self._all_hands()) - logged

    def _may_be_missing(self) -> int:
        if self.contestant.redelivers:
            return 0
        return sum(member.hand_count for member in self.crew.those(Role.CONSUMER) if member.is_dead)

    # ------------------------------------------------------------------------------------ waiting

    def _ask(self, order: Join | Report | ShutDown) -> Any:
        caller = self.crew.caller
        caller.order(order)
        self._wait(caller.control.poll)
        return caller.control.recv()

    def _sum_of_moves(self) -> int:
        return sum(hand.moves for hand in self._all_hands())

    def _quiet_for(self) -> float:
        return time.monotonic() - self._moved_at

    def _moved(self) -> None:
        self._moves = self._sum_of_moves()
        self._moved_at = time.monotonic()

    def _wait(self, fact: Callable[[], object], there_is_work: Callable[[], bool] = lambda: True) -> None:
        """Wait for a fact. Raises if no hand makes progress, or one fails."""
        while not fact():
            self._look_for_the_dead()
            if self._sum_of_moves() != self._moves:
                self._moved()
            quiet = self._quiet_for()
            if there_is_work():
                self.outcome.stall = max(self.outcome.stall, quiet)
            if quiet > self.watchdog:
                raise Hung(f"no hand got on for {quiet:.1f} s; {self._describe()}")
            time.sleep(LOOK_EVERY)

    def _look_for_the_dead(self) -> None:
        """Note the members that have ended, or become another program, as ordered."""
        for member in self.crew.members():
            if any(hand.state is State.BROKEN for hand in member.hands()):
                raise Broken(f"an exception in the {member.role.value} {member.hand.pid}")
            if member.is_dead or member.leaves:
                continue
            is_alive = member.process.is_alive()
            # Read after `is_alive`: a member stores `has_fired` before its mishap.
            is_victim = member in self.victims and member.hand.has_fired
            if is_victim and self.fault.mishap == "close descriptors":
                member.leaves = True
            elif is_victim and self.fault.is_deadly and self._has_gone(member):
                member.is_dead = True
                self.outcome.kills += self.fault.mishap == "die"
            elif not is_alive:
                if not member.may_be_killed:
                    raise Broken(
                        f"the {member.role.value} {member.hand.pid} ended with {member.process.exitcode}"
                    )
                member.is_dead = True
                self.outcome.kills += 1

    def _has_gone(self, member: Member) -> bool:
        if self.fault.mishap == "execute":
            return processes.command(member.hand.pid) == checks.SLEEP
        return not member.process.is_alive()

    def _describe(self) -> str:
        states = [
            f"{member.role.value} {hand.pid} {'dead' if member.is_dead else hand.state.name} "
            f"put {hand.put}/{hand.begun} took {len(hand.logged())}"
            for member in self.crew.members()
            for hand in member.hands()
        ]
        return f"missing {len(self._missing())}; called {self.called}; " + ", ".join(states)
