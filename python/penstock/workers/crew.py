"""The pool's worker processes: started, counted, buried.

All methods that change the crew are called under its lock.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass

from ..letters import Death
from . import board as words
from .memory import OutOfMemory
from .template import NOT_STARTED, STARTED, UNKNOWN, Template, close_ended
from .worker import main as work

__all__ = ["Crew", "Member"]

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from multiprocessing.context import BaseContext
    from typing import Any

    from .kit import Kit
    from .lifeline import WritingEnd


@dataclass
class Member:
    """A worker, as the pool knows it."""

    slot: int
    pid: int
    """0 until the template has forked it."""
    sentinel: int
    """A descriptor that is readable when the process has ended: a pidfd. -1 until it is forked."""
    process: Any
    """None if it was forked by the template."""
    is_spare: bool
    template: Template | None = None
    exitcode: int | None = None
    """As the template has told it."""
    has_exitcode: bool = False
    """Whether the template has told it, though it may not know it."""
    fate: BaseException | None = None
    """What its call ends with, if the pool has killed it."""
    is_over_memory: bool = False
    stack: str | None = None


class Crew:
    """The living workers."""

    def __init__(self, context: BaseContext, kit: Kit, activation: WritingEnd, name: str) -> None:
        self._context = context
        self._kit = kit
        self._activation = activation
        self._name = name
        self._template: Template | None = None
        self._has_template = False  # though it may have been killed
        self._out_of_memory = OutOfMemory()
        self.lock = threading.RLock()
        self.members: dict[int, Member] = {}
        self.started = 0
        self.deaths = 0
        self.early_deaths = 0
        """Workers that died one after the other before any was ready."""
        self.trouble: str | None = None
        """Why the last of them was not even started."""

    @property
    def is_forked(self) -> bool:
        """Whether workers are forked."""
        return self._context.get_start_method() == "fork"

    def slots(self) -> list[int]:
        """Return the slots of the living workers."""
        return list(self.members)

    def prepare(self) -> None:
        """Fork the process that forks all later workers, before this process starts a thread."""
        if self.is_forked and self._template is None:
            self._has_template = True
            with _ctrl_c_put_off():
                self._template = Template(self._context, self._kit, self._name)

    def start(self, is_spare: bool = False) -> bool:
        """Start a worker. False if so many have died in calls still open that there is no slot for it."""
        slot = self._kit.board.claim()
        if slot is None:
            return False
        pid, sentinel, process = 0, -1, None
        try:
            if self._has_template:
                self._let_fork(slot, is_spare)
            else:
                process = self._context.Process(  # type: ignore[attr-defined]
                    target=work, args=(self._kit, slot, is_spare), name=f"{self._name}-{slot}"
                )
                with _ctrl_c_put_off():
                    process.start()
                pid, sentinel = process.pid, _pidfd(process)
        except BaseException:
            self._kit.board.release(slot)
            raise
        self.members[slot] = Member(slot, pid, sentinel, process, is_spare)
        self.started += 1
        return True

    def _let_fork(self, slot: int, is_spare: bool) -> None:
        if self._template is not None:
            try:
                self._template.start(slot, is_spare)
                return
            except OSError:  # it was killed; another one is forked from a process with threads
                self._abandon_template()
        self.prepare()
        assert self._template is not None
        self._template.start(slot, is_spare)

    def _abandon_template(self) -> None:
        template, self._template = self._template, None
        if template is not None:
            template.close()
        for member in list(self.members.values()):
            if member.pid == 0:
                del self.members[member.slot]
                self._kit.board.release(member.slot)

    def receive(self) -> list[Member]:
        """Enter what the template tells, and return the members that it has forked."""
        forked = []
        while self._template is not None:
            try:
                message = self._template.receive(0.0)
            except EOFError:
                self._abandon_template()
                break
            if message is None:
                break
            member = self._enter(*message)
            if member is not None:
                forked.append(member)
        return forked

    def _enter(self, kind: int, slot: int, value: int, descriptors: list[int]) -> Member | None:
        member = self.members.get(slot)
        if member is None:  # its start was interrupted
            for descriptor in descriptors:
                os.close(descriptor)
            return None
        if kind == STARTED:
            member.pid, member.sentinel, member.template = value, descriptors[0], self._template
            return member
        if kind == NOT_STARTED:
            del self.members[slot]
            self._kit.board.release(slot)
            self.early_deaths += 1
            self.trouble = f"cannot fork a worker: {os.strerror(value)}"
        else:
            member.exitcode, member.has_exitcode = (None if value == UNKNOWN else value), True
        return None

    def activate_spare(self) -> bool:
        """Let a spare worker take calls. False if there is none."""
        for member in self.members.values():
            if member.is_spare:
                member.is_spare = False  # whichever spare reads the byte: from here on they are alike
                self._activation.write(1)
                return True
        return False

    def count(self, *, are_spare: bool) -> int:
        """Return how many workers take calls, or are spare."""
        return sum(member.is_spare == are_spare for member in self.members.values())

    def has_ready(self) -> bool:
        """Whether any living worker has been initialized."""
        words_, base = self._kit.board.words, self._kit.board.base
        return any(words_[base(slot) + words.STATE] == words.READY for slot in self.members)

    def bury(self, member: Member) -> tuple[Death | None, int]:
        """Reap a worker that has ended, and return its death, or None if it has ended in order."""
        exitcode = self._exit_code(member) if member.process is None else _reaped(member.process)
        os.close(member.sentinel)
        del self.members[member.slot]
        base = self._kit.board.base(member.slot)
        state = self._kit.board.words[base + words.STATE]
        if state == words.STARTING:
            self.early_deaths += 1
        else:
            self.early_deaths = 0
        if state == words.ENDING and exitcode == 0 and not self._kit.board.words[base + words.IN_HAND]:
            return None, state
        self.deaths += 1
        return self._death(member, exitcode), state

    def _exit_code(self, member: Member) -> int | None:
        """None if the template has been killed, too."""
        while not member.has_exitcode and member.template is not None:
            if member.template is not self._template:
                return None
            try:
                message = member.template.receive(5.0)
            except EOFError:
                self._abandon_template()
                return None
            if message is None:
                return None
            self._enter(*message)
        return member.exitcode

    def _death(self, member: Member, exitcode: int | None) -> Death:
        killer = None if exitcode is None or exitcode >= 0 else -exitcode
        out_of_memory: bool | None = False
        if member.is_over_memory:
            out_of_memory = True
        elif exitcode is None or (killer == signal.SIGKILL and member.fate is None):
            # Counted for the whole control group: another process of it may be the one.
            out_of_memory = True if self._out_of_memory.has_killed() else None
        return Death(
            member.pid, None if killer else exitcode, killer, out_of_memory, time.time(), member.stack
        )

    def send(self, member: Member, number: int) -> None:
        """Send a worker a signal, if it lives."""
        if member.pid == 0:
            return
        try:
            signal.pidfd_send_signal(member.sentinel, number)
        except ProcessLookupError:
            return
        except OSError:  # a sentinel of `multiprocessing`, which is a pipe
            try:
                os.kill(member.pid, number)
            except ProcessLookupError:
                return

    def reap_all(self) -> None:
        """Wait for workers that are about to be killed, where there is no thread that buries them."""
        for member in list(self.members.values()):
            if member.process is not None:
                member.process.join()
            if member.sentinel >= 0:
                os.close(member.sentinel)
        self.members.clear()

    def close(self) -> None:
        """End the template. All workers must have ended."""
        template, self._template = self._template, None
        if template is not None:
            template.close()

    def descriptors(self) -> list[int]:
        """Return what is readable when a worker has ended or the template has something to tell."""
        with self.lock:
            found = [member.sentinel for member in self.members.values() if member.sentinel >= 0]
            if self._template is not None:
                found.append(self._template.socket.fileno())
            return found


def _reaped(process: Any) -> int | None:
    """Reap a process that has ended; None if the program, or the system for it, has done so."""
    process.join()
    exitcode: int | None = process.exitcode
    close_ended(process)
    return exitcode


@contextmanager
def _ctrl_c_put_off() -> Iterator[None]:
    """Start a process in which SIGINT stays pending until it has said what it does on it."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    try:
        signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT,))
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _pidfd(process: Any) -> int:
    try:
        return os.pidfd_open(process.pid)
    except OSError:  # a fork server has reaped it by now, or the system has no pidfd
        return os.dup(process.sentinel)
